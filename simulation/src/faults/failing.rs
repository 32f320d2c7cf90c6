//! Disks that fail while their servers go on: what a leader logs about replicas that are out of reach there.

use std::collections::BTreeSet;

use caribou_proto::ids::ServerId;
use parking_lot::Mutex;

/// The servers of disks that were made to fail, until these are good again.
#[derive(Debug, Default)]
pub struct Failing {
    servers: Mutex<BTreeSet<ServerId>>,
}

impl Failing {
    pub fn add(&self, server: ServerId) {
        self.servers.lock().insert(server);
    }

    pub fn remove(&self, server: ServerId) {
        self.servers.lock().remove(&server);
    }

    /// Whether a line of a log tells that a chunk is out of reach on one of them; its other holders, if it has any, are away.
    pub fn explains(&self, line: &str) -> bool {
        let of_server = |word: &str| word.strip_prefix("server=").and_then(|number| number.parse().ok()).map(ServerId);
        let server = line.split_whitespace().find_map(of_server);
        line.contains("no other is known to be there") && server.is_some_and(|id| self.servers.lock().contains(&id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_failed_explains_what_is_said_of_its_server() {
        let failing = Failing::default();
        failing.add(ServerId(1));
        let line = |server: u64| {
            format!(
                "lost: a replica is damaged or missing, and no other is known to be there chunk=7 server={server} version=3"
            )
        };
        assert!(failing.explains(&line(1)));
        assert!(!failing.explains(&line(11)));
        assert!(!failing.explains("another error server=1"));
        failing.remove(ServerId(1));
        assert!(!failing.explains(&line(1)));
    }
}
