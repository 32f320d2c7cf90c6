//! `caribou`: parse, start tracing, run the command, print what went wrong.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use caribou_cli::{cmd, failure};
use clap::Parser;

/// Caribou: a distributed file system without a single master.
#[derive(Debug, Parser)]
#[command(name = "caribou", version, about)]
struct Args {
    #[command(subcommand)]
    command: cmd::Command,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("CARIBOU_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("caribou: the runtime cannot be started: {error}");
            return ExitCode::from(failure::EXIT_FAILED);
        }
    };
    match runtime.block_on(args.command.run()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("caribou: {error:#}");
            ExitCode::from(failure::exit_code(&error))
        }
    }
}
