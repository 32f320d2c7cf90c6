//! What the server says about itself to the leader, and which of its heartbeats have been answered (F2, ADR 0001.7).

use crate::limits;
use crate::service::status::cluster_on_wire;
use crate::store::ChunkStore;
use bytes::Bytes;
use caribou_proto::chunk::v1::{DamagedChunk, Disk, FromServer, Heartbeat, Register, StrayChunk, from_server};
use std::collections::VecDeque;
use std::time::Duration;

/// Heartbeats per TTL.
const BEATS: u32 = 4;
/// Stamps that are remembered until they are answered; more than a stream can live with.
const STAMPS: usize = 16;

/// The heartbeats of one control stream.
pub(crate) struct Heartbeats {
    ttl: Duration,
    sent: VecDeque<u64>,
    heard_ns: u64,
}

impl Heartbeats {
    /// `now_ns`: when the leader was last heard.
    pub(crate) fn new(ttl: Duration, now_ns: u64) -> Self {
        Self { ttl, sent: VecDeque::new(), heard_ns: now_ns }
    }

    /// Time between two heartbeats.
    pub(crate) fn interval(&self) -> Duration {
        (self.ttl / BEATS).max(Duration::from_millis(1))
    }

    /// Remembers a heartbeat that is being sent.
    pub(crate) fn sending(&mut self, stamp_ns: u64) {
        if self.sent.len() == STAMPS {
            self.sent.pop_front();
        }
        self.sent.push_back(stamp_ns);
    }

    /// True: the stamp is one of this stream's that had not been answered, so the lease runs from it.
    pub(crate) fn answered(&mut self, stamp_ns: u64, now_ns: u64) -> bool {
        let Some(place) = self.sent.iter().position(|sent| *sent == stamp_ns) else { return false };
        self.sent.drain(..=place);
        self.heard_ns = now_ns;
        true
    }

    /// The leader has been silent so long that looking for another one leaves time before the lease is over.
    pub(crate) fn overdue(&self, now_ns: u64) -> bool {
        u128::from(now_ns.saturating_sub(self.heard_ns)) * 8 > self.ttl.as_nanos() * 5
    }
}

/// The first message of a control stream.
pub(crate) fn register(store: &ChunkStore, data_address: &str) -> FromServer {
    FromServer {
        body: Some(from_server::Body::Register(Register {
            cluster: store.cluster().map(cluster_on_wire),
            server_uuid: Bytes::copy_from_slice(&store.server_uuid()),
            server_id: store.server_id().map_or(0, |id| id.0),
            incarnation: store.incarnation().0,
            data_address: data_address.to_owned(),
            disks: disks(store),
            unclean: store.unclean(),
            dirty_chunks: store.dirty_chunks().into_iter().map(|chunk| chunk.0).collect(),
        })),
    }
}

pub(crate) fn heartbeat(store: &ChunkStore, stamp_ns: u64) -> FromServer {
    let (lost, damaged, strays) = (store.lost_chunks(), store.damaged_chunks(), store.stray_chunks());
    let lost = window(&lost, limits::LOST_PER_HEARTBEAT, stamp_ns).iter().map(|chunk| chunk.0);
    // R3: mended by a recovery, not given up. Why a leader that does not know the field is not told in another way: `chunk/v1/control.proto`.
    let damaged = window(&damaged, limits::LOST_PER_HEARTBEAT, stamp_ns).iter();
    let damaged = damaged.map(|(chunk, blocks)| DamagedChunk { chunk: chunk.0, blocks: *blocks });
    let strays = window(&strays, limits::STRAYS_PER_HEARTBEAT, stamp_ns).iter();
    let strays = strays.map(|(chunk, version)| StrayChunk { chunk: chunk.0, version: version.0 });
    FromServer {
        body: Some(from_server::Body::Heartbeat(Heartbeat {
            stamp: stamp_ns,
            disks: disks(store),
            lost_chunks: lost.collect(),
            damaged_chunks: damaged.collect(),
            stray_chunks: strays.collect(),
        })),
    }
}

/// Of many replicas each heartbeat names some, the same ones for a few seconds: the leader wants to hear it twice (R3, R4). It names as many as it
/// can: one that names fewer has named all.
fn window<T>(all: &[T], limit: usize, stamp_ns: u64) -> &[T] {
    let windows = all.len().div_ceil(limit).max(1);
    let turn = usize::try_from(stamp_ns / limits::LOST_TURN.as_nanos() as u64).unwrap_or(0) % windows;
    let first = (turn * limit).min(all.len().saturating_sub(limit));
    &all[first..all.len().min(first + limit)]
}

fn disks(store: &ChunkStore) -> Vec<Disk> {
    let on_wire = |disk: crate::store::DiskStatus| Disk {
        disk_uuid: Bytes::copy_from_slice(&disk.uuid),
        path: disk.path,
        total_bytes: disk.total_bytes,
        free_bytes: disk.free_bytes,
        failed: disk.failed.is_some(),
        chunks: disk.chunks,
    };
    store.disks().into_iter().map(on_wire).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn only_own_unanswered_stamps_count() {
        let mut beats = Heartbeats::new(Duration::from_millis(800), 0);
        assert_eq!(beats.interval(), Duration::from_millis(200));
        beats.sending(5);
        beats.sending(6);
        assert!(!beats.answered(7, 7));
        assert!(beats.answered(6, 8));
        assert!(!beats.answered(5, 9), "a later one has been answered");
        assert!(!beats.answered(6, 9), "once");
    }

    #[test]
    fn all_lost_replicas_have_their_turn() {
        let lost: Vec<u64> = (0..3 * limits::LOST_PER_HEARTBEAT as u64 - 5).collect();
        let turn = limits::LOST_TURN.as_nanos() as u64;
        let window_at = |stamp| window(&lost, limits::LOST_PER_HEARTBEAT, stamp);
        let named: Vec<u64> = (0..3).flat_map(|n| window_at(n * turn + 1)).copied().collect();
        assert_eq!(named.iter().copied().collect::<BTreeSet<_>>(), lost.iter().copied().collect(), "each of them");
        assert_eq!(named.len(), 3 * limits::LOST_PER_HEARTBEAT, "fewer would say that these are all");
        assert_eq!(window_at(turn), window_at(2 * turn - 1), "long enough to be said twice");
        assert!(window::<u64>(&[], limits::LOST_PER_HEARTBEAT, 7).is_empty());
    }

    #[test]
    fn a_silent_leader_is_given_up_before_the_lease_is_over() {
        let mut beats = Heartbeats::new(Duration::from_nanos(800), 100);
        assert!(!beats.overdue(600));
        assert!(beats.overdue(601));
        beats.sending(550);
        assert!(beats.answered(550, 590));
        assert!(!beats.overdue(601));
    }
}
