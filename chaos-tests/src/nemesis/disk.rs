//! Disks: power that goes, with everything that was not synced; file systems that are full; disks that fail under a server that goes on,
//! that are slow, and that hang.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rand::RngExt as _;

use super::still::{Rhythm, Still};
use super::{Harm, Kind, Remedy, Server, Site, Whom, power};

/// Room that is left in a full file system, in bytes: none.
const FILLER: &str = "filler";

pub(super) async fn inflict(kind: Kind, site: &mut Site<'_>) -> Result<Option<Harm>> {
    let whom = match kind {
        Kind::PowerCutLeader
        | Kind::FullLeader
        | Kind::FailDiskLeader
        | Kind::SlowDiskLeader
        | Kind::HungDiskLeader => Whom::Leader,
        Kind::PowerCutFollower | Kind::FullFollower | Kind::FailDiskFollower | Kind::SlowDiskFollower => Whom::Follower,
        Kind::PowerCutChunkServer
        | Kind::FullChunkServer
        | Kind::FailDiskChunkServer
        | Kind::SlowDiskChunkServer
        | Kind::HungDiskChunkServer => Whom::ChunkServer,
        Kind::PowerCutAllChunkServers => Whom::AllChunkServers,
        _ => Whom::Everybody,
    };
    let Some(victims) = site.victims(whom).await else { return Ok(None) };
    let (harm, victim) = (Harm::new(kind, victims.clone()), victims[0]);
    Ok(Some(match kind {
        Kind::FullFollower | Kind::FullLeader | Kind::FullChunkServer => {
            let harm = harm.with([Remedy::Remove(fill(site, victim)?)]);
            // A metadata node that cannot write ends; a chunk server goes on.
            harm.with((kind != Kind::FullChunkServer).then_some(Remedy::Restart(victim)))
        }
        Kind::FailDiskLeader | Kind::FailDiskFollower | Kind::FailDiskChunkServer => {
            let volume = site.lab.volume(victim.0, victim.1)?;
            let mut harm = harm.with([Remedy::Revive(victim)]);
            // A disk that fails has written what it was given, or not.
            if site.rng.random() {
                power::fail(&volume)?;
                harm.victims.push_str(", everything written");
            } else {
                power::cut(&volume)?;
                harm.victims.push_str(", un-synced bytes lost");
            }
            harm
        }
        Kind::SlowDiskLeader | Kind::SlowDiskFollower | Kind::SlowDiskChunkServer => {
            harm.with([stand_still(site, victim, Rhythm::SLOW)?])
        }
        Kind::HungDiskLeader | Kind::HungDiskChunkServer => {
            let harm = harm.with([stand_still(site, victim, Rhythm::HUNG)?]);
            // A chunk server uses no disk again that has hung, until it starts anew.
            harm.with((kind == Kind::HungDiskChunkServer).then_some(Remedy::Restart(victim)))
        }
        _ => {
            site.lab.cut_power(&victims)?;
            harm.with(victims.into_iter().map(Remedy::Start))
        }
    }))
}

fn stand_still(site: &mut Site<'_>, (part, number): Server, rhythm: Rhythm) -> Result<Remedy> {
    let process = site.lab.cluster.layout().nodes(part)[number - 1].process;
    let process = process.with_context(|| format!("{} {number} is not running", part.name()))?;
    let still = Still::begin(site.lab.volume(part, number)?, process.pid, rhythm, site.rng.random())?;
    Ok(Remedy::Move(still))
}

/// Takes all the room of a server's file system.
fn fill(site: &Site<'_>, (part, number): Server) -> Result<PathBuf> {
    let volume = site.lab.volume(part, number)?;
    let path = volume.join(FILLER);
    let mut file = File::create(&path).with_context(|| path.display().to_string())?;
    let space = rustix::fs::statvfs(&volume)?;
    // Most of it at once, the rest until nothing more is taken.
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, space.f_bfree * space.f_frsize / 100 * 99)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
    let block = vec![0; 1 << 20];
    let mut blocks = 0;
    let full = loop {
        if let Err(error) = file.write_all(&block) {
            break error;
        }
        blocks += 1;
        ensure!(blocks < 8 << 10, "{} takes more than it said to have", volume.display());
    };
    ensure!(full.kind() == std::io::ErrorKind::StorageFull, "{}: {full}", path.display());
    Ok(path)
}
