//! Memory → wire: what clients are answered.

use caribou_proto::cluster::v1::Holder;
use caribou_proto::ids::{Incarnation, ServerId};
use caribou_proto::meta::v1 as wire;

use crate::fsm::command::Kind;
use crate::fsm::reply::{Attr, Body, ClientReply, GrantReply, GrantState, Outcome};

/// What comes along with a success and is no part of the stored reply: it is read when the reply leaves.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    pub(crate) directories: Vec<wire::Attr>,
    /// I3.
    pub(crate) inline: Option<Vec<u8>>,
    /// W9: of the file whose chunk was granted: what others have made of its length before. While the grant lives, a cut beyond it ends it.
    pub(crate) file: Option<wire::Attr>,
}

/// The reply to `seq`, or `None` where nobody waits for one (S2: below `acked_below`).
pub(crate) fn reply(
    seq: u64,
    reply: ClientReply,
    extras: Extras,
    address: &dyn Fn(ServerId) -> String,
) -> Option<wire::Reply> {
    let outcome = match reply.outcome {
        Outcome::Executed => wire::Outcome::Executed,
        Outcome::NotExecuted => wire::Outcome::NotExecuted,
        Outcome::Cancelled => wire::Outcome::Cancelled,
        Outcome::SessionExpired => wire::Outcome::SessionExpired,
        Outcome::WindowExceeded => wire::Outcome::WindowExceeded,
        Outcome::Acknowledged => return None,
    };
    let (errno, body) = match reply.result {
        Ok(body) => {
            let inline = extras.inline.map(Into::into);
            let body = self::body(body, address);
            let attr = body.attr.or(extras.file);
            (0, Some(wire::ReplyBody { attr, directories: extras.directories, inline, ..body }))
        }
        Err(errno) => (errno.number(), None),
    };
    Some(wire::Reply { seq, errno, outcome: outcome.into(), body })
}

fn body(body: Body, address: &dyn Fn(ServerId) -> String) -> wire::ReplyBody {
    wire::ReplyBody {
        attr: body.attr.as_ref().map(attr),
        created: body.created,
        grant: body.grant.map(|g| grant(g, address)),
        length: body.length,
        lost: body.lost,
        lost_chunks: body.lost_chunks.into_iter().map(|chunk| chunk.0).collect(),
        others: body.others.map(|others| wire::Others { inodes: others.into_iter().map(|inode| inode.0).collect() }),
        ..wire::ReplyBody::default()
    }
}

fn grant(grant: GrantReply, address: &dyn Fn(ServerId) -> String) -> wire::Grant {
    let state = match grant.state {
        GrantState::Granted => wire::GrantState::Granted,
        GrantState::Pending => wire::GrantState::Pending,
        GrantState::Recalled => wire::GrantState::Recalled,
        GrantState::Restart => wire::GrantState::Restart,
        GrantState::NoServers => wire::GrantState::NoServers,
    };
    wire::Grant {
        state: state.into(),
        index: grant.index,
        chunk: grant.chunk.0,
        version: grant.version.0,
        grant: grant.grant.0,
        create: grant.create,
        holders: grant.holders.into_iter().map(|(server, inc)| holder(server, inc, address)).collect(),
        clip: grant.clip,
        before: grant.before.0,
        unkept: grant.unkept.0,
    }
}

pub(crate) fn holder(server: ServerId, incarnation: Incarnation, address: &dyn Fn(ServerId) -> String) -> Holder {
    Holder { server_id: server.0, incarnation: incarnation.0, address: address(server) }
}

pub(crate) fn attr(attr: &Attr) -> wire::Attr {
    wire::Attr {
        inode: attr.inode.0,
        kind: kind(attr.kind).into(),
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        size: attr.size,
        blocks: attr.blocks,
        atime_ns: attr.atime_ns,
        mtime_ns: attr.mtime_ns,
        ctime_ns: attr.ctime_ns,
        data_generation: attr.data_generation,
    }
}

pub(crate) fn kind(kind: Kind) -> wire::FileKind {
    match kind {
        Kind::Regular => wire::FileKind::Regular,
        Kind::Directory => wire::FileKind::Directory,
        Kind::Symlink => wire::FileKind::Symlink,
        Kind::Fifo => wire::FileKind::Fifo,
        Kind::Socket => wire::FileKind::Socket,
        Kind::CharDevice => wire::FileKind::CharDevice,
        Kind::BlockDevice => wire::FileKind::BlockDevice,
    }
}
