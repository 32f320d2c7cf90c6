//! `caribou-bench`: measures Caribou, MooseFS and the local disk with the same workloads, and writes tables and a plot.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use caribou_bench::args::Args;
use caribou_cli::failure;
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("CARIBOU_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match args.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caribou-bench: {error:#}");
            ExitCode::from(failure::exit_code(&error))
        }
    }
}
