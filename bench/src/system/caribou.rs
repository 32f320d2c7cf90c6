//! Caribou: three metadata nodes, three chunk servers and a mount through the one launcher, default configuration.

use std::path::Path;

use anyhow::Result;
use caribou_cli::local::{Binaries, LocalCluster, Options, tail};
use tokio::runtime::Runtime;

/// Lines of each log that are shown after a failure.
const TAIL_LINES: usize = 20;

/// A cluster that is up.
pub struct Caribou {
    cluster: LocalCluster,
    /// It has been taken down in order.
    down: bool,
}

impl Caribou {
    pub fn up(data: &Path, mount: &Path, copies: u32, binaries: &Binaries) -> Result<Self> {
        // Only to bring it up: no thread of this program is left beside those that measure.
        Runtime::new()?.block_on(async {
            let options = Options { goal: copies, ..Options::default() };
            let cluster = LocalCluster::create(data, binaries.clone(), &options).await?;
            let mut this = Self { cluster, down: false };
            this.cluster.mount(mount, &[]).await?;
            Ok(this)
        })
    }

    pub fn down(mut self) -> Result<()> {
        self.down = true;
        self.cluster.down().inspect_err(|_| self.cluster.kill_all())
    }
}

impl Drop for Caribou {
    /// After an error.
    fn drop(&mut self) {
        if self.down {
            return;
        }
        self.cluster.kill_all();
        for entry in std::fs::read_dir(self.cluster.dir()).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                eprintln!("--- the end of {}:\n{}", path.display(), tail(&path, TAIL_LINES));
            }
        }
    }
}
