//! Raft's own records ↔ disk (`proto/log/v1/{entry,snapshot}.proto`): log entries, votes, the applied state.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use caribou_proto::log::v1 as disk;
use prost::Message as _;

use crate::fsm::FEATURE_LEVEL;
use crate::raft::types::{Entry, EntryPayload, LogId, Membership, Node, Payload, StoredMembership, Vote, log_id, vote};

/// Why a stored record of Raft cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("a stored record of Raft is damaged: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("a stored record of Raft lacks {0}")]
    Missing(&'static str),
    #[error("log entry {found} is stored under index {index}")]
    WrongIndex { index: u64, found: u64 },
    #[error("a stored membership is invalid: {0}")]
    Membership(String),
    #[error("the state has feature level {0}, this build knows levels up to {FEATURE_LEVEL}: upgrade this node")]
    FeatureLevel(u32),
    #[error("log entry {0} has a payload that this build does not know: upgrade this node")]
    UnknownPayload(u64),
}

impl From<RecordError> for std::io::Error {
    fn from(e: RecordError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, e)
    }
}

pub(crate) fn disk_log_id(id: LogId) -> disk::LogId {
    disk::LogId { term: id.committed_leader_id().term, index: id.index() }
}

pub(crate) fn memory_log_id(id: &disk::LogId) -> LogId {
    log_id(id.term, id.index)
}

fn disk_membership(m: &Membership) -> disk::Membership {
    disk::Membership {
        configs: m.get_joint_config().iter().map(|c| disk::Voters { node_ids: c.iter().copied().collect() }).collect(),
        nodes: m.nodes().map(|(id, n)| disk::Node { node_id: *id, address: n.address.clone() }).collect(),
    }
}

fn memory_membership(m: disk::Membership) -> Result<Membership, RecordError> {
    let configs: Vec<BTreeSet<u64>> = m.configs.into_iter().map(|c| c.node_ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Node> = m.nodes.into_iter().map(|n| (n.node_id, Node { address: n.address })).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|e| RecordError::Membership(e.to_string()))
}

/// Adds the disk form of a log entry to `to`.
pub(crate) fn encode_entry(entry: &Entry, to: &mut Vec<u8>) {
    let payload = match &entry.payload {
        EntryPayload::Blank => disk::entry::Payload::Blank(disk::Blank {}),
        EntryPayload::Normal(p) => disk::entry::Payload::Normal(p.0.clone()),
        EntryPayload::Membership(m) => disk::entry::Payload::Membership(disk_membership(m)),
    };
    let entry = disk::Entry { log_id: Some(disk_log_id(entry.log_id)), payload: Some(payload) };
    entry.encode(to).expect("a vector grows as needed");
}

/// The entry stored under `index`.
pub(crate) fn decode_entry(index: u64, bytes: Bytes) -> Result<Entry, RecordError> {
    let entry = disk::Entry::decode(bytes)?;
    let id = entry.log_id.ok_or(RecordError::Missing("its log id"))?;
    if id.index != index {
        return Err(RecordError::WrongIndex { index, found: id.index });
    }
    let payload = match entry.payload.ok_or(RecordError::UnknownPayload(index))? {
        disk::entry::Payload::Blank(_) => EntryPayload::Blank,
        disk::entry::Payload::Normal(bytes) => EntryPayload::Normal(Payload(bytes)),
        disk::entry::Payload::Membership(m) => EntryPayload::Membership(memory_membership(m)?),
    };
    Ok(Entry { log_id: memory_log_id(&id), payload })
}

pub(crate) fn encode_vote(v: &Vote) -> Vec<u8> {
    disk::Vote { term: v.leader_id.term, node_id: v.leader_id.voted_for, committed: v.committed }.encode_to_vec()
}

pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, RecordError> {
    let v = disk::Vote::decode(bytes)?;
    Ok(vote(v.term, v.node_id, v.committed))
}

pub(crate) fn encode_log_id(id: LogId) -> Vec<u8> {
    disk_log_id(id).encode_to_vec()
}

pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<LogId, RecordError> {
    Ok(memory_log_id(&disk::LogId::decode(bytes)?))
}

/// How far the state has come, and under which membership: in every batch, and so in every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AppliedState {
    pub(crate) log_id: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) feature_level: u32,
}

pub(crate) fn encode_applied(a: &AppliedState) -> Vec<u8> {
    disk::AppliedState {
        log_id: a.log_id.map(disk_log_id),
        membership_log_id: a.membership.log_id().map(disk_log_id),
        membership: Some(disk_membership(a.membership.membership())),
        feature_level: a.feature_level,
    }
    .encode_to_vec()
}

pub(crate) fn decode_applied(bytes: &[u8]) -> Result<AppliedState, RecordError> {
    let a = disk::AppliedState::decode(bytes)?;
    if a.feature_level > FEATURE_LEVEL {
        return Err(RecordError::FeatureLevel(a.feature_level));
    }
    let membership = memory_membership(a.membership.ok_or(RecordError::Missing("its membership"))?)?;
    Ok(AppliedState {
        log_id: a.log_id.as_ref().map(memory_log_id),
        membership: StoredMembership::new(a.membership_log_id.as_ref().map(memory_log_id), membership),
        feature_level: a.feature_level,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        let nodes: BTreeMap<u64, Node> = [1, 2, 3].map(|id| (id, Node { address: format!("127.0.0.1:{id}") })).into();
        Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([1, 3])], nodes).unwrap()
    }

    #[test]
    fn entries_come_back() {
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(Payload(Bytes::from_static(b"commands"))),
            EntryPayload::Membership(membership()),
        ] {
            let entry = Entry { log_id: log_id(4, 9), payload };
            let mut bytes = Vec::new();
            encode_entry(&entry, &mut bytes);
            let bytes = Bytes::from(bytes);
            assert_eq!(decode_entry(9, bytes.clone()).unwrap(), entry);
            assert!(matches!(decode_entry(8, bytes), Err(RecordError::WrongIndex { index: 8, found: 9 })));
        }
    }

    #[test]
    fn applied_state_comes_back_and_a_higher_level_is_refused() {
        let applied = AppliedState {
            log_id: Some(log_id(4, 9)),
            membership: StoredMembership::new(Some(log_id(1, 1)), membership()),
            feature_level: FEATURE_LEVEL,
        };
        assert_eq!(decode_applied(&encode_applied(&applied)).unwrap(), applied);
        assert_eq!(decode_applied(&encode_applied(&AppliedState::default())).unwrap(), AppliedState::default());
        let above = AppliedState { feature_level: FEATURE_LEVEL + 1, ..applied };
        assert!(decode_applied(&encode_applied(&above)).unwrap_err().to_string().contains("upgrade this node"));
    }

    #[test]
    fn votes_come_back() {
        for v in [vote(3, 2, false), vote(3, 2, true), vote(0, 0, false)] {
            assert_eq!(decode_vote(&encode_vote(&v)).unwrap(), v);
        }
    }
}
