//! `caribou-meta`: flags, configuration, log, run. What goes wrong is one sentence on standard error and exit code 2.

use std::process::ExitCode;

use caribou_meta_raft::config::{Args, Config};
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// RocksDB's allocations go there too: blocks that come into its cache on one thread and leave it on another would fragment the C library's heap.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long tasks that are in the middle of something are waited for at the end.
const END_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caribou-meta: {error}");
            ExitCode::from(2)
        }
    }
}

/// Threads that serve clients: Raft has threads of its own, and one core is left for them. Never one alone: a slow read of the state must not
/// stop the others.
fn service_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| (cores.get() - 1).max(2))
}

fn start() -> anyhow::Result<()> {
    let config = Config::load(&Args::parse())?;
    let filter = EnvFilter::try_new(&config.log).map_err(|error| {
        anyhow::anyhow!("log = \"{}\" is no filter ({error}): use a level such as info", config.log)
    })?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(service_threads())
        .enable_all()
        .build()
        .map_err(|error| anyhow::anyhow!("cannot start threads ({error}): check the limits of this process"))?;
    let outcome = runtime.block_on(caribou_meta_raft::server::run(config));
    // No thread may hold a store while the process ends: RocksDB would abort.
    runtime.shutdown_timeout(END_TIMEOUT);
    Ok(outcome?)
}
