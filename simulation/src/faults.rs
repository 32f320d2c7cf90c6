//! What is done to the machines and lines, one fault after the other, some of them at the same time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::chunk_host::Crash;
use crate::crew::Crew;
use crate::net::Weather;
use crate::world::World;

/// Each kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    CrashLeader,
    CrashFollower,
    CrashMajority,
    CrashAllMeta,
    IsolateLeader,
    IsolateFollower,
    OneWayFromLeader,
    OneWayToLeader,
    TransferLeader,
    KillChunkServer,
    PowerCutChunkServer,
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
    Loss,
    SlowLines,
}

/// Every kind.
pub const ALL: [Fault; 20] = [
    Fault::CrashLeader,
    Fault::CrashFollower,
    Fault::CrashMajority,
    Fault::CrashAllMeta,
    Fault::IsolateLeader,
    Fault::IsolateFollower,
    Fault::OneWayFromLeader,
    Fault::OneWayToLeader,
    Fault::TransferLeader,
    Fault::KillChunkServer,
    Fault::PowerCutChunkServer,
    Fault::PowerCutAllChunkServers,
    Fault::CrashAllChunkServers,
    Fault::IsolateChunkServer,
    Fault::PowerCutEverything,
    Fault::SplitBrain,
    Fault::KillClient,
    Fault::KillClientAndServers,
    Fault::Loss,
    Fault::SlowLines,
];

/// Between two faults, and how long one lasts.
const PAUSE_MS: std::ops::Range<u64> = 50..1500;
const LASTS_MS: std::ops::Range<u64> = 20..3000;
/// Long enough that the others have elected a leader, clients have found it, and have done something there.
const SPLIT_LASTS_MS: std::ops::Range<u64> = 1500..5000;
/// Every so many faults everything is made good again, so that work gets on.
const REPAIR_ONE_IN: u32 = 3;

/// How often each was injected.
pub type Counts = BTreeMap<Fault, u64>;

/// Injects faults of these kinds until `enough` says so; leaves them as they are.
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
        let done = match fault {
            Fault::KillClient => crew.kill(world, rng),
            Fault::KillClientAndServers => {
                let loses_power = rng.random_range(0..world.chunk.len());
                for index in 0..world.chunk.len() {
                    world.crash_chunk(index, if index == loses_power { Crash::Power } else { Crash::Kill });
                }
                crew.kill(world, rng)
            }
            Fault::SplitBrain => split(world, crew, rng),
            _ => begin(world, rng, fault).await?,
        };
        if done {
            *counts.entry(fault).or_default() += 1;
            tracing::info!(at = world.clock.elapsed_ms(), ?fault, "fault");
            world.findings.step();
        }
        world.look_for_failures();
        let lasts = if fault == Fault::SplitBrain { SPLIT_LASTS_MS } else { LASTS_MS };
        tokio::time::sleep(Duration::from_millis(rng.random_range(lasts))).await;
        let is_one_less = matches!(fault, Fault::KillClient | Fault::KillClientAndServers);
        if is_one_less || rng.random_ratio(1, REPAIR_ONE_IN) {
            world.heal().await?;
            if is_one_less {
                crew.hire(world, rng).await?;
            }
            tracing::info!(at = world.clock.elapsed_ms(), "healed");
        } else {
            restart_some(world, rng).await?;
        }
    }
    Ok(())
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

/// See [`Fault::SplitBrain`].
fn split(world: &World, crew: &Crew, rng: &mut StdRng) -> bool {
    let Some(leader) = world.leader().map(|index| world.meta[index].address.clone()) else { return false };
    let others = world.meta.iter().map(|host| host.address.as_str()).filter(|other| *other != leader);
    let clients = crew.names().filter(|_| rng.random_bool(0.5));
    for other in others.chain(clients) {
        world.net.block(&leader, other, true);
        world.net.block(other, &leader, true);
    }
    true
}

/// Whether it could be done.
async fn begin(world: &mut World, rng: &mut StdRng, fault: Fault) -> Result<bool> {
    let leader = world.leader();
    let followers: Vec<usize> =
        (0..world.meta.len()).filter(|index| Some(*index) != leader && world.meta[*index].is_up()).collect();
    let servers: Vec<usize> = (0..world.chunk.len()).filter(|index| world.chunk[*index].is_up()).collect();
    let (follower, server) = (followers.choose(rng).copied(), servers.choose(rng).copied());
    match fault {
        Fault::CrashLeader => crash(world, leader).await,
        Fault::CrashFollower => crash(world, follower).await,
        Fault::CrashMajority => {
            for index in 0..=world.meta.len() / 2 {
                world.crash_meta(index).await?;
            }
            Ok(true)
        }
        Fault::CrashAllMeta => crash_all(world).await,
        Fault::IsolateLeader => Ok(isolate(world, leader.map(|index| world.meta[index].address.clone()), true, true)),
        Fault::IsolateFollower => {
            Ok(isolate(world, follower.map(|index| world.meta[index].address.clone()), true, true))
        }
        Fault::OneWayFromLeader => {
            Ok(isolate(world, leader.map(|index| world.meta[index].address.clone()), true, false))
        }
        Fault::OneWayToLeader => Ok(isolate(world, leader.map(|index| world.meta[index].address.clone()), false, true)),
        Fault::TransferLeader => {
            let Some(raft) = leader.and_then(|index| world.meta[index].raft().cloned()) else { return Ok(false) };
            // It may fail, if the others cannot be reached.
            let handed_over = raft.transfer_leader(None).await;
            tracing::debug!(?handed_over, "transfer");
            Ok(true)
        }
        Fault::KillChunkServer => Ok(crash_chunk(world, server, Crash::Kill)),
        Fault::PowerCutChunkServer => Ok(crash_chunk(world, server, Crash::Power)),
        Fault::PowerCutAllChunkServers => {
            servers.iter().for_each(|index| world.crash_chunk(*index, Crash::Power));
            Ok(!servers.is_empty())
        }
        Fault::CrashAllChunkServers => {
            for index in &servers {
                world.crash_chunk(*index, if rng.random() { Crash::Power } else { Crash::Kill });
            }
            Ok(!servers.is_empty())
        }
        Fault::IsolateChunkServer => {
            Ok(isolate(world, server.map(|index| world.chunk[index].address.clone()), true, true))
        }
        Fault::PowerCutEverything => {
            servers.iter().for_each(|index| world.crash_chunk(*index, Crash::Power));
            crash_all(world).await
        }
        Fault::Loss => {
            world.net.set_weather(Weather { loss: rng.random_range(0.01..0.2), ..Weather::default() });
            Ok(true)
        }
        Fault::SlowLines => {
            let latency_max = Duration::from_millis(rng.random_range(2..40));
            world.net.set_weather(Weather { latency_max, ..Weather::default() });
            Ok(true)
        }
        Fault::SplitBrain | Fault::KillClient | Fault::KillClientAndServers => unreachable!("done by the caller"),
    }
}

async fn crash(world: &mut World, index: Option<usize>) -> Result<bool> {
    let Some(index) = index else { return Ok(false) };
    world.crash_meta(index).await?;
    Ok(true)
}

async fn crash_all(world: &mut World) -> Result<bool> {
    for index in 0..world.meta.len() {
        world.crash_meta(index).await?;
    }
    Ok(true)
}

fn crash_chunk(world: &mut World, index: Option<usize>, crash: Crash) -> bool {
    index.inspect(|index| world.crash_chunk(*index, crash)).is_some()
}

/// Cuts a machine off from all other servers: what it sends, what is sent to it, or both.
fn isolate(world: &World, address: Option<String>, from: bool, to: bool) -> bool {
    let Some(address) = address else { return false };
    let others = world.meta.iter().map(|host| &host.address).chain(world.chunk.iter().map(|host| &host.address));
    for other in others.filter(|other| **other != address) {
        if from {
            world.net.block(&address, other, true);
        }
        if to {
            world.net.block(other, &address, true);
        }
    }
    true
}
