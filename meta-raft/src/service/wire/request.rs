//! Wire → memory: what clients ask for.

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId, InodeId, MAX_INLINE_BYTES, ServerId};
use caribou_proto::meta::v1 as wire;
use caribou_proto::meta::v1::mutation::Op;

use crate::fsm::command::{
    Caller, ClientOp, Create, InlineWrite, Kind, Rename, ReportBroken, SetAttr, SetTime, TakeGrant, WriteAndSet,
    WriteEnd, WrittenChunk,
};

/// Supplementary groups that a caller may have (Linux: NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;
/// Chunks that one WriteEnd or EndGrants may name.
pub(crate) const CHUNKS_PER_REQUEST: usize = 1024;

/// What a client sent that no well-behaved client sends.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Malformed {
    #[error("a request without {0}")]
    Missing(&'static str),
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
}

pub(crate) fn caller(caller: Option<wire::Caller>) -> Result<Caller, Malformed> {
    let caller = caller.ok_or(Malformed::Missing("caller"))?;
    if caller.groups.len() > GROUPS_MAX {
        return Err(Malformed::OutOfRange("caller.groups"));
    }
    Ok(Caller { uid: caller.uid, gid: caller.gid, groups: caller.groups })
}

/// Whether the leader has to choose servers before it proposes the operation (W1).
pub(crate) fn wants_placement(op: &Op) -> bool {
    match op {
        Op::Create(create) => create.want_grant,
        Op::TakeGrant(_) => true,
        _ => false,
    }
}

/// `placement` is the leader's choice, empty unless [`wants_placement`].
pub(crate) fn mutation(mutation: Option<wire::Mutation>, placement: Vec<ServerId>) -> Result<ClientOp, Malformed> {
    let op = mutation.and_then(|m| m.op).ok_or(Malformed::Missing("operation"))?;
    Ok(match op {
        Op::Create(c) => ClientOp::Create(Create {
            parent: InodeId(c.parent),
            name: c.name.into(),
            mode: c.mode,
            exclusive: c.exclusive,
            truncate: c.truncate,
            access: c.access,
            placement,
        }),
        Op::Mkdir(m) => ClientOp::Mkdir { parent: InodeId(m.parent), name: m.name.into(), mode: m.mode },
        Op::Mknod(m) => ClientOp::Mknod {
            parent: InodeId(m.parent),
            name: m.name.clone().into(),
            kind: kind(m.kind())?,
            mode: m.mode,
            rdev: m.rdev,
        },
        Op::Symlink(s) => ClientOp::Symlink { parent: InodeId(s.parent), name: s.name.into(), target: s.target.into() },
        Op::Link(l) => ClientOp::Link { inode: InodeId(l.inode), parent: InodeId(l.parent), name: l.name.into() },
        Op::Unlink(u) => ClientOp::Unlink { parent: InodeId(u.parent), name: u.name.into() },
        Op::Rmdir(r) => ClientOp::Rmdir { parent: InodeId(r.parent), name: r.name.into() },
        Op::Rename(r) => ClientOp::Rename(Rename {
            parent: InodeId(r.parent),
            name: r.name.into(),
            new_parent: InodeId(r.new_parent),
            new_name: r.new_name.into(),
            no_replace: r.no_replace,
            exchange: r.exchange,
        }),
        Op::Setattr(s) => ClientOp::SetAttr(set_attr(&s)),
        Op::Setxattr(x) => ClientOp::SetXattr {
            inode: InodeId(x.inode),
            name: x.name.into(),
            value: x.value.into(),
            create: x.create,
            replace: x.replace,
        },
        Op::Removexattr(x) => ClientOp::RemoveXattr { inode: InodeId(x.inode), name: x.name.into() },
        Op::TakeGrant(t) => ClientOp::TakeGrant(TakeGrant { inode: InodeId(t.inode), index: t.index, placement }),
        Op::WriteEnd(w) => ClientOp::WriteEnd(write_end(w)?),
        Op::WriteAndSet(w) => ClientOp::WriteAndSet(WriteAndSet {
            write: write_end(w.write.ok_or(Malformed::Missing("write"))?)?,
            set: set_attr(&w.set.ok_or(Malformed::Missing("set"))?),
        }),
        Op::EndGrants(e) => ClientOp::EndGrants { chunks: written(e.chunks)? },
        Op::ReportBroken(r) => ClientOp::ReportBroken(ReportBroken {
            inode: InodeId(r.inode),
            index: r.index,
            chunk: ChunkId(r.chunk),
            version: ChunkVersion(r.version),
            grant: GrantId(r.grant),
            suspects: r.suspects.into_iter().map(ServerId).collect(),
        }),
    })
}

fn set_attr(s: &wire::SetAttr) -> SetAttr {
    let time = |now: bool, at: Option<i64>| if now { Some(SetTime::Now) } else { at.map(SetTime::At) };
    SetAttr {
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

fn written(chunks: Vec<wire::WrittenChunk>) -> Result<Vec<WrittenChunk>, Malformed> {
    if chunks.len() > CHUNKS_PER_REQUEST {
        return Err(Malformed::OutOfRange("chunks"));
    }
    let one = |w: wire::WrittenChunk| WrittenChunk {
        index: w.index,
        chunk: ChunkId(w.chunk),
        version: ChunkVersion(w.version),
        grant: GrantId(w.grant),
        resent: w.resent,
        end: w.end,
        inline_bytes: w.inline_bytes,
    };
    Ok(chunks.into_iter().map(one).collect())
}

fn write_end(w: wire::WriteEnd) -> Result<WriteEnd, Malformed> {
    Ok(WriteEnd {
        inode: InodeId(w.inode),
        length: w.length,
        mtime_ns: w.mtime_ns,
        chunks: written(w.chunks)?,
        inline: inline(w.inline)?,
        data_generation: w.data_generation,
    })
}

/// I1: writes that do not overlap have no more bytes than the metadata may hold of a file.
fn inline(writes: Vec<wire::InlineWrite>) -> Result<Vec<InlineWrite>, Malformed> {
    let bytes: usize = writes.iter().map(|w| w.data.len()).sum();
    if bytes > MAX_INLINE_BYTES as usize || writes.iter().any(|w| w.data.is_empty() || w.offset >= MAX_INLINE_BYTES) {
        return Err(Malformed::OutOfRange("inline"));
    }
    Ok(writes.into_iter().map(|w| InlineWrite { offset: w.offset, data: w.data.into() }).collect())
}

fn kind(kind: wire::FileKind) -> Result<Kind, Malformed> {
    Ok(match kind {
        wire::FileKind::Regular => Kind::Regular,
        wire::FileKind::Directory => Kind::Directory,
        wire::FileKind::Symlink => Kind::Symlink,
        wire::FileKind::Fifo => Kind::Fifo,
        wire::FileKind::Socket => Kind::Socket,
        wire::FileKind::CharDevice => Kind::CharDevice,
        wire::FileKind::BlockDevice => Kind::BlockDevice,
        wire::FileKind::Unknown => return Err(Malformed::OutOfRange("kind")),
    })
}
