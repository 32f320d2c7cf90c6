//! All files of one client: creating, opening, attributes as this client sees them, syncing everything.

use std::sync::{Arc, Weak};

use caribou_proto::meta::v1::{Attr, Caller, Create, GetAttr, ReplyBody, SetAttr, mutation::Op};
use futures::future::join_all;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::context::Context;
use super::handle::OpenFile;
use super::places::{Asked, Places};
use super::ports::Ports;
use crate::meta::{MetaEvent, QueryOp};
use crate::{ClientConfig, Error, MetaClient};

/// Access of an open: may write.
const WRITE: u32 = 2;
/// Files that are looked at one by one before it is cheaper to ask for the one that is meant.
const MAX_LOOKED_AT: usize = 64;
/// How often attributes are asked for again because this client changed them meanwhile.
const MAX_ASKS: u32 = 4;

/// See the head of this file. Cheap to clone.
#[derive(Clone)]
pub struct Files {
    pub(crate) context: Arc<Context>,
}

/// What [`Files::create`] brings.
pub struct Created {
    pub attr: Attr,
    pub file: Arc<OpenFile>,
    /// The file was not there before.
    pub is_new: bool,
    /// The directory's attributes after it.
    pub directories: Vec<Attr>,
}

impl Files {
    /// Files over gRPC. Within a tokio runtime only.
    pub fn new(meta: MetaClient, config: &ClientConfig) -> Self {
        Self::new_in(Ports::production(meta), config)
    }

    /// As [`Self::new`], with everything from outside as arguments: for tests and simulations.
    pub fn new_in(ports: Ports, config: &ClientConfig) -> Self {
        let events = ports.meta.events();
        let context = Arc::new(Context::new(ports, config));
        tokio::spawn(listen(events, Arc::downgrade(&context)));
        Self { context }
    }

    /// Creates a file or opens the one that is there. `create.access` is that of the handle; the grant of the first chunk
    /// comes with the creation when the handle may write and the first bytes have no other place to go (W1, I1).
    ///
    /// # Errors
    /// As the file system decides (EEXIST, ENOENT, EACCES, …); [`Error::Unavailable`] after the soft timeout.
    pub async fn create(&self, caller: &Caller, mut create: Create) -> Result<Created, Error> {
        let writer = create.access & WRITE != 0;
        // An existing file is cut by `setattr`, which knows what this client has buffered of it.
        let truncate = std::mem::take(&mut create.truncate);
        create.want_grant = writer && self.context.ports.meta.inline_limit() == 0;
        let body = self.context.ports.meta.mutate(caller.clone(), Op::Create(create)).await?;
        let mut attr = attr_of(&body)?;
        let (inode, known) = self.context.open(&attr, writer);
        let file = Arc::new(OpenFile::new(inode.clone(), writer));
        if let Some(grant) = &body.grant {
            inode.change(0, |state| state.write.adopt(grant, Instant::now()));
        }
        if !body.created {
            if known {
                inode.refresh_length().await?;
            }
            inode.peek(|state| state.revalidate(Instant::now()));
            if truncate {
                attr = self.truncate(caller, attr.inode, writer).await?;
            }
        }
        inode.overlay(&mut attr);
        Ok(Created { attr, file, is_new: body.created, directories: body.directories })
    }

    /// Opens a file (S7: the leader registers a claim). `access`: bits 4 read, 2 write, 1 execute.
    ///
    /// # Errors
    /// ESTALE for an inode without links, EACCES; else as [`Self::create`].
    pub async fn open(
        &self,
        caller: &Caller,
        inode: u64,
        access: u32,
        truncate: bool,
    ) -> Result<(Attr, Arc<OpenFile>), Error> {
        let known = self.context.find(inode);
        let (stamp, asked) = known.map_or_else(
            || (0, Places::default().asking()),
            |known| known.peek(|state| (state.stamp, state.places.asking())),
        );
        let body = self.context.ports.meta.open_claim(caller.clone(), inode, access).await?;
        let mut attr = attr_of(&body)?;
        let writer = access & WRITE != 0;
        let (found, _) = self.context.open(&attr, writer);
        let file = Arc::new(OpenFile::new(found.clone(), writer));
        found.change(0, |state| {
            let is_news =
                state.stamp == stamp && state.places.asking().stamp == asked.stamp && !state.is_outdated(&attr);
            state.learn(&attr, stamp);
            state.revalidate(asked.at);
            if is_news && (body.inline.is_some() || !body.chunks.is_empty()) {
                state.places.learn(0, &body, Asked { at: asked.at, ..state.places.asking() });
            }
        });
        if truncate {
            attr = self.truncate(caller, inode, writer).await?;
        }
        found.overlay(&mut attr);
        Ok((attr, file))
    }

    /// Who opens a file to read it only has to have the right to write it (`by_handle`: that was looked at by the open).
    async fn truncate(&self, caller: &Caller, inode: u64, by_handle: bool) -> Result<Attr, Error> {
        self.setattr(caller, SetAttr { inode, size: Some(0), by_handle, ..SetAttr::default() }).await
    }

    /// Attributes with this client's own uncommitted writes laid over.
    ///
    /// # Errors
    /// ENOENT, ESTALE; [`Error::Unavailable`] after the soft timeout.
    pub async fn getattr(&self, caller: &Caller, inode: u64) -> Result<Attr, Error> {
        let mut asks = 0;
        loop {
            let known = self.context.find(inode);
            let stamp = known.as_ref().map(|known| known.peek(|state| state.stamp));
            let body = self.context.ports.meta.query(caller.clone(), QueryOp::GetAttr(GetAttr { inode })).await?;
            let mut attr = attr_of(&body)?;
            let (Some(known), Some(stamp)) = (known, stamp) else {
                self.overlay(&mut attr);
                return Ok(attr);
            };
            asks += 1;
            if known.peek(|state| state.stamp) != stamp && asks < MAX_ASKS {
                continue;
            }
            known.learn(&attr, stamp);
            known.overlay(&mut attr);
            return Ok(attr);
        }
    }

    /// Lays this client's own uncommitted writes over attributes that came from the leader by another way.
    pub fn overlay(&self, attr: &mut Attr) {
        if let Some(inode) = self.context.find(attr.inode) {
            inode.overlay(attr);
        }
    }

    /// Writes back and commits what is buffered of a file (close-to-open).
    ///
    /// # Errors
    /// EIO and others when that is not possible. Handles are told too.
    pub async fn flush_inode(&self, inode: u64) -> Result<(), Error> {
        let Some(inode) = self.context.find(inode) else { return Ok(()) };
        let seen = inode.peek(|state| state.sticky.now());
        let write = inode.change(0, |state| state.write.want_flush());
        inode.wait_untold(seen, |state| state.write.is_flushed(write)).await
    }

    /// Whether this client may have bytes of any file that it has not told the others of.
    pub fn may_have_buffered(&self) -> bool {
        if self.context.count() > MAX_LOOKED_AT {
            return true;
        }
        self.context.all().iter().any(|inode| inode.peek(|state| !state.write.is_flushed(u64::MAX)))
    }

    /// Syncs everything that this client has written (W5).
    ///
    /// # Errors
    /// The first error; the other files are synced nevertheless.
    pub async fn sync_all(&self) -> Result<(), Error> {
        let files = self.context.all();
        let results = join_all(files.iter().map(|inode| async move {
            let seen = inode.peek(|state| state.sticky.now());
            let write = inode.change(0, |state| state.write.want_sync());
            inode.wait_untold(seen, |state| state.write.is_synced(write)).await
        }))
        .await;
        results.into_iter().collect()
    }

    /// Syncs everything and ends all grants (W7); with a soft timeout, as far as that goes.
    pub async fn shutdown(&self) {
        let files = self.context.all();
        join_all(files.iter().map(|inode| async move {
            let seen = inode.peek(|state| state.sticky.now());
            inode.change(0, |state| state.write.want_end());
            let ended = inode.wait_untold(seen, |state| state.write.is_quiet()).await;
            if let Err(error) = ended {
                tracing::warn!(inode = inode.number, %error, "a file could not be settled before the end");
            }
        }))
        .await;
    }
}

pub(crate) fn attr_of(body: &ReplyBody) -> Result<Attr, Error> {
    body.attr.ok_or_else(|| Error::Fatal("the leader answered without attributes".to_owned()))
}

/// Passes recalls and the end of the session on to the files (W8, S4).
async fn listen(mut events: broadcast::Receiver<MetaEvent>, context: Weak<Context>) {
    loop {
        let event = events.recv().await;
        let Some(context) = context.upgrade() else { return };
        match event {
            Ok(MetaEvent::RecallGrant { inode, index, grant, .. }) => {
                if let Some(inode) = context.find(inode) {
                    inode.change(0, |state| state.write.recall(index, grant));
                }
            }
            // Every change of a file looks for that first.
            Ok(MetaEvent::SessionChanged { .. }) => context.all().iter().for_each(|inode| inode.change(0, |_| ())),
            // What was missed may have been a recall of any grant.
            Err(broadcast::error::RecvError::Lagged(_)) => {
                for inode in context.all() {
                    inode.change(0, |state| state.write.grants_uncertain());
                }
            }
            Ok(MetaEvent::LeaderChanged { .. }) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}
