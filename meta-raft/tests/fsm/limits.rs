//! Limits of what is stored, and what a caller is told who meets them.

use caribou_meta_raft::fsm::command::{ClientOp, Command};
use caribou_meta_raft::fsm::error::Errno;
use caribou_meta_raft::fsm::read;
use caribou_meta_raft::fsm::reply::{Body, Reply};
use caribou_meta_raft::fsm::tables::sessions;
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
