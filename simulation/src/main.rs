//! `caribou-simulation`: the program around [`caribou_simulation::seeds`].

use std::process::ExitCode;

use caribou_simulation::seeds::{Args, run_all};
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if run_all(&args) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
