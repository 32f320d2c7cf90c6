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
    let code = runtime.block_on(async {
        tokio::select! {
            code = args.run() => code,
            // What it was doing is dropped, and with it the cluster: no frozen disk, mount or process stays.
            signal = stop_signal() => {
                eprintln!("caribou-chaos: {signal}: cleaning up");
                ExitCode::from(INTERRUPTED)
            }
        }
    });
    // Loads may wait in calls of a mount that is gone.
    runtime.shutdown_background();
    code
}

/// As shells have it for SIGINT.
const INTERRUPTED: u8 = 130;

/// Waits until somebody asks the process to stop.
async fn stop_signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "interrupted",
        _ = terminate.recv() => "terminated",
    }
}
