//! One chunk, writers that die, servers that crash, lose power and come back, leaders that die: whatever was acknowledged is there in the end,
//! so is what readers saw unless everybody who had it lost power, the replicas are equal, and nobody else has one (P1, P2, P5, R4).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use caribou_proto::ids::{BLOCK_BYTES, ChunkId, InodeId, SessionId};

use crate::fsm::command::WrittenChunk;
use crate::fsm::ops::chunk::world::{end, written};
use crate::fsm::reply::{GrantReply, GrantState};
use crate::fsm::tables::chunks::Chunk;
use crate::leader::testing::{Node, Replica};

const BLOCKS: u32 = 3;
const SEEDS: u64 = 70;
const STEPS: usize = 30;

/// A repeatable sequence of numbers.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}

struct Story {
    node: Node,
    dice: Dice,
    session: SessionId,
    inode: InodeId,
    chunk: ChunkId,
    next: u32,
    /// W5: what the writer has not synced.
    buffer: BTreeMap<u32, u32>,
    /// What a block may hold: the acknowledged value, or one written since.
    allowed: BTreeMap<u32, BTreeSet<u32>>,
    /// P2: the last value that reached every holder, and who of them has not lost power since.
    seen: BTreeMap<u32, (u32, BTreeSet<u64>)>,
    incarnations: BTreeMap<u64, u64>,
    opened: u8,
    grant: Option<GrantReply>,
}

impl Story {
    async fn begin(seed: u64) -> Self {
        let mut node = Node::new(2);
        node.connect_all();
        for server in 1..=4 {
            node.attached(server).await;
        }
        let session = node.world.lock().open(1);
        let values: Vec<u32> = (1..=BLOCKS).collect();
        let (inode, chunk) = node.file(session, "f", &values);
        let allowed = (0..BLOCKS).map(|b| (b, BTreeSet::from([b + 1]))).collect();
        let incarnations = (1..=4).map(|s| (s, 1)).collect();
        let dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self {
            node,
            dice,
            session,
            inode,
            chunk,
            next: 100,
            buffer: BTreeMap::new(),
            allowed,
            incarnations,
            opened: 1,
            seen: BTreeMap::new(),
            grant: None,
        }
    }

    /// Takes or keeps the grant; resends what is un-synced under a new one (W4).
    fn grant(&mut self) -> Option<GrantReply> {
        let (session, inode) = (self.session, self.inode);
        let mut grant = None;
        self.node.apply(|w| grant = Some(w.take(session, inode, 0)));
        let grant = grant.filter(|g| g.state == GrantState::Granted)?;
        if self.grant.as_ref().map(|g| g.grant) == Some(grant.grant) {
            return Some(grant);
        }
        self.grant = Some(grant.clone());
        for (block, value) in self.buffer.clone() {
            if !self.send(&grant, block, value, usize::MAX) {
                self.report(&grant);
                return None;
            }
        }
        let resent = WrittenChunk { resent: true, ..written(&grant) };
        self.node.apply(|w| drop(w.write_end(session, inode, 0, &[resent])));
        Some(grant)
    }

    fn report(&mut self, grant: &GrantReply) {
        let (session, inode) = (self.session, self.inode);
        self.node.apply(|w| drop(format!("{:?}", w.report(session, inode, grant))));
        self.grant = None;
    }

    /// Down the chain as far as it goes; whether all have it.
    fn send(&mut self, grant: &GrantReply, block: u32, value: u32, hops: usize) -> bool {
        let mut disks = self.node.disks.lock();
        for (server, incarnation) in grant.holders.iter().take(hops) {
            let replica = disks.replicas.get_mut(&(server.0, grant.chunk));
            let same = self.incarnations.get(&server.0) == Some(&incarnation.0);
            match replica.filter(|r| same && r.complete && r.version == grant.version.0) {
                Some(replica) => drop(replica.cells.insert(block, (value, true))),
                None => return false,
            }
        }
        drop(disks);
        let all = hops >= grant.holders.len();
        if all {
            self.seen.insert(block, (value, grant.holders.iter().map(|(s, _)| s.0).collect()));
        }
        all
    }

    /// The client is gone; its session expires.
    fn die(&mut self) {
        self.buffer.clear();
        self.grant = None;
        self.opened += 1;
        let (session, opened) = (self.session, self.opened);
        self.node.apply(|w| w.expire(session));
        self.session = self.node.world.lock().open(opened);
    }

    fn write(&mut self) {
        let Some(grant) = self.grant() else { return };
        let (block, value) = (self.dice.roll(u64::from(BLOCKS)) as u32, self.next);
        self.next += 1;
        self.buffer.insert(block, value);
        self.allowed.get_mut(&block).unwrap().insert(value);
        let hops = if self.dice.roll(4) == 0 { 1 } else { usize::MAX };
        if !self.send(&grant, block, value, hops) {
            self.report(&grant);
        }
    }

    /// W6: all holders, each in the incarnation that the grant names.
    fn sync(&mut self) {
        let Some(grant) = self.grant() else { return };
        let mut all = true;
        {
            let mut disks = self.node.disks.lock();
            for (server, incarnation) in &grant.holders {
                let same = self.incarnations.get(&server.0) == Some(&incarnation.0);
                let replica = disks.replicas.get_mut(&(server.0, grant.chunk));
                match replica.filter(|r| same && r.complete && r.version == grant.version.0) {
                    Some(replica) => replica.synced = replica.cells.clone(),
                    None => all = false,
                }
            }
        }
        if !all {
            self.report(&grant);
            return;
        }
        for (block, value) in std::mem::take(&mut self.buffer) {
            self.allowed.insert(block, BTreeSet::from([value]));
        }
        if self.dice.roll(2) == 0 {
            let (session, inode) = (self.session, self.inode);
            self.node.apply(|w| drop(w.write_end(session, inode, 0, &[end(&grant)])));
            self.grant = None;
        }
    }

    /// The server restarts; with power lost, un-synced bytes are torn or gone.
    fn restart(&mut self, server: u64, power: bool) {
        self.node.disconnect(server);
        if power {
            for (_, alive) in self.seen.values_mut() {
                alive.remove(&server);
            }
        }
        let incarnation = self.incarnations.get_mut(&server).unwrap();
        *incarnation += 1;
        let incarnation = *incarnation;
        let mut dirty = Vec::new();
        {
            let mut disks = self.node.disks.lock();
            if let Some(replica) = disks.replicas.get_mut(&(server, self.chunk)) {
                let unsynced = replica.cells != replica.synced;
                if power && unsynced {
                    let torn = self.dice.roll(2) == 0;
                    for (block, cell) in replica.cells.clone() {
                        if replica.synced.get(&block) != Some(&cell) {
                            let old = replica.synced.get(&block).copied();
                            let left = if torn { Some((cell.0, false)) } else { old };
                            left.map(|cell| replica.cells.insert(block, cell));
                        }
                    }
                }
                // M16: a replica that was dirtied in this boot only has everything.
                replica.same_boot = !power && unsynced && (replica.clean || replica.same_boot);
                replica.clean &= !unsynced;
                if !replica.clean {
                    dirty.push(self.chunk);
                }
            }
        }
        self.node.connect(server, incarnation, &dirty);
    }

    fn replica_of_head(&self, row: &Chunk) -> Replica {
        self.node.replica(row.replicas[0].server.0, self.chunk).expect("the head has its replica")
    }

    /// Mostly one that holds the chunk.
    fn some_server(&mut self) -> u64 {
        let replicas = self.node.chunk(self.chunk).replicas;
        match self.dice.roll(5) {
            0 => 1 + self.dice.roll(4),
            _ => replicas[self.dice.roll(replicas.len() as u64) as usize].server.0,
        }
    }

    async fn step(mut self) -> Self {
        let server = self.some_server();
        match self.dice.roll(16) {
            0..=4 => self.write(),
            5 => self.sync(),
            6..=7 => self.restart(server, true),
            8..=9 => self.restart(server, false),
            12 => self.node.disconnect(server),
            10 => self.die(),
            11 => {
                let mut disks = self.node.disks.lock();
                match disks.mute.is_empty() {
                    true => disks.mute.push((server, "fix")),
                    false => disks.mute.clear(),
                }
            }
            _ => {
                self.node = self.node.fail_over();
                for server in 1..=4 {
                    let incarnation = self.incarnations[&server];
                    self.node.connect(server, incarnation, &[]);
                }
            }
        }
        self.node.handle.session_seen(self.session);
        let pause = [0, 0, 0, 5, 60, 300, 1500][self.dice.roll(7) as usize];
        tokio::time::sleep(Duration::from_millis(pause)).await;
        self
    }

    /// All servers are back, the writer syncs: what was acknowledged is on every holder.
    async fn finish(mut self, seed: u64) {
        for server in 1..=4 {
            if !self.node.is_connected(server) {
                self.restart(server, false);
            }
        }
        self.node.disks.lock().mute.clear();
        let dies = self.dice.roll(2) == 0;
        if dies {
            self.die();
        }
        let start = tokio::time::Instant::now();
        loop {
            assert!(start.elapsed() < Duration::from_secs(60), "P5, seed {seed}: {:?}", self.node.chunk(self.chunk));
            self.node.handle.session_seen(self.session);
            if !dies {
                self.sync();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            let row = self.node.chunk(self.chunk);
            if self.buffer.is_empty() && row.intent.is_none() && row.hold.is_none() {
                break;
            }
        }
        let row = self.node.chunk(self.chunk);
        let length = u64::from(BLOCKS * BLOCK_BYTES);
        assert_eq!(row.cut_at(length), BLOCKS * BLOCK_BYTES);
        for replica in &row.replicas {
            let disk = self.node.replica(replica.server.0, self.chunk).expect("a holder has its replica");
            assert!(disk.complete && disk.version == row.version.0, "seed {seed}: {disk:?} {row:?}");
            for (block, allowed) in &self.allowed {
                let (value, whole) = disk.cells[block];
                assert_eq!(
                    self.replica_of_head(&row).cells[block],
                    (value, whole),
                    "equal, seed {seed}, block {block}"
                );
                let seen = self.seen.get(block).filter(|(_, alive)| !alive.is_empty()).map_or(0, |(value, _)| *value);
                assert!(value >= seen, "P2, seed {seed}: block {block} has {value} and was seen as {seen}");
                assert!(
                    whole && allowed.contains(&value),
                    "P1, seed {seed}: block {block} has {value}, not {allowed:?}"
                );
            }
        }
        self.clears_away(seed).await;
    }

    /// R4: what joins and copies have left goes, and nothing else.
    async fn clears_away(&self, seed: u64) {
        let start = tokio::time::Instant::now();
        loop {
            let row = self.node.chunk(self.chunk);
            let named: BTreeSet<u64> = row.replicas.iter().map(|replica| replica.server.0).collect();
            let here: BTreeSet<u64> = self.node.disks.lock().replicas.keys().map(|(server, _)| *server).collect();
            assert!(named.is_subset(&here), "R4, seed {seed}: {here:?} {row:?}");
            if row.intent.is_none() && named.len() == 2 && named == here {
                return;
            }
            let waited = start.elapsed();
            assert!(waited < Duration::from_secs(240), "P5, seed {seed}: replicas on {here:?}, {row:?}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p1_p5_what_was_acknowledged_survives_and_everything_settles() {
    for seed in 0..SEEDS {
        let mut story = Story::begin(seed).await;
        for _ in 0..STEPS {
            story = story.step().await;
        }
        story.finish(seed).await;
    }
}
