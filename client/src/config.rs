//! The settings of one client. A plain struct: where they come from (a file, mount options) is the caller's business.

use std::time::Duration;

use caribou_proto::cluster::v1::ClusterId;

/// The address that is tried when none is configured.
pub const DEFAULT_META_ADDRESS: &str = "127.0.0.1:9430";

/// Settings of a [`crate::Client`].
#[derive(Clone, Debug, PartialEq)]
pub struct ClientConfig {
    /// `host:port` of metadata nodes; all are tried in parallel, and those that the cluster names are learnt.
    pub meta: Vec<String>,
    /// The cluster that this client belongs to (F1); `None` takes what the first leader says.
    pub cluster: Option<ClusterId>,
    /// Shown in `caribou status`: host and mount point.
    pub name: String,
    /// Replies to changes of names bring the directories' attributes along: for a mount, whose kernel asks for them next.
    pub want_directories: bool,
    /// `None` (hard): calls wait for as long as it takes. `Some`: they fail with ETIMEDOUT after this time, outcome unknown (S5).
    pub soft: Option<Duration>,
    /// Bound of the bytes of all files that no fsync covers yet (W5).
    pub write_buffer_bytes: u64,
    /// Read-ahead of a handle that is read in sequence.
    pub read_ahead_bytes: u32,
    /// A dirty chunk that nobody wrote to for this long is synced in the background (W5, W7).
    pub sync_after: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            meta: vec![DEFAULT_META_ADDRESS.to_owned()],
            cluster: None,
            name: String::new(),
            want_directories: false,
            soft: None,
            write_buffer_bytes: 256 << 20,
            read_ahead_bytes: 8 << 20,
            sync_after: Duration::from_secs(2),
        }
    }
}
