//! The search for the leader: all known nodes are greeted in parallel, a redirect is followed at once, and while there is no
//! leader every node is asked again after a short, capped pause. The first Welcome wins.
//!
//! It knows what a greeting is, but nothing of the session behind it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use caribou_proto::cluster::v1::MetaNode;
use caribou_proto::meta::v1::refused::Kind;
use caribou_proto::meta::v1::{ClientMessage, Hello, Redirect, Refused, Welcome, client_message, server_message};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::nodes::Nodes;
use super::status::Board;
use super::{Link, Transport};

/// The pause before a node is asked again, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// The pause after a refusal: the node is there, but does not want this client now.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// How long a node may take from dialling to its first message. Opening a session takes a commit.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
/// The node that is most likely the leader is greeted this much before the others.
const HEAD_START: Duration = Duration::from_millis(15);

/// The outcome of a search.
pub(crate) enum Found {
    /// A leader's greeting; the search is over.
    Leader { address: String, link: Link, greeting: Greeting },
    /// A node refuses this client. The search goes on.
    Refused { address: String, refused: Refused },
}

/// A leader's first message.
pub(crate) enum Greeting {
    Welcome(Box<Welcome>),
    /// The session that was named in the Hello has expired (S4).
    Expired,
}

enum Attempt {
    Leader(Link, Greeting),
    Redirect(Redirect),
    Refused(Refused),
    Failed(String),
}

#[derive(Debug)]
struct Probe {
    busy: bool,
    failures: u32,
    next_at: Instant,
    last_at: Option<Instant>,
}

pub(crate) struct Finder {
    transport: Arc<dyn Transport>,
    nodes: Nodes,
    hello: Option<Hello>,
    hint: Option<String>,
    exclude: Option<String>,
    probes: HashMap<String, Probe>,
    attempts: FuturesUnordered<BoxFuture<'static, (String, Attempt)>>,
    board: Board,
}

impl Finder {
    pub(crate) fn new(transport: Arc<dyn Transport>, configured: Vec<String>, board: Board) -> Self {
        Self {
            transport,
            nodes: Nodes::new(configured),
            hello: None,
            hint: None,
            exclude: None,
            probes: HashMap::new(),
            attempts: FuturesUnordered::new(),
            board,
        }
    }

    /// Starts over with `hello` after `delay`. `hint` is greeted first, `exclude` (the present, silent leader) not at all.
    pub(crate) fn start(&mut self, hello: Hello, hint: Option<String>, exclude: Option<String>, delay: Duration) {
        self.stop();
        self.hello = Some(hello);
        self.hint = hint.clone();
        self.exclude = exclude;
        let now = Instant::now() + delay;
        let later = if hint.is_some() { now + HEAD_START } else { now };
        for address in self.nodes.candidates() {
            self.add(address, later);
        }
        if let Some(address) = hint {
            self.add(address.clone(), now);
            self.ask_at(&address, now);
        }
    }

    pub(crate) fn stop(&mut self) {
        self.hello = None;
        self.probes.clear();
        self.attempts = FuturesUnordered::new();
    }

    pub(crate) fn is_active(&self) -> bool {
        self.hello.is_some()
    }

    pub(crate) fn learn(&mut self, nodes: &[MetaNode]) {
        self.nodes.learn(nodes);
    }

    pub(crate) fn identify(&mut self, address: &str, node_id: u64) {
        self.nodes.identify(address, node_id);
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.candidates()
    }

    /// Goes on searching until there is something to tell. Can be dropped and called again without loss.
    pub(crate) async fn next(&mut self) -> Found {
        loop {
            self.ask_due();
            let next_at = self.probes.values().filter(|probe| !probe.busy).map(|probe| probe.next_at).min();
            let wake = next_at.unwrap_or_else(|| Instant::now() + GREETING_TIMEOUT);
            tokio::select! {
                Some((address, attempt)) = self.attempts.next() => {
                    if let Some(found) = self.settle(address, attempt) {
                        return found;
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    fn add(&mut self, address: String, next_at: Instant) {
        if self.exclude.as_deref() != Some(address.as_str()) {
            self.probes.entry(address).or_insert(Probe { busy: false, failures: 0, next_at, last_at: None });
        }
    }

    fn ask_at(&mut self, address: &str, when: Instant) {
        if let Some(probe) = self.probes.get_mut(address) {
            // A follower may name a leader that has just refused the connection: not more often than the shortest pause.
            let earliest = probe.last_at.map_or(when, |last| when.max(last + PAUSE_MIN));
            probe.next_at = probe.next_at.min(earliest);
        }
    }

    fn ask_due(&mut self) {
        let Some(hello) = &self.hello else { return };
        let now = Instant::now();
        for (address, probe) in &mut self.probes {
            if probe.busy || probe.next_at > now {
                continue;
            }
            probe.busy = true;
            probe.last_at = Some(now);
            let attempt = greet(self.transport.clone(), address.clone(), hello.clone());
            self.attempts.push(Box::pin(attempt));
        }
    }

    fn settle(&mut self, address: String, attempt: Attempt) -> Option<Found> {
        let now = Instant::now();
        let probe = self.probes.get_mut(&address)?;
        probe.busy = false;
        probe.next_at = now + pause(probe.failures);
        probe.failures = probe.failures.saturating_add(1);
        let found = match attempt {
            Attempt::Leader(link, greeting) => {
                self.stop();
                return Some(Found::Leader { address, link, greeting });
            }
            Attempt::Redirect(redirect) => {
                self.follow(&redirect, now);
                None
            }
            Attempt::Refused(refused) => {
                probe.next_at = now + REFUSED_PAUSE;
                if refused.kind() == Kind::NotInitialised {
                    probe.next_at = now + PAUSE_MAX;
                }
                Some(Found::Refused { address: address.clone(), refused })
            }
            Attempt::Failed(why) => {
                tracing::debug!(address, why, "a metadata node did not greet");
                self.board.note_failure(&address, &why);
                None
            }
        };
        if self.hint.as_ref() == Some(&address) {
            // The likely leader is none: no reason left to hold the others back.
            self.hint = None;
            for probe in self.probes.values_mut().filter(|probe| probe.last_at.is_none()) {
                probe.next_at = now;
            }
        }
        found
    }

    fn follow(&mut self, redirect: &Redirect, now: Instant) {
        self.nodes.learn(&redirect.nodes);
        for address in self.nodes.candidates() {
            self.add(address, now);
        }
        if !redirect.leader_address.is_empty() {
            self.add(redirect.leader_address.clone(), now);
            self.ask_at(&redirect.leader_address, now);
        }
    }
}

/// The pause after so many failures in a row.
pub(crate) fn pause(failures: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << failures.min(8)).min(PAUSE_MAX)
}

async fn greet(transport: Arc<dyn Transport>, address: String, hello: Hello) -> (String, Attempt) {
    let first = ClientMessage { body: Some(client_message::Body::Hello(hello)) };
    let exchange = async {
        let mut link = transport.dial(&address, first).await.map_err(|error| error.0)?;
        match link.receiver.next().await {
            Some(Ok(message)) => Ok((link, message)),
            Some(Err(error)) => Err(error.0),
            None => Err("it ended the stream without a greeting".to_owned()),
        }
    };
    let attempt = match tokio::time::timeout(GREETING_TIMEOUT, exchange).await {
        Err(_) => Attempt::Failed(format!("no greeting within {GREETING_TIMEOUT:?}")),
        Ok(Err(why)) => Attempt::Failed(why),
        Ok(Ok((link, message))) => match message.body {
            Some(server_message::Body::Welcome(welcome)) => Attempt::Leader(link, Greeting::Welcome(Box::new(welcome))),
            Some(server_message::Body::SessionExpired(_)) => Attempt::Leader(link, Greeting::Expired),
            Some(server_message::Body::Redirect(redirect)) => Attempt::Redirect(redirect),
            Some(server_message::Body::Refused(refused)) => Attempt::Refused(refused),
            _ => Attempt::Failed("its first message is no greeting".to_owned()),
        },
    };
    (address, attempt)
}
