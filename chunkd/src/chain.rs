//! Forwarding to the next member of a chain (W3): long-lived multiplexed write streams to other chunk servers.
//!
//! One link per (address, number of members behind the receiver). A link with *n* members behind it only ever waits for links
//! with *n - 1*, and one with none only for a disk, so full queues cannot wait for each other in a circle.
//! Invariants: fragments leave a link in the order in which they were forwarded; each gets exactly one answer; a link that
//! broke once never carries anything again, and all that it still owed is answered with the failure (W4).
//! It does not decide what a failure means for a chunk; `service::write` does.

use crate::limits;
use crate::peers::Peers;
use caribou_proto::chunk::v1::{Status, WriteAck, WriteFragment};
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, info};

/// What became of a forwarded fragment.
pub(crate) type Forwarded = Result<WriteAck, Failure>;

/// A fragment that the rest of the chain did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) detail: String,
    pub(crate) server: u64,
}

/// How long to wait for peers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) ack: Duration,
}

/// All links of this server.
pub(crate) struct Chain {
    peers: Arc<dyn Peers>,
    timeouts: Timeouts,
    links: Mutex<HashMap<(String, usize), Arc<Link>>>,
}

impl Chain {
    pub(crate) fn new(peers: Arc<dyn Peers>, timeouts: Timeouts) -> Arc<Self> {
        Arc::new(Self { peers, timeouts, links: Mutex::default() })
    }

    /// The link to a server with so many members behind it; opened if there is none that works.
    pub(crate) fn link(self: &Arc<Self>, server: u64, address: &str, behind: usize) -> Arc<Link> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(&(address.to_owned(), behind))
            && link.broken().is_none()
        {
            return link.clone();
        }
        let (sender, receiver) = mpsc::channel(limits::LINK_QUEUE);
        let link = Arc::new(Link { server, address: address.to_owned(), behind, sender, state: Mutex::default() });
        links.insert((address.to_owned(), behind), link.clone());
        drop(links);
        tokio::spawn(run(link.clone(), receiver, self.peers.clone(), self.timeouts, Arc::downgrade(self)));
        link
    }

    /// Forgets a link, unless a newer one took its place.
    fn forget(&self, link: &Arc<Link>) {
        let mut links = self.links.lock();
        let key = (link.address.clone(), link.behind);
        if links.get(&key).is_some_and(|held| Arc::ptr_eq(held, link)) {
            links.remove(&key);
        }
    }
}

/// One write stream to one server.
pub(crate) struct Link {
    server: u64,
    address: String,
    behind: usize,
    sender: mpsc::Sender<WriteFragment>,
    state: Mutex<State>,
}

struct State {
    broken: Option<String>,
    next_id: u64,
    /// By id, which is also the order of sending.
    waiting: BTreeMap<u64, Waiting>,
    used: Instant,
}

impl Default for State {
    fn default() -> Self {
        Self { broken: None, next_id: 1, waiting: BTreeMap::new(), used: Instant::now() }
    }
}

struct Waiting {
    since: Instant,
    answer: oneshot::Sender<Forwarded>,
}

/// The link had broken before the fragment was queued: nothing of it was sent.
#[derive(Debug)]
pub(crate) struct NotQueued(pub(crate) Box<WriteFragment>);

impl Link {
    /// Why the link is of no use any more, if so.
    pub(crate) fn broken(&self) -> Option<String> {
        self.state.lock().broken.clone()
    }

    /// Queues a fragment behind all that was queued before; the receiver yields its one answer. Waits while the queue is full.
    pub(crate) async fn forward(&self, mut fragment: WriteFragment) -> Result<oneshot::Receiver<Forwarded>, NotQueued> {
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.state.lock();
            if state.broken.is_some() {
                return Err(NotQueued(Box::new(fragment)));
            }
            fragment.id = state.next_id;
            state.next_id += 1;
            state.used = Instant::now();
            state.waiting.insert(fragment.id, Waiting { since: Instant::now(), answer });
        }
        // If this fails the link has just broken, and its task answers what is waiting.
        let _ = self.sender.send(fragment).await;
        Ok(answered)
    }

    fn failure(&self, detail: String) -> Failure {
        Failure { status: Status::Downstream, detail, server: self.server }
    }

    fn answer(&self, ack: WriteAck) {
        let waiting = self.state.lock().waiting.remove(&ack.id);
        // None: it was overdue and has been answered.
        if let Some(waiting) = waiting {
            let forwarded = match ack.status() {
                Status::Ok => Ok(ack),
                status => {
                    let server = if ack.failed_server == 0 { self.server } else { ack.failed_server };
                    Err(Failure { status, detail: ack.detail, server })
                }
            };
            let _ = waiting.answer.send(forwarded);
        }
    }

    fn break_with(&self, reason: &str) {
        let waiting = {
            let mut state = self.state.lock();
            state.broken = Some(reason.to_owned());
            std::mem::take(&mut state.waiting)
        };
        for waiting in waiting.into_values() {
            let _ = waiting.answer.send(Err(self.failure(reason.to_owned())));
        }
    }

    /// Answers fragments whose ack is overdue; each fails alone, its chunk is broken by that. True: the link is idle and now closed.
    fn tick(&self, ack_timeout: Duration) -> bool {
        let mut overdue = Vec::new();
        {
            let mut state = self.state.lock();
            while let Some(first) = state.waiting.first_entry()
                && first.get().since.elapsed() >= ack_timeout
            {
                overdue.push(first.remove());
            }
            if overdue.is_empty() && state.waiting.is_empty() && state.used.elapsed() >= limits::LINK_IDLE {
                state.broken = Some("idle".to_owned());
                return true;
            }
        }
        for waiting in overdue {
            let detail = format!("no answer from {} for {}", self.address, humantime(ack_timeout));
            let _ = waiting.answer.send(Err(self.failure(detail)));
        }
        false
    }
}

fn humantime(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

async fn run(
    link: Arc<Link>,
    fragments: mpsc::Receiver<WriteFragment>,
    peers: Arc<dyn Peers>,
    timeouts: Timeouts,
    chain: Weak<Chain>,
) {
    let reason = pump(&link, fragments, peers, timeouts, &chain).await;
    // Out of the pool first, so that nobody finds a link that is about to break.
    if let Some(chain) = chain.upgrade() {
        chain.forget(&link);
    }
    match reason {
        Some(reason) => {
            info!(server = link.server, address = link.address, reason, "the write stream to a chunk server broke");
            link.break_with(&reason);
        }
        None => debug!(server = link.server, address = link.address, "closed an idle write stream"),
    }
}

/// Moves fragments and acks until the stream breaks (the reason) or has been idle for long (None).
async fn pump(
    link: &Link,
    fragments: mpsc::Receiver<WriteFragment>,
    peers: Arc<dyn Peers>,
    timeouts: Timeouts,
    chain: &Weak<Chain>,
) -> Option<String> {
    let opening = tokio::time::timeout(timeouts.connect, peers.write(&link.address, fragments));
    let mut acks = match opening.await {
        Ok(Ok(acks)) => acks,
        Ok(Err(error)) => return Some(error.to_string()),
        Err(_) => return Some(format!("{} did not answer within {}", link.address, humantime(timeouts.connect))),
    };
    let mut tick = tokio::time::interval(limits::LINK_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ack = acks.next() => match ack {
                Some(Ok(ack)) => link.answer(ack),
                Some(Err(error)) => return Some(error.to_string()),
                None => return Some(format!("{} closed the stream", link.address)),
            },
            _ = tick.tick() => if link.tick(timeouts.ack) || chain.strong_count() == 0 {
                return None;
            },
        }
    }
}
