//! A fault under way: who suffers, and how it is lifted completely.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use caribou_cli::local::{Part, ProcessId};
use rustix::process::Signal;

use super::clock::Clocks;
use super::damage::Damage;
use super::still::Still;
use super::{Broken, Kind, Server, Site, power, rot};
use crate::network::detour::Detour;
use crate::network::proxy::Proxy;
use crate::network::{Host, Rule};

/// A fault under way.
#[derive(Debug)]
pub struct Harm {
    pub kind: Kind,
    /// Who suffers, in words.
    pub victims: String,
    servers: Vec<Server>,
    remedies: Vec<Remedy>,
}

/// How a part of a harm is lifted.
#[derive(Debug)]
pub(super) enum Remedy {
    Start(Server),
    /// It may be at its end, or not: killed first.
    Restart(Server),
    /// The same, and its file system is mounted anew in between.
    Revive(Server),
    Continue(Server),
    Lift(Rule),
    Widen(Host),
    Straighten(Detour),
    Connect(Proxy),
    Move(Still),
    Mend(rot::Flip),
    Repair(Damage),
    SetRight(Clocks),
    Wait(Duration),
    Remove(PathBuf),
    Mount(PathBuf),
    ContinueMount(PathBuf),
    /// Nothing to be lifted: the mount's session has to be gone by now.
    Outlasted(PathBuf),
    /// Nothing to be lifted: so much of that was seen when it was inflicted.
    Seen(u64, &'static str),
}

/// What shows that a fault took effect: how many of what.
#[derive(Debug, Default)]
pub(super) struct Evidence(Vec<(u64, &'static str)>);

impl Harm {
    pub(super) fn new(kind: Kind, servers: Vec<Server>) -> Self {
        let harm = Self::beside_others(kind, &servers);
        Self { servers, ..harm }
    }

    /// One that takes nobody: other faults may have those whom it hits.
    pub(super) fn beside_others(kind: Kind, whom: &[Server]) -> Self {
        let names: Vec<String> = whom.iter().map(|(part, number)| format!("{}{number}", part.name())).collect();
        Self { kind, victims: names.join(" "), servers: Vec::new(), remedies: Vec::new() }
    }

    /// What is done to whom.
    pub fn told(&self) -> String {
        format!("{} ({})", self.kind.name(), self.victims)
    }

    pub(super) fn with(mut self, remedies: impl IntoIterator<Item = Remedy>) -> Self {
        self.remedies.extend(remedies);
        self
    }

    /// Makes good what was done. Returns what shows that it took effect; nothing: it had none.
    ///
    /// # Errors
    /// [`Broken`] once all of it has been tried; anything else at once.
    pub async fn lift(self, site: &mut Site<'_>) -> Result<Option<String>> {
        let mut evidence = Evidence::default();
        let mut broken = Vec::new();
        for remedy in self.remedies {
            if let Err(error) = remedy.apply(site, &mut evidence).await {
                broken.push(Broken::told(error)?);
            }
        }
        for server in self.servers {
            site.taken.remove(&server);
        }
        if broken.is_empty() { Ok(evidence.told()) } else { Err(Broken::promise(broken.join("; "))) }
    }
}

impl Remedy {
    async fn apply(self, site: &mut Site<'_>, evidence: &mut Evidence) -> Result<()> {
        match self {
            Self::Start(server) => start(site, server).await?,
            Self::Restart(server) => restart(site, server, |_| Ok(())).await?,
            Self::Revive((part, number)) => {
                let remount = |site: &Site<'_>| power::remount(&site.lab.volume(part, number)?);
                restart(site, (part, number), remount).await?;
            }
            Self::Continue((part, number)) => site.lab.cluster.signal(part, number, Signal::CONT)?,
            Self::Lift(rule) => evidence.add(rule.lift()?, "packets"),
            Self::Widen(host) => evidence.add(host.widen()?, "packets"),
            Self::Straighten(detour) => evidence.add(detour.lift()?, "packets that others overtook"),
            Self::Connect(proxy) => {
                let (count, what) = proxy.lift()?;
                evidence.add(count, what);
            }
            Self::Move(still) => evidence.add(still.end()?, "standstills that it had to wait in"),
            Self::Mend(flip) => {
                let found = flip.mended(site.lab).await?;
                evidence.add(found, "damaged blocks found");
            }
            Self::Repair(damage) => {
                let told = damage.repaired(site).await?;
                evidence.add(told, "lines of its log about the damage");
            }
            Self::SetRight(clocks) => evidence.add(clocks.set_right(site).await?, "lines of logs an hour off"),
            Self::Wait(time) => tokio::time::sleep(time).await,
            Self::Remove(path) => std::fs::remove_file(path)?,
            Self::Mount(path) => {
                site.lab.mount_again(&path).await.map_err(|error| Broken::by(&error))?;
                site.mounts.push(path);
            }
            Self::ContinueMount(path) => {
                site.lab.cluster.signal_mount(&path, Signal::CONT)?;
                site.mounts.push(path);
            }
            Self::Outlasted(path) => {
                let status = site.lab.cluster.status().await;
                let name = format!(":{}", path.display());
                let is_known = status.clients.iter().any(|client| client.name.ends_with(&name));
                evidence.add(u64::from(status.leader().is_some() && !is_known), "sessions expired");
            }
            Self::Seen(count, what) => evidence.add(count, what),
        }
        Ok(())
    }
}

/// Ends a server, if it has not ended, and starts it again. A chunk server goes on whatever its disk does; a metadata node must end if it
/// cannot write.
async fn restart(
    site: &mut Site<'_>,
    (part, number): Server,
    in_between: impl Fn(&Site<'_>) -> Result<()>,
) -> Result<()> {
    let process = site.lab.cluster.layout().nodes(part)[number - 1].process;
    let has_ended = !process.is_some_and(ProcessId::is_alive);
    site.lab.cluster.signal(part, number, Signal::KILL)?;
    in_between(site)?;
    start(site, (part, number)).await?;
    match part {
        Part::Chunk if has_ended => Err(Broken::promise(format!("chunk server {number} has ended by itself"))),
        _ => Ok(()),
    }
}

/// P5: a server comes up again, whatever it went through.
pub(super) async fn start(site: &mut Site<'_>, (part, number): Server) -> Result<()> {
    site.lab.cluster.start(part, number).await.map_err(|error| Broken::by(&error))
}

impl Evidence {
    fn add(&mut self, count: u64, what: &'static str) {
        match self.0.iter_mut().find(|(_, known)| *known == what) {
            Some((sum, _)) => *sum += count,
            None => self.0.push((count, what)),
        }
    }

    fn told(&self) -> Option<String> {
        if self.0.is_empty() {
            // What else there is has proved itself when it was done.
            return Some("done".to_owned());
        }
        let seen = self.0.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        let seen: Vec<String> = seen.collect();
        (!seen.is_empty()).then(|| seen.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_beside_others_hits_servers_and_takes_none() {
        let servers = vec![(Part::Meta, 1), (Part::Chunk, 2)];
        let beside = Harm::beside_others(Kind::Loss, &servers);
        assert_eq!((beside.victims.as_str(), beside.servers.len()), ("meta1 chunk2", 0));
        let alone = Harm::new(Kind::KillAllServers, servers.clone());
        assert_eq!((alone.victims, alone.servers), (beside.victims, servers));
    }

    #[test]
    fn a_fault_that_nobody_felt_had_no_effect() {
        let mut evidence = Evidence::default();
        assert_eq!(evidence.told().as_deref(), Some("done"));
        evidence.add(0, "packets");
        assert_eq!(evidence.told(), None);
        evidence.add(3, "packets");
        evidence.add(4, "packets");
        evidence.add(1, "torn connections");
        assert_eq!(evidence.told().as_deref(), Some("7 packets, 1 torn connections"));
    }
}
