//! One read of a chunk whose place is known (R1): replica choice, checksum, hedging. It says what came of it and leaves all
//! waiting and asking the leader to its caller.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use caribou_proto::chunk::v1::{ReadReply, ReadRequest, Status};
use caribou_proto::cluster::v1::Holder;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::{Servers, mux};

/// With no answer for this long, the next replica is asked too; the first good answer wins.
const HEDGE_AFTER: Duration = Duration::from_millis(100);
/// A replica that has not answered by now counts as unreachable for this read.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(3);

/// Where a chunk's bytes are, exactly (R1).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) chunk: u64,
    pub(crate) version: u64,
    /// Chain order: the tail is last.
    pub(crate) holders: Vec<Holder>,
}

/// What came of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The bytes; their checksum was right.
    Data(Bytes),
    /// Some holder has another version, no replica, or is before its recovery: the place may be out of date.
    Stale,
    /// Every holder answered, and everyone's copy is damaged.
    Damaged,
    /// Nobody could answer now: unreachable, without lease, a failed disk, or a silent tail. Never an error by itself (R1).
    Wait,
}

enum Answer {
    Data(Bytes),
    NotYet,
    Stale,
    Damaged,
    Unreachable,
}

/// Reads `length` bytes (at most 1 MiB) at `offset` of the chunk.
pub(crate) async fn read(servers: &Servers, place: &Place, offset: u32, length: u32) -> Verdict {
    let count = place.holders.len();
    if count == 0 {
        return Verdict::Stale;
    }
    let first = (mix(servers.seed ^ place.chunk) % count as u64) as usize;
    let mut order: VecDeque<usize> = (0..count).map(|step| (first + step) % count).collect();
    let mut running = FuturesUnordered::new();
    let mut damaged = 0;
    let mut stale = false;
    loop {
        if running.is_empty() {
            match order.pop_front() {
                Some(at) => running.push(ask(servers, place, at, offset, length)),
                None if damaged == count => return Verdict::Damaged,
                None if stale => return Verdict::Stale,
                None => return Verdict::Wait,
            }
        }
        let answer = tokio::select! {
            biased;
            answer = running.next() => answer.expect("something is running"),
            () = tokio::time::sleep(HEDGE_AFTER), if !order.is_empty() => {
                let at = order.pop_front().expect("the branch is taken only with replicas left");
                running.push(ask(servers, place, at, offset, length));
                continue;
            }
        };
        match answer {
            Answer::Data(data) => return Verdict::Data(data),
            // R1: the tail is the one that may serve it.
            Answer::NotYet => {
                if let Some(position) = order.iter().position(|at| *at == count - 1) {
                    order.remove(position);
                    running.push(ask(servers, place, count - 1, offset, length));
                }
            }
            Answer::Stale => stale = true,
            Answer::Damaged => damaged += 1,
            Answer::Unreachable => {}
        }
    }
}

async fn ask(servers: &Servers, place: &Place, at: usize, offset: u32, length: u32) -> Answer {
    let holder = &place.holders[at];
    let request = ReadRequest {
        cluster: Some(servers.cluster.clone()),
        chunk: place.chunk,
        version: place.version,
        offset,
        length,
        ..ReadRequest::default()
    };
    let reply = tokio::time::timeout(REPLICA_TIMEOUT, servers.read(&holder.address, request)).await;
    let reply = match reply {
        Ok(received) => mux::answer(received),
        Err(_) => {
            tracing::debug!(chunk = place.chunk, server = holder.server_id, "a replica did not answer a read in time");
            return Answer::Unreachable;
        }
    };
    match reply {
        Ok(reply) => classify(place, holder, reply, offset, length),
        Err(error) => {
            tracing::debug!(chunk = place.chunk, server = holder.server_id, %error, "a replica could not be read");
            Answer::Unreachable
        }
    }
}

fn classify(place: &Place, holder: &Holder, reply: ReadReply, offset: u32, length: u32) -> Answer {
    let (chunk, server, version) = (place.chunk, holder.server_id, place.version);
    match reply.status() {
        Status::Ok => {
            if reply.data.len() == length as usize && crc32c::crc32c(&reply.data) == reply.crc {
                return Answer::Data(reply.data);
            }
            tracing::warn!(chunk, version, server, offset, length, "a replica's answer does not match its checksum");
            Answer::Damaged
        }
        Status::NotYet => Answer::NotYet,
        Status::Corrupt | Status::IoError => {
            tracing::warn!(chunk, version, server, offset, length, detail = reply.detail, "a replica is damaged");
            Answer::Damaged
        }
        Status::WrongVersion | Status::NoReplica | Status::Dirty | Status::WrongIncarnation => Answer::Stale,
        // A disk or server out of use may come back with its bytes whole: waited for as for one that is silent.
        status => {
            tracing::debug!(chunk, version, server, ?status, detail = reply.detail, "a replica cannot serve now");
            Answer::Unreachable
        }
    }
}

/// SplitMix64's finisher: spreads neighbouring chunks over the replicas.
fn mix(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
