//! How long snapshots take, seen from outside: a node writes down only that it has made one, but its folder for one that is being made
//! is there from the beginning to the end.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::Lab;

/// How such folders' names begin (`meta-raft`, snapshots).
const BUILDING: &str = "building-";
/// The error of each time, up and down.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks at all metadata nodes until it is asked for what it has seen, or dropped.
pub(super) struct Watch {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Vec<Vec<Duration>>>,
}

impl Watch {
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let data = lab.cluster.layout().meta.iter().map(|node| node.data.first().context("a node has a data folder"));
        let folders = data.map(|data| Ok(data?.join("snapshots"))).collect::<Result<Vec<PathBuf>>>()?;
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut nodes: Vec<Node> = folders.iter().map(|_| Node::default()).collect();
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                for (node, folder) in nodes.iter_mut().zip(&folders) {
                    node.look(is_building(folder), Instant::now());
                }
            }
            nodes.into_iter().map(|node| node.times).collect()
        });
        Ok(Self { stop, thread })
    }

    /// The times of each node's snapshots, in their order.
    pub(super) fn finish(self) -> Result<Vec<Vec<Duration>>> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread that watches snapshots panicked"))
    }
}

/// What was seen at one node.
#[derive(Debug, Default)]
struct Node {
    since: Option<Instant>,
    times: Vec<Duration>,
}

impl Node {
    fn look(&mut self, building: bool, now: Instant) {
        match (building, self.since) {
            (true, None) => self.since = Some(now),
            (false, Some(since)) => {
                self.times.push(now - since);
                self.since = None;
            }
            _ => {}
        }
    }
}

fn is_building(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(BUILDING))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_from_the_first_look_to_the_first_without() {
        let (mut node, start) = (Node::default(), Instant::now());
        for (look, building) in [false, true, true, true, false, false, true, false, true].into_iter().enumerate() {
            node.look(building, start + LOOK_EVERY * look as u32);
        }
        assert_eq!(node.times, [LOOK_EVERY * 3, LOOK_EVERY], "the last one is not over");
    }

    #[test]
    fn only_what_is_being_made_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("00000000000000000001-00000000000000000009-00000001")).expect("made");
        assert!(!is_building(folder.path()) && !is_building(&folder.path().join("missing")));
        std::fs::create_dir(folder.path().join("building-2.tmp")).expect("made");
        assert!(is_building(folder.path()));
    }
}
