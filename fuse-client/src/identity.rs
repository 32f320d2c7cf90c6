//! Who calls. The kernel names uid, gid and thread; supplementary groups are read from `/proc/PID/status` and kept for a moment.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use caribou_client::proto::meta::v1::Caller;
use parking_lot::Mutex;

/// How long groups are kept. Short enough that a thread number cannot have come round to another program of the same user.
const KEEP: Duration = Duration::from_millis(100);
/// Entries before old ones are thrown out.
const MAX_KEPT: usize = 1024;
/// The kernel's own bound (NGROUPS_MAX).
const MAX_GROUPS: usize = 65_536;

type Key = (u32, u32, u32);

/// The groups of recent callers.
#[derive(Default)]
pub(crate) struct Identities {
    kept: Mutex<HashMap<Key, (Instant, Vec<u32>)>>,
}

impl Identities {
    /// The caller with these numbers. Root needs no groups; a caller that is gone, or in another PID namespace, has none.
    pub(crate) fn caller(&self, pid: u32, uid: u32, gid: u32) -> Caller {
        if uid == 0 || pid == 0 {
            return Caller { uid, gid, groups: Vec::new() };
        }
        let key = (pid, uid, gid);
        let now = Instant::now();
        if let Some((read, groups)) = self.kept.lock().get(&key)
            && now - *read < KEEP
        {
            return Caller { uid, gid, groups: groups.clone() };
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let groups = groups_of(&status);
        let mut kept = self.kept.lock();
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, (read, _)| now - *read < KEEP);
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
        }
        kept.insert(key, (now, groups.clone()));
        Caller { uid, gid, groups }
    }
}

fn groups_of(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|group| group.parse().ok()).take(MAX_GROUPS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read() {
        assert_eq!(groups_of("Name:\tcp\nGid:\t5\t5\t5\t5\nGroups:\t4 24 1000 \nNStgid:\t1\n"), [4, 24, 1000]);
        assert_eq!(groups_of("Groups:\t\n"), [0_u32; 0]);
        assert_eq!(groups_of(""), [0_u32; 0]);
    }

    #[test]
    fn root_and_strangers_have_none() {
        let identities = Identities::default();
        assert!(identities.caller(std::process::id(), 0, 0).groups.is_empty());
        assert_eq!(identities.caller(u32::MAX, 1000, 100), Caller { uid: 1000, gid: 100, groups: Vec::new() });
    }
}
