//! Attributes, access, extended attributes, figures of the whole file system.

use bytes::{BufMut, Bytes, BytesMut};
use caribou_client::Error;
use caribou_client::meta::QueryOp;
use caribou_client::proto::meta::v1::{
    Access, Attr, Caller, GetXattr, ListXattr, RemoveXattr, SetAttr, SetXattr, StatFs, StatFsReply, mutation::Op,
};

use crate::convert::{MODE_BITS, SET_ID_BITS};
use crate::fs::Fs;
use crate::names::is_decided;

/// File capabilities: the kernel asks for them before writes. They are not supported, so it gets its answer at once.
const CAPABILITY: &[u8] = b"security.capability";
/// Access control lists: not supported yet, and mode bits would contradict them.
const ACL_PREFIX: &[u8] = b"system.posix_acl_";

impl Fs {
    pub(crate) async fn getattr(&self, caller: Caller, inode: u64) -> Result<Attr, Error> {
        let attr = self.client.files().getattr(&caller, inode).await?;
        self.directories.seen(&attr);
        Ok(attr)
    }

    pub(crate) async fn setattr(&self, caller: Caller, setattr: SetAttr) -> Result<Attr, Error> {
        self.changed();
        let call = self.directories.call();
        let result = self.client.files().setattr(&caller, setattr).await;
        self.changed();
        match &result {
            Ok(attr) => {
                self.mode_seen(attr);
                call.answered(&[*attr]);
            }
            Err(Error::Errno(errno)) if is_decided(*errno) => call.refused(),
            Err(_) => {}
        }
        result
    }

    /// What a write by a user without CAP_FSETID does to the mode.
    pub(crate) async fn take_set_id_away(&self, inode: u64) -> Result<(), Error> {
        let root = Caller::default();
        let attr = self.getattr(root.clone(), inode).await?;
        let group_executes = attr.mode & libc::S_IXGRP != 0;
        let gone = if group_executes { SET_ID_BITS } else { libc::S_ISUID };
        let mode = attr.mode & MODE_BITS & !gone;
        if mode != attr.mode & MODE_BITS {
            self.setattr(root, SetAttr { inode, mode: Some(mode), ..SetAttr::default() }).await?;
        }
        Ok(())
    }

    pub(crate) async fn access(&self, caller: Caller, inode: u64, mask: u32) -> Result<(), Error> {
        self.client.meta().query(&caller, QueryOp::Access(Access { inode, mask })).await.map(drop)
    }

    pub(crate) async fn statfs(&self, caller: Caller) -> Result<StatFsReply, Error> {
        Ok(self.client.meta().query(&caller, QueryOp::StatFs(StatFs {})).await?.statfs.unwrap_or_default())
    }

    pub(crate) async fn getxattr(&self, caller: Caller, inode: u64, name: Bytes) -> Result<Bytes, Error> {
        Ok(self.client.meta().query(&caller, QueryOp::GetXattr(GetXattr { inode, name })).await?.bytes)
    }

    /// The names, each ended by a zero byte.
    pub(crate) async fn listxattr(&self, caller: Caller, inode: u64) -> Result<Bytes, Error> {
        let body = self.client.meta().query(&caller, QueryOp::ListXattr(ListXattr { inode })).await?;
        let mut list = BytesMut::new();
        for name in body.names {
            list.put_slice(&name);
            list.put_u8(0);
        }
        Ok(list.freeze())
    }

    pub(crate) async fn setxattr(&self, caller: Caller, setxattr: SetXattr) -> Result<(), Error> {
        supported(&setxattr.name)?;
        self.mutate(&caller, Op::Setxattr(setxattr)).await.map(drop)
    }

    pub(crate) async fn removexattr(&self, caller: Caller, inode: u64, name: Bytes) -> Result<(), Error> {
        supported(&name)?;
        self.mutate(&caller, Op::Removexattr(RemoveXattr { inode, name })).await.map(drop)
    }
}

/// What asking for an attribute that no file ever has comes to: that needs no call, and no change of threads.
pub(crate) fn never_there(name: &[u8]) -> Option<i32> {
    if name == CAPABILITY {
        return Some(libc::ENODATA);
    }
    name.starts_with(ACL_PREFIX).then_some(libc::EOPNOTSUPP)
}

fn supported(name: &[u8]) -> Result<(), Error> {
    if never_there(name).is_some() { Err(Error::Errno(libc::EOPNOTSUPP)) } else { Ok(()) }
}
