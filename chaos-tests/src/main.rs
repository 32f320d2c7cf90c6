//! `caribou-chaos`: run one scenario, or the smoke set, and print verdicts.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use caribou_chaos::args::Args;
use clap::Parser;

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
            eprintln!("caribou-chaos: the runtime cannot be started: {error}");
            return ExitCode::from(2);
        }
    };
    runtime.block_on(args.run())
}
