//! Limits of what is stored, and what a caller is told who meets them.

use caribou_meta_raft::fsm::command::{ClientOp, Command, Entry, SetAttr};
use caribou_meta_raft::fsm::error::Errno;
use caribou_meta_raft::fsm::read;
use caribou_meta_raft::fsm::reply::{Body, ClientReply, Reply};
use caribou_meta_raft::fsm::tables::meta::{Counter, counter};
use caribou_meta_raft::fsm::tables::{Table, sessions};
use caribou_proto::ids::{ROOT_INODE, SessionId};

use crate::cluster::{Cluster, create, set_xattr};

#[test]
fn attributes_of_an_inode_are_limited_in_number_and_size() {
    let mut cluster = Cluster::new();
    let file = cluster.run(create("f", &[])).expect("created").attr.expect("attributes").inode;
    for i in 0..256 {
        assert_eq!(cluster.run(set_xattr(file, &format!("user.{i}"), 1)), Ok(Body::default()));
    }
    assert_eq!(cluster.run(set_xattr(file, "user.more", 1)), Err(Errno::NoSpace));
    assert_eq!(cluster.run(set_xattr(file, "user.255", 2)), Ok(Body::default()), "a replacement needs no place");
    let remove = |name: &str| ClientOp::RemoveXattr { inode: file, name: name.into() };
    assert_eq!(cluster.run(remove("user.255")), Ok(Body::default()));
    assert_eq!(cluster.run(set_xattr(file, "user.more", 65_536)), Ok(Body::default()));
    assert_eq!(cluster.run(set_xattr(file, "user.more", 65_537)), Err(Errno::TooBig));
    assert_eq!(cluster.run(set_xattr(file, "user.1", 65_536)), Err(Errno::NoSpace));
    assert_eq!(read::listxattr(&cluster.tables, &Default::default(), file).expect("names").len(), 256);
    assert_eq!(cluster.run(set_xattr(file, &format!("user.{}", "x".repeat(250)), 1)), Err(Errno::NoSpace));
    assert_eq!(cluster.run(set_xattr(file, &format!("user.{}", "x".repeat(251)), 1)), Err(Errno::Range));
}

#[test]
fn a_name_may_be_any_bytes_but_slash_and_zero() {
    let mut cluster = Cluster::new();
    let mkdir = |name: &[u8]| ClientOp::Mkdir { parent: ROOT_INODE, name: name.to_vec(), mode: 0o755 };
    for name in [&[1, 255, 128][..], b" ", b"...", "ü".as_bytes(), &[b'n'; 255]] {
        let made = cluster.run(mkdir(name)).expect("made").attr.expect("attributes").inode;
        let path = [b"/", name].concat();
        assert_eq!(read::path(&cluster.tables, made).expect("a path"), Some(path));
    }
    for (name, errno) in [
        (&b"a/b"[..], Errno::Inval),
        (b"a\0", Errno::Inval),
        (b"..", Errno::Inval),
        (b"", Errno::NoEnt),
        (&[b'n'; 256], Errno::NameTooLong),
    ] {
        assert_eq!(cluster.run(mkdir(name)), Err(errno));
    }
}

#[test]
fn a_session_name_is_cut_between_characters() {
    let mut cluster = Cluster::new();
    let open = Command::OpenSession { key: [9; 16], name: "ü".repeat(200) };
    assert_eq!(cluster.one(open), Reply::SessionOpened { session: SessionId(2) });
    let session = sessions::get(&cluster.tables, SessionId(2)).expect("a get").expect("a session");
    assert_eq!(session.name, "ü".repeat(127));
}

/// Holes cost nothing, so anybody can make files whose lengths come to more than 64 bits: that is an answer, not the end of all nodes.
#[test]
fn lengths_that_no_total_can_hold_are_refused() {
    let mut cluster = Cluster::new();
    let file = cluster.run(create("f", &[])).expect("created").attr.expect("attributes").inode;
    // As if other files had all but 50 bytes.
    let format = cluster.tables.rows().find(|(table, ..)| *table == Table::Meta).expect("a row").2[0];
    let total = [&[format, 0x80 | 0x4d][..], &[0xff; 8], &[1]].concat();
    let rows = cluster.tables.rows().map(|(table, key, row)| (table, key.to_vec(), row.to_vec()));
    let others = (Table::Meta, vec![Counter::Bytes as u8], total);
    cluster.tables = rows.chain([others]).collect::<Vec<_>>().into_iter().collect();
    assert_eq!(counter(&cluster.tables, Counter::Bytes), Ok(u64::MAX - 50));
    let mut resize = |size| {
        let command =
            cluster.request(ClientOp::SetAttr(SetAttr { inode: file, size: Some(size), ..SetAttr::default() }));
        cluster.time_ns += 1;
        let entry = Entry { feature_level: 1, time_ns: cluster.time_ns, commands: vec![command] };
        let replies = cluster.try_apply(&entry).expect("no broken invariant").replies;
        let Reply::Client(ClientReply { result, .. }) = &replies[0] else { panic!("{replies:?}") };
        result.clone().map(|body| body.attr.expect("attributes").size)
    };
    assert_eq!(resize(51), Err(Errno::NoSpace));
    assert_eq!(resize(50), Ok(50));
    assert_eq!(resize(51), Err(Errno::NoSpace));
    assert_eq!(resize(0), Ok(0));
}
