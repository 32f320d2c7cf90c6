//! The words between the pure state of a written file and the task that carries it out: what to do, under which grant, and
//! what the callers want.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caribou_proto::cluster::v1::Holder;
use caribou_proto::meta::v1::{Grant, WriteEnd, WrittenChunk};
use tokio::time::Instant;

/// What has to be done outside.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    TakeGrant {
        index: u32,
        attempt: u32,
    },
    /// Wait until the chunk may be grantable.
    Wait {
        index: u32,
        attempt: u32,
    },
    /// W4.
    Report {
        held: Held,
        suspects: Vec<u64>,
        attempt: u32,
    },
    Send {
        epoch: u64,
        n: u64,
        held: Held,
        offset: u32,
        data: Bytes,
        sync: bool,
    },
    /// The inode's number is filled in outside.
    WriteEnd {
        id: u64,
        write: WriteEnd,
        attempt: u32,
    },
    /// W7.
    End {
        held: Held,
        attempt: u32,
    },
}

/// A grant as it was given (W1).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) index: u32,
    pub(crate) chunk: u64,
    pub(crate) version: u64,
    pub(crate) grant: u64,
    /// W2: the token may create replicas.
    pub(crate) create: bool,
    pub(crate) holders: Arc<[Holder]>,
}

impl Held {
    pub(crate) fn new(grant: &Grant) -> Self {
        Self {
            index: grant.index,
            chunk: grant.chunk,
            version: grant.version,
            grant: grant.grant,
            create: grant.create,
            holders: grant.holders.clone().into(),
        }
    }

    pub(crate) fn written(&self) -> WrittenChunk {
        WrittenChunk {
            index: self.index,
            chunk: self.chunk,
            version: self.version,
            grant: self.grant,
            resent: false,
            end: false,
            inline_bytes: 0,
        }
    }
}

/// Why an epoch ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Broken {
    /// Who is suspected.
    pub(crate) suspects: Vec<u64>,
    /// A fragment that was refused because a block is damaged on a holder, or cannot be read there; if several were under way, maybe not the one
    /// that goes to that block.
    pub(crate) refused: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No grant.
    Free,
    /// I2: its bytes travel in a write-end.
    Inlining,
    /// `TakeGrant` is under way.
    Taking,
    /// `WaitChunk` is under way; a grant is taken next.
    Waiting,
    /// A grant is held; fragments flow.
    Held,
    /// The stream broke; to be reported.
    Broken,
    /// `ReportBroken` is under way.
    Reporting,
    /// `EndGrants` is under way.
    Ending,
}

/// What the inode and its callers want of a chunk at this moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) now: Instant,
    pub(crate) sync_after: Duration,
    /// The newest write.
    pub(crate) write: u64,
    /// Writes up to here are to be sent …
    pub(crate) flush: u64,
    /// … and these to be synced.
    pub(crate) sync: u64,
    /// A write-end is under way or not yet done.
    pub(crate) commit_open: bool,
    pub(crate) committing: bool,
    /// Nothing may start: a change of size or times is under way.
    pub(crate) paused: bool,
    /// The file is open for writing.
    pub(crate) in_use: bool,
    pub(crate) committed_length: u64,
    /// I1: the first chunk's bytes up to here may go into the metadata.
    pub(crate) inline_limit: u32,
}
