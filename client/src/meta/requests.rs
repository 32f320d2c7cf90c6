//! The logged calls of a session: which `seq` belongs to which caller, what may be sent, what must be sent again.
//!
//! Invariants: a `seq` stands for one call and is used again for nothing else (S1). A call gets its `seq` only when it is
//! handed to a stream, and `seq < acked_below + window` then (S2). A call leaves the table with its answer alone: one that
//! nobody waits for any more stays, as a cancel (S5).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use caribou_proto::ids::SESSION_WINDOW;
use caribou_proto::meta::v1::{Caller, Cancel, ClientMessage, Mutation, Request, client_message, mutation};

use super::call::{CallId, CallResult, Replier};

/// A logged call without a `seq`: not sent in this session.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) call: CallId,
    pub(crate) caller: Caller,
    pub(crate) op: mutation::Op,
    pub(crate) reply: Replier,
}

/// A logged call that was sent and is not answered.
#[derive(Debug)]
pub(crate) struct Sent {
    call: CallId,
    caller: Caller,
    op: mutation::Op,
    /// `None`: given up (S5).
    reply: Option<Replier>,
    /// Streams on which it was sent.
    sends: u32,
}

impl Sent {
    pub(crate) fn is_create(&self) -> bool {
        matches!(self.op, mutation::Op::Create(_))
    }

    pub(crate) fn was_sent_once(&self) -> bool {
        self.sends <= 1
    }

    /// Hands the result to the caller; `false` if nobody took it.
    pub(crate) fn deliver(self, result: CallResult) -> bool {
        self.reply.is_some_and(|reply| reply.send(result).is_ok())
    }
}

#[derive(Debug)]
pub(crate) struct Requests {
    waiting: VecDeque<Waiting>,
    sent: BTreeMap<u64, Sent>,
    by_call: HashMap<CallId, u64>,
    creates: BTreeSet<u64>,
    /// Not executed in a session that expired, in the order of their old `seq` (S4).
    reissue: BTreeMap<u64, Waiting>,
    next_seq: u64,
    window: u64,
}

impl Requests {
    pub(crate) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            sent: BTreeMap::new(),
            by_call: HashMap::new(),
            creates: BTreeSet::new(),
            reissue: BTreeMap::new(),
            next_seq: 1,
            window: SESSION_WINDOW,
        }
    }

    pub(crate) fn set_window(&mut self, window: u64) {
        if window > 0 {
            self.window = window.min(SESSION_WINDOW);
        }
    }

    pub(crate) fn submit(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// All replies with a smaller `seq` have been received.
    pub(crate) fn acked_below(&self) -> u64 {
        self.sent.first_key_value().map_or(self.next_seq, |(seq, _)| *seq)
    }

    /// Whether [`Self::admit`] has one. S2: else the caller waits for room.
    pub(crate) fn may_admit(&self) -> bool {
        !self.waiting.is_empty() && self.next_seq < self.acked_below() + self.window
    }

    /// The next call that the window lets through, as a message.
    pub(crate) fn admit(&mut self) -> Option<ClientMessage> {
        if !self.may_admit() {
            return None;
        }
        let Waiting { call, caller, op, reply } = self.waiting.pop_front()?;
        let seq = self.next_seq;
        self.next_seq += 1;
        let sent = Sent { call, caller, op, reply: Some(reply), sends: 1 };
        if sent.is_create() {
            self.creates.insert(seq);
        }
        self.by_call.insert(call, seq);
        self.sent.insert(seq, sent);
        Some(self.message(seq))
    }

    /// After a stream broke: every unanswered call again, with its old `seq` (S1); for those given up the cancel alone.
    pub(crate) fn resend(&mut self) -> Vec<ClientMessage> {
        for sent in self.sent.values_mut() {
            sent.sends += 1;
        }
        self.sent.keys().map(|seq| self.message(*seq)).collect()
    }

    /// S5: nobody waits for this call any more. Returns the cancel to send, if the call was sent.
    pub(crate) fn give_up(&mut self, call: CallId) -> Option<ClientMessage> {
        let Some(seq) = self.by_call.get(&call) else {
            self.waiting.retain(|waiting| waiting.call != call);
            self.reissue.retain(|_, waiting| waiting.call != call);
            return None;
        };
        let sent = self.sent.get_mut(seq)?;
        sent.reply = None;
        Some(self.message(*seq))
    }

    /// The call that a reply answers; `None` for a second reply (a cancel's and the request's own).
    pub(crate) fn answered(&mut self, seq: u64) -> Option<Sent> {
        let sent = self.sent.remove(&seq)?;
        self.by_call.remove(&sent.call);
        self.creates.remove(&seq);
        Some(sent)
    }

    /// S4: the session is over. Cancels are pointless from here on: what was not executed never will be.
    pub(crate) fn session_ended(&mut self) {
        let given_up: Vec<u64> =
            self.sent.iter().filter(|(_, sent)| sent.reply.is_none()).map(|(seq, _)| *seq).collect();
        for seq in given_up {
            self.answered(seq);
        }
    }

    /// S4: known not to have been executed; it gets a new `seq` in the new session.
    pub(crate) fn not_executed(&mut self, seq: u64, sent: Sent) {
        if let Some(reply) = sent.reply {
            self.reissue.insert(seq, Waiting { call: sent.call, caller: sent.caller, op: sent.op, reply });
        }
    }

    /// Everything unanswered; for a session whose row is gone.
    pub(crate) fn drain(&mut self) -> Vec<Sent> {
        self.by_call.clear();
        self.creates.clear();
        std::mem::take(&mut self.sent).into_values().collect()
    }

    /// A new session: `seq` starts again at 1, the calls to issue anew come first. Returns how many those are.
    pub(crate) fn new_session(&mut self) -> u64 {
        assert!(self.sent.is_empty(), "calls of the old session are settled before a new one is opened (S4)");
        self.next_seq = 1;
        let reissued = self.reissue.len() as u64;
        while let Some((_, waiting)) = self.reissue.pop_last() {
            self.waiting.push_front(waiting);
        }
        reissued
    }

    pub(crate) fn unanswered(&self) -> usize {
        self.sent.len()
    }

    /// S7: the creates whose answer, and with it whose claim, is not known yet.
    pub(crate) fn creates(&self) -> &BTreeSet<u64> {
        &self.creates
    }

    fn message(&self, seq: u64) -> ClientMessage {
        let sent = &self.sent[&seq];
        let caller = Some(sent.caller.clone());
        let body = if sent.reply.is_some() {
            client_message::Body::Request(Request {
                seq,
                acked_below: self.acked_below(),
                caller,
                mutation: Some(Mutation { op: Some(sent.op.clone()) }),
            })
        } else {
            client_message::Body::Cancel(Cancel { seq, caller })
        };
        ClientMessage { body: Some(body) }
    }
}
