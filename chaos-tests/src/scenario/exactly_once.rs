//! Every mutation exactly once: clients of the library change trees of unique names without pause while the leader is killed again
//! and again. Each lane (a folder of its own) is sequential, so every result is known beforehand: any other errno is a violation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use caribou_cli::local::Options;
use caribou_client::meta::QueryOp;
use caribou_client::proto::meta::v1::{
    Caller, Create, FileKind, Link, Mkdir, ReadDir, Rename, ReplyBody, Rmdir, Unlink, mutation::Op,
};
use caribou_client::{Client, ClientConfig, Error};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::args::Setting;
use crate::lab::Lab;
use crate::nemesis::kills;
use crate::report::Verdict;

const CLIENTS: usize = 4;
/// Folders that each client works in at once; each has one call under way.
const LANES: usize = 16;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How often the leader is killed
    #[arg(long, default_value_t = 20)]
    pub kills: usize,
    /// Time between two kills
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    pub kill_every: Duration,
    /// Replies that must have come from the reply table, so that the path was taken
    #[arg(long, default_value_t = 20)]
    pub from_table: u64,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// What a lane's folder must hold: name → (inode, kind).
type Model = BTreeMap<String, (u64, FileKind)>;

struct Lane {
    client: Client,
    folder: u64,
    model: Model,
    next: u64,
    operations: u64,
    violations: Vec<String>,
    random: StdRng,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut lab = Lab::up(setting, &Options::default()).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut lanes = Vec::new();
    for client in 0..CLIENTS {
        let config = ClientConfig {
            meta: lab.cluster.meta_addresses(),
            name: format!("exactly-once {client}"),
            ..ClientConfig::default()
        };
        let client_handle = Client::connect(config).await?;
        for lane in 0..LANES {
            let name = format!("lane-{client}-{lane}");
            let folder = call(&client_handle, Op::Mkdir(Mkdir { parent: 1, name: name.into(), mode: 0o755 })).await?;
            let folder = folder.attr.context("a folder has attributes")?.inode;
            let random = StdRng::seed_from_u64(args.seed + (client * LANES + lane) as u64);
            let lane = Lane {
                client: client_handle.clone(),
                folder,
                model: Model::new(),
                next: 0,
                operations: 0,
                violations: Vec::new(),
                random,
            };
            lanes.push(tokio::spawn(lane.work(stop.clone())));
        }
    }
    let deadline = {
        let (stop, wait) = (stop.clone(), args.kill_every * args.kills as u32);
        async move {
            tokio::time::sleep(wait).await;
            stop.store(true, Ordering::Relaxed);
            Ok(())
        }
    };
    // Counters live in the processes: what a node has counted before it is killed is taken by asking again and again.
    let table = count_from_table(lab.cluster.meta_addresses(), stop.clone());
    let (((), from_table), kills) =
        kills::while_running(&mut lab, args.kill_every, args.kills, async { tokio::try_join!(deadline, table) })
            .await?;

    let mut verdict = Verdict::new("exactly-once");
    let mut operations = 0;
    for lane in lanes {
        let mut lane = lane.await?;
        operations += lane.operations;
        lane.compare().await?;
        verdict.violations.append(&mut lane.violations);
    }
    verdict.figure("kills", kills);
    verdict.figure("operations", operations);
    verdict.figure("replies from the table", from_table);
    verdict.check(operations > 1000, || format!("only {operations} operations were made: the run says nothing"));
    verdict.check(from_table >= args.from_table, || {
        format!("only {from_table} replies came from the reply table: the path was hardly taken")
    });
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

async fn count_from_table(addresses: Vec<String>, stop: Arc<AtomicBool>) -> Result<u64> {
    // By address: the highest count seen of this process, and the sum over processes that are gone.
    let mut seen: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        for (address, status) in caribou_cli::admin::status_of_all(&addresses).await {
            let Ok(count) = status.map(|s| s.counters.unwrap_or_default().replies_from_table) else { continue };
            let entry = seen.entry(address).or_default();
            if count < entry.0 {
                entry.1 += entry.0;
            }
            entry.0 = count;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(seen.values().map(|(now, before)| now + before).sum())
}

fn root() -> Caller {
    Caller { uid: 0, gid: 0, groups: vec![] }
}

async fn call(client: &Client, op: Op) -> Result<ReplyBody, Error> {
    client.meta().mutate(&root(), op).await
}

impl Lane {
    async fn work(mut self, stop: Arc<AtomicBool>) -> Self {
        while !stop.load(Ordering::Relaxed) {
            self.step().await;
            self.operations += 1;
        }
        self
    }

    fn fresh(&mut self) -> String {
        self.next += 1;
        format!("n{}", self.next)
    }

    fn any(&mut self, kind: Option<FileKind>) -> Option<(String, u64, FileKind)> {
        let fitting: Vec<_> = self.model.iter().filter(|(_, (_, k))| kind.is_none_or(|kind| kind == *k)).collect();
        let (name, (inode, kind)) = fitting.get(self.random.random_range(0..fitting.len().max(1)))?;
        Some(((*name).clone(), *inode, *kind))
    }

    /// One call, whose result is known beforehand.
    async fn step(&mut self) {
        let folder = self.folder;
        match self.random.random_range(0..if self.model.len() > 40 { 8 } else { 6 }) {
            0 | 1 => {
                let name = self.fresh();
                let create = Create {
                    parent: folder,
                    name: name.clone().into(),
                    mode: 0o644,
                    exclusive: true,
                    access: 6,
                    ..Create::default()
                };
                if let Some(body) = self.expect_ok(Op::Create(create.clone()), &name).await {
                    self.model.insert(name.clone(), (inode(&body), FileKind::Regular));
                    self.client.meta().release_claim(inode(&body));
                    // The same name again must be there: and only because of the call before.
                    self.expect_errno(Op::Create(create), libc::EEXIST, &name).await;
                }
            }
            2 => {
                let name = self.fresh();
                let op = Op::Mkdir(Mkdir { parent: folder, name: name.clone().into(), mode: 0o755 });
                if let Some(body) = self.expect_ok(op, &name).await {
                    self.model.insert(name, (inode(&body), FileKind::Directory));
                }
            }
            3 => {
                let Some((from, target, kind)) = self.any(Some(FileKind::Regular)) else { return };
                let name = self.fresh();
                let op = Op::Link(Link { inode: target, parent: folder, name: name.clone().into() });
                if self.expect_ok(op, &format!("{from} → {name}")).await.is_some() {
                    self.model.insert(name, (target, kind));
                }
            }
            4 | 5 => {
                let Some((from, target, kind)) = self.any(None) else { return };
                let to = self.fresh();
                let op = Op::Rename(Rename {
                    parent: folder,
                    name: from.clone().into(),
                    new_parent: folder,
                    new_name: to.clone().into(),
                    no_replace: true,
                    exchange: false,
                });
                if self.expect_ok(op, &format!("{from} → {to}")).await.is_some() {
                    self.model.remove(&from);
                    self.model.insert(to, (target, kind));
                }
            }
            _ => {
                let Some((name, _, kind)) = self.any(None) else { return };
                let op = match kind {
                    FileKind::Directory => Op::Rmdir(Rmdir { parent: folder, name: name.clone().into() }),
                    _ => Op::Unlink(Unlink { parent: folder, name: name.clone().into() }),
                };
                if self.expect_ok(op, &name).await.is_some() {
                    self.model.remove(&name);
                }
            }
        }
    }

    async fn expect_ok(&mut self, op: Op, what: &str) -> Option<ReplyBody> {
        let told = format!("{op:?}");
        match call(&self.client, op).await {
            Ok(body) => Some(body),
            Err(error) => {
                self.violations.push(format!("{what}: {error} ({told})"));
                None
            }
        }
    }

    async fn expect_errno(&mut self, op: Op, errno: i32, what: &str) {
        match call(&self.client, op).await {
            Err(Error::Errno(e)) if e == errno => {}
            other => self.violations.push(format!("{what}: {other:?} where errno {errno} is expected")),
        }
    }

    /// The folder against the model.
    async fn compare(&mut self) -> Result<()> {
        let mut found = Model::new();
        let mut cookie = 0;
        loop {
            let read = ReadDir { inode: self.folder, cookie, limit: 1000, plus: false };
            let body = self.client.meta().query(&root(), QueryOp::ReadDir(read)).await?;
            for entry in &body.entries {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                if found.insert(name.clone(), (entry.inode, entry.kind())).is_some() {
                    self.violations.push(format!("{name} is listed twice"));
                }
                cookie = entry.cookie;
            }
            if body.end_of_directory {
                break;
            }
        }
        if found != self.model {
            let missing: Vec<_> = self.model.iter().filter(|(n, v)| found.get(*n) != Some(v)).collect();
            let extra: Vec<_> = found.iter().filter(|(n, v)| self.model.get(*n) != Some(v)).collect();
            self.violations
                .push(format!("folder {}: missing or changed {missing:?}, not expected {extra:?}", self.folder));
        }
        Ok(())
    }
}

fn inode(body: &ReplyBody) -> u64 {
    body.attr.as_ref().map_or(0, |a| a.inode)
}
