//! A node dies at each of its points (`caribou_failpoints::META`), as by SIGKILL, and comes back on what its folder holds: the others go on
//! without it, nothing that was acknowledged is lost or done twice, and in the end all have the same state.

use std::os::unix::process::ExitStatusExt as _;

use caribou_failpoints::{META, Point, last_words};
use caribou_proto::admin::v1::TransferLeaderRequest;
use rustix::process::Signal;

use super::cluster::{BEAT, Cluster, PATIENCE};
use super::load::Load;

/// Little log, so that snapshots, purges and new segments come all the time.
const QUICK: &str = "\
    [raft]\n\
    heartbeat = \"40ms\"\n\
    election_timeout_min = \"150ms\"\n\
    election_timeout_max = \"300ms\"\n\
    snapshot_after = \"128KiB\"\n\
    log_keep = \"64KiB\"\n\
    [storage]\n\
    block_cache = \"32MiB\"\n\
    write_buffer = \"16MiB\"\n";

/// The same, and a leader without followers takes entries for a second.
const PATIENT: &str = "\
    [raft]\n\
    heartbeat = \"50ms\"\n\
    election_timeout_min = \"500ms\"\n\
    election_timeout_max = \"1s\"\n\
    snapshot_after = \"128KiB\"\n\
    log_keep = \"64KiB\"\n\
    [storage]\n\
    block_cache = \"32MiB\"\n\
    write_buffer = \"16MiB\"\n";

/// How many lines before the end of its log a node that dies says so.
const LAST_LINES: usize = 10;

/// Which node dies, and what it is doing then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// This one, while a cluster is made.
    Init(u64),
    /// A follower that is started again after a kill.
    Start,
    /// The leader, while files are made.
    Leader,
    /// A follower, the same.
    Follower,
    /// A follower that is handed the leadership.
    Candidate,
    /// A follower while another one is.
    Voter,
    /// A follower that is told to stop.
    Stop,
    /// A follower that has been away until the others' logs began after the end of its own.
    Snapshot,
    /// A leader that alone has some entries, started again when another one leads.
    OldLeader,
}

/// How a point is reached, and at which passage the node dies there.
fn cases(point: Point) -> &'static [(Way, u64)] {
    use Point::*;
    use Way::*;
    match point {
        // The last of these is after the cluster has come about, the others are before.
        IdentityWritten | IdentityRenamed => &[(Init(2), 1), (Init(1), 1), (Init(1), 2), (Init(3), 2)],
        StartLocked | StartLogOpened | StartStateOpened | StartSnapshotsOpened | StartRaftUp => &[(Start, 1)],
        LogUnwritten | LogWritten | ApplyUnwritten | ApplyWritten => &[(Leader, 3), (Follower, 3)],
        VoteUnwritten | VoteWritten => &[(Candidate, 1), (Voter, 1)],
        TruncateUnwritten | TruncateWritten => &[(OldLeader, 1)],
        PurgeUnwritten | PurgeWritten => &[(Leader, 2), (Snapshot, 1)],
        SegmentDropped | SegmentFilled | SegmentRenamed => &[(Follower, 1)],
        FlushBegun | Flushed => &[(Stop, 1)],
        CheckpointMade | CheckpointRenamed | FolderObsolete | FolderRemoved => &[(Follower, 1), (Snapshot, 1)],
        SnapshotPieceWritten => &[(Snapshot, 2)],
        SnapshotOffered | SnapshotGathered | SnapshotSynced => &[(Snapshot, 1)],
        InstallBegun | InstallRenamed | InstallOpened | InstallSwapped | InstallDone => &[(Snapshot, 1)],
        FileCreated | FileWritten | FileSynced | FileRenamed | FileUnlinked | FolderSynced => {
            unreachable!("a chunk server's")
        }
    }
}

/// All cases of some ways; between them the tests below take all ways there are.
fn some_cases(of: impl Fn(Way) -> bool) -> Vec<(Point, Way, u64)> {
    let all = META.iter().flat_map(|point| cases(*point).iter().map(move |(way, nth)| (*point, *way, *nth)));
    all.filter(|(_, way, _)| of(*way)).collect()
}

impl Cluster {
    /// Tells a node to die at the `nth` passage of a point from now, or of its next start.
    fn order(&self, id: u64, point: Point, nth: u64) {
        std::fs::write(self.order_file(id), format!("{point:?}:{nth}")).unwrap();
    }

    /// Whether a node has died; it has to be there that it was told to.
    fn has_died(&mut self, id: u64, point: Point) -> bool {
        let Some(status) = self.has_ended(id) else { return false };
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "node {id}, {point:?}: {status}");
        // Other threads may have said something since.
        let said = self.log(id).lines().rev().take(LAST_LINES).any(|line| line == last_words(point));
        assert!(said, "node {id} has died, but not at {point:?}");
        true
    }

    /// Waits until a node has died where it was told to.
    async fn died(&mut self, id: u64, point: Point) {
        let mut beat = tokio::time::interval(BEAT);
        let dying = async {
            while !self.has_died(id, point) {
                beat.tick().await;
            }
        };
        in_time(dying, &format!("death of node {id} at {point:?}")).await;
    }

    async fn kill(&mut self, id: u64) {
        self.signal(id, Signal::KILL);
        self.ended(id).await;
    }

    /// Starts a node that died, with no order any more.
    async fn revive(&mut self, id: u64) {
        std::fs::remove_file(self.order_file(id)).unwrap();
        self.spawn(id);
        self.listens(id).await;
    }

    /// Asks whoever leads for a hand-over, which may well fail.
    async fn hand_over(&self, to: u64) {
        for id in self.running() {
            let Some(mut admin) = self.admin(id).await else { continue };
            let _ = admin.transfer_leader(TransferLeaderRequest { to_node: to }).await;
        }
    }

    /// Waits until all three have applied the same entries and have the same state.
    async fn becomes_whole(&self) {
        self.eventually("cluster of three equal states", async || {
            let mut states = Vec::new();
            for id in [1, 2, 3] {
                let status = self.status(id).await?;
                states.push((status.applied_index, status.state_hash));
            }
            states.windows(2).all(|two| two[0] == two[1]).then_some(())
        })
        .await;
    }

    /// The last entry that all running nodes have purged.
    async fn purged(&self) -> u64 {
        let mut purged = u64::MAX;
        for id in self.running() {
            purged = purged.min(self.status(id).await.map_or(0, |status| status.purged_index));
        }
        purged
    }
}

/// A cluster and what was made in it.
struct Run {
    cluster: Cluster,
    load: Load,
}

impl Run {
    async fn begin(config: &str) -> Self {
        let cluster = Cluster::start(config).await;
        let load = Load::begin(cluster.addresses()).await;
        Self { cluster, load }
    }

    /// One node dies at each of the points in turn.
    async fn all(mut self, cases: Vec<(Point, Way, u64)>) {
        for (point, way, nth) in cases {
            let dead = self.provoke(point, way, nth).await;
            self.load.round().await;
            self.cluster.revive(dead).await;
            self.cluster.becomes_whole().await;
            self.load.check().await;
        }
        self.load.round().await;
        self.cluster.becomes_whole().await;
        assert!([1, 2, 3].iter().all(|id| !self.cluster.log(*id).contains("panicked at")));
    }

    /// Lets a node die; which one it was.
    async fn provoke(&mut self, point: Point, way: Way, nth: u64) -> u64 {
        let leader = self.cluster.leader(0).await.node_id;
        let followers: Vec<u64> = self.cluster.running().into_iter().filter(|id| *id != leader).collect();
        let node = if way == Way::Leader { leader } else { followers[0] };
        match way {
            Way::Leader | Way::Follower => {
                self.cluster.order(node, point, nth);
                self.work_until_death(node, point).await;
                return node;
            }
            Way::Candidate | Way::Voter => {
                self.cluster.order(node, point, nth);
                let next = if way == Way::Candidate { node } else { followers[1] };
                self.hand_over_until_death(next, node, point).await;
                return node;
            }
            Way::Stop => {
                self.cluster.order(node, point, nth);
                self.cluster.signal(node, Signal::TERM);
            }
            Way::Start => {
                self.cluster.kill(node).await;
                self.cluster.order(node, point, nth);
                self.cluster.spawn(node);
            }
            Way::Snapshot => {
                self.cluster.kill(node).await;
                self.work_until_purged().await;
                self.cluster.order(node, point, nth);
                self.cluster.spawn(node);
            }
            Way::Init(_) | Way::OldLeader => unreachable!("it has a test of its own"),
        }
        self.cluster.died(node, point).await;
        node
    }

    async fn work_until_death(&mut self, node: u64, point: Point) {
        let working = async {
            while !self.cluster.has_died(node, point) {
                self.load.round().await;
            }
        };
        in_time(working, &format!("death of node {node} at {point:?}")).await;
    }

    async fn hand_over_until_death(&mut self, next: u64, node: u64, point: Point) {
        let handing_over = async {
            while !self.cluster.has_died(node, point) {
                self.cluster.hand_over(next).await;
            }
        };
        in_time(handing_over, &format!("death of node {node} at {point:?}")).await;
    }

    /// Until the nodes that run have purged all that they have now.
    async fn work_until_purged(&mut self) {
        let had = self.cluster.leader(0).await.last_log_index;
        let working = async {
            while self.cluster.purged().await <= had {
                self.load.round().await;
            }
        };
        in_time(working, "purge of the log").await;
    }
}

async fn in_time<T>(work: impl Future<Output = T>, what: &str) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("no {what} within {PATIENCE:?}"))
}

#[test]
fn every_point_is_reached() {
    assert!(META.iter().all(|point| !cases(*point).is_empty()));
}

#[tokio::test]
async fn a_node_dies_at_work() {
    Run::begin(QUICK).await.all(some_cases(|way| matches!(way, Way::Leader | Way::Follower))).await;
}

#[tokio::test]
async fn a_node_dies_in_start_stop_or_election() {
    let ways = |way: Way| matches!(way, Way::Start | Way::Stop | Way::Candidate | Way::Voter);
    Run::begin(QUICK).await.all(some_cases(ways)).await;
}

#[tokio::test]
async fn a_node_dies_while_it_is_given_a_snapshot() {
    Run::begin(QUICK).await.all(some_cases(|way| way == Way::Snapshot)).await;
}

/// Each time from the beginning, with what the deaths before have left.
#[tokio::test]
async fn nodes_die_while_a_cluster_is_made() {
    for point in [Point::IdentityWritten, Point::IdentityRenamed] {
        let mut cluster = Cluster::empty(QUICK).await;
        for (way, nth) in cases(point) {
            let Way::Init(node) = *way else { panic!("{way:?} is no way to make a cluster") };
            cluster.order(node, point, *nth);
            let mut beat = tokio::time::interval(BEAT);
            let making = async {
                while !cluster.has_died(node, point) {
                    cluster.init().await;
                    beat.tick().await;
                }
            };
            in_time(making, &format!("death of node {node} at {point:?}")).await;
            cluster.revive(node).await;
        }
        cluster.becomes_whole().await;
        let mut load = Load::begin(cluster.addresses()).await;
        load.round().await;
        cluster.becomes_whole().await;
        load.check().await;
    }
}

/// The others are killed, then the leader as soon as an entry is on its disk: nobody else has it, and at its place comes another one.
#[tokio::test]
async fn a_node_dies_while_its_log_is_cut() {
    let Run { mut cluster, mut load } = Run::begin(PATIENT).await;
    load.round().await;
    let leader = cluster.leader(0).await.node_id;
    let others: Vec<u64> = cluster.running().into_iter().filter(|id| *id != leader).collect();
    // Without a pause: the leader takes entries for as long as it may still have followers.
    others.iter().for_each(|id| cluster.signal(*id, Signal::KILL));
    cluster.order(leader, Point::LogWritten, 1);
    let without_it = async {
        cluster.died(leader, Point::LogWritten).await;
        for id in &others {
            cluster.ended(*id).await;
            cluster.spawn(*id);
        }
    };
    tokio::join!(load.round(), without_it);
    for (point, _, nth) in some_cases(|way| way == Way::OldLeader) {
        cluster.order(leader, point, nth);
        cluster.spawn(leader);
        cluster.died(leader, point).await;
    }
    cluster.revive(leader).await;
    cluster.becomes_whole().await;
    load.check().await;
}
