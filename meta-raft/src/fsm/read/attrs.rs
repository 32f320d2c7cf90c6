//! Attributes of inodes and of the whole file system.

use caribou_proto::ids::{CHUNK_BYTES, InodeId};

use crate::fsm::access::check;
use crate::fsm::command::Caller;
use crate::fsm::error::OpResult;
use crate::fsm::reply::Attr;
use crate::fsm::tables::meta::{self, Counter};
use crate::fsm::tables::{Tables, inodes, servers};

/// ESTALE if the inode is gone. Orphans have attributes.
pub fn getattr(tables: &dyn Tables, id: InodeId) -> OpResult<Attr> {
    Ok(inodes::named(tables, id)?.attr(id))
}

/// EACCES unless the caller has all bits of `mask` (4 read, 2 write, 1 execute). `access(2)`, and the check of an open.
pub fn access(tables: &dyn Tables, caller: &Caller, id: InodeId, mask: u32) -> OpResult<Attr> {
    let inode = inodes::named(tables, id)?;
    check(&inode, caller, mask)?;
    Ok(inode.attr(id))
}

/// S7: whether it has lost its last link.
pub fn is_orphan(tables: &dyn Tables, id: InodeId) -> OpResult<bool> {
    Ok(inodes::named(tables, id)?.nlink == 0)
}

/// What `statfs` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Of all disks of all chunk servers, copies not taken into account.
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// Sum of the lengths of all files.
    pub file_bytes: u64,
    pub inodes: u64,
    pub chunk_bytes: u64,
}

pub fn statfs(tables: &dyn Tables) -> OpResult<StatFs> {
    let mut answer = StatFs {
        file_bytes: meta::counter(tables, Counter::Bytes)?,
        inodes: meta::counter(tables, Counter::Inodes)?,
        chunk_bytes: CHUNK_BYTES,
        ..StatFs::default()
    };
    for (_, server) in servers::all(tables)? {
        answer.total_bytes = answer.total_bytes.saturating_add(server.total_bytes);
        answer.free_bytes = answer.free_bytes.saturating_add(server.free_bytes);
    }
    Ok(answer)
}
