//! A client's request: memory ↔ disk.

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId, InodeId, Seq, ServerId, SessionId};
use caribou_proto::log::v1 as disk;
use caribou_proto::log::v1::client::Op;

use super::CodecError;
use crate::fsm::command::{self as mem, ClientOp, Kind, SetTime};

impl From<mem::ClientCommand> for disk::Client {
    fn from(c: mem::ClientCommand) -> Self {
        Self {
            session: c.session.0,
            seq: c.seq.0,
            acked_below: c.acked_below.0,
            uid: c.caller.uid,
            gid: c.caller.gid,
            groups: c.caller.groups,
            op: Some(c.op.into()),
        }
    }
}

impl TryFrom<disk::Client> for mem::ClientCommand {
    type Error = CodecError;

    fn try_from(c: disk::Client) -> Result<Self, CodecError> {
        Ok(Self {
            session: SessionId(c.session),
            seq: Seq(c.seq),
            acked_below: Seq(c.acked_below),
            caller: mem::Caller { uid: c.uid, gid: c.gid, groups: c.groups },
            op: c.op.ok_or(CodecError::UnknownCommand)?.try_into()?,
        })
    }
}

impl From<ClientOp> for Op {
    fn from(op: ClientOp) -> Self {
        match op {
            ClientOp::Create(c) => Op::Create(disk::Create {
                parent: c.parent.0,
                name: c.name.into(),
                mode: c.mode,
                exclusive: c.exclusive,
                truncate: c.truncate,
                access: c.access,
                placement: from_servers(c.placement),
            }),
            ClientOp::Mkdir { parent, name, mode } => {
                Op::Mkdir(disk::Mkdir { parent: parent.0, name: name.into(), mode })
            }
            ClientOp::Mknod { parent, name, kind, mode, rdev } => {
                Op::Mknod(disk::Mknod { parent: parent.0, name: name.into(), kind: kind as u32, mode, rdev })
            }
            ClientOp::Symlink { parent, name, target } => {
                Op::Symlink(disk::Symlink { parent: parent.0, name: name.into(), target: target.into() })
            }
            ClientOp::Link { inode, parent, name } => {
                Op::Link(disk::Link { inode: inode.0, parent: parent.0, name: name.into() })
            }
            ClientOp::Unlink { parent, name } => Op::Unlink(disk::Unlink { parent: parent.0, name: name.into() }),
            ClientOp::Rmdir { parent, name } => Op::Rmdir(disk::Rmdir { parent: parent.0, name: name.into() }),
            ClientOp::Rename(r) => Op::Rename(disk::Rename {
                parent: r.parent.0,
                name: r.name.into(),
                new_parent: r.new_parent.0,
                new_name: r.new_name.into(),
                no_replace: r.no_replace,
                exchange: r.exchange,
            }),
            ClientOp::SetAttr(s) => Op::Setattr(s.into()),
            ClientOp::SetXattr { inode, name, value, create, replace } => {
                Op::Setxattr(disk::SetXattr { inode: inode.0, name: name.into(), value: value.into(), create, replace })
            }
            ClientOp::RemoveXattr { inode, name } => {
                Op::Removexattr(disk::RemoveXattr { inode: inode.0, name: name.into() })
            }
            ClientOp::TakeGrant(t) => Op::TakeGrant(disk::TakeGrant {
                inode: t.inode.0,
                index: t.index,
                placement: from_servers(t.placement),
            }),
            ClientOp::WriteEnd(w) => Op::WriteEnd(w.into()),
            ClientOp::WriteAndSet(w) => {
                Op::WriteAndSet(disk::WriteAndSet { write: Some(w.write.into()), set: Some(w.set.into()) })
            }
            ClientOp::EndGrants { chunks } => {
                Op::EndGrants(disk::EndGrants { chunks: chunks.into_iter().map(Into::into).collect() })
            }
            ClientOp::ReportBroken(r) => Op::ReportBroken(disk::ReportBroken {
                inode: r.inode.0,
                index: r.index,
                chunk: r.chunk.0,
                version: r.version.0,
                grant: r.grant.0,
                suspects: from_servers(r.suspects),
            }),
        }
    }
}

impl TryFrom<Op> for ClientOp {
    type Error = CodecError;

    fn try_from(op: Op) -> Result<Self, CodecError> {
        Ok(match op {
            Op::Create(c) => ClientOp::Create(mem::Create {
                parent: InodeId(c.parent),
                name: c.name.into(),
                mode: c.mode,
                exclusive: c.exclusive,
                truncate: c.truncate,
                access: c.access,
                placement: to_servers(c.placement),
            }),
            Op::Mkdir(m) => ClientOp::Mkdir { parent: InodeId(m.parent), name: m.name.into(), mode: m.mode },
            Op::Mknod(m) => ClientOp::Mknod {
                parent: InodeId(m.parent),
                name: m.name.into(),
                kind: kind(m.kind)?,
                mode: m.mode,
                rdev: m.rdev,
            },
            Op::Symlink(s) => {
                ClientOp::Symlink { parent: InodeId(s.parent), name: s.name.into(), target: s.target.into() }
            }
            Op::Link(l) => ClientOp::Link { inode: InodeId(l.inode), parent: InodeId(l.parent), name: l.name.into() },
            Op::Unlink(u) => ClientOp::Unlink { parent: InodeId(u.parent), name: u.name.into() },
            Op::Rmdir(r) => ClientOp::Rmdir { parent: InodeId(r.parent), name: r.name.into() },
            Op::Rename(r) => ClientOp::Rename(mem::Rename {
                parent: InodeId(r.parent),
                name: r.name.into(),
                new_parent: InodeId(r.new_parent),
                new_name: r.new_name.into(),
                no_replace: r.no_replace,
                exchange: r.exchange,
            }),
            Op::Setattr(s) => ClientOp::SetAttr(s.into()),
            Op::Setxattr(x) => ClientOp::SetXattr {
                inode: InodeId(x.inode),
                name: x.name.into(),
                value: x.value.into(),
                create: x.create,
                replace: x.replace,
            },
            Op::Removexattr(x) => ClientOp::RemoveXattr { inode: InodeId(x.inode), name: x.name.into() },
            Op::TakeGrant(t) => ClientOp::TakeGrant(mem::TakeGrant {
                inode: InodeId(t.inode),
                index: t.index,
                placement: to_servers(t.placement),
            }),
            Op::WriteEnd(w) => ClientOp::WriteEnd(w.into()),
            Op::WriteAndSet(w) => ClientOp::WriteAndSet(mem::WriteAndSet {
                write: w.write.ok_or(CodecError::UnknownCommand)?.into(),
                set: w.set.ok_or(CodecError::UnknownCommand)?.into(),
            }),
            Op::EndGrants(e) => ClientOp::EndGrants { chunks: e.chunks.into_iter().map(Into::into).collect() },
            Op::ReportBroken(r) => ClientOp::ReportBroken(mem::ReportBroken {
                inode: InodeId(r.inode),
                index: r.index,
                chunk: ChunkId(r.chunk),
                version: ChunkVersion(r.version),
                grant: GrantId(r.grant),
                suspects: to_servers(r.suspects),
            }),
        })
    }
}

impl From<mem::SetAttr> for disk::SetAttr {
    fn from(s: mem::SetAttr) -> Self {
        let at = |time: Option<SetTime>| match time {
            Some(SetTime::At(ns)) => Some(ns),
            _ => None,
        };
        Self {
            inode: s.inode.0,
            mode: s.mode,
            uid: s.uid,
            gid: s.gid,
            size: s.size,
            atime_ns: at(s.atime),
            mtime_ns: at(s.mtime),
            atime_now: s.atime == Some(SetTime::Now),
            mtime_now: s.mtime == Some(SetTime::Now),
            by_handle: s.by_handle,
        }
    }
}

impl From<disk::SetAttr> for mem::SetAttr {
    fn from(s: disk::SetAttr) -> Self {
        let time = |now: bool, at: Option<i64>| if now { Some(SetTime::Now) } else { at.map(SetTime::At) };
        Self {
            inode: InodeId(s.inode),
            mode: s.mode,
            uid: s.uid,
            gid: s.gid,
            size: s.size,
            atime: time(s.atime_now, s.atime_ns),
            mtime: time(s.mtime_now, s.mtime_ns),
            by_handle: s.by_handle,
        }
    }
}

impl From<mem::WriteEnd> for disk::WriteEnd {
    fn from(w: mem::WriteEnd) -> Self {
        Self {
            inode: w.inode.0,
            length: w.length,
            mtime_ns: w.mtime_ns,
            chunks: w.chunks.into_iter().map(Into::into).collect(),
            inline: w.inline.into_iter().map(Into::into).collect(),
            data_generation: w.data_generation,
        }
    }
}

impl From<disk::WriteEnd> for mem::WriteEnd {
    fn from(w: disk::WriteEnd) -> Self {
        Self {
            inode: InodeId(w.inode),
            length: w.length,
            mtime_ns: w.mtime_ns,
            chunks: w.chunks.into_iter().map(Into::into).collect(),
            inline: w.inline.into_iter().map(Into::into).collect(),
            data_generation: w.data_generation,
        }
    }
}

impl From<mem::InlineWrite> for disk::InlineWrite {
    fn from(w: mem::InlineWrite) -> Self {
        Self { offset: w.offset, data: w.data.into() }
    }
}

impl From<disk::InlineWrite> for mem::InlineWrite {
    fn from(w: disk::InlineWrite) -> Self {
        Self { offset: w.offset, data: w.data.into() }
    }
}

impl From<mem::WrittenChunk> for disk::WrittenChunk {
    fn from(w: mem::WrittenChunk) -> Self {
        Self {
            index: w.index,
            chunk: w.chunk.0,
            version: w.version.0,
            grant: w.grant.0,
            resent: w.resent,
            end: w.end,
            inline_bytes: w.inline_bytes,
        }
    }
}

impl From<disk::WrittenChunk> for mem::WrittenChunk {
    fn from(w: disk::WrittenChunk) -> Self {
        Self {
            index: w.index,
            chunk: ChunkId(w.chunk),
            version: ChunkVersion(w.version),
            grant: GrantId(w.grant),
            resent: w.resent,
            end: w.end,
            inline_bytes: w.inline_bytes,
        }
    }
}

fn kind(number: u32) -> Result<Kind, CodecError> {
    Ok(match number {
        1 => Kind::Regular,
        2 => Kind::Directory,
        3 => Kind::Symlink,
        4 => Kind::Fifo,
        5 => Kind::Socket,
        6 => Kind::CharDevice,
        7 => Kind::BlockDevice,
        _ => return Err(CodecError::Field { field: "mknod.kind", value: number.into() }),
    })
}

fn from_servers(servers: Vec<ServerId>) -> Vec<u64> {
    servers.into_iter().map(|s| s.0).collect()
}

fn to_servers(servers: Vec<u64>) -> Vec<ServerId> {
    servers.into_iter().map(ServerId).collect()
}
