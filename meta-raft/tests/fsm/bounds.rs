//! Work per record is bounded: what is larger takes several records, and each of them leaves a state that is right.

use caribou_meta_raft::fsm::command::{ClientOp, Command, Rename};
use caribou_meta_raft::fsm::error::Errno;
use caribou_meta_raft::fsm::read;
use caribou_meta_raft::fsm::reply::Reply;
use caribou_meta_raft::fsm::tables::meta::{Counter, counter};
use caribou_meta_raft::fsm::tables::sessions::SessionState;
use caribou_meta_raft::fsm::tables::{orphans, replies, sessions};
use caribou_proto::ids::{Cookie, InodeId, ROOT_INODE, SESSION_WINDOW, Seq, SessionId};

use crate::cluster::{Cluster, SESSION, create, unlink};

/// How often a command says that more is to do; the last one said `finished`.
fn steps(cluster: &mut Cluster, command: &Command) -> u32 {
    for step in 1..100 {
        if cluster.one(command.clone()) == (Reply::Progress { finished: true }) {
            return step;
        }
    }
    panic!("never finished: {command:?}");
}

fn stored_replies(cluster: &Cluster) -> Vec<Seq> {
    let mut seqs = replies::seqs(&cluster.tables, SESSION).expect("replies");
    seqs.sort_unstable();
    seqs
}

#[test]
fn a_session_stores_a_window_of_replies_and_none_that_is_not_acknowledged_goes() {
    let mut cluster = Cluster::new();
    for i in 0..SESSION_WINDOW {
        cluster.run(create(&format!("f{i}"), &[])).expect("created");
    }
    let beyond = cluster.request(create("beyond", &[]));
    assert!(format!("{:?}", cluster.one(beyond)).contains("WindowExceeded"));
    assert_eq!(stored_replies(&cluster), (1..=SESSION_WINDOW).map(Seq).collect::<Vec<_>>());
    // What is stored next takes the places of what has been acknowledged, and of nothing else.
    cluster.next_seq = SESSION_WINDOW + 1;
    cluster.acked_below = 101;
    for i in 0..100 {
        cluster.run(create(&format!("g{i}"), &[])).expect("created");
    }
    assert_eq!(stored_replies(&cluster), (101..=SESSION_WINDOW + 100).map(Seq).collect::<Vec<_>>());
    let beyond = cluster.request(create("beyond", &[]));
    assert!(format!("{:?}", cluster.one(beyond)).contains("WindowExceeded"));
    for seq in [101, 700, SESSION_WINDOW + 100] {
        assert!(replies::get(&cluster.tables, SESSION, Seq(seq)).expect("a get").is_some(), "{seq}");
    }
    assert_eq!(replies::get(&cluster.tables, SESSION, Seq(100)), Ok(None), "its place belongs to another now");
    // A client that claims to have seen what was never asked costs nothing, and harms itself only.
    cluster.acked_below = u64::MAX;
    let request = cluster.request(unlink("f1"));
    cluster.one(request);
    assert!(read::lookup(&cluster.tables, &Default::default(), ROOT_INODE, b"f1").is_ok());
}

#[test]
fn a_session_with_many_grants_ends_in_steps() {
    let mut cluster = Cluster::new();
    for i in 0..150 {
        let body = cluster.run(create(&format!("f{i}"), &[1, 2])).expect("created");
        assert!(body.grant.is_some());
    }
    let step = caribou_meta_raft::fsm::command::IdleStep { session: SESSION, add_ms: 100 };
    cluster.one(Command::AddIdle { sessions: vec![step] });
    let expire = Command::ExpireSession { session: SESSION, ttl_ms: 100 };
    assert_eq!(cluster.one(expire.clone()), Reply::Progress { finished: false });
    let state = sessions::get(&cluster.tables, SESSION).expect("a get").expect("a session").state;
    assert!(matches!(state, SessionState::Ending { .. }), "{state:?}");
    // S4: its requests are over at once.
    let request = cluster.request(unlink("f1"));
    assert!(format!("{:?}", cluster.one(request)).contains("NotExecuted"));
    assert_eq!(steps(&mut cluster, &expire), 2);
    assert_eq!(counter(&cluster.tables, Counter::Chunks), Ok(0), "W2: never written, so garbage");
    let forget = Command::ForgetSessions { before_ns: i64::MAX, limit: 40 };
    assert_eq!(steps(&mut cluster, &forget), 4);
    assert_eq!(sessions::get(&cluster.tables, SESSION), Ok(None));
    assert_eq!(steps(&mut cluster, &Command::ExpireSession { session: SessionId(9), ttl_ms: 1 }), 1);
}

#[test]
fn orphans_are_purged_in_steps() {
    let mut cluster = Cluster::new();
    for i in 0..300 {
        cluster.run(create(&format!("f{i}"), &[1])).expect("created");
        cluster.run(unlink(&format!("f{i}"))).expect("unlinked");
    }
    let inodes = orphans::page(&cluster.tables, InodeId(0), 1000).expect("orphans");
    assert_eq!(inodes.len(), 300);
    assert_eq!(steps(&mut cluster, &Command::PurgeOrphans { inodes }), 2);
    assert_eq!(counter(&cluster.tables, Counter::Inodes), Ok(1));
    assert_eq!(counter(&cluster.tables, Counter::Chunks), Ok(0));
    assert_eq!(counter(&cluster.tables, Counter::Garbage), Ok(300));
}

#[test]
fn a_large_directory_is_read_in_pages() {
    let mut cluster = Cluster::new();
    for hundred in 0..100 {
        let commands = (0..100).map(|i| cluster.request(create(&format!("f{hundred}-{i}"), &[]))).collect();
        cluster.acked_below = cluster.next_seq;
        let entry = caribou_meta_raft::fsm::command::Entry { feature_level: 1, time_ns: 1, commands };
        cluster.try_apply(&entry).expect("no broken invariant");
    }
    let (mut cookie, mut names) = (Cookie(0), std::collections::BTreeSet::new());
    loop {
        let page = read::readdir(&cluster.tables, ROOT_INODE, cookie, u32::MAX, false).expect("a page");
        assert!(page.entries.len() <= read::MAX_READDIR_ENTRIES as usize);
        cookie = page.entries.last().expect("an entry").cookie;
        names.extend(page.entries.into_iter().map(|entry| entry.name));
        if page.end {
            break;
        }
    }
    assert_eq!(names.len(), 10_000);
}

#[test]
fn a_loop_is_looked_for_in_so_many_levels_only() {
    const LEVELS: u64 = 4200;
    let mut cluster = Cluster::new();
    let mkdir = |parent, name: &str| ClientOp::Mkdir { parent, name: name.into(), mode: 0o755 };
    let moved = cluster.run(mkdir(ROOT_INODE, "moved")).expect("made").attr.expect("attributes").inode;
    // The inode of level `n` is that of `moved` and `n`.
    let level = |n: u64| if n == 0 { ROOT_INODE } else { InodeId(moved.0 + n) };
    for first in (0..LEVELS).step_by(600) {
        cluster.acked_below = cluster.next_seq;
        let deeper = (first..LEVELS.min(first + 600)).map(|n| cluster.request(mkdir(level(n), "d"))).collect();
        cluster.apply(deeper);
    }
    assert_eq!(read::getattr(&cluster.tables, level(LEVELS)).expect("made").inode, level(LEVELS));
    let mut rename = |from, to| {
        let name = || b"moved".to_vec();
        let (no_replace, exchange) = (false, false);
        let rename =
            Rename { parent: level(from), name: name(), new_parent: level(to), new_name: name(), no_replace, exchange };
        cluster.acked_below = cluster.next_seq;
        cluster.run(ClientOp::Rename(rename))
    };
    assert!(rename(0, 4000).is_ok());
    assert_eq!(rename(4000, LEVELS), Err(Errno::NameTooLong));
    assert!(rename(4000, 1).is_ok());
}
