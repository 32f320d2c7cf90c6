//! Random histories of chunk records: the invariants hold after each, no Delete that may be on its way names a holder's replica (R4), and a
//! second replica that takes the records in other batches is equal.

use std::collections::BTreeMap;

use caribou_proto::ids::{ChunkId, ChunkVersion, InodeId, ServerId, SessionId};
use proptest::prelude::*;

use super::world::{SERVERS, World, end, release, written};
use crate::fsm::Batch;
use crate::fsm::command::{Command, IntentKind, StartIntent, StrayFound, WrittenChunk};
use crate::fsm::error::Errno;
use crate::fsm::reply::{GrantReply, GrantState, Reply};
use crate::fsm::tables::memory::MemoryTables;
use crate::fsm::tables::{chunks, garbage, inodes, meta, servers};

#[derive(Clone, Debug)]
enum Act {
    Take { who: usize, file: usize, index: u32 },
    WriteEnd { who: usize, grant: usize, length: u64, resent: bool, end: bool, moves: bool },
    End { who: usize, grant: usize },
    Release { who: usize, grant: usize },
    Report { who: usize, grant: usize },
    Inline { who: usize, file: usize, offset: u32, len: usize },
    Truncate { who: usize, file: usize, size: u64 },
    StartIntent { chunk: usize },
    Ready { chunk: usize, mask: u8, clean: u8, join: bool },
    Repair { chunk: usize, server: u64, replace: bool },
    Lost { chunk: usize, server: u64 },
    Collect { server: u64 },
    Stray { chunk: usize, server: u64, version: u64, row: Option<u64> },
    Restart { server: u64 },
    Down { server: u64 },
    Expire { who: usize },
}

fn act() -> impl Strategy<Value = Act> {
    let (who, file, grant, chunk, server) = (0..2usize, 0..2usize, 0..6usize, 0..6usize, 1..=SERVERS);
    let size = (0..4u64, 0..3u64).prop_map(|(chunk, more)| chunk * caribou_proto::ids::CHUNK_BYTES / 2 + more * 70_000);
    prop_oneof![
        4 => (who.clone(), file.clone(), 0..3u32).prop_map(|(who, file, index)| Act::Take { who, file, index }),
        3 => (who.clone(), grant.clone(), size.clone(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(who, grant, length, resent, end, moves)| Act::WriteEnd { who, grant, length, resent, end, moves }
        ),
        2 => (who.clone(), file.clone(), 0..90_000_u32, 1..9_000_usize)
            .prop_map(|(who, file, offset, len)| Act::Inline { who, file, offset, len }),
        1 => (who.clone(), grant.clone()).prop_map(|(who, grant)| Act::End { who, grant }),
        1 => (who.clone(), grant.clone()).prop_map(|(who, grant)| Act::Release { who, grant }),
        2 => (who.clone(), grant).prop_map(|(who, grant)| Act::Report { who, grant }),
        1 => (who.clone(), file, size).prop_map(|(who, file, size)| Act::Truncate { who, file, size }),
        1 => chunk.clone().prop_map(|chunk| Act::StartIntent { chunk }),
        4 => (chunk.clone(), any::<u8>(), any::<u8>(), any::<bool>())
            .prop_map(|(chunk, mask, clean, join)| Act::Ready { chunk, mask, clean, join }),
        2 => (chunk.clone(), server.clone(), any::<bool>())
            .prop_map(|(chunk, server, replace)| Act::Repair { chunk, server, replace }),
        1 => (chunk, server.clone()).prop_map(|(chunk, server)| Act::Lost { chunk, server }),
        1 => server.clone().prop_map(|server| Act::Collect { server }),
        3 => (0..8usize, server.clone(), 1..5u64, prop::option::of(0..2u64))
            .prop_map(|(chunk, server, version, row)| Act::Stray { chunk, server, version, row }),
        1 => server.clone().prop_map(|server| Act::Restart { server }),
        1 => server.prop_map(|server| Act::Down { server }),
        1 => who.prop_map(|who| Act::Expire { who }),
    ]
}

struct History {
    world: World,
    sessions: [SessionId; 2],
    opened: u8,
    files: Vec<InodeId>,
    /// The last grants that anybody got, with their inodes.
    grants: Vec<(InodeId, GrantReply)>,
    /// Deletions that servers have been told and have not confirmed, by the highest version.
    told: BTreeMap<(ServerId, ChunkId), ChunkVersion>,
}

impl History {
    fn new() -> Self {
        let mut world = World::new(2);
        let sessions = [world.open(1), world.open(2)];
        let files = vec![world.create(sessions[0], "a", &[1, 2]).0, world.create(sessions[1], "b", &[]).0];
        Self { world, sessions, opened: 2, files, grants: Vec::new(), told: BTreeMap::new() }
    }

    fn some_chunk(&self, number: usize) -> Option<ChunkId> {
        let all = chunks::page(&self.world.tables, None, 64).unwrap();
        all.get(number % all.len().max(1)).map(|(id, _)| *id)
    }

    fn incarnation(&self, server: u64) -> u64 {
        servers::get(&self.world.tables, ServerId(server)).unwrap().unwrap().incarnation.0
    }

    /// Carries the act out. I1–I3, I5: inline data change by writes, cuts and moves that hold all of them, and by nothing else.
    fn act(&mut self, act: &Act) {
        let before: Vec<_> = self.files.iter().map(|inode| self.world.inline(*inode)).collect();
        let lengths: Vec<_> = self.files.iter().map(|inode| self.length(*inode)).collect();
        self.carry_out(act);
        self.tell_deletions(act);
        for (file, before) in before.into_iter().enumerate() {
            let (inode, after) = (self.files[file], self.world.inline(self.files[file]));
            let moved = after.is_none() && chunks::of_file(&self.world.tables, inode, 0).unwrap().is_some();
            let expected = match *act {
                Act::Inline { file: of, offset, len, .. } if of == file && after != before => {
                    let (mut bytes, end) = (before.unwrap_or_default(), offset as usize + len);
                    bytes.resize(bytes.len().max(end), 0);
                    bytes[offset as usize..end].fill(len as u8);
                    Some(bytes)
                }
                Act::Truncate { file: of, size, .. } if of == file && size < lengths[file] => before
                    .map(|bytes| bytes[..bytes.len().min(size as usize)].to_vec())
                    .filter(|bytes| !bytes.is_empty()),
                Act::WriteEnd { moves: true, .. } if moved => None,
                _ => before,
            };
            assert_eq!(after, expected, "inline data of file {file} after {act:?}");
        }
    }

    /// R4: the garbage is told at once. Whatever a server has to delete of a chunk whose holder it is, is older than what it is named for.
    fn tell_deletions(&mut self, act: &Act) {
        for server in (1..=SERVERS).map(ServerId) {
            for (chunk, version) in garbage::page(&self.world.tables, server, None, usize::MAX).unwrap() {
                let told = self.told.entry((server, chunk)).or_insert(version);
                *told = version.max(*told);
            }
        }
        for (chunk, row) in chunks::page(&self.world.tables, None, usize::MAX).unwrap() {
            for replica in &row.replicas {
                let told = self.told.get(&(replica.server, chunk));
                assert!(told.is_none_or(|told| *told < row.version), "R4: {chunk} after {act:?}: {told:?}, {row:?}");
            }
        }
    }

    fn length(&self, inode: InodeId) -> u64 {
        inodes::get(&self.world.tables, inode).unwrap().unwrap().size
    }

    fn carry_out(&mut self, act: &Act) {
        match *act {
            Act::Take { who, file, index } => {
                let inode = self.files[file];
                let grant = self.world.take(self.sessions[who], inode, index);
                if grant.state == GrantState::Granted {
                    self.grants.insert(0, (inode, grant));
                    self.grants.truncate(6);
                }
            }
            Act::StartIntent { chunk } => {
                let Some(id) = self.some_chunk(chunk) else { return };
                let row = self.world.chunk(id);
                let (version, grant) = (row.highest_version(), row.grant.map(|g| g.id));
                self.world.apply(Command::StartIntent(StartIntent {
                    chunk: id,
                    version,
                    grant,
                    kind: IntentKind::Recover,
                }));
            }
            Act::Ready { chunk, mask, clean, join } => self.ready(chunk, mask, clean, join),
            Act::Repair { chunk, server, replace } => {
                let Some(id) = self.some_chunk(chunk) else { return };
                let down = self.world.chunk(id).replicas.iter().map(|r| r.server.0).find(|s| !self.is_up(*s));
                self.world.repair(id, server, down.filter(|_| replace));
            }
            Act::Lost { chunk, server } => {
                let Some(id) = self.some_chunk(chunk) else { return };
                let version = self.world.chunk(id).version;
                self.world.apply(Command::ReplicaLost { chunk: id, version, server: ServerId(server) });
            }
            Act::Collect { server } => {
                let mut chunks = garbage::page(&self.world.tables, ServerId(server), None, 2).unwrap();
                self.told.retain(|(of, chunk), told| {
                    *of != ServerId(server) || !chunks.iter().any(|(done, version)| done == chunk && *told <= *version)
                });
                chunks.push((ChunkId(1), ChunkVersion(1)));
                self.world.apply(Command::GarbageDone { server: ServerId(server), chunks });
            }
            Act::Stray { chunk, server, version, row } => self.stray(chunk, (ServerId(server), version), row),
            Act::Restart { server } => {
                let next = self.incarnation(server) + 1;
                self.world.register(server, next);
            }
            Act::Down { server } => {
                let incarnation = self.incarnation(server);
                self.world.down(server, incarnation);
            }
            Act::Expire { who } => {
                self.world.expire(self.sessions[who]);
                self.opened += 1;
                self.sessions[who] = self.world.open(self.opened);
            }
            _ => self.write(act),
        }
    }

    fn is_up(&self, server: u64) -> bool {
        servers::get(&self.world.tables, ServerId(server)).unwrap().unwrap().up
    }

    /// What a client does with a grant that it has, or had.
    fn write(&mut self, act: &Act) {
        if let Act::Truncate { who, file, size } = *act {
            // M13: a growth may come too early.
            let set = self.world.set_size(self.sessions[who], self.files[file], size);
            assert!(matches!(set, Ok(()) | Err(Errno::Again)), "{set:?}");
            return;
        }
        if let Act::Inline { who, file, offset, len } = *act {
            let told = self.world.write_inline(self.sessions[who], self.files[file], offset, &vec![len as u8; len]);
            assert!(told.is_ok() || told == Err(Errno::Again), "{told:?}");
            return;
        }
        let (Act::WriteEnd { who, grant, .. }
        | Act::End { who, grant }
        | Act::Release { who, grant }
        | Act::Report { who, grant }) = *act
        else {
            return;
        };
        let Some((inode, grant)) = self.grants.get(grant).cloned() else { return };
        let session = self.sessions[who];
        match *act {
            Act::WriteEnd { length, resent, end, moves, .. } => {
                let there = self.world.inline(inode).map_or(0, |bytes| bytes.len() as u32);
                let inline_bytes = if moves { there } else { 0 };
                let chunk = WrittenChunk { resent, end, inline_bytes, ..written(&grant) };
                let told = self.world.write_end(session, inode, length, &[chunk]);
                assert!(told.is_ok() || told == Err(Errno::Again), "{told:?}");
            }
            Act::End { .. } => drop(self.world.end(session, &[end(&grant)])),
            Act::Release { .. } => drop(self.world.end(session, &[release(grant.chunk, grant.index)])),
            _ => drop(self.world.report(session, inode, &grant)),
        }
    }

    /// Of any chunk that was given, or will be given next; compared with its row as it is, an older one, or none.
    fn stray(&mut self, number: usize, (server, version): (ServerId, u64), age: Option<u64>) {
        let (chunk, version) = (ChunkId::new(1, number as u64), ChunkVersion(version));
        let before = chunks::get(&self.world.tables, chunk).unwrap();
        let is_given = meta::is_given(&self.world.tables, chunk).unwrap();
        let row_version =
            before.as_ref().and_then(|row| age.map(|age| ChunkVersion(row.version.0.saturating_sub(age))));
        let stray = StrayFound { server, chunk, version, row_version };
        let stored = garbage::get(&self.world.tables, server, chunk).unwrap();
        let reply = self.world.apply(Command::StrayFound(stray));
        let after = garbage::get(&self.world.tables, server, chunk).unwrap();
        assert_eq!(chunks::get(&self.world.tables, chunk).unwrap(), before, "the chunk is as it was");
        if reply != Reply::Done {
            assert_eq!(after, stored);
            return;
        }
        assert!(is_given && after >= Some(version) && after > stored, "{stray:?}: {stored:?} {after:?}");
        if let Some(row) = before {
            let at_rest = !row.new && row.grant.is_none() && row.intent.is_none();
            assert!(at_rest && row.replica(server).is_none() && after == Some(row.version), "{stray:?}: {row:?}");
        }
    }

    fn ready(&mut self, number: usize, mask: u8, clean: u8, join: bool) {
        let Some(id) = self.some_chunk(number) else { return };
        let row = self.world.chunk(id);
        if row.intent.is_none() {
            return;
        }
        let mut holders: Vec<(u64, u64, bool)> = Vec::new();
        for (bit, replica) in row.replicas.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1) {
            let server = replica.server.0;
            holders.push((server, self.incarnation(server), clean >> bit & 1 == 1));
        }
        let spare = (1..=SERVERS).find(|s| row.replica(ServerId(*s)).is_none());
        if let Some(server) = spare.filter(|_| join) {
            holders.push((server, self.incarnation(server), false));
        }
        let before = row.version;
        self.world.ready(id, &holders);
        assert!(self.world.chunk(id).version >= before, "V1: versions never go back");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn invariants_hold_and_replicas_agree(acts in prop::collection::vec(act(), 1..60), cut in 1..7usize) {
        let mut history = History::new();
        for act in &acts {
            history.act(act);
        }
        let mut other = MemoryTables::default();
        for entries in history.world.log.chunks(cut) {
            let mut batch = Batch::new(&other);
            for entry in entries {
                batch.apply(entry).unwrap();
            }
            let changes = batch.finish();
            other.commit(changes);
        }
        prop_assert!(other == history.world.tables, "another grouping of entries shows");
    }
}
