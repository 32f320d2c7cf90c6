//! What metadata nodes tell chunk servers, judged as it arrives there (F2).
//!
//! - Commands are committed first: a version that one names (V1) has been raised by a record that its sender has applied.
//! - The highest generation and term that a chunk server has obeyed never go back, not over a crash either.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use caribou_chunkd::store::ChunkStore;
use caribou_meta_raft::fsm::tables::chunks;
use caribou_meta_raft::raft::{RaftNode, WeakRaftNode};
use caribou_proto::chunk::v1::command::Body;
use caribou_proto::chunk::v1::{Command, ToServer, to_server};
use caribou_proto::ids::{ChunkId, ChunkVersion};
use parking_lot::Mutex;
use prost::Message as _;

use crate::record;

/// See the module. Machines are known by their addresses.
#[derive(Debug, Default)]
pub struct Commands {
    nodes: Mutex<BTreeMap<String, WeakRaftNode>>,
    servers: Mutex<BTreeMap<String, Server>>,
}

#[derive(Debug, Default)]
struct Server {
    store: Weak<ChunkStore>,
    /// The highest generation and term that it has obeyed.
    highest: (u16, u64),
}

impl Commands {
    /// A metadata node has started.
    pub fn node_is_up(&self, address: &str, raft: &RaftNode) {
        self.nodes.lock().insert(address.to_owned(), raft.downgrade());
    }

    /// A chunk server has started; what is wrong with it.
    pub fn server_is_up(&self, address: &str, store: &Arc<ChunkStore>) -> Option<String> {
        let mut servers = self.servers.lock();
        let server = servers.entry(address.to_owned()).or_default();
        server.store = Arc::downgrade(store);
        server.look(address)
    }

    /// A frame of a control stream has come to a chunk server; what is wrong with what it says, or with what the server did with those before.
    pub fn arrived(&self, from: &str, to: &str, frame: &[u8]) -> Vec<String> {
        let mut wrong = Vec::new();
        wrong.extend(self.servers.lock().get_mut(to).and_then(|server| server.look(to)));
        for message in record::messages(frame) {
            let body = ToServer::decode(message).ok().and_then(|message| message.body);
            if let Some(to_server::Body::Command(command)) = body {
                wrong.extend(self.judge(from, to, &command));
            }
        }
        wrong
    }

    /// The sender is still up in the life in which it sent this, and what it has applied it does not forget in one.
    fn judge(&self, from: &str, to: &str, command: &Command) -> Option<String> {
        let version = match command.body.as_ref()? {
            Body::Prepare(prepare) => ChunkVersion(prepare.version),
            Body::Fix(fix) => ChunkVersion(fix.version),
            // Any version up to that which it names.
            Body::Delete(_) => return None,
        };
        let node = self.nodes.lock().get(from)?.upgrade()?;
        let chunk = ChunkId(command.chunk);
        match chunks::get(&node.view(), chunk) {
            // One that is gone has no version any more.
            Ok(row) => {
                let known = row?.highest_version();
                let text = || {
                    format!(
                        "F2: {from} sends {to} version {version} of chunk {chunk}, which is not committed: it has applied {known}"
                    )
                };
                (known < version).then(text)
            }
            Err(error) => Some(format!("the state of {from} cannot be read: {error}")),
        }
    }
}

impl Server {
    fn look(&mut self, address: &str) -> Option<String> {
        let (now, before) = (self.store.upgrade()?.fenced(), self.highest);
        self.highest = before.max(now);
        (now < before)
            .then(|| format!("F2: {address} obeys generation and term {now:?}, it had obeyed {before:?} before that"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use caribou_chunkd::store::OpenOptions;
    use caribou_chunkd::store::memory::MemoryDisk;

    use super::*;

    async fn open(disk: MemoryDisk) -> Arc<ChunkStore> {
        let (new_uuid, deadline) = (Box::new(|| [7_u8; 16]), Duration::from_secs(5));
        let options = OpenOptions { disks: vec![Arc::new(disk)], new_uuid, now_unix_ms: 1, deadline };
        ChunkStore::open(options).await.expect("an empty disk")
    }

    #[tokio::test]
    async fn a_server_that_obeys_a_lower_term_than_before_is_told() {
        let (commands, store) = (Commands::default(), open(MemoryDisk::new("disk1")).await);
        assert_eq!(commands.server_is_up("chunk1:1", &store), None);
        store.fence(1, 6).await.expect("it is higher");
        assert!(commands.arrived("meta1:1", "chunk1:1", &[]).is_empty());
        store.fence(1, 5).await.expect_err("it is lower");
        assert!(commands.arrived("meta1:1", "chunk1:1", &[]).is_empty());
        // As if it had forgotten everything.
        let other = open(MemoryDisk::new("disk1")).await;
        let wrong = commands.server_is_up("chunk1:1", &other).expect("it has gone back");
        assert!(wrong.contains("(1, 6)"), "{wrong}");
    }
}
