//! The state of the fake cluster: what the leader knows, what the servers have in memory and on disk, and the faults that a
//! test has asked for. One lock; everything that takes time is outside of it.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use caribou_proto::chunk::v1::Status;
use caribou_proto::cluster::v1::Holder;
use caribou_proto::ids::{CHUNK_BYTES, SessionId};
use caribou_proto::meta::v1::{Attr, FileKind};
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};

use super::sparse::Sparse;
use crate::meta::MetaEvent;

/// The client's first session; another client is a number that differs.
pub(super) const SESSION: u64 = 1;

pub(super) struct World {
    pub(super) inner: Mutex<Inner>,
    /// Wakes streams when a server dies.
    pub(super) broken: Notify,
    pub(super) events: broadcast::Sender<MetaEvent>,
    /// The first check of a server that failed: in its task it would break a stream, and nothing else.
    pub(super) failed: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) files: BTreeMap<u64, FileRow>,
    pub(super) servers: BTreeMap<u64, Server>,
    pub(super) session: u64,
    /// The last session that the client knows to have expired.
    pub(super) expired: u64,
    pub(super) next: u64,
    pub(super) goal: usize,
    /// I1.
    pub(super) inline_limit: u32,
    /// Calls of each kind, for tests that count.
    pub(super) calls: BTreeMap<&'static str, u64>,
    /// Takes of grants that are answered as if there were no servers.
    pub(super) refuse_grants: u32,
    /// Errors that the next mutations of the file's own get.
    pub(super) errors: VecDeque<i32>,
    /// Nothing is acknowledged while this holds; fragments are applied and synced nevertheless.
    pub(super) hold_acks: bool,
    /// Write-ends take so much longer than other calls to be carried out.
    pub(super) write_end_delay: Duration,
    /// As many inline writes find that somebody else has been faster.
    pub(super) overtake: u32,
    /// Recovery does not come to an end while this holds.
    pub(super) hold_recovery: bool,
    /// Fragments and syncs seen.
    pub(super) fragments: u64,
    pub(super) syncs: u64,
    /// Streams of fragments opened so far.
    pub(super) streams: u64,
    /// W4: the grant and the stream that the fragments of a chunk's version come under and over, until that grant has ended cleanly.
    pub(super) carried: BTreeMap<(u64, u64), (u64, u64)>,
    /// Of the last change of attributes.
    pub(super) set_by_handle: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct FileRow {
    pub(super) length: u64,
    pub(super) mtime_ns: i64,
    pub(super) generation: u64,
    pub(super) chunks: BTreeMap<u32, ChunkRow>,
    /// I1.
    pub(super) inline: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(super) struct ChunkRow {
    pub(super) chunk: u64,
    pub(super) version: u64,
    pub(super) holders: Vec<(u64, u64)>,
    pub(super) grant: Option<GrantRow>,
    pub(super) is_new: bool,
    pub(super) recovering: bool,
    /// The incarnations that the ended grant named.
    pub(super) granted_to: Vec<(u64, u64)>,
    pub(super) owner: u64,
    pub(super) hold: Option<HoldRow>,
    pub(super) cut: Option<u64>,
    /// M12: the lowest cut since the last write-end.
    pub(super) clip: Option<u32>,
    pub(super) last_grant: u64,
    pub(super) unkept: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct GrantRow {
    pub(super) id: u64,
    pub(super) session: u64,
}

/// M1: nobody else writes before the session, whose grant has ended uncleanly, has sent again what it has …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HoldRow {
    pub(super) session: u64,
    /// … and nobody else reads, if no source stayed up (W5).
    pub(super) reads: bool,
}

#[derive(Default)]
pub(super) struct Server {
    pub(super) down: bool,
    pub(super) incarnation: u64,
    pub(super) replicas: BTreeMap<u64, Replica>,
    /// Statuses that the next fragments, or reads, get.
    pub(super) fail_writes: VecDeque<Status>,
    pub(super) fail_reads: VecDeque<Status>,
    /// This block of every chunk is damaged: only a write to all of it is taken, and mends it.
    pub(super) damaged: Option<u32>,
    /// Reads are never answered.
    pub(super) silent: bool,
    pub(super) reads: u64,
    /// Counts breaks of all streams.
    pub(super) breaks: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Replica {
    pub(super) version: u64,
    pub(super) grant: u64,
    pub(super) memory: Sparse,
    pub(super) disk: Sparse,
    /// V3: lost un-synced bytes, and no recovery since.
    pub(super) dirty: bool,
    pub(super) corrupt: bool,
    pub(super) syncs: u64,
}

impl World {
    pub(super) fn new(servers: u64, goal: usize) -> Arc<Self> {
        let inner = Inner {
            servers: (1..=servers).map(|id| (id, Server { incarnation: id * 100, ..Server::default() })).collect(),
            session: SESSION,
            next: 1000,
            goal,
            ..Inner::default()
        };
        let (broken, events, failed) = (Notify::new(), broadcast::channel(64).0, Mutex::default());
        Arc::new(Self { inner: Mutex::new(inner), broken, events, failed })
    }

    /// Power cut: what was not synced is gone, the server is back at once as another incarnation.
    pub(super) fn power_cut(&self, server: u64) {
        self.restart(server, |replica| {
            replica.dirty |= replica.memory != replica.disk;
            replica.memory.clone_from(&replica.disk);
        });
    }

    /// The process died and came back; the page cache lived on.
    pub(super) fn kill(&self, server: u64) {
        self.restart(server, |_| {});
    }

    fn restart(&self, server: u64, each: impl Fn(&mut Replica)) {
        let mut inner = self.inner.lock();
        let server = inner.servers.get_mut(&server).expect("a server of the test");
        server.incarnation += 1;
        server.breaks += 1;
        server.replicas.values_mut().for_each(each);
        drop(inner);
        self.broken.notify_waiters();
    }

    pub(super) fn break_streams(&self, server: u64) {
        self.inner.lock().servers.get_mut(&server).expect("a server of the test").breaks += 1;
        self.broken.notify_waiters();
    }

    pub(super) fn set_down(&self, server: u64, down: bool) {
        self.inner.lock().servers.get_mut(&server).expect("a server of the test").down = down;
        self.break_streams(server);
    }

    /// Another client writes and syncs a chunk that nobody has a grant of, and ends cleanly.
    pub(super) fn written_by_another(&self, inode: u64, index: u32, offset: usize, bytes: &[u8]) {
        let mut inner = self.inner.lock();
        inner.recover(inode, index);
        inner.next += 1;
        let grant = inner.next;
        let row = inner.files.get_mut(&inode).expect("there").chunks.get_mut(&index).expect("there");
        assert!(row.grant.is_none() && row.hold.is_none() && !row.recovering, "nobody may write");
        row.last_grant = grant;
        let (chunk, holders) = (row.chunk, row.holders.clone());
        for (id, _) in holders {
            let replica = inner.servers.get_mut(&id).expect("there").replicas.get_mut(&chunk).expect("there");
            replica.grant = grant;
            replica.memory.write(offset, bytes);
            replica.disk.clone_from(&replica.memory);
        }
    }

    /// The session expires: its grants end in recovery.
    pub(super) fn expire_session(&self) {
        let old = self.expire_unheard();
        self.tell_expired(old);
    }

    /// The event of it, whenever it comes.
    pub(super) fn tell_expired(&self, old: SessionId) {
        self.inner.lock().hear();
        let _ = self.events.send(MetaEvent::SessionChanged { old });
    }

    /// The same before the client knows: an answer of the next session will be the first sign, the event comes later.
    pub(super) fn expire_unheard(&self) -> SessionId {
        let mut inner = self.inner.lock();
        let old = inner.session;
        inner.session += 1;
        let lengths = inner.files.values_mut().flat_map(|file| file.chunks.values_mut());
        for chunk in lengths {
            if chunk.grant.is_some_and(|grant| grant.session == old) {
                chunk.end_uncleanly();
            }
            if chunk.hold.take_if(|hold| hold.session == old).is_some_and(|hold| hold.reads) {
                chunk.unkept = chunk.last_grant;
            }
        }
        inner.files.values_mut().for_each(|file| file.chunks.retain(|_, chunk| !(chunk.is_new && chunk.recovering)));
        SessionId(old)
    }

    pub(super) fn calls(&self, kind: &str) -> u64 {
        self.inner.lock().calls.get(kind).copied().unwrap_or(0)
    }
}

impl ChunkRow {
    pub(super) fn writer(&self) -> Option<u64> {
        self.grant.map(|grant| grant.session).or(self.hold.map(|hold| hold.session))
    }

    pub(super) fn end_uncleanly(&mut self) {
        if let Some(grant) = self.grant.take() {
            self.owner = grant.session;
            let reads = self.hold.is_some_and(|hold| hold.reads);
            self.hold = Some(HoldRow { session: grant.session, reads });
            self.granted_to.clone_from(&self.holders);
            self.recovering = true;
        }
    }
}

impl Inner {
    pub(super) fn count(&mut self, kind: &'static str) {
        *self.calls.entry(kind).or_default() += 1;
    }

    pub(super) fn holders(&self, row: &ChunkRow) -> Vec<Holder> {
        let holder = |&(server_id, incarnation): &(u64, u64)| Holder {
            server_id,
            incarnation,
            address: format!("server-{server_id}"),
        };
        row.holders.iter().map(holder).collect()
    }

    pub(super) fn attr(&self, inode: u64) -> Option<Attr> {
        let file = self.files.get(&inode)?;
        Some(Attr {
            inode,
            kind: FileKind::Regular.into(),
            mode: 0o644,
            nlink: 1,
            size: file.length,
            mtime_ns: file.mtime_ns,
            data_generation: file.generation,
            ..Attr::default()
        })
    }

    /// V1, V2, ADR 0001.3–5: makes the holders equal, syncs them, raises the version.
    pub(super) fn recover(&mut self, inode: u64, index: u32) {
        if self.hold_recovery {
            return;
        }
        let Some(file) = self.files.get_mut(&inode) else { return };
        let length = file.length;
        let Some(mut row) = file.chunks.get(&index).filter(|row| row.recovering).cloned() else { return };
        let up: Vec<u64> = (row.holders.iter().map(|(id, _)| *id))
            .filter(|id| !self.servers[id].down && self.servers[id].replicas.contains_key(&row.chunk))
            .collect();
        let clean = |id: &&u64| !self.servers[*id].replicas[&row.chunk].dirty;
        let Some(source) = up.iter().find(clean).or(up.first()).copied() else { return };
        let stayed_up = |id: &u64| row.granted_to.contains(&(*id, self.servers[id].incarnation));
        let lived = up.iter().any(|id| stayed_up(id) && !self.servers[id].replicas[&row.chunk].dirty);
        if !lived && row.owner != 0 {
            match row.hold.as_mut() {
                Some(hold) => hold.reads = true,
                None => row.unkept = row.last_grant,
            }
        }
        let mut bytes = self.servers[&source].replicas[&row.chunk].memory.clone();
        let base = u64::from(index) * CHUNK_BYTES;
        let cut = row.cut.take().unwrap_or(u64::MAX).min(length).saturating_sub(base);
        bytes.truncate(usize::try_from(cut).unwrap_or(usize::MAX));
        row.version += 1;
        row.recovering = false;
        row.holders.clear();
        for id in up {
            let server = self.servers.get_mut(&id).expect("it was just seen");
            row.holders.push((id, server.incarnation));
            let replica = server.replicas.get_mut(&row.chunk).expect("it was just seen");
            *replica = Replica {
                version: row.version,
                grant: replica.grant,
                memory: bytes.clone(),
                disk: bytes.clone(),
                ..Replica::default()
            };
        }
        self.files.get_mut(&inode).expect("it was just seen").chunks.insert(index, row);
    }
}
