//! Time stamps, feature levels, and that the grouping of entries shows nowhere.

use caribou_meta_raft::fsm::Batch;
use caribou_meta_raft::fsm::command::{Entry, SetAttr, SetTime};
use caribou_meta_raft::fsm::reply::Reply;
use caribou_meta_raft::fsm::tables::meta;
use caribou_proto::ids::ROOT_INODE;

use crate::cluster::{Cluster, create, unlink};

#[test]
fn time_never_stands_still() {
    let mut cluster = Cluster::new();
    let before = meta::last_time_ns(&cluster.tables).expect("a time");
    for i in 0..3 {
        // A new leader's clock may be far behind.
        let touch = SetAttr { inode: ROOT_INODE, mtime: Some(SetTime::Now), ..SetAttr::default() };
        let command = cluster.request(caribou_meta_raft::fsm::command::ClientOp::SetAttr(touch));
        let entry = Entry { feature_level: 1, time_ns: -5, commands: vec![command] };
        let replies = cluster.try_apply(&entry).expect("applied").replies;
        let [Reply::Client(reply)] = &replies[..] else { panic!("one reply") };
        let attr = reply.result.clone().expect("done").attr.expect("attributes");
        assert_eq!((attr.mtime_ns, attr.ctime_ns), (before + i + 1, before + i + 1));
    }
}

#[test]
fn an_entry_above_the_feature_level_stops_the_node() {
    let mut cluster = Cluster::new();
    let fatal = cluster.try_apply(&Entry { feature_level: 2, time_ns: 1, commands: vec![] }).expect_err("stops");
    assert!(fatal.0.contains("upgrade this node"), "{fatal}");
}

#[test]
fn batches_do_not_show() {
    let mut cluster = Cluster::new();
    let start = cluster.tables.clone();
    let mut entries = Vec::new();
    for i in 0..40 {
        let op = if i % 3 == 2 { unlink(&format!("f{}", i - 1)) } else { create(&format!("f{}", i % 7 + i / 7), &[]) };
        let commands = vec![cluster.request(op)];
        entries.push(Entry { feature_level: 1, time_ns: i, commands });
    }
    let mut results = Vec::new();
    for group in [1, 2, 7, 40] {
        let mut tables = start.clone();
        let mut replies = Vec::new();
        for entries in entries.chunks(group) {
            let mut batch = Batch::new(&tables);
            replies.extend(entries.iter().map(|entry| batch.apply(entry).expect("applied")));
            let changes = batch.finish();
            tables.commit(changes);
        }
        results.push((tables, replies));
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "the grouping shows");
    assert_ne!(meta::state_hash(&results[0].0), meta::state_hash(&start));
}
