//! From the store's errors to the wire's statuses, and the checks that every request passes first (F1, F3).

use crate::chain::Failure;
use crate::store::{self, ChunkStore, ClusterIdentity};
use caribou_proto::chunk::v1::Status;
use caribou_proto::cluster::v1::ClusterId;

/// The wire's word for a refusal of the store.
pub(crate) fn status_of(error: &store::Error) -> Status {
    use store::Error;
    match error {
        Error::NoReplica { .. } | Error::Deleted { .. } => Status::NoReplica,
        Error::WrongVersion { .. } => Status::WrongVersion,
        Error::OldGrant { .. } => Status::OldGrant,
        Error::Dirty { .. } => Status::Dirty,
        Error::NotYet { .. } | Error::NotNow { .. } => Status::NotYet,
        Error::Corrupt { .. } | Error::DamagedFragment { .. } => Status::Corrupt,
        Error::Invalid(_) | Error::OldTerm { .. } => Status::Invalid,
        Error::NoSpace { .. } => Status::NoSpace,
        Error::ReadFailed { .. } => Status::IoError,
        Error::DiskFailed { .. } | Error::Hung { .. } | Error::NoDisk => Status::DiskFailed,
        Error::ForeignCluster { .. } => Status::ForeignCluster,
    }
}

/// An error with its causes, in one line.
pub(crate) fn detail_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// A failure of this server's own.
pub(crate) fn failure(store: &ChunkStore, status: Status, detail: impl Into<String>) -> Failure {
    Failure { status, detail: detail.into(), server: store.server_id().map_or(0, |id| id.0) }
}

/// A refusal of this server's store.
pub(crate) fn failure_of(store: &ChunkStore, error: &store::Error) -> Failure {
    failure(store, status_of(error), detail_of(error))
}

/// Why a message's cluster is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// Another cluster altogether, or none: the ids in the message mean nothing here.
    Cluster(&'static str),
    /// Our cluster at another generation.
    Generation(String),
}

/// F1: the message belongs to the cluster and generation that this server belongs to.
pub(crate) fn check_cluster(ours: Option<ClusterIdentity>, theirs: Option<&ClusterId>) -> Result<(), Foreign> {
    let Some(ours) = ours else {
        return Err(Foreign::Cluster("this server has not been registered in a cluster yet"));
    };
    let Some(theirs) = theirs else {
        return Err(Foreign::Cluster("the message names no cluster"));
    };
    if theirs.uuid != ours.uuid.as_slice() {
        return Err(Foreign::Cluster("this server belongs to another cluster"));
    }
    if theirs.generation != u32::from(ours.generation) || theirs.nonce != ours.nonce {
        return Err(Foreign::Generation(format!(
            "this server is at generation {} of the cluster, the message at {} or at another one of that number",
            ours.generation, theirs.generation
        )));
    }
    Ok(())
}

/// The identity as the wire spells it.
pub(crate) fn cluster_on_wire(cluster: ClusterIdentity) -> ClusterId {
    ClusterId {
        uuid: bytes::Bytes::copy_from_slice(&cluster.uuid),
        generation: u32::from(cluster.generation),
        nonce: cluster.nonce,
    }
}

/// The identity out of the wire; `None` if a field is out of range.
pub(crate) fn cluster_from_wire(cluster: &ClusterId) -> Option<ClusterIdentity> {
    Some(ClusterIdentity {
        uuid: cluster.uuid.as_ref().try_into().ok()?,
        generation: u16::try_from(cluster.generation).ok()?,
        nonce: cluster.nonce,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_and_nonces_are_told_from_foreign_clusters() {
        let ours = ClusterIdentity { uuid: [7; 16], generation: 2, nonce: 5 };
        let wire = cluster_on_wire(ours);
        assert_eq!(cluster_from_wire(&wire), Some(ours));
        assert_eq!(check_cluster(Some(ours), Some(&wire)), Ok(()));
        let other = |change: fn(&mut ClusterId)| {
            let mut theirs = wire.clone();
            change(&mut theirs);
            check_cluster(Some(ours), Some(&theirs)).unwrap_err()
        };
        assert!(matches!(other(|id| id.uuid = vec![8; 16].into()), Foreign::Cluster(_)));
        assert!(matches!(other(|id| id.generation = 1), Foreign::Generation(_)));
        assert!(matches!(other(|id| id.generation = 3), Foreign::Generation(_)));
        assert!(matches!(other(|id| id.nonce = 6), Foreign::Generation(_)));
        assert!(matches!(check_cluster(None, Some(&wire)).unwrap_err(), Foreign::Cluster(_)));
        assert!(matches!(check_cluster(Some(ours), None).unwrap_err(), Foreign::Cluster(_)));
    }
}
