//! What is done to the machines and lines, one fault after the other, some of them at the same time.

mod failing;
mod rot;
mod strike;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde::{Deserialize, Serialize};

use crate::crew::Crew;
use crate::world::World;
pub use failing::Failing;
pub use rot::Rotten;

/// Each kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fault {
    CrashLeader,
    CrashFollower,
    CrashMajority,
    CrashAllMeta,
    /// A metadata node soon after its start, a chunk server in the middle of it.
    CrashWhileStarting,
    IsolateLeader,
    IsolateFollower,
    OneWayFromLeader,
    OneWayToLeader,
    TransferLeader,
    KillChunkServer,
    PowerCutChunkServer,
    /// Between any two calls of its disk.
    PowerCutWithinJob,
    /// A chunk server's disk writes no more, from any call on or once, while the server goes on.
    DiskFails,
    PowerCutAllChunkServers,
    /// Some of them are killed, the others lose power.
    CrashAllChunkServers,
    IsolateChunkServer,
    PowerCutEverything,
    /// The leader alone with half of the clients, while the others elect another.
    SplitBrain,
    /// One client dies with what it has not synced; another one comes.
    KillClient,
    /// A client dies and the chunk servers with it, but only one of these loses power: the others have what was not synced.
    KillClientAndServers,
    /// A client reaches some chunk servers no more.
    CutClientFromChunkServers,
    /// A client is away for longer than its session lasts, and comes back.
    ClientAway,
    Loss,
    SlowLines,
    /// A bit of one replica of each chunk, while the other is sound; once everything rests.
    BitRot,
}

/// Every kind.
pub const ALL: [Fault; 26] = [
    Fault::CrashLeader,
    Fault::CrashFollower,
    Fault::CrashMajority,
    Fault::CrashAllMeta,
    Fault::CrashWhileStarting,
    Fault::IsolateLeader,
    Fault::IsolateFollower,
    Fault::OneWayFromLeader,
    Fault::OneWayToLeader,
    Fault::TransferLeader,
    Fault::KillChunkServer,
    Fault::PowerCutChunkServer,
    Fault::PowerCutWithinJob,
    Fault::DiskFails,
    Fault::PowerCutAllChunkServers,
    Fault::CrashAllChunkServers,
    Fault::IsolateChunkServer,
    Fault::PowerCutEverything,
    Fault::SplitBrain,
    Fault::KillClient,
    Fault::KillClientAndServers,
    Fault::CutClientFromChunkServers,
    Fault::ClientAway,
    Fault::Loss,
    Fault::SlowLines,
    Fault::BitRot,
];

/// Between two faults.
const PAUSE_MS: std::ops::Range<u64> = 50..1500;
/// Every so many faults everything is made good again, so that work gets on.
const REPAIR_ONE_IN: u32 = 3;
/// Of so many clients that might go away for long, one does: it takes most of a run's time.
const AWAY_ONE_IN: u32 = 8;

impl Fault {
    fn lasts_ms(self) -> std::ops::Range<u64> {
        match self {
            // Long enough that the others have elected a leader, clients have found it, and have done something there.
            Self::SplitBrain => 1500..5000,
            // A session lasts 30 s.
            Self::ClientAway => 32_000..40_000,
            _ => 20..3000,
        }
    }

    fn takes_a_client(self) -> bool {
        matches!(self, Self::KillClient | Self::KillClientAndServers)
    }
}

/// How often each was injected.
pub type Counts = BTreeMap<Fault, u64>;

/// Injects faults of these kinds until `enough` says so; leaves them as they are.
///
/// # Errors
/// When a machine does not come up again, or a client does not connect.
pub async fn inject(
    world: &mut World,
    crew: &mut Crew,
    rng: &mut StdRng,
    kinds: &[Fault],
    enough: impl Fn(&World) -> bool,
    counts: &mut Counts,
) -> Result<()> {
    while !enough(world) {
        tokio::time::sleep(Duration::from_millis(rng.random_range(PAUSE_MS))).await;
        let fault = *kinds.choose(rng).expect("a plan has kinds of faults");
        if fault == Fault::BitRot {
            continue;
        }
        if fault == Fault::ClientAway && !rng.random_ratio(1, AWAY_ONE_IN) {
            continue;
        }
        if strike::strike(world, crew, rng, fault).await? {
            note(world, counts, fault, 1);
        }
        world.look_for_failures();
        tokio::time::sleep(Duration::from_millis(rng.random_range(fault.lasts_ms()))).await;
        let struck = world.bury_struck();
        note(world, counts, Fault::PowerCutWithinJob, struck);
        let failed = world.newly_failed();
        note(world, counts, Fault::DiskFails, failed);
        if fault.takes_a_client() || rng.random_ratio(1, REPAIR_ONE_IN) {
            world.heal().await?;
            tracing::info!(at = world.clock.elapsed_ms(), "healed");
            if fault.takes_a_client() {
                crew.hire(world, rng).await?;
            }
        } else {
            restart_some(world, rng).await?;
        }
    }
    Ok(())
}

/// Does what only comes once everything rests, if it is among these kinds; in the end all of it is mended.
///
/// # Errors
/// When nobody leads, or a client fails.
pub async fn at_rest(
    world: &World,
    crew: &mut Crew,
    rng: &mut StdRng,
    kinds: &[Fault],
    counts: &mut Counts,
) -> Result<()> {
    if !kinds.contains(&Fault::BitRot) {
        return Ok(());
    }
    let damage = rot::flip(world, rng).await?;
    note(world, counts, Fault::BitRot, damage.len() as u64);
    rot::mend(world, crew, rng, &damage).await
}

fn note(world: &World, counts: &mut Counts, fault: Fault, times: u64) {
    if times > 0 {
        *counts.entry(fault).or_default() += times;
        tracing::info!(at = world.clock.elapsed_ms(), ?fault, times, "fault");
        world.findings.note(|| format!("{fault:?} was done {times} times"));
        (0..times).for_each(|_| world.findings.step());
    }
}

/// Half of what is off comes back.
async fn restart_some(world: &mut World, rng: &mut StdRng) -> Result<()> {
    for index in 0..world.meta.len() {
        if rng.random_bool(0.5) {
            world.start_meta(index).await?;
        }
    }
    for index in 0..world.chunk.len() {
        if rng.random_bool(0.5) {
            world.start_chunk(index).await?;
        }
    }
    Ok(())
}
