//! `caribou-mount`: parse, then [`caribou_fuse_client::run`]. Bad input is one sentence on stderr and exit code 2.

use std::process::ExitCode;

use caribou_fuse_client::{Args, Invocation};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let invocation = match Args::from_command_line(std::env::args_os()) {
        Ok(Invocation::Mount(args)) => caribou_fuse_client::run(*args),
        Ok(Invocation::Remount(remount)) => remount.run(),
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => Err(problem),
    };
    match invocation {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("caribou-mount: {problem}");
            ExitCode::from(problem.exit_code())
        }
    }
}
