//! Mounts whose process dies, or does nothing for a while.

use anyhow::Result;
use rand::RngExt as _;
use rustix::process::Signal;

use super::{Harm, Kind, Remedy, Site, process};

pub(super) async fn inflict(kind: Kind, site: &mut Site<'_>) -> Result<Option<Harm>> {
    if site.mounts.is_empty() {
        return Ok(None);
    }
    let path = site.mounts.swap_remove(site.rng.random_range(0..site.mounts.len()));
    let mut harm = Harm::new(kind, Vec::new());
    // As errors of programs name it (`run::excuses`).
    harm.victims = path.display().to_string();
    if kind == Kind::KillMount {
        site.lab.cluster.kill_mount(&path)?;
        return Ok(Some(harm.with([Remedy::Mount(path)])));
    }
    site.lab.cluster.signal_mount(&path, Signal::STOP)?;
    let mount = site.lab.cluster.layout().mounts.iter().find(|mount| mount.path == path);
    process::stand_still(mount.and_then(|mount| mount.process), &harm.victims).await?;
    // A pause is long enough to be felt; a freeze has to outlast the session.
    let outlasted = (kind == Kind::FreezeMount).then(|| Remedy::Outlasted(path.clone()));
    Ok(Some(harm.with(outlasted).with([Remedy::ContinueMount(path)])))
}
