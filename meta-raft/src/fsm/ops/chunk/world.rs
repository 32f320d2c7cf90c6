//! A small cluster state for tests of chunks: servers 1 to 4, goal 2, and every invariant checked after every record.

use std::collections::BTreeMap;

use caribou_proto::ids::{ChunkId, GrantId, Incarnation, InodeId, ROOT_INODE, Seq, ServerId, SessionId};

use crate::fsm::command::*;
use crate::fsm::error::Errno;
use crate::fsm::reply::{Body, ClientReply, Effect, GrantReply, GrantState, Outcome, Reply};
use crate::fsm::tables::chunks::{self, Chunk};
use crate::fsm::tables::memory::MemoryTables;
use crate::fsm::tables::{inline, inodes};
use crate::fsm::{Applied, Batch, FEATURE_LEVEL, invariants_chunks};

pub(crate) const SERVERS: u64 = 4;

pub(crate) struct World {
    pub(crate) tables: MemoryTables,
    pub(crate) effects: Vec<Effect>,
    pub(crate) log: Vec<Entry>,
    time_ns: i64,
    seqs: BTreeMap<SessionId, u64>,
}

impl World {
    /// A cluster with this goal and all servers up in incarnation 1.
    pub(crate) fn new(goal: u8) -> Self {
        let mut world = Self {
            tables: MemoryTables::default(),
            effects: Vec::new(),
            log: Vec::new(),
            time_ns: 0,
            seqs: BTreeMap::new(),
        };
        world.apply(Command::InitCluster(InitCluster { uuid: [7; 16], generation: 1, nonce: 9, default_goal: goal }));
        for server in 1..=SERVERS {
            assert_eq!(world.register(server, 1), Reply::ServerRegistered { server: ServerId(server) });
        }
        world
    }

    pub(crate) fn apply(&mut self, command: Command) -> Reply {
        self.time_ns += 1000;
        let entry = Entry { feature_level: FEATURE_LEVEL, time_ns: self.time_ns, commands: vec![command] };
        let mut batch = Batch::new(&self.tables);
        let Applied { mut replies, effects } = batch.apply(&entry).unwrap();
        let changes = batch.finish();
        self.tables.commit(changes);
        self.log.push(entry);
        self.effects = effects;
        if let Err(fatal) = invariants_chunks::check(&self.tables) {
            panic!("{fatal} after {:?}", self.log.last());
        }
        replies.pop().unwrap()
    }

    pub(crate) fn register(&mut self, server: u64, incarnation: u64) -> Reply {
        self.apply(Command::RegisterServer(RegisterServer {
            uuid: [server as u8; 16],
            incarnation: Incarnation(incarnation),
            address: format!("127.0.0.1:{}", 9000 + server),
            total_bytes: 100 << 30,
            free_bytes: 50 << 30,
        }))
    }

    pub(crate) fn down(&mut self, server: u64, incarnation: u64) -> Reply {
        self.apply(Command::ServerDown { server: ServerId(server), incarnation: Incarnation(incarnation) })
    }

    pub(crate) fn open(&mut self, key: u8) -> SessionId {
        match self.apply(Command::OpenSession { key: [key; 16], name: format!("client {key}") }) {
            Reply::SessionOpened { session } => session,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn expire(&mut self, session: SessionId) {
        self.apply(Command::AddIdle { sessions: vec![IdleStep { session, add_ms: 30_000 }] });
        while self.apply(Command::ExpireSession { session, ttl_ms: 30_000 }) == (Reply::Progress { finished: false }) {}
    }

    pub(crate) fn client(&mut self, session: SessionId, op: ClientOp) -> Result<Body, Errno> {
        let seq = self.seqs.entry(session).or_insert(0);
        *seq += 1;
        let seq = Seq(*seq);
        let command = ClientCommand { session, seq, acked_below: seq, caller: Caller::default(), op };
        match self.apply(Command::Client(command)) {
            Reply::Client(ClientReply { outcome: Outcome::Executed, result, .. }) => result,
            other => panic!("{other:?}"),
        }
    }

    /// A new file whose first chunk is granted.
    pub(crate) fn create(
        &mut self,
        session: SessionId,
        name: &str,
        placement: &[u64],
    ) -> (InodeId, Option<GrantReply>) {
        let body = self
            .client(
                session,
                ClientOp::Create(Create {
                    parent: ROOT_INODE,
                    name: name.as_bytes().to_vec(),
                    mode: 0o644,
                    exclusive: true,
                    truncate: false,
                    access: 6,
                    placement: placement.iter().copied().map(ServerId).collect(),
                }),
            )
            .unwrap();
        (body.attr.unwrap().inode, body.grant)
    }

    /// A file of `length` bytes in one chunk on servers 1 and 2, at rest.
    pub(crate) fn file(&mut self, session: SessionId, name: &str, length: u64) -> (InodeId, ChunkId) {
        let (inode, grant) = self.create(session, name, &[1, 2]);
        let grant = grant.unwrap();
        let body = self.write_end(session, inode, length, &[end(&grant)]).unwrap();
        assert_eq!((body.length, body.lost), (length, vec![]));
        (inode, grant.chunk)
    }

    pub(crate) fn take(&mut self, session: SessionId, inode: InodeId, index: u32) -> GrantReply {
        let placement = vec![ServerId(1), ServerId(2)];
        self.client(session, ClientOp::TakeGrant(TakeGrant { inode, index, placement })).unwrap().grant.unwrap()
    }

    pub(crate) fn write_end(
        &mut self,
        s: SessionId,
        inode: InodeId,
        length: u64,
        chunks: &[WrittenChunk],
    ) -> Result<Body, Errno> {
        self.client(s, ClientOp::WriteEnd(WriteEnd { inode, length, chunks: chunks.to_vec(), ..WriteEnd::default() }))
    }

    /// I2: `bytes` at `offset`, in a write-end that says how long the file is with them.
    pub(crate) fn write_inline(
        &mut self,
        s: SessionId,
        inode: InodeId,
        offset: u32,
        bytes: &[u8],
    ) -> Result<Body, Errno> {
        let length = u64::from(offset) + bytes.len() as u64;
        let data_generation = inodes::get(&self.tables, inode).unwrap().map_or(0, |row| row.data_generation);
        let inline = vec![InlineWrite { offset, data: bytes.to_vec() }];
        self.client(s, ClientOp::WriteEnd(WriteEnd { inode, length, inline, data_generation, ..WriteEnd::default() }))
    }

    pub(crate) fn inline(&self, inode: InodeId) -> Option<Vec<u8>> {
        inline::get(&self.tables, inode).unwrap()
    }

    pub(crate) fn end(&mut self, s: SessionId, chunks: &[WrittenChunk]) -> Vec<u32> {
        self.client(s, ClientOp::EndGrants { chunks: chunks.to_vec() }).unwrap().lost
    }

    pub(crate) fn report(&mut self, s: SessionId, inode: InodeId, grant: &GrantReply) -> GrantState {
        let report = ReportBroken {
            inode,
            index: grant.index,
            chunk: grant.chunk,
            version: grant.version,
            grant: grant.grant,
            suspects: vec![],
        };
        self.client(s, ClientOp::ReportBroken(report)).unwrap().grant.unwrap().state
    }

    pub(crate) fn truncate(&mut self, s: SessionId, inode: InodeId, size: u64) {
        self.set_size(s, inode, size).unwrap();
    }

    pub(crate) fn set_size(&mut self, s: SessionId, inode: InodeId, size: u64) -> Result<(), Errno> {
        let set = SetAttr { inode, size: Some(size), by_handle: true, ..SetAttr::default() };
        self.client(s, ClientOp::SetAttr(set)).map(drop)
    }

    pub(crate) fn chunk(&self, id: ChunkId) -> Chunk {
        chunks::get(&self.tables, id).unwrap().expect("the chunk is there")
    }

    pub(crate) fn exists(&self, id: ChunkId) -> bool {
        chunks::get(&self.tables, id).unwrap().is_some()
    }

    /// Ready with these `(server, incarnation, clean source)`, at the Intent's version.
    pub(crate) fn ready(&mut self, chunk: ChunkId, holders: &[(u64, u64, bool)]) -> Reply {
        let version = self.chunk(chunk).intent.expect("an Intent").version;
        let holder = |(server, incarnation, clean_source): &(u64, u64, bool)| ReadyHolder {
            server: ServerId(*server),
            incarnation: Incarnation(*incarnation),
            clean_source: *clean_source,
        };
        self.apply(Command::Ready(Ready { chunk, version, holders: holders.iter().map(holder).collect() }))
    }

    pub(crate) fn repair(&mut self, chunk: ChunkId, server: u64, replaces: Option<u64>) -> Reply {
        let row = self.chunk(chunk);
        self.apply(Command::RepairDone(RepairDone {
            chunk,
            version: row.version,
            last_grant: Some(row.last_grant),
            server: ServerId(server),
            incarnation: Incarnation(1),
            replaces: replaces.map(ServerId),
        }))
    }
}

/// The chunk of a grant, cleanly ended.
pub(crate) fn end(grant: &GrantReply) -> WrittenChunk {
    WrittenChunk { end: true, ..written(grant) }
}

/// The chunk of a grant that goes on.
pub(crate) fn written(grant: &GrantReply) -> WrittenChunk {
    WrittenChunk {
        index: grant.index,
        chunk: grant.chunk,
        version: grant.version,
        grant: grant.grant,
        resent: false,
        end: false,
        inline_bytes: 0,
    }
}

/// W5: nothing is left to resend, and no grant was taken to say so.
pub(crate) fn release(chunk: ChunkId, index: u32) -> WrittenChunk {
    WrittenChunk {
        index,
        chunk,
        version: caribou_proto::ids::ChunkVersion(0),
        grant: GrantId(0),
        resent: true,
        end: false,
        inline_bytes: 0,
    }
}
