//! The clients of a run: hired, at work, killed in the middle of it, and their last look at everything.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use caribou_client::Error;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client_host::ClientHost;
use crate::findings::Findings;
use crate::workload::blocks::{self, FileModel, Size, Writer};
use crate::workload::names::Names;
use crate::world::{PATIENCE, World};

/// Between two operations of a client.
const THINK_MS: std::ops::Range<u64> = 0..15;

/// Files that all clients know of, by the names of their writers.
type Shelf = Arc<Mutex<Vec<(String, Arc<FileModel>)>>>;

/// One client of so many changes nothing after its first steps.
const READER_ONE_IN: u32 = 3;

/// What all clients work with.
struct Desk {
    findings: Arc<Findings>,
    shelf: Shelf,
    stopped: watch::Receiver<bool>,
}

/// See the module.
pub struct Crew {
    shelf: Shelf,
    stop: watch::Sender<bool>,
    members: Vec<Member>,
    hired: u32,
}

struct Member {
    name: String,
    life: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Default for Crew {
    fn default() -> Self {
        Self { shelf: Shelf::default(), stop: watch::Sender::new(false), members: Vec::new(), hired: 0 }
    }
}

fn fork(rng: &mut StdRng) -> StdRng {
    StdRng::seed_from_u64(rng.random())
}

impl Crew {
    /// One client more, which begins its work when it is connected.
    pub async fn hire(&mut self, world: &World, rng: &mut StdRng) -> Result<()> {
        self.hired += 1;
        let (name, life) = (format!("client{}", self.hired), CancellationToken::new());
        let host = ClientHost::connect(&name, world.meta_addresses(), &world.net, &world.clock, fork(rng));
        let host = tokio::time::timeout(PATIENCE, host).await.context("a client does not connect")??;
        let only_reads = self.hired.is_multiple_of(READER_ONE_IN);
        let desk = Desk { findings: world.findings.clone(), shelf: self.shelf.clone(), stopped: self.stop.subscribe() };
        let work = work(host, fork(rng), desk, only_reads);
        let over = life.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                result = work => result,
                () = over.cancelled() => Ok(()),
            }
        });
        self.members.push(Member { name, life, task });
        Ok(())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.name.as_str())
    }

    /// The machine of one of them is gone, with everything that was not synced.
    pub fn kill(&mut self, world: &World, rng: &mut StdRng) -> bool {
        if self.members.is_empty() {
            return false;
        }
        let member = self.members.swap_remove(rng.random_range(0..self.members.len()));
        self.shelf.lock().iter().filter(|(writer, _)| *writer == member.name).for_each(|(_, model)| model.orphan());
        world.net.remove(&member.name);
        member.life.cancel();
        true
    }

    /// Lets everybody end; the faults are over.
    pub async fn finish(self, world: &World) {
        self.stop.send_replace(true);
        for Member { name, task, .. } in self.members {
            let violation = match tokio::time::timeout(PATIENCE, task).await {
                Ok(Ok(Ok(()))) => continue,
                Ok(Ok(Err(error))) => format!("a call of {name} failed: {error}"),
                Ok(Err(error)) => format!("{name} has panicked: {error}"),
                Err(_) => format!("liveness: {name} is stuck for {PATIENCE:?} although nothing is broken"),
            };
            world.findings.violation(violation);
        }
    }
}

/// One client's work, until it is told to stop; then its last look at everything.
async fn work(
    host: ClientHost,
    mut rng: StdRng,
    Desk { findings, shelf, stopped }: Desk,
    only_reads: bool,
) -> Result<(), Error> {
    let mut names = Names::new(&format!("{}-names", host.name), &host.meta, fork(&mut rng)).await?;
    let mut writers = Vec::new();
    for (kind, size) in [("small", Size::Small), ("large", Size::Large)] {
        let writer = Writer::create(&format!("{}-{kind}", host.name), size, &host.files, fork(&mut rng)).await?;
        shelf.lock().push((host.name.clone(), writer.model()));
        writers.push(writer);
    }
    while !*stopped.borrow() {
        // One that changes nothing is content with a leader that is none any more.
        match rng.random_range(if only_reads { 8..10 } else { 0..10 }) {
            0..5 => names.step(&host.meta, &findings).await?,
            5..8 => writers[rng.random_range(0..2)].step(&findings).await?,
            _ => {
                let others: Vec<_> = shelf.lock().iter().filter(|(writer, _)| *writer != host.name).cloned().collect();
                if !others.is_empty() {
                    let (_, model) = &others[rng.random_range(0..others.len())];
                    blocks::read_foreign(model, &host.files, &mut rng, &findings).await?;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(THINK_MS))).await;
    }
    for writer in &mut writers {
        writer.sync().await?;
    }
    names.list(&host.meta, &findings).await?;
    let models = shelf.lock().clone();
    for (_, model) in models {
        blocks::read_all(&model, &host.files, &findings).await?;
    }
    host.files.shutdown().await;
    host.meta.close();
    Ok(())
}
