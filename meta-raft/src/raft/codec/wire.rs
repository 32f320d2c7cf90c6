//! What metadata nodes say to each other ↔ the Raft library's types. Every field is checked; an error is a refusal in words.

use std::collections::{BTreeMap, BTreeSet};

use caribou_proto::raft::v1 as wire;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, TransferLeaderRequest, VoteRequest, VoteResponse};

use crate::raft::types::{
    Entry, EntryPayload, LogId, Membership, Node, Payload, SnapshotMeta, StoredMembership, TypeConfig, Vote, log_id,
    vote,
};

/// A message that no node of this cluster sends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the message lacks {0}")]
    Missing(&'static str),
    #[error("the message's membership is invalid: {0}")]
    Membership(String),
}

pub(crate) fn to_log_id(id: LogId) -> wire::LogId {
    wire::LogId { term: id.committed_leader_id().term, index: id.index() }
}

pub(crate) fn from_log_id(id: wire::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(crate) fn to_vote(v: &Vote) -> wire::Vote {
    wire::Vote { term: v.leader_id.term, node_id: v.leader_id.voted_for, committed: v.committed }
}

pub(crate) fn from_vote(v: Option<wire::Vote>) -> Result<Vote, WireError> {
    let v = v.ok_or(WireError::Missing("its vote"))?;
    Ok(vote(v.term, v.node_id, v.committed))
}

pub(crate) fn to_membership(m: &Membership) -> wire::Membership {
    wire::Membership {
        configs: m.get_joint_config().iter().map(|c| wire::Voters { node_ids: c.iter().copied().collect() }).collect(),
        nodes: m.nodes().map(|(id, n)| wire::Node { node_id: *id, address: n.address.clone() }).collect(),
    }
}

pub(crate) fn from_membership(m: wire::Membership) -> Result<Membership, WireError> {
    let configs: Vec<BTreeSet<u64>> = m.configs.into_iter().map(|c| c.node_ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Node> = m.nodes.into_iter().map(|n| (n.node_id, Node { address: n.address })).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|e| WireError::Membership(e.to_string()))
}

fn to_entry(entry: Entry) -> wire::Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => wire::entry::Payload::Blank(wire::Blank {}),
        EntryPayload::Normal(p) => wire::entry::Payload::Normal(p.0),
        EntryPayload::Membership(m) => wire::entry::Payload::Membership(to_membership(&m)),
    };
    wire::Entry { log_id: Some(to_log_id(entry.log_id)), payload: Some(payload) }
}

fn from_entry(entry: wire::Entry) -> Result<Entry, WireError> {
    let payload = match entry.payload.ok_or(WireError::Missing("an entry's payload"))? {
        wire::entry::Payload::Blank(_) => EntryPayload::Blank,
        wire::entry::Payload::Normal(bytes) => EntryPayload::Normal(Payload(bytes)),
        wire::entry::Payload::Membership(m) => EntryPayload::Membership(from_membership(m)?),
    };
    let id = entry.log_id.ok_or(WireError::Missing("an entry's log id"))?;
    Ok(Entry { log_id: from_log_id(id), payload })
}

pub(crate) fn to_append(header: wire::Header, request: AppendEntriesRequest<TypeConfig>) -> wire::AppendRequest {
    wire::AppendRequest {
        header: Some(header),
        vote: Some(to_vote(&request.vote)),
        prev_log_id: request.prev_log_id.map(to_log_id),
        entries: request.entries.into_iter().map(to_entry).collect(),
        leader_commit: request.leader_commit.map(to_log_id),
    }
}

pub(crate) fn from_append(request: wire::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, WireError> {
    let prev_log_id = request.prev_log_id.map(from_log_id);
    let entries: Vec<Entry> = request.entries.into_iter().map(from_entry).collect::<Result<_, _>>()?;
    let expected = prev_log_id.map_or(0, |id| id.index() + 1);
    if (expected..).zip(&entries).any(|(index, entry)| entry.log_id.index() != index) {
        return Err(WireError::Missing("an entry in between"));
    }
    Ok(AppendEntriesRequest {
        vote: from_vote(request.vote)?,
        prev_log_id,
        entries,
        leader_commit: request.leader_commit.map(from_log_id),
    })
}

pub(crate) type AppendResult = Result<Option<LogId>, StreamAppendError<TypeConfig>>;

pub(crate) fn to_append_reply(result: AppendResult) -> wire::AppendReply {
    use wire::append_reply::Result as Reply;
    let result = match result {
        Ok(last) => Reply::Matched(wire::Matched { last_log_id: last.map(to_log_id) }),
        Err(StreamAppendError::Conflict(id)) => Reply::Conflict(to_log_id(id)),
        Err(StreamAppendError::HigherVote(v)) => Reply::HigherVote(to_vote(&v)),
    };
    wire::AppendReply { result: Some(result) }
}

pub(crate) fn from_append_reply(reply: wire::AppendReply) -> Result<AppendResult, WireError> {
    use wire::append_reply::Result as Reply;
    Ok(match reply.result.ok_or(WireError::Missing("its result"))? {
        Reply::Matched(m) => Ok(m.last_log_id.map(from_log_id)),
        Reply::Conflict(id) => Err(StreamAppendError::Conflict(from_log_id(id))),
        Reply::HigherVote(v) => Err(StreamAppendError::HigherVote(from_vote(Some(v))?)),
    })
}

pub(crate) fn to_vote_request(header: wire::Header, r: VoteRequest<TypeConfig>, pre_vote: bool) -> wire::VoteRequest {
    wire::VoteRequest {
        header: Some(header),
        vote: Some(to_vote(&r.vote)),
        last_log_id: r.last_log_id.map(to_log_id),
        leadership_transfer: r.leadership_transfer,
        pre_vote,
    }
}

pub(crate) fn from_vote_request(r: wire::VoteRequest) -> Result<VoteRequest<TypeConfig>, WireError> {
    let mut request = VoteRequest::new(from_vote(r.vote)?, r.last_log_id.map(from_log_id));
    request.leadership_transfer = r.leadership_transfer;
    Ok(request)
}

pub(crate) fn to_vote_reply(r: VoteResponse<TypeConfig>) -> wire::VoteReply {
    wire::VoteReply { vote: Some(to_vote(&r.vote)), granted: r.vote_granted, last_log_id: r.last_log_id.map(to_log_id) }
}

pub(crate) fn from_vote_reply(r: wire::VoteReply) -> Result<VoteResponse<TypeConfig>, WireError> {
    Ok(VoteResponse::new(from_vote(r.vote)?, r.last_log_id.map(from_log_id), r.granted))
}

pub(crate) fn to_transfer(header: wire::Header, r: &TransferLeaderRequest<TypeConfig>) -> wire::TransferLeaderRequest {
    wire::TransferLeaderRequest {
        header: Some(header),
        from_leader: Some(to_vote(r.from_leader())),
        new_leader: *r.to_node_id(),
        last_log_id: r.last_log_id().copied().map(to_log_id),
    }
}

pub(crate) fn from_transfer(r: wire::TransferLeaderRequest) -> Result<TransferLeaderRequest<TypeConfig>, WireError> {
    Ok(TransferLeaderRequest::new(from_vote(r.from_leader)?, r.new_leader, r.last_log_id.map(from_log_id)))
}

pub(crate) fn to_snapshot_meta(meta: &SnapshotMeta, feature_level: u32) -> wire::SnapshotMeta {
    wire::SnapshotMeta {
        last_log_id: meta.last_log_id.map(to_log_id),
        membership_log_id: meta.last_membership.log_id().map(to_log_id),
        membership: Some(to_membership(meta.last_membership.membership())),
        feature_level,
    }
}

pub(crate) fn from_snapshot_meta(meta: wire::SnapshotMeta) -> Result<SnapshotMeta, WireError> {
    let membership = from_membership(meta.membership.ok_or(WireError::Missing("its membership"))?)?;
    Ok(SnapshotMeta {
        last_log_id: meta.last_log_id.map(from_log_id),
        last_membership: StoredMembership::new(meta.membership_log_id.map(from_log_id), membership),
    })
}
