//! Lines between hosts: cut, cut one way, lossy, narrow, with packets that come twice or late. The counters of the rules show that something was
//! dropped or doubled, those of the queues that something had to wait.

use anyhow::Result;
use caribou_cli::local::Part;

use super::{Harm, Kind, Remedy, Server, Site, Whom};
use crate::network::Host;
use crate::network::detour::Detour;

/// The rate of a narrow line in kbit/s, and how long it queues in milliseconds.
const NARROW_KBIT: u32 = 2000;
const NARROW_LATENCY_MS: u32 = 300;

pub(super) async fn inflict(kind: Kind, site: &mut Site<'_>) -> Result<Option<Harm>> {
    let whom = match kind {
        Kind::IsolateFollower => Whom::Follower,
        Kind::IsolateChunkServer | Kind::NarrowChunkServer | Kind::ClientsFromChunkServer => Whom::ChunkServer,
        Kind::CutPair => Whom::LeaderAndFollower,
        _ => Whom::Leader,
    };
    let Some(victims) = site.victims(whom).await else { return Ok(None) };
    let harm = Harm::new(kind, victims.clone());
    let others: Vec<Server> = site.everybody().into_iter().filter(|server| !victims.contains(server)).collect();
    let (victim, clients) = (site.host(victims[0])?, site.lab.client_ips());
    let mut wires = Wires::default();
    match kind {
        Kind::NarrowLeader | Kind::NarrowChunkServer => {
            victim.narrow(NARROW_KBIT, NARROW_LATENCY_MS)?;
            return Ok(Some(harm.with([Remedy::Widen(victim)])));
        }
        Kind::CutPair => {
            let other = site.host(victims[1])?;
            wires.cut(&victim, &other)?;
        }
        Kind::ClientsFromLeader | Kind::ClientsFromChunkServer => {
            for client in &clients {
                wires.drop(&victim, client, 100)?;
            }
        }
        Kind::ChunkServersFromLeader => {
            for server in others.iter().filter(|(part, _)| *part == Part::Chunk) {
                wires.cut(&victim, &site.host(*server)?)?;
            }
        }
        Kind::DeafLeader => {
            for server in &others {
                wires.drop(&victim, site.host(*server)?.ip(), 100)?;
            }
        }
        Kind::MuteLeader => {
            for server in &others {
                wires.drop(&site.host(*server)?, victim.ip(), 100)?;
            }
        }
        _ => {
            for server in &others {
                wires.cut(&victim, &site.host(*server)?)?;
            }
            for client in &clients {
                wires.drop(&victim, client, 100)?;
            }
        }
    }
    Ok(Some(harm.with(wires.0)))
}

/// The lines of all servers are bad: some packets are lost, come twice, or are overtaken.
pub(super) fn inflict_on_all(kind: Kind, site: &mut Site<'_>) -> Result<Harm> {
    let (servers, clients) = (site.everybody(), site.lab.client_ips());
    let mut wires = Wires::default();
    match kind {
        Kind::Loss => {
            let percent = site.percent(1..=30);
            for server in &servers {
                let here = site.host(*server)?;
                for other in servers.iter().filter(|other| *other != server) {
                    wires.drop(&here, site.host(*other)?.ip(), percent)?;
                }
                for client in &clients {
                    wires.drop(&here, client, percent)?;
                }
                // What clients are sent is lost where it leaves: they have no rules of their own.
                wires.0.push(Remedy::Lift(here.drop_to(&clients, percent)?));
            }
        }
        Kind::DuplicatePackets => {
            let percent = site.percent(1..=30);
            for server in &servers {
                wires.0.extend(site.host(*server)?.twice(percent)?.map(Remedy::Lift));
            }
        }
        _ => {
            let percent = site.percent(5..=20);
            for server in &servers {
                wires.0.push(Remedy::Straighten(Detour::begin(&site.host(*server)?, percent)?));
            }
        }
    }
    Ok(Harm::beside_others(kind, &servers).with(wires.0))
}

/// What is cut, and how it is joined again.
#[derive(Default)]
pub(super) struct Wires(pub(super) Vec<Remedy>);

impl Wires {
    /// `at` loses so much of what comes from there.
    pub(super) fn drop(&mut self, at: &Host, from: &str, percent: u32) -> Result<()> {
        self.0.push(Remedy::Lift(at.drop_from(from, percent)?));
        Ok(())
    }

    pub(super) fn cut(&mut self, one: &Host, other: &Host) -> Result<()> {
        self.drop(one, other.ip(), 100)?;
        self.drop(other, one.ip(), 100)
    }
}
