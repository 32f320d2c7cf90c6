//! Operations: one per file; this file is the flat list (STYLE 7) and what they share.
//!
//! An operation is `pub(crate) fn apply(op: &mut Op<'_, '_>, …) -> OpResult<Body>` for a client's request and
//! `-> OpResult<Reply>` for a record of the leader. It checks everything first and then writes to `op.txn`; what it wrote is kept only
//! if it succeeds (`Ok`, and not [`Reply::Refused`]), else writes *and* effects are dropped.
//! `client.rs` carries the session rules around the client operations.
//!
//! `names.rs` is what operations on names share, `chunk/` what operations on chunks share.

mod add_idle;
mod cancel;
pub(crate) mod chunk;
mod client;
mod create;
mod cut;
mod end_grants;
mod expire_session;
mod forget_sessions;
mod garbage_done;
mod init_cluster;
mod inline;
mod link;
mod mkdir;
mod mknod;
pub(crate) mod names;
mod open_session;
mod purge_orphans;
mod ready;
mod register_server;
mod removexattr;
mod rename;
mod repair_done;
mod replica_lost;
mod report_broken;
mod rmdir;
mod server_down;
mod setattr;
mod setxattr;
mod start_intent;
mod stray_found;
mod symlink;
mod take_grant;
mod unlink;
mod write_and_set;
mod write_end;

use caribou_proto::ids::SessionId;

use super::command::{Caller, Command, Entry};
use super::digest::Digest;
use super::error::{Failure, Fatal, OpResult};
use super::reply::{Effect, Reply};
use super::tables::{Txn, meta};
use super::{Applied, FEATURE_LEVEL};

/// What an operation works with.
pub(crate) struct Op<'o, 'b> {
    pub(crate) txn: &'o mut Txn<'b>,
    /// The session that asks; 0 for records of the leader.
    pub(crate) session: SessionId,
    /// Who asks; root for records of the leader.
    pub(crate) caller: &'o Caller,
    /// The entry's time stamp: for timestamps and retention only.
    pub(crate) time_ns: i64,
    /// Hints to the leader.
    pub(crate) effects: &'o mut Vec<Effect>,
}

/// The leader's own records are made as root.
const LEADER: Caller = Caller { uid: 0, gid: 0, groups: Vec::new() };

/// Applies one entry: its commands in order, under one time stamp.
pub(crate) fn apply_entry(txn: &mut Txn<'_>, entry: &Entry) -> Result<Applied, Fatal> {
    if entry.feature_level > FEATURE_LEVEL {
        let level = entry.feature_level;
        return Err(Fatal(format!(
            "the entry has feature level {level}, this node knows {FEATURE_LEVEL}: upgrade this node"
        )));
    }
    // The leader stamps `max(previous + 1, clock)`; a clock that goes back under a new leader must not show.
    let time_ns = entry.time_ns.max(meta::last_time_ns(txn)?.saturating_add(1));
    let mut digest = Digest::resume(meta::state_hash(txn)?);
    let mut applied = Applied { replies: Vec::with_capacity(entry.commands.len()), effects: Vec::new() };
    for command in &entry.commands {
        let mark = applied.effects.len();
        let mut op =
            Op { txn: &mut *txn, session: SessionId(0), caller: &LEADER, time_ns, effects: &mut applied.effects };
        let reply = match apply_command(&mut op, command) {
            Ok(reply) => reply,
            Err(Failure::Fatal(fatal)) => return Err(fatal),
            Err(Failure::Errno(_)) => Reply::Refused("the record does not fit the state"),
        };
        if matches!(reply, Reply::Refused(_)) {
            txn.discard();
            applied.effects.truncate(mark);
        } else {
            txn.keep(|table, key, value| digest.feed(table, key, value));
        }
        applied.replies.push(reply);
    }
    meta::put_last_time_ns(txn, time_ns);
    txn.keep(|table, key, value| digest.feed(table, key, value));
    meta::put_state_hash(txn, digest.state());
    txn.keep(|_, _, _| {});
    Ok(applied)
}

fn apply_command(op: &mut Op<'_, '_>, command: &Command) -> OpResult<Reply> {
    match command {
        Command::Client(request) => client::apply(op, request),
        Command::Cancel { session, seq } => cancel::apply(op, *session, *seq),
        Command::OpenSession { key, name } => open_session::apply(op, key, name),
        Command::AddIdle { sessions } => add_idle::apply(op, sessions),
        Command::ExpireSession { session, ttl_ms } => expire_session::apply(op, *session, *ttl_ms),
        Command::ForgetSessions { before_ns, limit } => forget_sessions::apply(op, *before_ns, *limit),
        Command::PurgeOrphans { inodes } => purge_orphans::apply(op, inodes),
        Command::InitCluster(init) => init_cluster::apply(op, init),
        Command::RegisterServer(register) => register_server::apply(op, register),
        Command::ServerDown { server, incarnation } => server_down::apply(op, *server, *incarnation),
        Command::StartIntent(start) => start_intent::apply(op, start),
        Command::Ready(ready) => ready::apply(op, ready),
        Command::RepairDone(done) => repair_done::apply(op, done),
        Command::ReplicaLost { chunk, version, server } => replica_lost::apply(op, *chunk, *version, *server),
        Command::GarbageDone { server, chunks } => garbage_done::apply(op, *server, chunks),
        Command::StrayFound(stray) => stray_found::apply(op, stray),
    }
}
