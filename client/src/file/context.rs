//! What all files of one client share: ports, settings, the buffer's bound, and the registry of files in use.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use caribou_proto::meta::v1::Attr;
use parking_lot::Mutex;

use super::budget::Budget;
use super::ender::Ender;
use super::inode::Inode;
use super::ports::Ports;
use super::read_ahead::AheadBudget;
use crate::chunk::Servers;
use crate::{ClientConfig, Error};

/// Read-ahead of all handles together.
const READ_AHEAD_TOTAL: u64 = 256 << 20;

pub(crate) struct Settings {
    pub(crate) soft: Option<Duration>,
    pub(crate) read_ahead_bytes: u64,
    pub(crate) sync_after: Duration,
}

/// See the head of this file.
pub(crate) struct Context {
    pub(crate) ports: Ports,
    pub(crate) settings: Settings,
    pub(crate) servers: Servers,
    pub(crate) budget: Budget,
    pub(crate) ahead: Arc<AheadBudget>,
    pub(crate) ender: Ender,
    inodes: Mutex<HashMap<u64, Arc<Inode>>>,
}

impl Context {
    pub(crate) fn new(ports: Ports, config: &ClientConfig) -> Self {
        Self {
            settings: Settings {
                soft: config.soft,
                read_ahead_bytes: u64::from(config.read_ahead_bytes),
                sync_after: config.sync_after,
            },
            servers: Servers::new(ports.transport.clone(), ports.meta.cluster(), ports.meta.seed()),
            budget: Budget::new(config.write_buffer_bytes),
            ahead: Arc::new(AheadBudget::new(READ_AHEAD_TOTAL)),
            ender: Ender::new(ports.meta.clone()),
            inodes: Mutex::default(),
            ports,
        }
    }

    /// The file with these attributes, with one handle more; whether it was in use already.
    pub(crate) fn open(self: &Arc<Self>, attr: &Attr, writer: bool) -> (Arc<Inode>, bool) {
        let mut inodes = self.inodes.lock();
        let known = inodes.contains_key(&attr.inode);
        let inode = inodes.entry(attr.inode).or_insert_with(|| Arc::new(Inode::new(self.clone(), attr))).clone();
        inode.peek(|state| {
            state.handles += 1;
            state.writers += u32::from(writer);
        });
        (inode, known)
    }

    pub(crate) fn find(&self, inode: u64) -> Option<Arc<Inode>> {
        self.inodes.lock().get(&inode).cloned()
    }

    pub(crate) fn count(&self) -> usize {
        self.inodes.lock().len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Inode>> {
        self.inodes.lock().values().cloned().collect()
    }

    /// Forgets the file if nobody needs it any more. An error that nobody was told goes with the last trace of the file.
    pub(crate) fn forget(&self, inode: u64) {
        let mut inodes = self.inodes.lock();
        if let Some(found) = inodes.get(&inode)
            && found.is_unused()
        {
            let untold = found.peek(|state| state.sticky.is_untold());
            inodes.remove(&inode);
            if untold {
                tracing::error!(inode, "bytes of a file were lost after its last handle was closed");
            }
        }
    }

    /// W5: starts background syncs of the files with the most un-synced bytes until `bytes` are covered.
    pub(crate) fn relieve(&self, bytes: u64) {
        let mut files: Vec<_> =
            self.all().into_iter().map(|inode| (inode.peek(|state| state.write.charged()), inode)).collect();
        files.sort_by_key(|(charged, _)| std::cmp::Reverse(*charged));
        let mut covered = 0;
        for (charged, inode) in files {
            if covered >= bytes || charged == 0 {
                break;
            }
            covered += charged;
            inode.change(0, |state| state.write.want_sync());
        }
    }

    /// Waits for ever, or for the soft timeout (S5: the outcome is unknown then).
    pub(crate) async fn patiently<R>(
        &self,
        what: &str,
        work: impl Future<Output = Result<R, Error>>,
    ) -> Result<R, Error> {
        match self.settings.soft {
            None => work.await,
            Some(soft) => match tokio::time::timeout(soft, work).await {
                Ok(result) => result,
                Err(_) => Err(Error::Unavailable(format!("{what} within {soft:?}"))),
            },
        }
    }
}
