//! `caribou-chunkd`: flags, configuration, log, run. What goes wrong is one sentence on standard error and exit code 2.

use caribou_chunkd::config::{Args, Config};
use caribou_chunkd::descriptors;
use clap::Parser;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caribou-chunkd: {error}");
            ExitCode::from(2)
        }
    }
}

fn start() -> anyhow::Result<()> {
    let config = Config::load(&Args::parse())?;
    let filter = EnvFilter::try_new(&config.log).map_err(|error| {
        anyhow::anyhow!("log = \"{}\" is no filter ({error}): use a level such as info", config.log)
    })?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    descriptors::provide(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| anyhow::anyhow!("cannot start threads ({error}): check the limits of this process"))?;
    let outcome = runtime.block_on(caribou_chunkd::run(config));
    // A hung disk must not keep the process: what is not finished by now never was acknowledged.
    runtime.shutdown_background();
    Ok(outcome?)
}
