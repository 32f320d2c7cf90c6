//! `caribou-simulation`: the program around [`caribou_simulation::seeds`].

use std::process::ExitCode;

use caribou_simulation::seeds::{Args, run_all};
use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<ExitCode> {
    let is_as_it_must_be = run_all(&Args::parse())?;
    Ok(if is_as_it_must_be { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
