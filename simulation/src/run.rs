//! One run: the machines, clients at work, faults, and what must be true at the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use caribou_planted::{self as planted, Bug};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use crate::chunk_host::Crash;
use crate::clock::SimClock;
use crate::crew::Crew;
use crate::entropy;
use crate::faults::{self, ALL as ALL_FAULTS, Counts, Fault};
use crate::findings::Findings;
use crate::hearing::Hearing;
use crate::rest;
use crate::world::{Shape, World};

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

impl Plan {
    /// What the program is given to run the same again.
    pub fn args(&self) -> Vec<String> {
        let Self { seed, steps, clients, faults, planted } = self;
        let mut args: Vec<String> = Vec::new();
        let mut add = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        add("seed", seed.to_string());
        add("steps", steps.to_string());
        add("clients", clients.to_string());
        if faults.len() < ALL_FAULTS.len() {
            add("faults", faults.iter().map(|fault| format!("{fault:?}")).collect::<Vec<_>>().join(","));
        }
        planted.iter().for_each(|bug| add("planted", format!("{bug:?}")));
        args
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub violations: Vec<String>,
    /// What was said and done before them.
    pub record: Option<PathBuf>,
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
    run_on_trail(plan, None)
}

/// The same; what it does goes to the file `trail` (`trail.rs`).
///
/// # Errors
/// When the machines could not even be set up, or there is no room for the file.
pub fn run_on_trail(plan: &Plan, trail: Option<&Path>) -> Result<Outcome> {
    let root = scratch()?;
    let thread = || -> Result<Outcome> {
        // Before anything on this thread asks for randomness.
        entropy::seed(plan.seed);
        planted::plant(plan.planted);
        // Without sockets: their driver asks the kernel for events at every stand of the clock.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let outcome = runtime.block_on(story(plan, root.path(), trail));
        // What is left of the tasks ends with the bug still planted.
        drop(runtime);
        outcome
    };
    std::thread::scope(|scope| scope.spawn(thread).join()).map_err(|_| anyhow!("the run itself has panicked"))?
}

/// Memory if there is some: every crash copies a folder, every flush syncs.
fn scratch() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let builder = || tempfile::Builder::new().prefix("caribou-simulation-").to_owned();
    let dir = if memory.is_dir() { builder().tempdir_in(memory) } else { builder().tempdir() };
    dir.context("a folder for the nodes' data")
}

async fn story(plan: &Plan, root: &Path, trail: Option<&Path>) -> Result<Outcome> {
    let findings = Arc::new(Findings::new(SimClock::start()));
    trail.map_or(Ok(()), |path| findings.trail.begin(path))?;
    let _hearing = Hearing::of(findings.clone(), format!("caribou-simulation {}", plan.args().join(" ")));
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let shape = Shape::draw(&mut rng);
    findings.note(|| format!("{shape:?}"));
    let mut world = World::start(root, &mut rng, shape, findings.clone()).await?;
    let mut crew = Crew::default();
    for _ in 0..plan.clients {
        crew.hire(&world, &mut rng).await?;
    }
    let mut counts = Counts::default();
    let enough = |world: &World| world.findings.steps() >= plan.steps || !world.findings.is_clean();
    let went_on = faults::inject(&mut world, &mut crew, &mut rng, &plan.faults, enough, &mut counts).await;
    // A machine that does not come up again is a finding like any other.
    if let Err(error) = went_on.and(aftermath(plan, &mut world, &mut crew, &mut rng, &mut counts).await) {
        findings.violation(format!("a machine does not come up, or a client fails: {error:#}"));
    }
    world.look_for_failures();
    world.end().await;
    findings.trail.end()?;
    let record =
        if findings.is_clean() { None } else { Some(findings.record.write(&std::env::temp_dir(), plan.seed)?) };
    Ok(Outcome {
        violations: findings.violations(),
        record,
        steps: findings.steps(),
        faults: counts,
        took: Duration::from_millis(u64::try_from(world.clock.elapsed_ms())?),
    })
}

/// Everything comes to rest and is looked at; then the power goes everywhere, and what had been promised must still be there.
async fn aftermath(
    plan: &Plan,
    world: &mut World,
    crew: &mut Crew,
    rng: &mut StdRng,
    counts: &mut Counts,
) -> Result<()> {
    world.heal().await?;
    world.settled().await;
    crew.finish(world).await;
    if !world.findings.is_clean() {
        return Ok(());
    }
    rest::check(world).await;
    if world.findings.is_clean() {
        faults::at_rest(world, crew, rng, &plan.faults, counts).await?;
    }
    let meta: Vec<usize> = (0..world.meta.len()).collect();
    let chunk: Vec<(usize, Crash)> = (0..world.chunk.len()).map(|index| (index, Crash::Power)).collect();
    world.crash(&meta, &chunk).await?;
    world.heal().await?;
    world.settled().await;
    crew.audit(world, rng).await?;
    rest::check(world).await;
    Ok(())
}
