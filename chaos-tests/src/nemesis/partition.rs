//! Partitions that are no clean cut: a bridge, a ring, and hosts that are cut off and joined again one after the other. The counters of the
//! rules show that something was dropped.

use std::time::Duration;

use anyhow::Result;
use caribou_cli::local::Part;
use rand::RngExt as _;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::lines::Wires;
use super::{Harm, Kind, Remedy, Server, Site};
use crate::network::Host;

/// Between two hosts that are cut off or joined, in milliseconds.
const STEP_MS: std::ops::Range<u64> = 50..400;

pub(super) async fn inflict(kind: Kind, site: &mut Site<'_>) -> Result<Harm> {
    let mut servers = site.everybody();
    servers.shuffle(site.rng);
    let hosts = servers.iter().map(|server| site.host(*server)).collect::<Result<Vec<Host>>>()?;
    let harm = Harm::beside_others(kind, &servers);
    Ok(match kind {
        Kind::Bridge => harm.with(bridge(site, &servers, &hosts)?),
        Kind::Ring => harm.with(ring(&hosts)?),
        _ => harm.with(swizzle(site, &hosts).await?),
    })
}

/// Two halves of the servers do not hear each other; one metadata node hears both. Each client is heard by one half and that node.
fn bridge(site: &mut Site<'_>, servers: &[Server], hosts: &[Host]) -> Result<Vec<Remedy>> {
    let nodes: Vec<usize> = (0..servers.len()).filter(|at| servers[*at].0 == Part::Meta).collect();
    let bridge = *nodes.choose(site.rng).expect("every cluster has metadata nodes");
    let (one, other): (Vec<usize>, Vec<usize>) =
        (0..hosts.len()).filter(|at| *at != bridge).partition(|at| at % 2 == 0);
    let mut wires = Wires::default();
    for (here, there) in one.iter().flat_map(|here| other.iter().map(move |there| (here, there))) {
        wires.cut(&hosts[*here], &hosts[*there])?;
    }
    for client in site.lab.client_ips() {
        let unheard = if site.rng.random() { &one } else { &other };
        for at in unheard {
            wires.drop(&hosts[*at], &client, 100)?;
        }
    }
    Ok(wires.0)
}

/// All servers in a circle: each hears its two neighbours. Clients hear everybody.
fn ring(hosts: &[Host]) -> Result<Vec<Remedy>> {
    let mut wires = Wires::default();
    for (here, host) in hosts.iter().enumerate() {
        for (there, other) in hosts.iter().enumerate().skip(here + 2) {
            if (there + 1) % hosts.len() != here {
                wires.cut(host, other)?;
            }
        }
    }
    Ok(wires.0)
}

/// Some servers, one after the other, hear nobody and are not heard; they are joined again one by one, in another order.
async fn swizzle(site: &mut Site<'_>, hosts: &[Host]) -> Result<Vec<Remedy>> {
    let chosen = &hosts[..site.rng.random_range(2..=hosts.len())];
    let clients = site.lab.client_ips();
    let mut cut_off = Vec::new();
    for victim in chosen {
        let mut wires = Wires::default();
        for other in hosts.iter().filter(|other| *other != victim) {
            wires.cut(victim, other)?;
        }
        for client in &clients {
            wires.drop(victim, client, 100)?;
        }
        cut_off.push(wires.0);
        tokio::time::sleep(step(site)).await;
    }
    cut_off.shuffle(site.rng);
    let mut remedies = Vec::new();
    for joined in cut_off {
        remedies.push(Remedy::Wait(step(site)));
        remedies.extend(joined);
    }
    Ok(remedies)
}

fn step(site: &mut Site<'_>) -> Duration {
    Duration::from_millis(site.rng.random_range(STEP_MS))
}
