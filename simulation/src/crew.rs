//! The clients of a run: hired, at work, killed in the middle of it, and their last look at everything.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use caribou_client::Error;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client_host::ClientHost;
use crate::findings::Findings;
use crate::rest;
use crate::workload::blocks::{self, FileModel, Size, Writer};
use crate::workload::book::Book;
use crate::workload::fights::Fights;
use crate::workload::lengths::{self, Ledger, Owner};
use crate::workload::names::Names;
use crate::workload::orphans::{Keeper, Orphans};
use crate::workload::registers::Registers;
use crate::world::{PATIENCE, World};

/// Between two operations of a client.
const THINK_MS: std::ops::Range<u64> = 0..15;

/// What clients have made, by their names; all clients know of it, also when its maker is gone.
#[derive(Default)]
struct Shelf {
    files: Vec<(String, Arc<FileModel>)>,
    ledgers: Vec<(String, Arc<Ledger>)>,
    books: Vec<(String, Arc<Book>)>,
    /// Made by the first client.
    registers: Option<Arc<Registers>>,
    fights: Arc<Fights>,
    orphans: Arc<Orphans>,
}

/// What one client has made.
fn made_by<'a, T>(all: &'a [(String, T)], client: &'a str) -> impl Iterator<Item = &'a T> {
    all.iter().filter(move |(maker, _)| maker == client).map(|(_, made)| made)
}

/// Something that another client has made.
fn of_another<T: Clone>(all: &[(String, T)], client: &str, rng: &mut StdRng) -> Option<T> {
    let others: Vec<&T> = all.iter().filter(|(maker, _)| maker != client).map(|(_, made)| made).collect();
    others.choose(rng).copied().cloned()
}

/// One client of so many changes nothing after its first steps.
const READER_ONE_IN: u32 = 3;

/// What all clients work with.
struct Desk {
    number: usize,
    findings: Arc<Findings>,
    shelf: Arc<Mutex<Shelf>>,
    stopped: watch::Receiver<bool>,
}

/// See the module.
#[derive(Default)]
pub struct Crew {
    shelf: Arc<Mutex<Shelf>>,
    stop: watch::Sender<bool>,
    members: Vec<Member>,
    hired: u32,
}

struct Member {
    name: String,
    life: CancellationToken,
    task: JoinHandle<()>,
}

fn fork(rng: &mut StdRng) -> StdRng {
    StdRng::seed_from_u64(rng.random())
}

impl Crew {
    /// One client more, which begins its work when it is connected.
    ///
    /// # Errors
    /// When it does not connect.
    pub async fn hire(&mut self, world: &World, rng: &mut StdRng) -> Result<()> {
        let (name, host) = self.connect(world, rng).await?;
        if self.shelf.lock().registers.is_none() {
            let registers = Arc::new(Registers::create(&host.files, &world.findings).await?);
            self.shelf.lock().registers = Some(registers);
        }
        let only_reads = self.hired.is_multiple_of(READER_ONE_IN);
        let desk = Desk {
            number: self.hired as usize,
            findings: world.findings.clone(),
            shelf: self.shelf.clone(),
            stopped: self.stop.subscribe(),
        };
        let work = work(host, fork(rng), desk, only_reads);
        let life = CancellationToken::new();
        let (over, findings, own) = (life.clone(), world.findings.clone(), name.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                result = work => {
                    if let Err(error) = result {
                        findings.violation(format!("a call of {own} failed: {error}"));
                    }
                }
            }
        });
        self.members.push(Member { name, life, task });
        Ok(())
    }

    async fn connect(&mut self, world: &World, rng: &mut StdRng) -> Result<(String, ClientHost)> {
        self.hired += 1;
        let name = format!("client{}", self.hired);
        let host = ClientHost::connect(&name, world.meta_addresses(), &world.net, &world.clock, fork(rng));
        let host = tokio::time::timeout(PATIENCE, host).await.context("a client does not connect")??;
        Ok((name, host))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.name.as_str())
    }

    /// One of them.
    pub fn choose(&self, rng: &mut StdRng) -> Option<String> {
        self.members.choose(rng).map(|member| member.name.clone())
    }

    /// Its session may end, and with it the promise to write what it has not synced.
    pub fn may_be_given_up(&self, client: &str, findings: &Findings) {
        let shelf = self.shelf.lock();
        made_by(&shelf.files, client).for_each(|model| model.orphan());
        made_by(&shelf.ledgers, client).for_each(|ledger| ledger.orphan(findings));
        shelf.orphans.may_be_given_up(client);
        shelf.registers.iter().for_each(|registers| registers.may_be_given_up(client));
    }

    /// Nothing leaves it any more.
    fn bury(&self, client: &str, findings: &Findings) {
        let shelf = self.shelf.lock();
        made_by(&shelf.files, client).for_each(|model| model.bury(&findings.places));
        shelf.registers.iter().for_each(|registers| registers.bury(client));
    }

    /// The machine of one of them is gone, with everything that was not synced.
    pub fn kill(&mut self, world: &World, rng: &mut StdRng) -> bool {
        if self.members.is_empty() {
            return false;
        }
        let Member { name, life, task } = self.members.swap_remove(rng.random_range(0..self.members.len()));
        world.findings.check(!task.is_finished(), || format!("{name} has ended by itself"));
        self.may_be_given_up(&name, &world.findings);
        self.bury(&name, &world.findings);
        world.net.remove(&name);
        life.cancel();
        true
    }

    /// Lets everybody end; the faults are over.
    pub async fn finish(&mut self, world: &World) {
        self.stop.send_replace(true);
        for Member { name, task, .. } in self.members.drain(..) {
            let violation = match tokio::time::timeout(PATIENCE, task).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => format!("{name} has panicked: {error}"),
                Err(_) => {
                    let at_work = rest::at_work(world);
                    format!("liveness: {name} is stuck for {PATIENCE:?} although nothing is broken; at work: {at_work}")
                }
            };
            world.findings.violation(violation);
        }
    }

    /// A client that was never there before reads every file.
    ///
    /// # Errors
    /// When it does not connect, or a call fails.
    pub async fn look(&mut self, world: &World, rng: &mut StdRng) -> Result<()> {
        let (_, host) = self.connect(world, rng).await?;
        let look = async {
            look_at_all(&host, &self.shelf, &world.findings).await?;
            let registers = self.shelf.lock().registers.clone();
            if let Some(registers) = registers {
                registers.read_all(&host.name, &host.files, &world.findings).await?;
            }
            host.leave().await;
            Ok::<_, Error>(())
        };
        tokio::time::timeout(PATIENCE, look).await.context("a client's look at every file takes too long")??;
        Ok(())
    }

    /// A client that was never there before looks at everything that anybody has made.
    ///
    /// # Errors
    /// When it does not connect, or a call fails.
    pub async fn audit(&mut self, world: &World, rng: &mut StdRng) -> Result<()> {
        let (_, host) = self.connect(world, rng).await?;
        let look = async {
            let (books, registers, fights) = {
                let shelf = self.shelf.lock();
                (shelf.books.clone(), shelf.registers.clone(), shelf.fights.clone())
            };
            for (_, book) in books {
                book.check(&host.meta, &world.findings).await?;
            }
            look_at_all(&host, &self.shelf, &world.findings).await?;
            if let Some(registers) = registers {
                registers.read_all(&host.name, &host.files, &world.findings).await?;
                registers.judge(&world.findings);
            }
            fights.audit(self.hired as usize, &host.meta, &world.findings).await?;
            host.leave().await;
            Ok::<_, Error>(())
        };
        tokio::time::timeout(PATIENCE, look).await.context("a client's look at everything takes too long")??;
        Ok(())
    }
}

/// One client's work, until it is told to stop; then its last look at everything.
async fn work(
    host: ClientHost,
    mut rng: StdRng,
    Desk { number, findings, shelf, stopped }: Desk,
    only_reads: bool,
) -> Result<(), Error> {
    let mut names = Names::new(&format!("{}-names", host.name), &host.meta, fork(&mut rng)).await?;
    shelf.lock().books.push((host.name.clone(), names.book()));
    let mut writers = Vec::new();
    for (kind, size) in [("small", Size::Small), ("large", Size::Large)] {
        let writer = Writer::create(&format!("{}-{kind}", host.name), size, &host.files, fork(&mut rng)).await?;
        shelf.lock().files.push((host.name.clone(), writer.model()));
        writers.push(writer);
    }
    let mut owner = Owner::create(&format!("{}-lengths", host.name), &host.files, fork(&mut rng)).await?;
    shelf.lock().ledgers.push((host.name.clone(), owner.ledger()));
    let (registers, fights, orphans) = {
        let shelf = shelf.lock();
        (shelf.registers.clone(), shelf.fights.clone(), shelf.orphans.clone())
    };
    let mut keeper = Keeper::new(orphans, fork(&mut rng));
    while !*stopped.borrow() {
        // One that changes nothing is content with a leader that is none any more.
        match rng.random_range(if only_reads { 8..15 } else { 0..26 }) {
            0..5 => names.step(&host.meta, &findings).await?,
            5..8 => writers[rng.random_range(0..2)].step(&findings, || false).await?,
            8..10 => {
                let model = of_another(&shelf.lock().files, &host.name, &mut rng);
                if let Some(model) = model {
                    blocks::read_foreign(&model, &host.files, &mut rng, &findings).await?;
                }
            }
            10..12 => {
                let ledger = of_another(&shelf.lock().ledgers, &host.name, &mut rng);
                if let Some(ledger) = ledger {
                    lengths::read_foreign(&ledger, &host.files, &mut rng, &findings).await?;
                }
            }
            12 if only_reads => keeper.step(&host, true, &findings).await?,
            12.. if only_reads => fights.step((number, true), &host.meta, &mut rng, &findings).await?,
            12..15 => {
                if let Some(registers) = &registers {
                    registers.step(&host.name, &host.files, &mut rng, &findings).await?;
                }
            }
            15..18 => fights.step((number, false), &host.meta, &mut rng, &findings).await?,
            18..22 => keeper.step(&host, false, &findings).await?,
            _ => owner.step(&host.files, &findings).await?,
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(THINK_MS))).await;
    }
    keeper.finish(&host, &findings).await?;
    for writer in &mut writers {
        writer.sync().await?;
    }
    owner.sync(&findings).await?;
    if let Some(registers) = &registers {
        registers.sync_all(&host.name, &host.files).await?;
    }
    names.book().check(&host.meta, &findings).await?;
    look_at_all(&host, &shelf, &findings).await?;
    host.leave().await;
    Ok(())
}

async fn look_at_all(host: &ClientHost, shelf: &Mutex<Shelf>, findings: &Findings) -> Result<(), Error> {
    let (files, ledgers) = {
        let shelf = shelf.lock();
        (shelf.files.clone(), shelf.ledgers.clone())
    };
    for (_, model) in files {
        blocks::read_all(&model, &host.files, findings).await?;
    }
    for (_, ledger) in ledgers {
        lengths::read_all(&ledger, &host.files, findings).await?;
    }
    Ok(())
}
