//! Disks: power that goes, with everything that was not synced; file systems that are full.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::{Harm, Kind, Remedy, Server, Site, Whom};

/// Room that is left in a full file system, in bytes: none.
const FILLER: &str = "filler";

pub(super) async fn inflict(kind: Kind, site: &mut Site<'_>) -> Result<Option<Harm>> {
    let whom = match kind {
        Kind::PowerCutLeader | Kind::FullLeader => Whom::Leader,
        Kind::PowerCutFollower | Kind::FullFollower => Whom::Follower,
        Kind::PowerCutChunkServer | Kind::FullChunkServer => Whom::ChunkServer,
        Kind::PowerCutAllChunkServers => Whom::AllChunkServers,
        _ => Whom::Everybody,
    };
    let Some(victims) = site.victims(whom).await else { return Ok(None) };
    let harm = Harm::new(kind, victims.clone());
    if matches!(kind, Kind::FullFollower | Kind::FullLeader | Kind::FullChunkServer) {
        let filler = fill(site, victims[0])?;
        let harm = harm.with([Remedy::Remove(filler)]);
        // A metadata node that cannot write ends; a chunk server goes on.
        let ends = kind != Kind::FullChunkServer;
        return Ok(Some(harm.with(ends.then_some(Remedy::Restart(victims[0])))));
    }
    site.lab.cut_power(&victims)?;
    Ok(Some(harm.with(victims.into_iter().map(Remedy::Start))))
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
