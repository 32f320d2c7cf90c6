//! One run: the machines, clients at work, faults, and what must be true at the end.

use std::time::Duration;

use anyhow::{Context as _, Result};
use caribou_planted::{self as planted, Bug};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::crew::Crew;
use crate::faults::{self, Counts, Fault};
use crate::world::World;

/// What a run is.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub steps: u64,
    pub clients: u32,
    /// Kinds of faults, at least one.
    pub faults: Vec<Fault>,
    /// A bug that is to be found.
    pub planted: Option<Bug>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub violations: Vec<String>,
    pub steps: u64,
    pub faults: Counts,
    /// Simulated time.
    pub took: Duration,
}

/// Runs on a thread and a paused clock of its own.
///
/// # Errors
/// When the machines could not even be set up.
pub fn run(plan: &Plan) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    let root = scratch()?;
    planted::plant(plan.planted);
    let outcome = runtime.block_on(story(plan, root.path()));
    // What is left of the tasks ends with the bug still planted.
    drop(runtime);
    planted::plant(None);
    outcome
}

/// Memory if there is some: every crash copies a folder, every flush syncs.
fn scratch() -> Result<tempfile::TempDir> {
    let memory = std::path::Path::new("/dev/shm");
    let builder = || tempfile::Builder::new().prefix("caribou-simulation-").to_owned();
    let dir = if memory.is_dir() { builder().tempdir_in(memory) } else { builder().tempdir() };
    dir.context("a folder for the nodes' data")
}

async fn story(plan: &Plan, root: &std::path::Path) -> Result<Outcome> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let nodes = if rng.random_ratio(1, 4) { 5 } else { 3 };
    let mut world = World::start(root, &mut rng, nodes, 3).await?;
    let mut crew = Crew::default();
    for _ in 0..plan.clients {
        crew.hire(&world, &mut rng).await?;
    }
    let mut counts = Counts::default();
    let enough = |world: &World| world.findings.steps() >= plan.steps || !world.findings.is_clean();
    let went_on = faults::inject(&mut world, &mut crew, &mut rng, &plan.faults, enough, &mut counts).await;
    // A machine that does not come up again is a finding like any other.
    if let Err(error) = went_on.and(world.heal().await) {
        world.findings.violation(format!("a machine does not come up, or a client does not connect: {error:#}"));
    }
    if let Err(error) = world.settled().await {
        world.findings.violation(format!("liveness: {error}"));
    }
    crew.finish(&world).await;
    world.look_for_failures();
    world.equal().await?;
    let outcome = Outcome {
        violations: world.findings.violations(),
        steps: world.findings.steps(),
        faults: counts,
        took: Duration::from_millis(u64::try_from(world.clock.elapsed_ms())?),
    };
    world.end().await?;
    Ok(outcome)
}
