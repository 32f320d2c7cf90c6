//! The systems that are compared, and how each is brought up and down. Whatever is up is taken down when it is dropped.

mod caribou;
pub mod moosefs;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use caribou_cli::local::Binaries;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use caribou::Caribou;
use moosefs::MooseFs;

/// One of the systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// A folder of the disk on which all others keep their data
    Local,
    /// Three metadata nodes, three chunk servers
    Caribou,
    /// A master, three chunk servers, as Debian ships it
    #[value(name = "moosefs")]
    #[serde(rename = "moosefs")]
    MooseFs,
    /// The same with CHANGELOG_SAVE_MODE = 2 and HDD_FSYNC_BEFORE_CLOSE = 1
    #[value(name = "moosefs-synced")]
    #[serde(rename = "moosefs-synced")]
    MooseFsSynced,
}

impl System {
    /// In the order in which they are measured and shown.
    pub const ALL: [Self; 4] = [Self::Local, Self::Caribou, Self::MooseFs, Self::MooseFsSynced];
    /// Those that Caribou is judged against.
    pub const RIVALS: [Self; 2] = [Self::MooseFs, Self::MooseFsSynced];

    /// As a heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Local => "local disk",
            Self::Caribou => "Caribou",
            Self::MooseFs => "MooseFS as shipped",
            Self::MooseFsSynced => "MooseFS synced",
        }
    }
}

/// A system that is up.
pub struct Running {
    kind: Kind,
    root: PathBuf,
}

enum Kind {
    Local,
    Caribou(Box<Caribou>),
    MooseFs(MooseFs),
}

impl Running {
    /// Brings a fresh, empty system up below `folder`, which keeps so many copies of every chunk.
    pub fn up(system: System, folder: &Path, copies: u32, binaries: Option<&Binaries>) -> Result<Self> {
        let (data, mount) = (folder.join("data"), folder.join("mnt"));
        std::fs::create_dir(&mount).with_context(|| mount.display().to_string())?;
        let kind = match system {
            System::Local => Kind::Local,
            System::Caribou => {
                let binaries = binaries.context("Caribou's programs are looked for when it is measured")?;
                Kind::Caribou(Box::new(Caribou::up(&data, &mount, copies, binaries)?))
            }
            System::MooseFs => Kind::MooseFs(MooseFs::up(&data, &mount, false)?),
            System::MooseFsSynced => Kind::MooseFs(MooseFs::up(&data, &mount, true)?),
        };
        let work = mount.join("work");
        std::fs::create_dir(&work).with_context(|| work.display().to_string())?;
        if let Kind::MooseFs(moosefs) = &kind {
            moosefs.keep_copies(&work, copies)?;
        }
        Ok(Self { kind, root: work })
    }

    /// The folder to work in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes it down. Its data stay in the folder; whoever made that removes it.
    ///
    /// # Errors
    /// If something did not end in order; it was killed then.
    pub fn down(self) -> Result<()> {
        match self.kind {
            Kind::Local => Ok(()),
            Kind::Caribou(caribou) => caribou.down(),
            Kind::MooseFs(moosefs) => moosefs.down(),
        }
    }
}
