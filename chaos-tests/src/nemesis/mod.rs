//! Faults. Each proves that it took effect, or fails loudly.
//!
//! [`Kind`] names what `caribou-chaos run` can inflict; the files have how it is done. Inflicting gives a [`Harm`], which knows how it is
//! lifted. `kills` and `power` are also what scenarios use directly.

mod client;
mod disk;
pub mod kills;
mod lines;
pub mod power;
mod process;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use caribou_cli::local::Part;
use clap::ValueEnum;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rustix::process::Signal;
use serde::Serialize;

use crate::lab::Lab;
use crate::network::{Host, Rule};

/// A server of the cluster.
pub type Server = (Part, usize);

/// What can be done to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    KillLeader,
    KillFollower,
    KillMajority,
    KillAllMeta,
    KillChunkServer,
    KillAllChunkServers,
    KillAllServers,
    /// SIGTERM: they end in order.
    StopLeader,
    StopChunkServer,
    /// The leader is killed, started and killed again while it starts.
    RestartStorm,
    TransferLeader,
    /// SIGSTOP: it is there, and does nothing.
    PauseLeader,
    PauseFollower,
    PauseChunkServer,
    PauseAllMeta,
    IsolateLeader,
    IsolateFollower,
    IsolateChunkServer,
    /// The leader hears nobody, and is heard.
    DeafLeader,
    /// The leader hears everybody, and nobody hears it.
    MuteLeader,
    /// The leader and one follower do not hear each other; the third hears both.
    CutPair,
    /// No client reaches the leader.
    ClientsFromLeader,
    /// No chunk server reaches the leader.
    ChunkServersFromLeader,
    /// No client reaches one chunk server.
    ClientsFromChunkServer,
    /// Everybody loses a share of what arrives.
    Loss,
    NarrowLeader,
    NarrowChunkServer,
    PowerCutLeader,
    PowerCutFollower,
    PowerCutChunkServer,
    PowerCutAllChunkServers,
    PowerCutEverything,
    /// The file system of a follower is full.
    FullFollower,
    FullLeader,
    FullChunkServer,
    /// A mount's process dies with what it had not synced.
    KillMount,
    PauseMount,
}

/// What a kind is about; a run overlaps faults of different classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    Process,
    Network,
    Disk,
    Client,
}

impl Kind {
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    pub fn name(self) -> String {
        self.to_possible_value().expect("no kind is hidden").get_name().to_owned()
    }

    pub fn class(self) -> Class {
        match self {
            Self::KillLeader
            | Self::KillFollower
            | Self::KillMajority
            | Self::KillAllMeta
            | Self::KillChunkServer
            | Self::KillAllChunkServers
            | Self::KillAllServers
            | Self::StopLeader
            | Self::StopChunkServer
            | Self::RestartStorm
            | Self::TransferLeader
            | Self::PauseLeader
            | Self::PauseFollower
            | Self::PauseChunkServer
            | Self::PauseAllMeta => Class::Process,
            Self::IsolateLeader
            | Self::IsolateFollower
            | Self::IsolateChunkServer
            | Self::DeafLeader
            | Self::MuteLeader
            | Self::CutPair
            | Self::ClientsFromLeader
            | Self::ChunkServersFromLeader
            | Self::ClientsFromChunkServer
            | Self::Loss
            | Self::NarrowLeader
            | Self::NarrowChunkServer => Class::Network,
            Self::PowerCutLeader
            | Self::PowerCutFollower
            | Self::PowerCutChunkServer
            | Self::PowerCutAllChunkServers
            | Self::PowerCutEverything
            | Self::FullFollower
            | Self::FullLeader
            | Self::FullChunkServer => Class::Disk,
            Self::KillMount | Self::PauseMount => Class::Client,
        }
    }

    /// Whether it needs hosts and volumes; the others work on any cluster.
    pub fn needs_hosts(self) -> bool {
        matches!(self.class(), Class::Network | Class::Disk)
    }

    /// Whether chunk servers lose what they had not synced.
    pub fn cuts_chunk_power(self) -> bool {
        matches!(self, Self::PowerCutChunkServer | Self::PowerCutAllChunkServers | Self::PowerCutEverything)
    }
}

/// Where faults are inflicted: the cluster, who suffers already, and the dice.
pub struct Site<'a> {
    pub lab: &'a mut Lab,
    pub rng: &'a mut StdRng,
    /// Servers that a fault under way has: another one takes others.
    pub taken: &'a mut BTreeSet<Server>,
    /// Mounts that may be killed and paused, and that no fault under way has.
    pub mounts: &'a mut Vec<PathBuf>,
}

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
enum Remedy {
    Start(Server),
    /// It may be at its end, or not: killed first.
    Restart(Server),
    Continue(Server),
    Lift(Rule),
    Widen(Host),
    Remove(PathBuf),
    Mount(PathBuf),
    ContinueMount(PathBuf),
}

impl Harm {
    fn new(kind: Kind, servers: Vec<Server>) -> Self {
        let names: Vec<String> = servers.iter().map(|(part, number)| format!("{}{number}", part.name())).collect();
        Self { kind, victims: names.join(" "), servers, remedies: Vec::new() }
    }

    /// What is done to whom.
    pub fn told(&self) -> String {
        format!("{} ({})", self.kind.name(), self.victims)
    }

    fn with(mut self, remedies: impl IntoIterator<Item = Remedy>) -> Self {
        self.remedies.extend(remedies);
        self
    }

    /// Makes good what was done. Returns what shows that it took effect; nothing: it had none.
    pub async fn lift(self, site: &mut Site<'_>) -> Result<Option<String>> {
        let mut packets = None;
        for remedy in self.remedies {
            match remedy {
                Remedy::Start((part, number)) => site.lab.cluster.start(part, number).await?,
                Remedy::Restart((part, number)) => {
                    site.lab.cluster.signal(part, number, Signal::KILL)?;
                    site.lab.cluster.start(part, number).await?;
                }
                Remedy::Continue((part, number)) => site.lab.cluster.signal(part, number, Signal::CONT)?,
                Remedy::Lift(rule) => *packets.get_or_insert(0) += rule.lift()?,
                Remedy::Widen(host) => *packets.get_or_insert(0) += host.widen()?,
                Remedy::Remove(path) => std::fs::remove_file(path)?,
                Remedy::Mount(path) => {
                    site.lab.mount_again(&path).await?;
                    site.mounts.push(path);
                }
                Remedy::ContinueMount(path) => {
                    site.lab.cluster.signal_mount(&path, Signal::CONT)?;
                    site.mounts.push(path);
                }
            }
        }
        for server in self.servers {
            site.taken.remove(&server);
        }
        Ok(match packets {
            // What else there is has proved itself when it was done.
            None => Some("done".to_owned()),
            Some(0) => None,
            Some(packets) => Some(format!("{packets} packets")),
        })
    }
}

/// Does it. None: not now, because those that it needs are taken, or nobody leads.
pub async fn inflict(kind: Kind, site: &mut Site<'_>) -> Result<Option<Harm>> {
    match kind.class() {
        Class::Process => process::inflict(kind, site).await,
        Class::Network => lines::inflict(kind, site).await,
        Class::Disk => disk::inflict(kind, site).await,
        Class::Client => client::inflict(kind, site),
    }
}

impl Site<'_> {
    fn all(&self, part: Part) -> Vec<Server> {
        (1..=self.lab.cluster.layout().nodes(part).len()).map(|number| (part, number)).collect()
    }

    /// The leader, if it is free.
    async fn leader(&self) -> Option<Server> {
        let leader = (Part::Meta, self.lab.cluster.leader().await?);
        (!self.taken.contains(&leader)).then_some(leader)
    }

    async fn follower(&mut self) -> Option<Server> {
        let leader = self.lab.cluster.leader().await?;
        let free = self.all(Part::Meta).into_iter().filter(|server| server.1 != leader && !self.taken.contains(server));
        free.collect::<Vec<_>>().choose(self.rng).copied()
    }

    fn chunk_server(&mut self) -> Option<Server> {
        let free = self.all(Part::Chunk).into_iter().filter(|server| !self.taken.contains(server));
        free.collect::<Vec<_>>().choose(self.rng).copied()
    }

    /// Whom a kind hits, taken from now on. None: some of them are taken already.
    async fn victims(&mut self, whom: Whom) -> Option<Vec<Server>> {
        let victims = match whom {
            Whom::Leader => vec![self.leader().await?],
            Whom::Follower => vec![self.follower().await?],
            Whom::LeaderAndFollower => vec![self.leader().await?, self.follower().await?],
            Whom::ChunkServer => vec![self.chunk_server()?],
            Whom::AllMeta => self.all(Part::Meta),
            Whom::AllChunkServers => self.all(Part::Chunk),
            Whom::Everybody => [self.all(Part::Meta), self.all(Part::Chunk)].concat(),
        };
        if victims.iter().any(|server| self.taken.contains(server)) {
            return None;
        }
        self.taken.extend(victims.iter().copied());
        Some(victims)
    }

    fn percent(&mut self, range: std::ops::RangeInclusive<u32>) -> u32 {
        self.rng.random_range(range)
    }
}

#[derive(Debug, Clone, Copy)]
enum Whom {
    Leader,
    Follower,
    LeaderAndFollower,
    ChunkServer,
    AllMeta,
    AllChunkServers,
    Everybody,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_names_that_the_command_line_takes() {
        assert!(Kind::all().len() >= 30);
        for kind in Kind::all() {
            assert_eq!(Kind::from_str(&kind.name(), false), Ok(*kind));
            assert_eq!(serde_json::to_string(kind).expect("a name"), format!("\"{}\"", kind.name()));
        }
    }
}
