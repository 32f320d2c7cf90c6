//! How each kind of fault is done. One that changed nothing does not count.

use std::time::Duration;

use anyhow::Result;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::Fault;
use crate::chunk_host::Crash;
use crate::crew::Crew;
use crate::net::Weather;
use crate::world::World;

/// So many calls of its disk a chunk server still makes before its power goes.
const CALLS: std::ops::Range<u64> = 1..120;
/// A start takes fewer.
const CALLS_OF_A_START: std::ops::Range<u64> = 1..40;
/// A metadata node runs for so long before it goes down again.
const SOON_MS: std::ops::Range<u64> = 0..40;

/// Whether it could be done. A power cut within a job and a disk that fails strike later, and are counted then.
pub(super) async fn strike(world: &mut World, crew: &mut Crew, rng: &mut StdRng, fault: Fault) -> Result<bool> {
    let leader = world.leader();
    let followers: Vec<usize> =
        (0..world.meta.len()).filter(|index| Some(*index) != leader && world.meta[*index].is_up()).collect();
    let servers: Vec<usize> = (0..world.chunk.len()).filter(|index| world.chunk[*index].is_up()).collect();
    let (follower, server) = (followers.choose(rng).copied(), servers.choose(rng).copied());
    let all_meta: Vec<usize> = (0..world.meta.len()).collect();
    match fault {
        Fault::CrashLeader => world.crash(leader.as_slice(), &[]).await,
        Fault::CrashFollower => world.crash(follower.as_slice(), &[]).await,
        Fault::CrashMajority => {
            let mut some = all_meta;
            some.shuffle(rng);
            some.truncate(some.len() / 2 + 1);
            world.crash(&some, &[]).await
        }
        Fault::CrashAllMeta => world.crash(&all_meta, &[]).await,
        Fault::CrashWhileStarting => crash_while_starting(world, rng).await,
        Fault::IsolateLeader => Ok(isolate(world, leader.map(|index| &world.meta[index].address), true, true)),
        Fault::IsolateFollower => Ok(isolate(world, follower.map(|index| &world.meta[index].address), true, true)),
        Fault::OneWayFromLeader => Ok(isolate(world, leader.map(|index| &world.meta[index].address), true, false)),
        Fault::OneWayToLeader => Ok(isolate(world, leader.map(|index| &world.meta[index].address), false, true)),
        Fault::TransferLeader => {
            let Some(raft) = leader.and_then(|index| world.meta[index].raft().cloned()) else { return Ok(false) };
            // It fails if the others cannot be reached.
            Ok(raft.transfer_leader(None).await.is_ok())
        }
        Fault::KillChunkServer => {
            let hit: Vec<_> = server.map(|index| (index, Crash::Kill)).into_iter().collect();
            world.crash(&[], &hit).await
        }
        Fault::PowerCutChunkServer => {
            // One that is down loses what it has not synced, too.
            let index = rng.random_range(0..world.chunk.len());
            world.crash(&[], &[(index, Crash::Power)]).await
        }
        Fault::PowerCutWithinJob => {
            server.into_iter().for_each(|index| world.arm(index, rng.random_range(CALLS)));
            Ok(false)
        }
        Fault::DiskFails => {
            let end = if rng.random() { Crash::Power } else { Crash::Kill };
            server.into_iter().for_each(|index| world.fail_disk(index, rng.random_range(CALLS), rng.random(), end));
            Ok(false)
        }
        Fault::PowerCutAllChunkServers => {
            let hit = every_server(world, |_| Crash::Power);
            world.crash(&[], &hit).await
        }
        Fault::CrashAllChunkServers => {
            let hit = every_server(world, |_| if rng.random() { Crash::Power } else { Crash::Kill });
            world.crash(&[], &hit).await
        }
        Fault::IsolateChunkServer => Ok(isolate(world, server.map(|index| &world.chunk[index].address), true, true)),
        Fault::PowerCutEverything => {
            let hit = every_server(world, |_| Crash::Power);
            world.crash(&all_meta, &hit).await
        }
        Fault::SplitBrain => Ok(split(world, leader, crew, rng)),
        Fault::KillClient => Ok(crew.kill(world, rng)),
        Fault::KillClientAndServers => {
            let loses_power = rng.random_range(0..world.chunk.len());
            let hit = every_server(world, |index| if index == loses_power { Crash::Power } else { Crash::Kill });
            let is_killed = crew.kill(world, rng);
            Ok(world.crash(&[], &hit).await? | is_killed)
        }
        Fault::CutClientFromChunkServers => {
            let Some(client) = crew.choose(rng) else { return Ok(false) };
            let some: Vec<_> = world.chunk.iter().filter(|_| rng.random_bool(0.5)).map(|host| &host.address).collect();
            Ok(cut_off(world, &client, some.into_iter(), true, true))
        }
        Fault::ClientAway => {
            let Some(client) = crew.choose(rng) else { return Ok(false) };
            crew.may_be_given_up(&client, &world.findings);
            Ok(isolate(world, Some(&client), true, true))
        }
        Fault::Loss => {
            world.net.set_weather(Weather { loss: rng.random_range(0.01..0.2), ..Weather::default() });
            Ok(true)
        }
        Fault::SlowLines => {
            world.net.set_weather(Weather { latency_ms: 0..=rng.random_range(5..60), ..Weather::default() });
            Ok(true)
        }
        // See `at_rest`.
        Fault::BitRot => Ok(false),
    }
}

fn every_server(world: &World, mut crash: impl FnMut(usize) -> Crash) -> Vec<(usize, Crash)> {
    (0..world.chunk.len()).map(|index| (index, crash(index))).collect()
}

/// See [`Fault::CrashWhileStarting`].
async fn crash_while_starting(world: &mut World, rng: &mut StdRng) -> Result<bool> {
    let machine = rng.random_range(0..world.meta.len() + world.chunk.len());
    if machine < world.meta.len() {
        world.crash(&[machine], &[]).await?;
        world.start_meta(machine).await?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(SOON_MS))).await;
        return world.crash(&[machine], &[]).await;
    }
    let index = machine - world.meta.len();
    world.crash(&[], &[(index, Crash::Kill)]).await?;
    world.arm(index, rng.random_range(CALLS_OF_A_START));
    world.start_chunk(index).await?;
    Ok(true)
}

/// See [`Fault::SplitBrain`].
fn split(world: &World, leader: Option<usize>, crew: &Crew, rng: &mut StdRng) -> bool {
    let Some(leader) = leader.map(|index| &world.meta[index].address) else { return false };
    let others: Vec<&str> = world.meta.iter().map(|host| host.address.as_str()).collect();
    let clients = crew.names().filter(|_| rng.random_bool(0.5));
    cut_off(world, leader, others.into_iter().chain(clients), true, true)
}

/// Cuts a machine off from all servers: what it sends, what is sent to it, or both.
fn isolate(world: &World, machine: Option<&String>, from: bool, to: bool) -> bool {
    let servers = world.meta.iter().map(|host| &host.address).chain(world.chunk.iter().map(|host| &host.address));
    machine.is_some_and(|machine| cut_off(world, machine, servers, from, to))
}

/// Whether anything was not cut off already.
fn cut_off(world: &World, machine: &str, others: impl Iterator<Item = impl AsRef<str>>, from: bool, to: bool) -> bool {
    let mut changed = false;
    for other in others.filter(|other| other.as_ref() != machine) {
        if from {
            changed |= world.net.block(machine, other.as_ref());
        }
        if to {
            changed |= world.net.block(other.as_ref(), machine);
        }
    }
    changed
}
