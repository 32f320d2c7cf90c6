//! What has been written to registers and is not synced, and what may become of it: that of a client which is gone may be lost with its holders,
//! and a client which was away may lose what others have followed, and is told so.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use caribou_client::Error;
use caribou_histories::registers::{Doubt, Doubts, Event, Kind, NEVER, START, is_over};
use parking_lot::Mutex;

use super::number_of;
use super::torn::is_torn;
use crate::places::{Key, Places, Unsynced};
use crate::workload::blocks::{BLOCK, content};

/// A write that no sync has covered yet.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) client: String,
    pub(super) register: usize,
    pub(super) value: u64,
    pub(super) bytes: Unsynced,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The chunk of each register.
    pub(super) keys: Vec<Key>,
    /// Per register.
    pub(super) events: BTreeMap<usize, Vec<Event>>,
    pub(super) open: Vec<Open>,
    /// Un-synced writes of clients that are gone or were away for long.
    given_up: Vec<Open>,
    /// Those of them that are synced, or whose client was told that they may be lost.
    told: Vec<u64>,
    /// When clients have died.
    gone: BTreeMap<String, u64>,
}

/// How the client logs it, where a handle is told and where there is none.
const LOSSES: [&str; 2] =
    ["bytes of a file are lost with the session", "bytes of a file were lost after its last handle was closed"];

/// What excuses bytes that are lost with a session: the registers' state.
#[derive(Debug, Default)]
pub struct Contested(Arc<Mutex<State>>);

impl Contested {
    pub(super) fn state(&self) -> Arc<Mutex<State>> {
        Arc::clone(&self.0)
    }

    /// Whether a line of a log tells of such a loss, in a file to which some client had un-synced writes when it went away, of which it has not
    /// been told yet.
    ///
    /// No right line is left out by that. What a client has not synced is noted as it goes away, and its session ends later; what it begins
    /// meanwhile waits for the leader, and is of the next session. It is told after the log has it, of all that it has lost of a chunk at once, and
    /// a sync that succeeds is one after which nothing older can be lost. Who is killed is never told.
    pub fn explains(&self, line: &str) -> bool {
        let state = self.0.lock();
        let is_of = |inode: u64| line.split_whitespace().any(|word| word == format!("inode={inode}"));
        LOSSES.iter().any(|loss| line.contains(loss)) && state.untold().any(|open| is_of(state.keys[open.register].0))
    }
}

impl State {
    fn untold(&self) -> impl Iterator<Item = &Open> {
        self.given_up.iter().filter(|open| !self.told.contains(&open.value))
    }

    /// Of the whole file, all that this client has written before.
    pub(super) fn synced(&mut self, client: &str, inode: u64) {
        let Self { keys, open, given_up, told, .. } = self;
        let is_its = |open: &Open| open.client == client && keys[open.register].0 == inode;
        open.retain(|open| !is_its(open));
        // It was away and is back: a later loss is none of these.
        told.extend(given_up.iter().filter(|open| is_its(open)).map(|open| open.value));
    }

    /// The client is gone, or may be taken for gone.
    pub(super) fn give_up(&mut self, client: &str) {
        let (gone, open): (Vec<Open>, _) =
            std::mem::take(&mut self.open).into_iter().partition(|open| open.client == client);
        self.open = open;
        self.given_up.extend(gone);
    }

    /// It has died, at this time.
    pub(super) fn bury(&mut self, client: &str, at: u64) {
        self.gone.insert(client.to_owned(), at);
    }

    /// Whether the client was away with un-synced writes to a chunk of that file, and another one has written to the chunk since: they are
    /// lost or not, and it is told so once.
    pub(super) fn is_of_loss(&mut self, client: &str, inode: u64, error: &Error) -> bool {
        let Self { keys, events, given_up, told, .. } = self;
        let its = |open: &&Open| open.client == client && keys[open.register].0 == inode;
        let is_followed = |open: &&Open| {
            let began = events[&open.register].iter().find(|event| event.value == open.value).map(|event| event.called);
            let same_chunk = events.iter().filter(|(register, _)| keys[**register] == keys[open.register]);
            let by_another = |event: &Event| {
                event.kind == Kind::Write && event.client != number_of(client) && Some(event.answered) > began
            };
            same_chunk.flat_map(|(_, events)| events).any(by_another)
        };
        let mut lost = given_up.iter().filter(its).filter(|open| !told.contains(&open.value));
        let Some(lost) = lost.find(is_followed).filter(|_| *error == Error::Errno(libc::EIO)) else { return false };
        let chunk = keys[lost.register];
        told.extend(given_up.iter().filter(its).filter(|open| keys[open.register] == chunk).map(|open| open.value));
        true
    }

    /// What is not synced and whose client is gone, or may be: it may be lost if every holder has lost power since.
    pub(super) fn doubts(&self, register: usize, places: &Places) -> Doubts {
        let doubt = |open: &Open| {
            let may_be_lost = places.may_have_lost(self.keys[register], &open.bytes);
            let gone = self.gone.get(&open.client).copied().unwrap_or(NEVER);
            (open.value, Doubt { may_be_lost, gone })
        };
        self.given_up.iter().filter(|open| open.register == register).map(doubt).collect()
    }

    /// Whether a block, which was asked for at this time, is one value, torn with values that may be lost. What was written over for good by
    /// then is in no block, torn or not; nor is what was, before the first of the lost ones came over it.
    pub(super) fn may_be_torn(&self, register: usize, bytes: &[u8], asked: u64, places: &Places) -> bool {
        let (doubts, none) = (self.doubts(register, places), Vec::new());
        let events = self.events.get(&register).unwrap_or(&none);
        let writes = || events.iter().filter(|event| event.kind == Kind::Write);
        let may_be_lost = |write: &&Event| {
            doubts.get(&write.value).is_some_and(|doubt| doubt.may_be_lost)
                && !is_over(events, &doubts, write.value, asked)
        };
        let lost: Vec<&Event> = writes().filter(may_be_lost).collect();
        let Some(first) = lost.iter().map(|write| write.called).min() else { return false };
        let block = |value: u64| match value {
            START => Bytes::from(vec![0_u8; BLOCK]),
            _ => content(self.keys[register].0, register as u64, value),
        };
        let others = writes().map(|write| write.value).chain([START]);
        let others: Vec<Bytes> = others.filter(|value| !is_over(events, &doubts, *value, first)).map(block).collect();
        is_torn(bytes, &lost.iter().map(|write| block(write.value)).collect::<Vec<_>>(), &others)
    }

    /// Which values nothing was known to have synced, in words.
    pub(super) fn in_words(&self, register: usize, places: &Places) -> String {
        let told = |open: &Open, gone: bool| {
            let may_be_lost = places.may_have_lost(self.keys[register], &open.bytes);
            format!("{} of {} (gone: {gone}, may be lost: {may_be_lost})", open.value, open.client)
        };
        let here = self.open.iter().map(|open| (open, false));
        let all = here.chain(self.given_up.iter().map(|open| (open, true)));
        let of_it: Vec<String> =
            all.filter(|(open, _)| open.register == register).map(|(open, gone)| told(open, gone)).collect();
        format!("not synced: {}", if of_it.is_empty() { "nothing".to_owned() } else { of_it.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use caribou_proto::ids::{ChunkVersion, ServerId};
    use tokio::time::Instant;

    use super::*;
    use crate::places::Place;

    /// Registers of two files; the first two of the second one are in one chunk.
    fn state() -> State {
        State { keys: vec![(5, 0), (6, 0), (6, 0), (6, 1)], ..State::default() }
    }

    fn write(state: &mut State, client: usize, register: usize, value: u64, (called, answered): (u64, u64)) {
        let event = Event { client, kind: Kind::Write, value, called, answered };
        state.events.entry(register).or_default().push(event);
    }

    fn is_open(state: &mut State, client: usize, register: usize, value: u64) {
        let place = Place { version: ChunkVersion(1), is_ready: true, holders: vec![ServerId(1)] };
        let bytes = Unsynced { written_at: Instant::now(), places: [Some(place.clone()), Some(place)] };
        state.open.push(Open { client: format!("client{client}"), register, value, bytes });
    }

    #[test]
    fn a_client_that_was_away_may_lose_once_what_others_have_followed() {
        let contested = Contested::default();
        let shared = contested.state();
        let mut state = state();
        let eio = Error::Errno(libc::EIO);
        is_open(&mut state, 2, 1, 7);
        write(&mut state, 2, 1, 7, (10, NEVER));
        write(&mut state, 3, 1, 8, (5, 9));
        write(&mut state, 3, 3, 9, (20, 21));
        assert!(!state.is_of_loss("client2", 6, &eio), "it was not away");
        state.give_up("client2");
        assert!(!state.is_of_loss("client2", 6, &eio), "others wrote before, or to another chunk");
        write(&mut state, 3, 2, 10, (20, 21));
        assert!(!state.is_of_loss("client2", 5, &eio), "another file");
        assert!(!state.is_of_loss("client3", 6, &eio), "another client");
        assert!(!state.is_of_loss("client2", 6, &Error::Errno(libc::ENOSPC)), "another error");
        *shared.lock() = state;
        let line = |inode: u64| format!("caribou_client::file::driver: {} inode={inode} index=0", LOSSES[0]);
        assert!(contested.explains(&line(6)));
        assert!(!contested.explains(&line(5)) && !contested.explains(&line(60)), "another file");
        assert!(!contested.explains("another error inode=6"));
        assert!(shared.lock().is_of_loss("client2", 6, &eio));
        assert!(!shared.lock().is_of_loss("client2", 6, &eio), "told once");
        assert!(!contested.explains(&line(6)), "nothing is left to be lost");
    }

    #[test]
    fn a_loss_is_excused_only_until_it_is_told() {
        let contested = Contested::default();
        let shared = contested.state();
        let line = format!("caribou_client::file::context: {} inode=6", LOSSES[1]);
        *shared.lock() = state();
        is_open(&mut shared.lock(), 2, 3, 7);
        assert!(!contested.explains(&line), "it was not away");
        shared.lock().give_up("client2");
        assert!(contested.explains(&line));
        shared.lock().synced("client2", 5);
        assert!(contested.explains(&line));
        shared.lock().synced("client2", 6);
        assert!(!contested.explains(&line));
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_may_still_be_there_is_torn() {
        let (mut state, places) = (state(), Places::default());
        let block = |value| content(6, 1, value);
        let mixed = |first, second| [&block(first)[..104], &block(second)[104..]].concat();
        write(&mut state, 1, 1, 1, (1, 2));
        write(&mut state, 1, 1, 2, (3, 4));
        write(&mut state, 2, 1, 3, (5, NEVER));
        is_open(&mut state, 2, 1, 3);
        state.give_up("client2");
        let zeros = [&block(3)[..104], &[0; BLOCK - 104]].concat();
        assert!(!state.may_be_torn(1, &mixed(3, 2), 9, &places), "no holder has lost power");
        places.power_cut(ServerId(1));
        assert!(state.may_be_torn(1, &mixed(3, 2), 9, &places));
        assert!(!state.may_be_torn(1, &mixed(3, 1), 9, &places), "that was written over before");
        assert!(!state.may_be_torn(1, &zeros, 9, &places));
        write(&mut state, 3, 1, 4, (7, 10));
        assert!(state.may_be_torn(1, &mixed(3, 4), 11, &places), "its client may be back");
        state.bury("client2", 6);
        assert!(state.may_be_torn(1, &mixed(3, 2), 9, &places), "before the later write has ended");
        assert!(!state.may_be_torn(1, &mixed(3, 4), 11, &places), "after that nothing comes of a client that is dead");
    }
}
