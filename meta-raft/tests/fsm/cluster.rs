//! A cluster of one state machine for the tests beside it.

use caribou_meta_raft::fsm::command::*;
use caribou_meta_raft::fsm::error::{Errno, Fatal};
use caribou_meta_raft::fsm::reply::{Body, ClientReply, Outcome, Reply};
use caribou_meta_raft::fsm::tables::memory::MemoryTables;
use caribou_meta_raft::fsm::{Applied, Batch, invariants};
use caribou_proto::ids::{Incarnation, InodeId, ROOT_INODE, Seq, ServerId, SessionId};

/// With a root folder, session 1 and two chunk servers.
pub struct Cluster {
    pub tables: MemoryTables,
    pub time_ns: i64,
    pub next_seq: u64,
    pub acked_below: u64,
}

pub const SESSION: SessionId = SessionId(1);

impl Cluster {
    /// Before the first record.
    pub fn empty() -> Self {
        Self { tables: MemoryTables::default(), time_ns: 0, next_seq: 1, acked_below: 1 }
    }

    pub fn new() -> Self {
        let mut cluster = Self::empty();
        let init = InitCluster { uuid: [1; 16], generation: 1, nonce: 2, default_goal: 2 };
        let server = |byte| {
            Command::RegisterServer(RegisterServer {
                uuid: [byte; 16],
                incarnation: Incarnation(1),
                address: "host:1".into(),
                total_bytes: 10,
                free_bytes: 5,
            })
        };
        let open = Command::OpenSession { key: [3; 16], name: "test".into() };
        cluster.apply(vec![Command::InitCluster(init), open, server(1), server(2)]);
        cluster
    }

    /// One entry in a batch of its own.
    pub fn try_apply(&mut self, entry: &Entry) -> Result<Applied, Fatal> {
        let mut batch = Batch::new(&self.tables);
        let applied = batch.apply(entry)?;
        let changes = batch.finish();
        self.tables.commit(changes);
        Ok(applied)
    }

    pub fn apply(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        self.time_ns += 1_000;
        let entry = Entry { feature_level: 1, time_ns: self.time_ns, commands };
        let applied = self.try_apply(&entry).expect("no broken invariant");
        invariants::check(&self.tables).expect("invariants");
        applied.replies
    }

    pub fn one(&mut self, command: Command) -> Reply {
        self.apply(vec![command]).remove(0)
    }

    /// The next request of session 1, by root.
    pub fn request(&mut self, op: ClientOp) -> Command {
        let (seq, acked_below) = (Seq(self.next_seq), Seq(self.acked_below));
        self.next_seq += 1;
        Command::Client(ClientCommand { session: SESSION, seq, acked_below, caller: Caller::default(), op })
    }

    pub fn run(&mut self, op: ClientOp) -> Result<Body, Errno> {
        let request = self.request(op);
        match self.one(request) {
            Reply::Client(ClientReply { outcome: Outcome::Executed, result, .. }) => result,
            other => panic!("not executed: {other:?}"),
        }
    }
}

/// A new file in the root folder, with a chunk and a grant if there are servers.
pub fn create(name: &str, placement: &[u64]) -> ClientOp {
    ClientOp::Create(Create {
        parent: ROOT_INODE,
        name: name.into(),
        mode: 0o644,
        exclusive: true,
        truncate: false,
        access: 6,
        placement: placement.iter().copied().map(ServerId).collect(),
    })
}

pub fn unlink(name: &str) -> ClientOp {
    ClientOp::Unlink { parent: ROOT_INODE, name: name.into() }
}

pub fn set_xattr(inode: InodeId, name: &str, bytes: usize) -> ClientOp {
    ClientOp::SetXattr { inode, name: name.into(), value: vec![1; bytes], create: false, replace: false }
}
