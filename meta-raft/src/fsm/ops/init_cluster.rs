//! The first record of a cluster: its identity, the default storage class, the root folder.

use caribou_proto::ids::ROOT_INODE;

use super::*;
use crate::fsm::command::{InitCluster, Kind};
use crate::fsm::tables::classes;
use crate::fsm::tables::inodes::{self, Inode};
use crate::fsm::tables::meta::{self, Cluster};

pub(super) fn apply(op: &mut Op<'_, '_>, init: &InitCluster) -> OpResult<Reply> {
    if meta::cluster(op.txn)?.is_some() {
        return Ok(Reply::Refused("the cluster is initialised already"));
    }
    let InitCluster { uuid, generation, nonce, default_goal } = *init;
    meta::put_cluster(op.txn, &Cluster { uuid, generation, nonce });
    classes::put_default(op.txn, default_goal);
    let root = Inode { nlink: 2, ..Inode::new(Kind::Directory, 0o755, op.time_ns) };
    let id = inodes::next(op.txn)?;
    inodes::put(op.txn, id, &root);
    assert_eq!(id, ROOT_INODE, "the root folder is the first inode");
    Ok(Reply::Done)
}
