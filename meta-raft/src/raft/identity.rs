//! Who this node is (F1): the identity file, the lock, and the check that every message passes.
//!
//! The file is written before the node takes part in a cluster. A node that has been given an identity but has not taken part yet
//! may be given another (an `init` that broke off); once it has voted or stored an entry it never changes again. That it takes part is
//! written ahead of the vote or the entry: a node that starts with the one and without the other has not taken part.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use caribou_proto::cluster::v1 as cluster;
use caribou_proto::ids::NodeId;
use parking_lot::Mutex;

use super::api::StartError;
use super::files;

const MAGIC: &[u8; 8] = b"CARIMETA";
const VERSION: u32 = 1;
const FILE_BYTES: usize = 56;
/// The identity file's name in the data folder.
pub(crate) const FILE_NAME: &str = "identity";

/// A cluster's UUID, generation and nonce (F1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClusterIdentity {
    pub uuid: [u8; 16],
    pub generation: u16,
    pub nonce: u64,
}

impl fmt::Display for ClusterIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} generation {}", uuid::Uuid::from_bytes(self.uuid), self.generation)
    }
}

impl fmt::Debug for ClusterIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} nonce {:x}", self.nonce)
    }
}

impl From<ClusterIdentity> for cluster::ClusterId {
    fn from(id: ClusterIdentity) -> Self {
        Self { uuid: id.uuid.to_vec().into(), generation: id.generation.into(), nonce: id.nonce }
    }
}

impl TryFrom<&cluster::ClusterId> for ClusterIdentity {
    type Error = String;

    fn try_from(id: &cluster::ClusterId) -> Result<Self, String> {
        Ok(Self {
            uuid: id.uuid.as_ref().try_into().map_err(|_| "a cluster's UUID has 16 bytes".to_owned())?,
            generation: u16::try_from(id.generation).map_err(|_| "a generation has 16 bits".to_owned())?,
            nonce: id.nonce,
        })
    }
}

/// What is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    node_id: NodeId,
    cluster: ClusterIdentity,
    /// The node has voted or stored an entry in this cluster.
    member: bool,
    /// What `InitCluster` is to say, for whichever node leads first.
    default_goal: u8,
}

/// This node's identity: in memory and in its file.
#[derive(Debug)]
pub(crate) struct Identity {
    node_id: NodeId,
    path: PathBuf,
    record: Mutex<Option<Record>>,
}

/// The data folder is ours while this lives.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the folder, or says that another process has it.
    pub(crate) fn take(dir: &Path) -> Result<Self, StartError> {
        let io_error = |source| StartError::Io { path: dir.to_owned(), source };
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("LOCK")).map_err(io_error)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::Locked { path: dir.to_owned() }),
            Err(e) => Err(io_error(e.into())),
        }
    }
}

impl Identity {
    /// Reads the identity file; a folder without one must be empty. Changes nothing.
    pub(crate) fn load(dir: &Path, node_id: NodeId) -> Result<Self, StartError> {
        let path = dir.join(FILE_NAME);
        let record = match fs::read(&path) {
            Ok(bytes) => Some(decode(&bytes).map_err(|reason| StartError::BadIdentity { path: path.clone(), reason })?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(StartError::Io { path, source }),
        };
        match record {
            Some(r) if r.node_id != node_id => {
                Err(StartError::OtherNode { path: dir.to_owned(), found: r.node_id, expected: node_id })
            }
            record => Ok(Self { node_id, path, record: Mutex::new(record) }),
        }
    }

    pub(crate) fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The cluster that this node belongs to.
    pub(crate) fn cluster(&self) -> Option<ClusterIdentity> {
        self.record.lock().map(|r| r.cluster)
    }

    /// The cluster that this node has taken part in.
    pub(crate) fn member_of(&self) -> Option<ClusterIdentity> {
        self.record.lock().filter(|r| r.member).map(|r| r.cluster)
    }

    pub(crate) fn default_goal(&self) -> u8 {
        self.record.lock().map_or(0, |r| r.default_goal)
    }

    /// Gives this node an identity before it takes part; the same one again is fine.
    pub(crate) fn join(&self, cluster: ClusterIdentity, default_goal: u8) -> Result<(), String> {
        let mut record = self.record.lock();
        if let Some(r) = record.filter(|r| r.member) {
            return if r.cluster == cluster {
                Ok(())
            } else {
                Err(format!("it already belongs to cluster {}", r.cluster))
            };
        }
        let new = Record { node_id: self.node_id, cluster, member: false, default_goal };
        files::replace_file(&self.path, &encode(&new)).map_err(|e| format!("{}: {e}", self.path.display()))?;
        *record = Some(new);
        Ok(())
    }

    /// For the start of a node that has neither voted nor stored an entry: it died before, and may be given another identity.
    pub(crate) fn forget_part(&self) {
        if let Some(record) = self.record.lock().as_mut() {
            record.member = false;
        }
    }

    /// From here on this node belongs to its cluster for good. Durable before any vote or entry.
    pub(crate) fn take_part(&self, cluster: ClusterIdentity) -> Result<(), String> {
        let mut record = self.record.lock();
        let Some(r) = record.as_mut() else {
            return Err(format!("node {} belongs to no cluster yet: run init, or add it to one", self.node_id));
        };
        if r.cluster != cluster {
            return Err(format!(
                "node {} belongs to cluster {:?}, the message is for {:?}: check the address, or restore the node's data",
                self.node_id, r.cluster, cluster
            ));
        }
        if !r.member {
            let member = Record { member: true, ..*r };
            files::replace_file(&self.path, &encode(&member)).map_err(|e| format!("{}: {e}", self.path.display()))?;
            *r = member;
        }
        Ok(())
    }
}

fn encode(r: &Record) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FILE_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&r.node_id.0.to_be_bytes());
    bytes.extend_from_slice(&r.cluster.uuid);
    bytes.extend_from_slice(&r.cluster.generation.to_be_bytes());
    bytes.extend_from_slice(&r.cluster.nonce.to_be_bytes());
    bytes.push(u8::from(r.member));
    bytes.push(r.default_goal);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<Record, String> {
    if bytes.len() != FILE_BYTES || &bytes[..8] != MAGIC {
        return Err("its length or magic is wrong".to_owned());
    }
    let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if u32_at(52) != crc32c::crc32c(&bytes[..52]) {
        return Err("its checksum is wrong".to_owned());
    }
    if u32_at(8) != VERSION {
        return Err(format!("its version is {}, this build knows {VERSION}: upgrade this node", u32_at(8)));
    }
    if bytes[46] > 1 {
        return Err(format!("its state is {}", bytes[46]));
    }
    Ok(Record {
        node_id: NodeId(u64_at(12)),
        cluster: ClusterIdentity {
            uuid: bytes[20..36].try_into().expect("sixteen bytes"),
            generation: u16::from_be_bytes([bytes[36], bytes[37]]),
            nonce: u64_at(38),
        },
        member: bytes[46] == 1,
        default_goal: bytes[47],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ClusterIdentity = ClusterIdentity { uuid: [7; 16], generation: 1, nonce: 99 };
    const B: ClusterIdentity = ClusterIdentity { uuid: [8; 16], ..A };

    #[test]
    fn an_identity_comes_back_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load(dir.path(), NodeId(3)).unwrap();
        assert_eq!(identity.cluster(), None);
        assert!(identity.take_part(A).is_err());
        identity.join(B, 2).unwrap();
        identity.join(A, 3).unwrap();
        assert_eq!(identity.member_of(), None);
        identity.take_part(A).unwrap();
        assert!(identity.take_part(B).unwrap_err().contains("belongs to cluster"));
        assert!(identity.join(B, 2).is_err());
        drop(identity);
        let again = Identity::load(dir.path(), NodeId(3)).unwrap();
        assert_eq!((again.member_of(), again.default_goal()), (Some(A), 3));
        assert!(matches!(Identity::load(dir.path(), NodeId(4)), Err(StartError::OtherNode { found: NodeId(3), .. })));
        // It died before it voted.
        again.forget_part();
        assert_eq!((again.member_of(), again.cluster()), (None, Some(A)));
        again.join(B, 2).unwrap();
        assert!(again.take_part(A).is_err());
        again.take_part(B).unwrap();
        assert_eq!(Identity::load(dir.path(), NodeId(3)).unwrap().member_of(), Some(B));
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load(dir.path(), NodeId(3)).unwrap().join(A, 2).unwrap();
        let path = dir.path().join(FILE_NAME);
        let good = fs::read(&path).unwrap();
        assert_eq!(good.len(), FILE_BYTES);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(matches!(Identity::load(dir.path(), NodeId(3)), Err(StartError::BadIdentity { .. })), "byte {at}");
        }
    }

    #[test]
    fn a_folder_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::take(dir.path()).unwrap();
        assert!(matches!(DirLock::take(dir.path()), Err(StartError::Locked { .. })));
        drop(lock);
        DirLock::take(dir.path()).unwrap();
    }
}
