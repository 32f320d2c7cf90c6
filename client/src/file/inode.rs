//! One file as this client knows it: everything behind one lock, and the ways to wait for it. Shared by all handles of the
//! file; it lives while a handle is open or something is buffered or held.
//!
//! The lock is never held across an await. After every change the budget is settled, what readers must know is passed on, and
//! the driver (`driver.rs`) is started or woken.

use std::sync::Arc;

use bytes::Bytes;
use caribou_planted::{self as planted, Bug};
use caribou_proto::meta::v1::{Attr, ReplyBody};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Duration, Instant};

use super::action::Action;
use super::context::Context;
use super::driver;
use super::places::Places;
use super::read_ahead::Ahead;
use super::sticky::{Seen, Sticky};
use super::write_state::{Note, Planning, WriteState};
use crate::Error;

/// For this long after its own commit, a client overrules times that may have been read before it.
const OVERRULE: Duration = Duration::from_secs(1);

/// See the head of this file.
pub(crate) struct Inode {
    pub(crate) number: u64,
    pub(crate) context: Arc<Context>,
    state: Mutex<State>,
    /// Wakes the driver.
    pub(crate) wake: Notify,
    /// Wakes those who wait for the state.
    changed: Notify,
    /// One change of attributes at a time (`setattr.rs`).
    pub(crate) turn: Arc<Semaphore>,
}

pub(crate) struct State {
    pub(crate) write: WriteState,
    pub(crate) places: Places,
    pub(crate) ahead: Ahead,
    pub(crate) sticky: Sticky,
    pub(crate) handles: u32,
    /// Handles open for writing.
    pub(crate) writers: u32,
    /// What the budget was told last.
    charged: u64,
    /// The driver runs.
    running: bool,
    /// Counts what this client changed of length and times: an answer that was asked for before is out of date.
    pub(crate) stamp: u64,
    /// When the length was last learnt from the leader.
    pub(crate) length_at: Instant,
    /// When this client last changed length or times.
    settled_at: Option<Instant>,
    /// The file's data generation as this client knows it: attributes with a lower one are out of date.
    pub(crate) generation: u64,
}

impl Inode {
    pub(crate) fn new(context: Arc<Context>, attr: &Attr) -> Self {
        let state = State {
            write: WriteState::new(attr.size, attr.mtime_ns, context.ports.meta.expired_session()),
            places: Places::default(),
            ahead: Ahead::default(),
            sticky: Sticky::default(),
            handles: 0,
            writers: 0,
            charged: 0,
            running: false,
            stamp: 0,
            length_at: Instant::now(),
            settled_at: None,
            generation: attr.data_generation,
        };
        let (wake, changed, turn) = (Notify::new(), Notify::new(), Arc::new(Semaphore::new(1)));
        Self { number: attr.inode, context, state: Mutex::new(state), wake, changed, turn }
    }

    /// Looks at the state or changes what needs no follow-up.
    pub(crate) fn peek<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut self.state.lock())
    }

    /// Changes the state. `reserved`: room that was taken for this change beforehand.
    pub(crate) fn change<R>(self: &Arc<Self>, reserved: u64, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        // S4: before an answer of the next session is taken in.
        state.write.session_ended(self.context.ports.meta.expired_session());
        let result = change(&mut state);
        for note in std::mem::take(&mut state.write.notes) {
            match note {
                Note::Placed(held) => state.places.put_own(&held),
                Note::Moved(index) => state.places.forget(index),
            }
        }
        self.settle(&mut state, reserved);
        let start = !state.running && !state.write.is_quiet();
        state.running |= start;
        drop(state);
        if start {
            tokio::spawn(driver::run(self.clone()));
        } else {
            self.wake.notify_one();
        }
        self.changed.notify_waiters();
        result
    }

    /// Asks the state what to do now, and when to ask again.
    pub(crate) fn plan(&self, actions: &mut Vec<Action>) -> Option<Instant> {
        let mut state = self.state.lock();
        let in_use = state.writers > 0;
        let settings = Planning {
            now: Instant::now(),
            sync_after: self.context.settings.sync_after,
            in_use,
            inline_limit: self.context.ports.meta.inline_limit(),
            data_generation: state.generation,
        };
        let deadline = state.write.plan(&settings, actions);
        self.settle(&mut state, 0);
        deadline
    }

    /// Tells the budget what the buffer costs now, in the place of what it cost before and of what was reserved.
    fn settle(&self, state: &mut State, reserved: u64) {
        let before = std::mem::replace(&mut state.charged, state.write.charged());
        self.context.budget.adjust(before + reserved, state.charged);
    }

    /// The driver asks whether it may end; true at most once per start.
    pub(crate) fn may_stop(&self) -> bool {
        let mut state = self.state.lock();
        if !state.write.is_quiet() {
            return false;
        }
        state.running = false;
        true
    }

    /// Nobody needs this file here any more.
    pub(crate) fn is_unused(&self) -> bool {
        let state = self.state.lock();
        state.handles == 0 && !state.running && state.write.is_quiet()
    }

    /// Takes a write in; room for it has been reserved.
    pub(crate) fn insert(self: &Arc<Self>, offset: u64, data: Bytes, reserved: u64) {
        let mtime_ns = self.context.ports.clock.now_ns();
        self.change(reserved, |state| {
            state.ahead.clear();
            state.write.insert(offset, data, mtime_ns, Instant::now());
        });
    }

    /// The same at the end of the file, as this client knows it; says where. `None`, and nothing is taken in, if it would end beyond `most`.
    pub(crate) fn append(self: &Arc<Self>, data: Bytes, reserved: u64, most: u64) -> Option<u64> {
        let mtime_ns = self.context.ports.clock.now_ns();
        self.change(reserved, |state| {
            let offset = state.write.size();
            offset.checked_add(data.len() as u64).filter(|end| *end <= most)?;
            state.ahead.clear();
            state.write.insert(offset, data, mtime_ns, Instant::now());
            Some(offset)
        })
    }

    /// Waits until `done`, or until an error of write-back that `seen` does not know (which then counts as told).
    pub(crate) async fn wait(&self, seen: &Mutex<Seen>, done: impl Fn(&State) -> bool) -> Result<(), Error> {
        self.wait_for(done, |state| state.sticky.check(&mut seen.lock())).await
    }

    /// The same on nobody's behalf: an error is returned, and handles are still to be told.
    pub(crate) async fn wait_untold(&self, seen: Seen, done: impl Fn(&State) -> bool) -> Result<(), Error> {
        self.wait_for(done, |state| state.sticky.since(seen)).await
    }

    pub(crate) async fn wait_for(
        &self,
        done: impl Fn(&State) -> bool,
        error: impl Fn(&mut State) -> Option<i32>,
    ) -> Result<(), Error> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                {
                    let mut state = self.state.lock();
                    if let Some(errno) = error(&mut state) {
                        return Err(Error::Errno(errno));
                    }
                    if done(&state) {
                        return Ok(());
                    }
                }
                changed.await;
            }
        };
        self.context.patiently("the data could not be written back", wait).await
    }

    /// An error that this handle has not been told.
    pub(crate) fn check(&self, seen: &Mutex<Seen>) -> Result<(), Error> {
        match self.state.lock().sticky.check(&mut seen.lock()) {
            Some(errno) => Err(Error::Errno(errno)),
            None => Ok(()),
        }
    }

    /// Close-to-open: writes back and commits what has been written up to now.
    pub(crate) async fn flush(self: &Arc<Self>, seen: &Mutex<Seen>) -> Result<(), Error> {
        let write = self.change(0, |state| state.write.want_flush());
        self.wait(seen, |state| state.write.is_flushed(write)).await
    }

    /// W5, W6: what has been written up to now is on the disks of all holders, and its length is committed.
    pub(crate) async fn sync(self: &Arc<Self>, seen: &Mutex<Seen>) -> Result<(), Error> {
        let write = self.change(0, |state| state.write.want_sync());
        if planted::is(Bug::FsyncNotAwaited) {
            return Ok(());
        }
        self.wait(seen, |state| state.write.is_synced(write)).await
    }

    /// Lays what this client has written, and nobody else knows yet, over attributes from the leader.
    pub(crate) fn overlay(&self, attr: &mut Attr) {
        let state = self.state.lock();
        let just_settled = state.settled_at.is_some_and(|at| Instant::now() < at + OVERRULE);
        if state.is_outdated(attr) {
            attr.size = state.write.length;
        }
        attr.size = attr.size.max(state.write.untold_end());
        if state.write.has_untold() {
            // A write puts its own time there, before a later one that somebody has set, too.
            attr.mtime_ns = state.write.mtime_ns;
        } else if just_settled {
            attr.mtime_ns = attr.mtime_ns.max(state.write.mtime_ns);
        }
        if state.write.has_untold() || just_settled {
            attr.ctime_ns = attr.ctime_ns.max(state.write.written_ns);
        }
    }

    /// Takes in attributes that were asked for when the stamp was `stamp`; out-of-date ones are left aside.
    pub(crate) fn learn(self: &Arc<Self>, attr: &Attr, stamp: u64) {
        self.change(0, |state| state.learn(attr, stamp));
    }
}

impl State {
    /// These attributes were read before a change that this client knows of.
    pub(crate) fn is_outdated(&self, attr: &Attr) -> bool {
        attr.data_generation < self.generation
    }

    /// As [`Inode::learn`].
    pub(crate) fn learn(&mut self, attr: &Attr, stamp: u64) {
        // An answer to an older question may come after that to a newer one, but not much later.
        let overtaken = self.is_outdated(attr) && Instant::now() < self.length_at + OVERRULE;
        if self.stamp != stamp || overtaken {
            return;
        }
        if attr.data_generation > self.generation {
            // Somebody else has changed it: what was read ahead and where it was may be of what there was before.
            self.revalidate(Instant::now());
        }
        self.learn_length(attr.size);
        self.generation = attr.data_generation;
        if !self.write.has_untold() {
            self.write.set_mtime(attr.mtime_ns);
        }
    }

    /// Close-to-open: what was known of places before, and what was read ahead, may be older than what another client closed.
    pub(crate) fn revalidate(&mut self, asked_at: Instant) {
        self.places.forget_before(asked_at);
        self.ahead.clear();
    }

    /// The leader just said this length.
    pub(crate) fn learn_length(&mut self, length: u64) {
        self.write.set_length(length);
        self.length_at = Instant::now();
    }

    /// The answer to a write-end.
    pub(crate) fn write_ended(&mut self, id: u64, body: &ReplyBody) {
        self.write.write_ended(id, body);
        if let Some(attr) = &body.attr {
            // What was refused for its generation is to be sent with the one that the leader knows, whatever this client thought.
            let refused = body.lost.contains(&0);
            self.generation = if refused { attr.data_generation } else { self.generation.max(attr.data_generation) };
        }
        self.settled();
    }

    /// Mode, owner or times have been changed by this client.
    pub(crate) fn set_others(&mut self, attr: &Attr, sets_mtime: bool) {
        // It brings the length as well, which is taken for fresh from here on.
        self.learn_content(attr.data_generation, attr.size);
        self.settled();
        if sets_mtime {
            self.write.set_mtime(attr.mtime_ns);
        }
    }

    /// Length and generation as an answer says them together; false if this client knows of a newer content.
    pub(crate) fn learn_content(&mut self, generation: u64, length: u64) -> bool {
        let fits = generation >= self.generation;
        if generation > self.generation {
            // The answer itself may say where the new content is.
            self.ahead.clear();
            self.places.drop_before(Instant::now());
        }
        if fits {
            self.generation = generation;
            self.learn_length(length);
        }
        fits
    }

    /// This client has just changed length or times at the leader.
    pub(crate) fn settled(&mut self) {
        self.stamp += 1;
        self.length_at = Instant::now();
        self.settled_at = Some(self.length_at);
    }
}
