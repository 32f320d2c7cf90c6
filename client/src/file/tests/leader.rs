//! The metadata side of the fake cluster: one file per name "inode number", grants, write-ends, recovery.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caribou_proto::cluster::v1::ClusterId;
use caribou_proto::ids::{CHUNK_BYTES, SessionId};
use caribou_proto::meta::v1::{
    Caller, ChunkLocation, ChunkState, EndGrants, Grant, GrantState, ReplyBody, ReportBroken, SetAttr, TakeGrant,
    WriteEnd, mutation::Op,
};
use futures::future::BoxFuture;
use tokio::sync::broadcast;

use super::world::{ChunkRow, FileRow, GrantRow, HoldRow, Inner, World};
use crate::Error;
use crate::file::Metadata;
use crate::meta::{MetaEvent, QueryOp};

const TRIP: Duration = Duration::from_millis(1);
const RECOVERY: Duration = Duration::from_millis(20);

pub(super) struct Leader(pub(super) Arc<World>);

impl Metadata for Leader {
    fn mutate(&self, _: Caller, op: Op) -> BoxFuture<'static, Result<ReplyBody, Error>> {
        let world = self.0.clone();
        Box::pin(async move {
            let delay = if matches!(op, Op::WriteEnd(_) | Op::WriteAndSet(_)) {
                world.inner.lock().write_end_delay
            } else {
                Duration::ZERO
            };
            tokio::time::sleep(TRIP + delay).await;
            let result = world.inner.lock().mutate(op, &world);
            tokio::time::sleep(TRIP).await;
            world.inner.lock().hear();
            result
        })
    }

    fn mutate_patiently(&self, caller: Caller, op: Op) -> BoxFuture<'static, Result<ReplyBody, Error>> {
        self.mutate(caller, op)
    }

    fn query(&self, _: Caller, op: QueryOp) -> BoxFuture<'static, Result<ReplyBody, Error>> {
        let world = self.0.clone();
        Box::pin(async move {
            tokio::time::sleep(TRIP).await;
            if let QueryOp::WaitChunk(wait) = &op {
                let busy = world.inner.lock().is_busy(wait.inode, wait.index, wait.for_write);
                if busy {
                    tokio::time::sleep(RECOVERY).await;
                    world.inner.lock().recover(wait.inode, wait.index);
                }
            }
            let result = world.inner.lock().query(&op);
            tokio::time::sleep(TRIP).await;
            world.inner.lock().hear();
            result
        })
    }

    fn open_claim(&self, _: Caller, inode: u64, _: u32) -> BoxFuture<'static, Result<ReplyBody, Error>> {
        let world = self.0.clone();
        Box::pin(async move { world.inner.lock().open(inode).ok_or(Error::Errno(libc::ESTALE)) })
    }

    fn release_claim(&self, _: u64) {}

    fn events(&self) -> broadcast::Receiver<MetaEvent> {
        self.0.events.subscribe()
    }

    fn expired_session(&self) -> SessionId {
        SessionId(self.0.inner.lock().expired)
    }

    fn cluster(&self) -> ClusterId {
        ClusterId::default()
    }

    fn seed(&self) -> u64 {
        7
    }

    fn inline_limit(&self) -> u32 {
        self.0.inner.lock().inline_limit
    }
}

impl Inner {
    /// S4: what the client knows of before an answer.
    pub(super) fn hear(&mut self) {
        self.expired = self.session - 1;
    }

    fn mutate(&mut self, op: Op, world: &World) -> Result<ReplyBody, Error> {
        if !matches!(op, Op::Create(_))
            && let Some(errno) = self.errors.pop_front()
        {
            return Err(Error::Errno(errno));
        }
        match op {
            Op::Create(create) => {
                self.count("create");
                self.next += 1;
                let inode = self.next;
                self.files.insert(inode, FileRow { generation: 1, ..FileRow::default() });
                let grant = create.want_grant.then(|| self.take_grant(inode, 0, world));
                Ok(ReplyBody { attr: self.attr(inode), grant, created: true, ..ReplyBody::default() })
            }
            Op::TakeGrant(TakeGrant { inode, index }) => {
                self.count("take_grant");
                self.file(inode)?;
                let grant = self.take_grant(inode, index, world);
                // I3
                let inline = self.inline(inode).filter(|_| index == 0 && grant.create);
                let attr = self.attr(inode).filter(|_| grant.state() == GrantState::Granted);
                Ok(ReplyBody { attr, grant: Some(grant), inline, ..ReplyBody::default() })
            }
            Op::WriteEnd(end) => self.write_end(&end),
            Op::WriteAndSet(both) => {
                let written = self.write_end(&both.write.expect("a write"))?;
                let set = self.setattr(&both.set.expect("a change"))?;
                Ok(ReplyBody { length: written.length, lost: written.lost, ..set })
            }
            Op::EndGrants(end) => Ok(self.end_grants(&end)),
            Op::ReportBroken(report) => self.report(&report),
            Op::Setattr(set) => self.setattr(&set),
            op => panic!("the files never send {op:?}"),
        }
    }

    fn file(&mut self, inode: u64) -> Result<&mut FileRow, Error> {
        self.files.get_mut(&inode).ok_or(Error::Errno(libc::ENOENT))
    }

    fn take_grant(&mut self, inode: u64, index: u32, world: &World) -> Grant {
        let state = |state: GrantState| Grant { state: state.into(), index, ..Grant::default() };
        if self.refuse_grants > 0 {
            self.refuse_grants -= 1;
            return state(GrantState::NoServers);
        }
        let session = self.session;
        let up: Vec<u64> = self.servers.iter().filter(|(_, server)| !server.down).map(|(id, _)| *id).collect();
        if !self.files[&inode].chunks.contains_key(&index) {
            self.next += 1;
            let holders = up.iter().take(self.goal).map(|id| (*id, self.servers[id].incarnation)).collect();
            let row = ChunkRow {
                chunk: self.next,
                version: 1,
                holders,
                grant: None,
                is_new: true,
                recovering: false,
                granted_to: Vec::new(),
                owner: 0,
                hold: None,
                cut: None,
                clip: None,
                last_grant: 0,
                unkept: 0,
            };
            self.files.get_mut(&inode).expect("it was just seen").chunks.insert(index, row);
        }
        let changed = {
            let row = &self.files[&inode].chunks[&index];
            row.holders
                .iter()
                .any(|(id, incarnation)| self.servers[id].down || self.servers[id].incarnation != *incarnation)
        };
        let row = self.files.get_mut(&inode).expect("seen").chunks.get_mut(&index).expect("seen");
        match row.grant {
            Some(grant) if grant.session != session => {
                let (chunk, grant) = (row.chunk, grant.id);
                let _ = world.events.send(MetaEvent::RecallGrant { inode, index, chunk, grant });
                return state(GrantState::Recalled);
            }
            None if row.recovering || row.hold.is_some_and(|hold| hold.session != session) => {
                return state(GrantState::Pending);
            }
            // W7: a holder has restarted since the last grant.
            None if changed && !row.is_new => {
                row.granted_to.clone_from(&row.holders);
                (row.recovering, row.owner) = (true, 0);
                return state(GrantState::Pending);
            }
            _ => {}
        }
        self.next += 1;
        let id = row.grant.map_or(self.next, |grant| grant.id);
        row.grant = Some(GrantRow { id, session });
        let before = std::mem::replace(&mut row.last_grant, id);
        let row = row.clone();
        Grant {
            state: GrantState::Granted.into(),
            index,
            chunk: row.chunk,
            version: row.version,
            grant: id,
            create: row.is_new,
            holders: self.holders(&row),
            clip: row.clip,
            before,
            unkept: row.unkept,
        }
    }

    fn write_end(&mut self, end: &WriteEnd) -> Result<ReplyBody, Error> {
        self.count("write_end");
        let session = self.session;
        self.check_move(end);
        if !end.inline.is_empty() && self.overtake > 0 {
            self.overtake -= 1;
            self.file(end.inode)?.generation += 1;
        }
        let file = self.file(end.inode)?;
        let mut lost = Vec::new();
        let late = end.data_generation != file.generation;
        let inlined = !end.inline.is_empty() && !late && !file.chunks.contains_key(&0);
        if inlined {
            // I2
            for write in &end.inline {
                let (start, stop) = (write.offset as usize, write.offset as usize + write.data.len());
                file.inline.resize(file.inline.len().max(stop), 0);
                file.inline[start..stop].copy_from_slice(&write.data);
            }
            assert!(file.inline.len() as u64 <= file.length.max(end.length), "I1");
        } else if !end.inline.is_empty() {
            lost.push(0);
        }
        for told in &end.chunks {
            match file.chunks.get_mut(&told.index) {
                Some(row) if row.grant.is_some_and(|g| g.id == told.grant && g.session == session) => {
                    if told.index == 0 && row.is_new {
                        assert_eq!(told.inline_bytes as usize, file.inline.len(), "I3");
                        file.inline.clear();
                    }
                    row.is_new = false;
                    row.clip = None;
                    if told.resent {
                        row.hold = None;
                    }
                }
                _ => lost.push(told.index),
            }
        }
        let parts = end.chunks.len() + usize::from(!end.inline.is_empty());
        if lost.len() < parts {
            file.length = file.length.max(end.length);
        }
        if parts == 0 || lost.len() < parts {
            file.mtime_ns = end.mtime_ns;
            file.generation += 1;
        }
        let length = file.length;
        let attr = self.attr(end.inode);
        Ok(ReplyBody { attr, length, lost, ..ReplyBody::default() })
    }

    /// I3: when a new first chunk is told of, all its holders have synced: the inline data were the first that they got.
    fn check_move(&self, end: &WriteEnd) {
        let Some(file) = self.files.get(&end.inode) else { return };
        let Some(told) = end.chunks.iter().find(|told| told.index == 0 && told.inline_bytes > 0) else { return };
        let Some(row) = file.chunks.get(&0).filter(|row| row.is_new && row.chunk == told.chunk) else { return };
        for (id, incarnation) in &row.holders {
            let server = &self.servers[id];
            if server.incarnation == *incarnation {
                assert!(server.replicas[&row.chunk].syncs > 0, "I3: server {id} has synced nothing");
            }
        }
    }

    fn inline(&self, inode: u64) -> Option<Bytes> {
        let inline = &self.files.get(&inode)?.inline;
        (!inline.is_empty()).then(|| inline.clone().into())
    }

    fn open(&mut self, inode: u64) -> Option<ReplyBody> {
        let attr = self.attr(inode)?;
        let body = if attr.size > 0 { self.located(inode, 0, 1).ok()? } else { ReplyBody::default() };
        Some(ReplyBody { attr: Some(attr), ..body })
    }

    fn end_grants(&mut self, end: &EndGrants) -> ReplyBody {
        self.count("end_grants");
        let (mut lost, mut lost_chunks) = (Vec::new(), Vec::new());
        for told in &end.chunks {
            let found = (self.files.values_mut())
                .find_map(|file| file.chunks.get_mut(&told.index).filter(|row| row.chunk == told.chunk));
            match found {
                Some(row) if row.grant.is_some_and(|grant| grant.id == told.grant) => {
                    row.grant = None;
                    let row = row.clone();
                    self.carried.remove(&(row.chunk, row.version));
                    if row.is_new {
                        self.files
                            .values_mut()
                            .for_each(|file| file.chunks.retain(|_, other| other.chunk != row.chunk));
                        continue;
                    }
                    for (id, incarnation) in &row.holders {
                        let server = &self.servers[id];
                        let replica = &server.replicas[&row.chunk];
                        if server.incarnation == *incarnation {
                            assert_eq!(replica.memory, replica.disk, "ADR 0001.2: a clean end is a synced end");
                        }
                    }
                }
                _ => {
                    lost.push(told.index);
                    lost_chunks.push(told.chunk);
                }
            }
        }
        ReplyBody { lost, lost_chunks, ..ReplyBody::default() }
    }

    fn report(&mut self, report: &ReportBroken) -> Result<ReplyBody, Error> {
        self.count("report_broken");
        let index = report.index;
        let file = self.file(report.inode)?;
        let mut state = GrantState::Pending;
        if let Some(row) = file.chunks.get_mut(&index).filter(|row| row.chunk == report.chunk)
            && row.grant.is_some_and(|grant| grant.id == report.grant)
        {
            if row.is_new {
                file.chunks.remove(&index);
                state = GrantState::Restart;
            } else {
                row.end_uncleanly();
            }
        }
        let grant = Some(Grant { state: state.into(), index, ..Grant::default() });
        Ok(ReplyBody { grant, ..ReplyBody::default() })
    }

    /// W9; the cut itself is carried out at once.
    pub(super) fn setattr(&mut self, set: &SetAttr) -> Result<ReplyBody, Error> {
        self.count("setattr");
        self.set_by_handle = set.by_handle;
        self.next += 1;
        let (number, session) = (self.next, self.session);
        let file = self.file(set.inode)?;
        if let Some(mtime_ns) = set.mtime_ns {
            file.mtime_ns = mtime_ns;
        }
        if let Some(size) = set.size {
            let shorter = size < file.length || !file.chunks.is_empty();
            let cuts = size < file.length;
            file.length = size;
            file.generation += 1;
            file.inline.truncate(usize::try_from(size).expect("test sizes are small")); // I5
            let first = u32::try_from(size / CHUNK_BYTES).expect("test sizes are small");
            if shorter {
                file.chunks
                    .retain(|index, row| *index < first || (*index == first && size % CHUNK_BYTES > 0 && !row.is_new));
                if let Some(row) = file.chunks.get_mut(&first) {
                    if cuts && row.writer() != Some(session) {
                        row.last_grant = number;
                    }
                    row.end_uncleanly();
                    row.granted_to.clone_from(&row.holders);
                    (row.recovering, row.cut) = (true, Some(size));
                    let clip = (size % CHUNK_BYTES) as u32;
                    row.clip = if cuts { Some(row.clip.unwrap_or(clip).min(clip)) } else { row.clip };
                }
                self.recover(set.inode, first);
            }
        }
        Ok(ReplyBody { attr: self.attr(set.inode), ..ReplyBody::default() })
    }

    fn is_busy(&self, inode: u64, index: u32, for_write: bool) -> bool {
        let row = self.files.get(&inode).and_then(|file| file.chunks.get(&index));
        row.is_some_and(|row| {
            let is_held = |hold: HoldRow| hold.session != self.session && (for_write || hold.reads);
            let held = row.hold.is_some_and(is_held);
            row.recovering || held || (for_write && row.grant.is_some_and(|grant| grant.session != self.session))
        })
    }

    fn query(&mut self, op: &QueryOp) -> Result<ReplyBody, Error> {
        let (inode, first, count) = match op {
            QueryOp::GetAttr(get) => {
                self.count("getattr");
                self.file(get.inode)?;
                return Ok(ReplyBody { attr: self.attr(get.inode), ..ReplyBody::default() });
            }
            QueryOp::Locate(locate) => {
                self.count("locate");
                (locate.inode, locate.first_index, locate.count)
            }
            QueryOp::WaitChunk(wait) => {
                self.count("wait_chunk");
                (wait.inode, wait.index, 1)
            }
            op => panic!("the files never ask {op:?}"),
        };
        self.located(inode, first, count)
    }

    fn located(&mut self, inode: u64, first: u32, count: u32) -> Result<ReplyBody, Error> {
        let session = self.session;
        let file = self.file(inode)?.clone();
        let chunks = (file.chunks.range(first..first + count)).map(|(index, row)| {
            let state = match row {
                row if row.is_new => ChunkState::Hole,
                row if row.recovering => ChunkState::InRecovery,
                row if row.hold.is_some_and(|hold| hold.reads && hold.session != session) => ChunkState::Held,
                _ => ChunkState::Ready,
            };
            ChunkLocation {
                index: *index,
                chunk: row.chunk,
                version: row.version,
                state: state.into(),
                holders: self.holders(row),
                goal: 2,
                granted: row.grant.is_some(),
                clip: row.clip.filter(|_| row.owner == session),
            }
        });
        let inline = self.inline(inode).filter(|_| first == 0);
        let (length, data_generation) = (file.length, file.generation);
        Ok(ReplyBody { chunks: chunks.collect(), length, data_generation, inline, ..ReplyBody::default() })
    }
}
