//! Crashes at any moment (P1, V2–V4): after a restart and the local half of a recovery, what was fsynced is there byte by byte, or its block
//! is reported as damaged; it is never silently wrong, and nothing is there that nobody wrote.

mod store_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caribou_chunkd::store::memory::{Hook, MemoryDisk};
use caribou_chunkd::store::{ChunkStore, Error, Prepare, Write};
use caribou_proto::ids::GrantId;
use proptest::prelude::*;
use store_support::*;

const BLOCKS: usize = 3;
const SIZE: usize = BLOCKS * BLOCK;

#[derive(Clone, Debug)]
enum Step {
    Write {
        chunk: u64,
        offset: usize,
        length: usize,
        seed: u64,
    },
    Sync {
        chunk: u64,
    },
    Tick,
    /// A recovery at the next version, with a cut or without.
    Recover {
        chunk: u64,
        cut: Option<usize>,
    },
    Kill,
    Power {
        seed: u64,
    },
    /// The power fails after so many calls on the disk from now.
    PowerAt {
        calls: u64,
        seed: u64,
    },
    /// A kill, and the power fails after so many calls of what follows.
    KillThenPower {
        calls: u64,
        seed: u64,
    },
    Clean,
}

fn step() -> impl Strategy<Value = Step> {
    let chunk = || 1u64..4;
    // Mostly sector-sized, some spanning blocks.
    let length = prop_oneof![1usize..2000, Just(512), Just(4096), Just(BLOCK), 60_000usize..140_000];
    let write = (chunk(), 0usize..SIZE, length, any::<u64>()).prop_map(|(chunk, offset, length, seed)| Step::Write {
        chunk,
        offset,
        length: length.min(SIZE - offset),
        seed,
    });
    prop_oneof![
        12 => write,
        4 => chunk().prop_map(|chunk| Step::Sync { chunk }),
        1 => Just(Step::Tick),
        1 => (chunk(), prop::option::of(0usize..SIZE)).prop_map(|(chunk, cut)| Step::Recover { chunk, cut }),
        1 => Just(Step::Kill),
        2 => any::<u64>().prop_map(|seed| Step::Power { seed }),
        2 => (0u64..30, any::<u64>()).prop_map(|(calls, seed)| Step::PowerAt { calls, seed }),
        2 => (200u64..420, any::<u64>()).prop_map(|(calls, seed)| Step::KillThenPower { calls, seed }),
        1 => Just(Step::Clean),
    ]
}

/// What a byte may be: the state as of the last fsync, or any value written since.
#[derive(Clone, Default)]
struct Model {
    version: u64,
    grant: u64,
    exists: bool,
    /// The file's existence was made durable.
    durable: bool,
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Contents of the file after each write since the last fsync (a write that failed half-way counts).
    since: Vec<Vec<u8>>,
    /// What a recovery that was not confirmed would have completed.
    unconfirmed: Option<Vec<u8>>,
}

/// A hook after which, so many calls on, every call fails.
fn power_off_after(calls: u64) -> Arc<Hook> {
    let left = AtomicU64::new(calls);
    Arc::new(move |_: &str| {
        let on = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        on.map(drop).map_err(|_| std::io::Error::other("the power is off"))
    })
}

struct World {
    store: Arc<ChunkStore>,
    disk: Arc<MemoryDisk>,
    models: Vec<Model>,
    time_ms: u64,
}

impl World {
    async fn new() -> Self {
        let disk = memory();
        let store = open(&disk).await;
        let model = Model { version: 1, grant: 1, now: vec![0; SIZE], synced: vec![0; SIZE], ..Model::default() };
        Self { store, disk, models: vec![model; 4], time_ms: 0 }
    }

    async fn run(&mut self, step: Step) {
        match step {
            Step::Write { chunk, offset, length, seed } => self.write(chunk, offset, &pattern(seed, length)).await,
            Step::Sync { chunk } => {
                let at = self.models[chunk as usize].version;
                if self.store.sync(id(chunk), version(at)).await.is_ok() {
                    self.models[chunk as usize].settle();
                }
            }
            Step::Tick => {
                self.time_ms += 20_000;
                self.store.tick(self.time_ms).await;
            }
            Step::Recover { chunk, cut } => self.recover(chunk, cut).await,
            Step::Kill => self.restart(|disk| disk.restart(), false).await,
            Step::Power { seed } => self.restart(|disk| disk.power_cut(seed), true).await,
            Step::PowerAt { calls, seed } => {
                self.disk.set_hook(Some(power_off_after(calls)));
                self.write(1, 100, &pattern(seed, 3000)).await;
                let at = self.models[1].version;
                if self.store.sync(id(1), version(at)).await.is_ok() {
                    self.models[1].settle();
                }
                self.write(1, BLOCK - 5, &pattern(seed ^ 1, 700)).await;
                self.recover(2, None).await;
                self.restart(|disk| disk.power_cut(seed), true).await;
            }
            Step::KillThenPower { calls, seed } => {
                self.disk = Arc::new(self.disk.restart());
                self.disk.set_hook(Some(power_off_after(calls)));
                if let Ok(store) = try_open(vec![self.disk.clone()], 1).await {
                    self.store = store;
                    for chunk in 1..self.models.len() as u64 {
                        self.recover(chunk, None).await;
                    }
                }
                self.restart(|disk| disk.power_cut(seed), true).await;
            }
            Step::Clean => {
                self.store.close().await;
                self.models.iter_mut().for_each(|model| {
                    if model.exists {
                        model.settle()
                    }
                });
                self.restart(|disk| disk.restart(), false).await;
                assert!(!self.store.unclean());
            }
        }
    }

    async fn write(&mut self, chunk: u64, offset: usize, data: &[u8]) {
        let model = &mut self.models[chunk as usize];
        let fragment = fragment(chunk, offset, data);
        let create = !model.exists;
        let fragment = Write { version: version(model.version), grant: grant(model.grant), create, ..fragment };
        let result = self.store.write(fragment).await;
        let mut after = model.now.clone();
        after[offset..offset + data.len()].copy_from_slice(data);
        model.since.push(after.clone());
        if result.is_ok() {
            model.exists = true;
            model.now = after;
            let got = self.store.read(id(chunk), version(model.version), 0, SIZE as u32).await;
            if let Ok(got) = got {
                assert!(got.data == model.now, "a reader sees what was written");
            }
        }
    }

    async fn recover(&mut self, chunk: u64, cut: Option<usize>) {
        let model = &mut self.models[chunk as usize];
        let to = model.version + 1;
        let prepared = self
            .store
            .prepare(Prepare { chunk: id(chunk), version: version(to), join: false, old_grant: grant(model.grant) })
            .await;
        let Ok(prepared) = prepared else { return };
        if !prepared.found {
            return;
        }
        model.version = to;
        model.grant += 1;
        if let Some(length) = cut {
            model.since.push({
                let mut after = model.now.clone();
                after[length..].fill(0);
                after
            });
            if self.store.cut(id(chunk), version(to), length as u32).await.is_err() {
                return;
            }
            model.now[length..].fill(0);
        }
        model.unconfirmed = Some(model.now.clone());
        if self.store.complete(id(chunk), version(to)).await.is_ok() {
            model.settle();
        }
    }

    /// A crash or stop, then the local half of every chunk's recovery, checked against the model.
    async fn restart(&mut self, crash: impl FnOnce(&MemoryDisk) -> MemoryDisk, power_lost: bool) {
        let before = self.store.incarnation();
        self.disk = Arc::new(crash(&self.disk));
        self.store = open(&self.disk).await;
        assert!(self.store.incarnation() > before, "F3");
        for chunk in 1..self.models.len() as u64 {
            self.check(chunk, power_lost).await;
        }
    }

    async fn check(&mut self, chunk: u64, power_lost: bool) {
        let model = &mut self.models[chunk as usize];
        let Some(info) = self.store.replica(id(chunk)) else {
            assert!(!model.durable, "P1: a chunk with fsynced bytes is gone");
            *model = Model {
                version: model.version,
                grant: model.grant + 1,
                now: vec![0; SIZE],
                synced: vec![0; SIZE],
                ..Model::default()
            };
            return;
        };
        let suspected = (self.store.lost_chunks(), self.store.damaged_chunks());
        assert_eq!(suspected, (vec![], vec![]), "a crash is not damage");
        if info.complete && !info.dirty {
            let got =
                self.store.read(id(chunk), info.version, 0, SIZE as u32).await.expect("a clean replica is served").data;
            let completed = info.version.0 == model.version && model.unconfirmed.as_deref() == Some(&got[..]);
            assert!(got == model.synced || completed, "V3: a chunk outside the journal has no un-synced byte");
            (model.now, model.version) = (got.to_vec(), info.version.0);
            model.settle();
            return;
        }
        assert!(matches!(
            self.store.read(id(chunk), info.version, 0, 1).await,
            Err(Error::Dirty { .. } | Error::WrongVersion { .. })
        ));
        // Version and grant may have been raised by a step that failed afterwards.
        model.version = info.version.0.max(model.version) + 1;
        model.grant += 2;
        let to = version(model.version);
        let prepare =
            Prepare { chunk: id(chunk), version: to, join: false, old_grant: GrantId(grant(model.grant).0 - 1) };
        let prepared = self.store.prepare(prepare).await.unwrap();
        let mut content = Vec::new();
        let mut damaged = Vec::new();
        for block in 0..BLOCKS {
            match self.store.read_recovery(id(chunk), to, block as u32, 1).await {
                Ok(recovery) => content.push(recovery.data.to_vec()),
                Err(Error::Corrupt { .. }) => {
                    assert_eq!(block_state(&prepared, block).0 & 2, 0, "reported as damaged");
                    damaged.push(block);
                    content.push(vec![0; BLOCK]);
                }
                Err(other) => panic!("{other}"),
            }
        }
        for (block, content) in content.iter().enumerate().filter(|(block, _)| !damaged.contains(block)) {
            model.allows(block, content, power_lost);
        }
        for block in &damaged {
            assert!(model.touched(*block), "only a block with un-synced writes can be damaged by a crash");
        }
        // Damaged blocks: no other copy here, so they are kept as they are (V2). Fsynced sectors that no later write touched are among them.
        assert_eq!(self.store.resum_damaged(id(chunk), to).await.unwrap() as usize, damaged.len());
        self.store.complete(id(chunk), to).await.unwrap();
        let now = self.store.read(id(chunk), to, 0, SIZE as u32).await.unwrap().data.to_vec();
        for block in 0..BLOCKS {
            model.allows(block, &now[block * BLOCK..][..BLOCK], power_lost);
        }
        model.now = now;
        model.settle();
    }
}

impl Model {
    fn settle(&mut self) {
        self.durable = true;
        self.synced.clone_from(&self.now);
        self.since.clear();
        self.unconfirmed = None;
    }

    fn touched(&self, block: usize) -> bool {
        let range = block * BLOCK..(block + 1) * BLOCK;
        self.since.iter().any(|since| since[range.clone()] != self.synced[range.clone()])
    }

    /// Every byte is fsynced or was written since. (After a kill without power loss: the newest acknowledged one.)
    fn allows(&self, block: usize, content: &[u8], power_lost: bool) {
        let range = block * BLOCK..(block + 1) * BLOCK;
        if !power_lost && self.since.last().is_none_or(|last| *last == self.now) {
            assert!(content == &self.now[range], "kill -9 takes nothing that was acknowledged");
            return;
        }
        for (at, byte) in range.clone().zip(content) {
            let known = self.synced[at] == *byte || self.since.iter().any(|since| since[at] == *byte);
            assert!(known, "byte {at} was never written so");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_fsynced_is_lost_or_silently_wrong(steps in prop::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world.run(step).await;
            }
            world.restart(|disk| disk.power_cut(1), true).await;
        });
    }
}

// The control: an un-synced write can be lost at all, and an fsynced one is not.
#[tokio::test]
async fn an_unsynced_write_can_be_lost() {
    let mut lost = 0;
    for seed in 0..40 {
        let disk = memory();
        let store = open(&disk).await;
        write(&store, 1, 0, &[1; 512]).await.unwrap();
        store.sync(id(1), version(1)).await.unwrap();
        write(&store, 1, 0, &[2; 512]).await.unwrap();
        let (store, _disk) = power_cut(store, &disk, seed).await;
        let prepared = prepare(&store, 1, 2).await.unwrap();
        assert!(!prepared.clean);
        // The byte alone may have come to the disk, without its entry: seen, and kept for want of another copy.
        let state = block_state(&prepared, 0).0;
        assert!([GOOD, DAMAGED].contains(&state));
        store.resum_damaged(id(1), version(2)).await.unwrap();
        store.complete(id(1), version(2)).await.unwrap();
        let content = read(&store, 1, 2, 0, 512).await.unwrap();
        // The byte lost and the new entry kept: the old entry is still a candidate (V2).
        assert!(content != [1; 512][..] || state == GOOD);
        lost += u32::from(content == [1; 512][..]);
    }
    assert!((1..40).contains(&lost), "{lost} of 40");
}

// M7: what the tail lacks is in memory only; until it has been acknowledged the journal keeps the chunk, though it is synced.
#[tokio::test]
async fn a_block_that_is_not_acknowledged_stays_in_the_journal() {
    let disk = memory();
    let store = open(&disk).await;
    let head = |chunk| Write { tail: false, ..fragment(chunk, 0, &[2; 512]) };
    let _lost = store.write(head(1)).await.unwrap().ticket;
    let acked = store.write(head(2)).await.unwrap().ticket.unwrap();
    store.acknowledged(acked);
    for chunk in [1, 2] {
        store.sync(id(chunk), version(1)).await.unwrap();
    }
    store.tick(100_000).await;
    let (store, disk) = power_cut(store, &disk, 1).await;
    assert_eq!(store.dirty_chunks(), [id(1)]);
    store.close().await;
    drop(store);
    let store = open(&Arc::new(disk.restart())).await;
    assert_eq!(store.dirty_chunks(), [id(1)], "a clean stop does not acknowledge it either");
}

// V1: a crash at any call of a recovery leaves the replica incomplete, or complete with the right bytes.
#[tokio::test]
async fn a_crash_at_any_step_of_a_recovery() {
    for calls in 0.. {
        let disk = memory();
        let store = open(&disk).await;
        let (old, new) = (pattern(1, 3 * BLOCK), pattern(2, BLOCK));
        write(&store, 1, 0, &old).await.unwrap();
        store.sync(id(1), version(1)).await.unwrap();
        store.tick(1000).await;
        store.tick(40_000).await;
        disk.set_hook(Some(power_off_after(calls)));
        let recovery = async {
            prepare(&store, 1, 2).await?;
            store.install_block(id(1), version(2), 1, Some(new.clone().into())).await?;
            store.cut(id(1), version(2), (2 * BLOCK + 100) as u32).await?;
            store.complete(id(1), version(2)).await
        };
        let done = recovery.await.is_ok();
        let mut model = [&old[..BLOCK], &new, &old[2 * BLOCK..2 * BLOCK + 100]].concat();
        model.resize(3 * BLOCK, 0);
        let (store, _disk) = power_cut(store, &disk, calls).await;
        let info = store.replica(id(1)).unwrap();
        if info.complete && info.version == version(2) {
            assert!(!done || !info.dirty, "what was confirmed is served");
            if !info.dirty {
                assert_eq!(read(&store, 1, 2, 0, 3 * BLOCK).await.unwrap(), model);
            }
        } else {
            assert!(!done, "V1: complete is durable before it is confirmed");
            if info.complete && !info.dirty {
                assert_eq!(read(&store, 1, 1, 0, 3 * BLOCK).await.unwrap(), old);
            }
            // The leader begins again.
            prepare(&store, 1, 2).await.unwrap();
            for block in 0..2 {
                let data = if block == 1 { &new } else { &old[..BLOCK] };
                store.install_block(id(1), version(2), block, Some(data.to_vec().into())).await.unwrap();
            }
            store.install_block(id(1), version(2), 2, Some(old[2 * BLOCK..].to_vec().into())).await.unwrap();
            store.cut(id(1), version(2), (2 * BLOCK + 100) as u32).await.unwrap();
            store.complete(id(1), version(2)).await.unwrap();
            assert_eq!(read(&store, 1, 2, 0, 3 * BLOCK).await.unwrap(), model);
        }
        if done {
            assert!(calls > 10);
            return;
        }
    }
}

// V4: a copy of the table from before the last sync never vouches for data, not even after an unclean stop.
#[tokio::test]
async fn bytes_older_than_the_last_sync_are_damage() {
    let disk = memory();
    let store = open(&disk).await;
    for value in [1, 2, 3] {
        write(&store, 1, 0, &[value]).await.unwrap();
        store.sync(id(1), version(1)).await.unwrap();
    }
    let (store, disk) = killed(store, &disk).await;
    // The disk has lost what it confirmed: the bytes are those of the first sync again.
    disk.damage("chunks/01/0001000000000001.chunk", 65_536, 1 ^ 3);
    let prepared = prepare(&store, 1, 2).await.unwrap();
    assert_eq!(block_state(&prepared, 0).0, DAMAGED);
}

// V4: after a kill the newest header is in the page cache only; kill upon kill must not overwrite the durable one.
#[tokio::test]
async fn kills_upon_kills_keep_the_durable_header() {
    for seed in 0..60 {
        let disk = memory();
        let store = open(&disk).await;
        write(&store, 1, 0, b"x").await.unwrap();
        store.sync(id(1), version(1)).await.unwrap();
        let next = Write { grant: grant(2), ..fragment(1, 0, b"y") };
        store.write(next).await.unwrap();
        let (mut store, mut disk) = killed(store, &disk).await;
        for to in 2..5 {
            let failing = |call: &str| if call == "sync" { Err(std::io::Error::other("killed here")) } else { Ok(()) };
            disk.set_hook(Some(Arc::new(failing)));
            assert!(prepare(&store, 1, to).await.is_err());
            disk.set_hook(None);
            (store, disk) = killed(store, &disk).await;
        }
        let (store, _disk) = power_cut(store, &disk, seed).await;
        assert!(store.replica(id(1)).is_some(), "P1");
    }
}
