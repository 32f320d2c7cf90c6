//! What the session tells the rest of the client.

use caribou_proto::ids::SessionId;

/// Sent to every receiver of [`crate::MetaClient::events`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaEvent {
    /// W8: the leader wants this grant back: sync, then end it, or lose it after 2 s.
    RecallGrant {
        /// The file.
        inode: u64,
        /// The chunk's index in the file.
        index: u32,
        /// The chunk.
        chunk: u64,
        /// The grant.
        grant: u64,
    },
    /// S4: the session expired: its grants, claims, locks and leases are gone. Sent as soon as this is known; a new session
    /// is opened by itself, and calls made meanwhile wait for it.
    SessionChanged {
        /// The session that expired.
        old: SessionId,
    },
    /// A stream to a leader stands; sent after every failover and every reconnection.
    LeaderChanged {
        /// The leader's node id.
        node_id: u64,
        /// Its term.
        term: u64,
    },
}
