//! Clients that fight over a few names of one directory, through the client library. Each round has a directory of its own, whose history
//! is checked as soon as it is over: one order of all operations has to explain every answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use caribou_client::proto::meta::v1::{Caller, Mkdir, SetAttr, mutation};
use caribou_client::{Client, ClientConfig};
use caribou_histories::player;
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::watch;

use crate::check::finding::{Finding, Moment};
use crate::check::names::{self, Answer, Event};

/// Clients, each with a session of its own.
pub const CLIENTS: usize = 5;
/// Operations of each in one round: more make the check long.
const OPS: usize = 40;
/// Between two operations.
const THINK: Duration = Duration::from_millis(4);

/// Universes at work.
pub struct Universes {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Result<()>>,
}

struct Shared {
    clients: Vec<Client>,
    completions: AtomicU64,
    outcome: Mutex<Outcome>,
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub rounds: u64,
    pub operations: u64,
    pub unknown: u64,
    pub violations: Vec<Finding>,
    /// The longest history, and of those the one that took longest: for a control of the check itself.
    pub sample: Vec<Event>,
    /// Longest time that a check took.
    pub longest_check: Duration,
}

impl Shared {
    fn found(&self, finding: Finding) {
        self.outcome.lock().violations.push(finding);
    }
}

impl Universes {
    pub async fn start(meta: Vec<String>, seed: u64) -> Result<Self> {
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let name = format!("universe {number}");
            clients.push(Client::connect(ClientConfig { meta: meta.clone(), name, ..ClientConfig::default() }).await?);
        }
        let shared = Arc::new(Shared { clients, completions: AtomicU64::new(0), outcome: Mutex::default() });
        let stop = watch::Sender::new(false);
        let task = tokio::spawn(rounds(shared.clone(), stop.subscribe(), seed));
        Ok(Self { shared, stop, task })
    }

    /// Lets every user make files in the root: the loads on mounts may be those of one.
    pub async fn open_root(&self) -> Result<()> {
        let mode = SetAttr { inode: 1, mode: Some(0o1777), ..SetAttr::default() };
        self.shared.clients[0].meta().mutate(&Caller::default(), mutation::Op::Setattr(mode)).await?;
        Ok(())
    }

    /// Operations that were answered so far.
    pub fn completions(&self) -> Arc<dyn Fn() -> u64 + Send + Sync> {
        let shared = self.shared.clone();
        Arc::new(move || shared.completions.load(Ordering::Relaxed))
    }

    /// Ends the round under way and the sessions. A client that is stuck then is a violation.
    pub async fn finish(self, patience: Duration) -> Result<Outcome> {
        self.stop.send_replace(true);
        let end = async {
            self.task.await.context("a round panicked")??;
            for client in &self.shared.clients {
                client.shutdown().await;
            }
            Ok::<_, anyhow::Error>(())
        };
        match tokio::time::timeout(patience, end).await {
            Ok(ended) => ended?,
            Err(_) => self.shared.found(Finding::now(format!(
                "liveness: the clients of the universes do not end what they have begun within {patience:?} (P5)"
            ))),
        }
        Ok(self.shared.outcome.lock().clone())
    }
}

async fn rounds(shared: Arc<Shared>, stop: watch::Receiver<bool>, seed: u64) -> Result<()> {
    for round in 0.. {
        if *stop.borrow() {
            break;
        }
        let name = format!("universe-{seed}-{round}");
        let folder = Mkdir { parent: 1, name: name.into(), mode: 0o755 };
        let made = match shared.clients[0].meta().mutate(&Caller::default(), mutation::Op::Mkdir(folder)).await {
            Ok(made) => made,
            Err(error) => {
                shared.found(Finding::now(format!("the folder of universe {round} cannot be made: {error}")));
                break;
            }
        };
        let folder = made.attr.context("a folder has attributes")?.inode;
        let (clock, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let players = shared.clients.iter().enumerate().map(|(number, client)| {
            let rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003) ^ (round << 8) ^ number as u64);
            let player = Player {
                number,
                client: client.clone(),
                folder,
                rng,
                clock: clock.clone(),
                seen: seen.clone(),
                shared: shared.clone(),
                stop: stop.clone(),
            };
            tokio::spawn(player.play())
        });
        let mut history = Vec::new();
        for player in players.collect::<Vec<_>>() {
            history.extend(player.await.context("a client of a universe panicked")?);
        }
        judge(&shared, round, history).await?;
    }
    Ok(())
}

async fn judge(shared: &Shared, round: u64, history: Vec<Event>) -> Result<()> {
    let started = Instant::now();
    let (found, history) = tokio::task::spawn_blocking(move || (names::check(&history), history)).await?;
    let mut outcome = shared.outcome.lock();
    outcome.longest_check = outcome.longest_check.max(started.elapsed());
    outcome.rounds += 1;
    outcome.operations += history.len() as u64;
    outcome.unknown += history.iter().filter(|e| matches!(e.answer, Answer::Unknown { .. })).count() as u64;
    outcome.violations.extend(found.map(|found| found.within(&format!("universe {round}"))));
    if (history.len(), lasted(&history)) > (outcome.sample.len(), lasted(&outcome.sample)) {
        outcome.sample = history;
    }
    Ok(())
}

/// Microseconds from the first call to the last answer.
fn lasted(history: &[Event]) -> u64 {
    let first = history.iter().map(|event| event.called_at).min().unwrap_or_default();
    history.iter().map(|event| event.answered_at).max().unwrap_or_default().since(first)
}

/// One client in one round.
struct Player {
    number: usize,
    client: Client,
    folder: u64,
    rng: StdRng,
    clock: Arc<AtomicU64>,
    /// Inodes that anybody has seen in this round.
    seen: Arc<Mutex<Vec<u64>>>,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
}

impl Player {
    async fn play(mut self) -> Vec<Event> {
        let mut history = Vec::new();
        while history.len() < OPS && !*self.stop.borrow() {
            let op = player::next(&mut self.rng, &self.seen.lock());
            let (called, called_at) = self.now();
            let result = player::carry_out(self.client.meta(), self.folder, op).await;
            let (answered, answered_at) = self.now();
            let answer = match result {
                Ok(answer) => {
                    self.shared.completions.fetch_add(1, Ordering::Relaxed);
                    answer
                }
                Err(error) => {
                    let text = format!("client {} of the universes: \"{op}\" failed: {error}", self.number);
                    self.shared.found(Finding::between(called_at, answered_at, text));
                    Answer::Unknown { inode: None }
                }
            };
            if let Answer::File { inode, .. } = answer {
                self.seen.lock().push(inode);
            }
            history.push(Event { client: self.number, op, answer, called, answered, called_at, answered_at });
            tokio::time::sleep(THINK.mul_f64(self.rng.random_range(0.0..2.0))).await;
        }
        history
    }

    /// The next number in the order of all clients' calls and answers, and the time.
    fn now(&self) -> (u64, Moment) {
        (self.clock.fetch_add(1, Ordering::SeqCst), Moment::now())
    }
}
