//! Changing attributes of a file of which this client may have buffered bytes (W9). No write-end of ours may undo the change:
//!
//! - size: first everything is written back and its length and time committed, then nothing new starts for the file until the
//!   change is made. What is buffered is cut too.
//! - mtime: a write-end that is under way is waited for, and no other starts until the change is made; later ones carry the time
//!   that was set. Bytes go to the servers meanwhile: who sets the time of what it has written is about to close it.
//! - mode and owner are in no write-end: nothing is waited for.
//!
//! The bytes of a small file that only wait for their write-end (I2) go with a change of the latter two in one record: programs that copy
//! files set times, owner and mode before they close, and each is a round of its own.

use std::sync::Arc;
use std::time::Duration;

use caribou_proto::ids::CHUNK_BYTES;
use caribou_proto::meta::v1::{Attr, Caller, ReplyBody, SetAttr, WriteAndSet, WriteEnd, mutation::Op};
use futures::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;

use super::driver;
use super::files::{Files, attr_of};
use super::inode::{Inode, State};
use crate::Error;

/// Pause before a change is asked for again; the leader waits before it answers, so there are few.
const AGAIN: Duration = Duration::from_millis(10);

impl Files {
    /// Changes attributes; a new size cuts what is buffered beyond it.
    ///
    /// # Errors
    /// As the file system decides; an error of the write-back before; [`Error::Unavailable`] after the soft timeout, outcome unknown.
    pub async fn setattr(&self, caller: &Caller, setattr: SetAttr) -> Result<Attr, Error> {
        match self.context.find(setattr.inode) {
            None => attr_of(&self.set(caller, Op::Setattr(setattr)).await?),
            Some(inode) if setattr.size.is_some() => self.resize(caller, setattr, &inode).await,
            Some(inode) => self.set_others(caller, setattr, &inode).await,
        }
    }

    async fn resize(&self, caller: &Caller, setattr: SetAttr, inode: &Arc<Inode>) -> Result<Attr, Error> {
        let _turn = self.turn(inode).await?;
        let seen = inode.peek(|state| state.sticky.now());
        let write = inode.change(0, |state| state.write.want_flush());
        let pause = loop {
            // S4: whether others have written since the session's end is asked before this call is one more change since then.
            let is_disputed = |state: &State| setattr.size.is_some_and(|size| state.write.is_disputed_below(size));
            let is_ready = |state: &State| state.write.is_flushed(write) && !is_disputed(state);
            inode.wait_untold(seen, is_ready).await?;
            let pause = Pause::new(inode);
            inode.wait_untold(seen, |state| state.write.is_calm()).await?;
            if inode.peek(|state| is_ready(state)) {
                break pause;
            }
        };
        let size = setattr.size;
        let body = self.set(caller, Op::Setattr(setattr)).await?;
        let mut attr = attr_of(&body)?;
        inode.change(0, |state| {
            state.settled();
            state.ahead.clear();
            if let Some(size) = size {
                state.write.resized(size);
                state.places.forget_from(u32::try_from(size / CHUNK_BYTES).unwrap_or(u32::MAX));
            }
            state.write.set_mtime(attr.mtime_ns);
            state.generation = attr.data_generation;
        });
        drop(pause);
        inode.overlay(&mut attr);
        Ok(attr)
    }

    /// Mode, owner, times.
    async fn set_others(&self, caller: &Caller, setattr: SetAttr, inode: &Arc<Inode>) -> Result<Attr, Error> {
        let turn = self.turn(inode).await?;
        let sets_mtime = setattr.mtime_ns.is_some() || setattr.mtime_now;
        let held = sets_mtime.then(|| CommitsHeld::new(inode));
        let seen = inode.peek(|state| state.sticky.now());
        if sets_mtime {
            inode.wait_untold(seen, |state| !state.write.is_committing()).await?;
        }
        let limit = self.context.ports.meta.inline_limit();
        let carried = inode.change(0, |state| {
            state.write.want_flush();
            state.write.carry(limit, state.generation)
        });
        let mut attr = match carried {
            None => {
                let attr = attr_of(&self.set(caller, Op::Setattr(setattr)).await?)?;
                inode.change(0, |state| state.set_others(&attr, sets_mtime));
                attr
            }
            Some((id, write)) => {
                let both = WriteAndSet { write: Some(WriteEnd { inode: inode.number, ..write }), set: Some(setattr) };
                let task = tokio::spawn(set_with(inode.clone(), caller.clone(), id, both, sets_mtime, (turn, held)));
                let gone = |_| Err(Error::Fatal("the files have been shut down".to_owned()));
                let answer = async { task.await.unwrap_or_else(gone) };
                self.context.patiently("the attributes could not be set", answer).await?
            }
        };
        inode.overlay(&mut attr);
        Ok(attr)
    }

    async fn turn(&self, inode: &Inode) -> Result<OwnedSemaphorePermit, Error> {
        let turn = inode.turn.clone().acquire_owned();
        let turn = async { Ok(turn.await.expect("this semaphore is never closed")) };
        self.context.patiently("an earlier change of the file's attributes has no answer", turn).await
    }

    /// M13: EAGAIN says that nothing was changed, since a chunk that the growth goes over is being recovered. That reply is final for its
    /// request (S2), so another one is made.
    async fn set(&self, caller: &Caller, op: Op) -> Result<ReplyBody, Error> {
        let ask = until_it_may(|| self.context.ports.meta.mutate(caller.clone(), op.clone()));
        self.context.patiently("the size could not be set", ask).await
    }
}

/// I2: a change of attributes with a write-end of the same file. Whoever asked may go away: the bytes may not be sent again, and no later change may
/// begin, before it is known what became of them. So this is a task of its own, and holds what belongs to the change until then.
async fn set_with(
    inode: Arc<Inode>,
    caller: Caller,
    id: u64,
    both: WriteAndSet,
    sets_mtime: bool,
    _held: (OwnedSemaphorePermit, Option<CommitsHeld>),
) -> Result<Attr, Error> {
    let meta = &inode.context.ports.meta;
    let result = until_it_may(|| meta.mutate_patiently(caller.clone(), Op::WriteAndSet(both.clone()))).await;
    inode.change(0, |state| {
        driver::carried(inode.number, state, id, &result);
        if let Ok(ReplyBody { attr: Some(attr), .. }) = &result {
            state.set_others(attr, sets_mtime);
        }
    });
    attr_of(&result?)
}

async fn until_it_may(ask: impl Fn() -> BoxFuture<'static, Result<ReplyBody, Error>>) -> Result<ReplyBody, Error> {
    loop {
        match ask().await {
            Err(Error::Errno(libc::EAGAIN)) => tokio::time::sleep(AGAIN).await,
            result => return result,
        }
    }
}

/// While it lives, no write-end starts for the file.
struct CommitsHeld(Arc<Inode>);

impl CommitsHeld {
    fn new(inode: &Arc<Inode>) -> Self {
        inode.change(0, |state| state.write.commits_held = true);
        Self(inode.clone())
    }
}

impl Drop for CommitsHeld {
    fn drop(&mut self) {
        self.0.change(0, |state| state.write.commits_held = false);
    }
}

/// While it lives, no call and no fragment starts for the file.
struct Pause<'a> {
    inode: &'a Arc<Inode>,
}

impl<'a> Pause<'a> {
    fn new(inode: &'a Arc<Inode>) -> Self {
        inode.change(0, |state| state.write.paused = true);
        Self { inode }
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.inode.change(0, |state| {
            state.write.paused = false;
            // If the change was given up, its outcome is unknown (S5): what is known of length and places may be old.
            state.places.forget_from(0);
            state.length_at -= Duration::from_secs(1);
        });
    }
}
