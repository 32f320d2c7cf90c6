//! Faults. Each proves that it took effect, or fails loudly.
//!
//! [`Kind`] names what `caribou-chaos run` can inflict; the files have how it is done. Inflicting gives a [`Harm`], which knows how it is
//! lifted. `kills` and `power` are also what scenarios use directly.

mod broken;
mod client;
mod clock;
mod damage;
mod disk;
mod harm;
mod image;
pub mod kills;
mod kind;
mod lines;
mod partition;
pub mod power;
mod process;
mod proxied;
mod rot;
mod still;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use caribou_cli::local::Part;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

pub use broken::Broken;
pub use harm::Harm;
use harm::Remedy;
pub use kind::{Class, Kind};

use crate::lab::Lab;
use crate::network::Host;

/// A server of the cluster.
pub type Server = (Part, usize);

/// Where faults are inflicted: the cluster, who suffers already, and the dice.
pub struct Site<'a> {
    pub lab: &'a mut Lab,
    pub rng: &'a mut StdRng,
    /// Servers that a fault under way has: another one takes others. Faults of all lines have none.
    pub taken: &'a mut BTreeSet<Server>,
    /// Mounts that may be killed and paused, and that no fault under way has.
    pub mounts: &'a mut Vec<PathBuf>,
}

/// Does it. None: not now, because those that it needs are taken, or nobody leads.
pub async fn inflict(kind: Kind, site: &mut Site<'_>) -> Result<Option<Harm>> {
    match kind.class() {
        Class::Process if kind.is_of_clocks() => clock::inflict(kind, site).await,
        Class::Process => process::inflict(kind, site).await,
        Class::Network => match kind {
            Kind::Bridge | Kind::Ring | Kind::SwizzleClog => partition::inflict(kind, site).await.map(Some),
            Kind::Loss | Kind::DuplicatePackets | Kind::ReorderPackets => lines::inflict_on_all(kind, site).map(Some),
            Kind::Delay | Kind::HalfOpen | Kind::SlowReader | Kind::TornConnections => {
                proxied::inflict(kind, site).await
            }
            _ => lines::inflict(kind, site).await,
        },
        Class::Disk => match kind {
            Kind::BitFlip => rot::inflict(site).await,
            Kind::OldImageChunkServer => image::inflict(site).await,
            Kind::RotStateFollower | Kind::RotLogFollower => damage::inflict(kind, site).await,
            _ => disk::inflict(kind, site).await,
        },
        Class::Client => client::inflict(kind, site).await,
    }
}

/// What has been written to a log behind its first `from` bytes.
fn said_since(log: &Path, from: u64) -> Result<String> {
    let mut file = File::open(log).with_context(|| log.display().to_string())?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Site<'_> {
    fn all(&self, part: Part) -> Vec<Server> {
        (1..=self.lab.cluster.layout().nodes(part).len()).map(|number| (part, number)).collect()
    }

    fn everybody(&self) -> Vec<Server> {
        [self.all(Part::Meta), self.all(Part::Chunk)].concat()
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

    /// The leader, and so many followers that the others are no majority.
    async fn majority(&mut self) -> Option<Vec<Server>> {
        let leader = self.leader().await?;
        let all = self.all(Part::Meta);
        let followers = all.len() / 2;
        let free = all.into_iter().filter(|server| *server != leader && !self.taken.contains(server));
        let mut free: Vec<Server> = free.collect();
        free.shuffle(self.rng);
        free.truncate(followers);
        free.insert(0, leader);
        (free.len() > followers).then_some(free)
    }

    fn chunk_server(&mut self) -> Option<Server> {
        let free = self.all(Part::Chunk).into_iter().filter(|server| !self.taken.contains(server));
        free.collect::<Vec<_>>().choose(self.rng).copied()
    }

    fn any_server(&mut self) -> Option<Server> {
        let free = self.everybody().into_iter().filter(|server| !self.taken.contains(server));
        free.collect::<Vec<_>>().choose(self.rng).copied()
    }

    fn host(&self, (part, number): Server) -> Result<Host> {
        let host = self.lab.host(part, number).cloned();
        host.with_context(|| format!("{} {number} is no host of its own", part.name()))
    }

    /// Whom a kind hits, taken from now on. None: some of them are taken already.
    async fn victims(&mut self, whom: Whom) -> Option<Vec<Server>> {
        let victims = match whom {
            Whom::Leader => vec![self.leader().await?],
            Whom::Follower => vec![self.follower().await?],
            Whom::Majority => self.majority().await?,
            Whom::LeaderAndFollower => vec![self.leader().await?, self.follower().await?],
            Whom::ChunkServer => vec![self.chunk_server()?],
            Whom::AnyServer => vec![self.any_server()?],
            Whom::AllMeta => self.all(Part::Meta),
            Whom::AllChunkServers => self.all(Part::Chunk),
            Whom::Everybody => self.everybody(),
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
    Majority,
    LeaderAndFollower,
    ChunkServer,
    AnyServer,
    AllMeta,
    AllChunkServers,
    Everybody,
}
