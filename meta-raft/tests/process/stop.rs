//! A leader that is told to stop (SIGTERM) serves on while it hands over. Real processes, since the signal is a process's.
//!
//! In a cluster that has had one leader only, nobody has a connection to it: its successor has to make one to say that it leads. A leader
//! that accepts none while it hands over never hears of it.

use rustix::process::Signal;

use super::cluster::Cluster;

/// A hand-over is given up after a second, which a busy machine may need for itself: one of so many has to be seen through.
const ATTEMPTS: usize = 5;
/// Nobody stands for election because the machine is slow: that would make the connections which must not be there.
const CONFIG: &str = "\
    [raft]\n\
    heartbeat = \"100ms\"\n\
    election_timeout_min = \"5s\"\n\
    election_timeout_max = \"8s\"\n\
    [storage]\n\
    block_cache = \"64MiB\"\n\
    write_buffer = \"16MiB\"\n";

#[tokio::test]
async fn a_leader_that_is_told_to_stop_hands_over() {
    let mut logs = Vec::new();
    for _ in 0..ATTEMPTS {
        let mut cluster = Cluster::start(CONFIG).await;
        let leader = cluster.leader(0).await;
        cluster.signal(leader.node_id, Signal::TERM);
        let status = cluster.ended(leader.node_id).await;
        let log = cluster.log(leader.node_id);
        assert!(status.success(), "{status}:\n{log}");
        if log.contains("handed the leadership over") {
            let next = cluster.leader(leader.term).await;
            assert_ne!(next.node_id, leader.node_id);
            return;
        }
        assert!(log.contains("the leadership could not be handed over"), "{log}");
        logs.push(log);
    }
    panic!("{ATTEMPTS} leaders could not hand over while they stopped; they said:\n{}", logs.join("\n"));
}
