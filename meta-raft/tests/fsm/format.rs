//! What release 0.1 writes, byte by byte: these rows decode for ever, and the same entries still lead to them.
//!
//! A difference here is a new format: it needs a feature level. `UPDATE_GOLDEN=1` writes the file anew while 0.1 is not released.

use std::fmt::Write as _;
use std::path::Path;

use caribou_meta_raft::fsm::command::{ClientOp, Command, IdleStep, InitCluster, Kind};
use caribou_meta_raft::fsm::invariants;
use caribou_meta_raft::fsm::tables::memory::MemoryTables;
use caribou_meta_raft::fsm::tables::{Table, meta};
use caribou_proto::ids::{InodeId, ROOT_INODE, SessionId};

use crate::cluster::{Cluster, SESSION, create, set_xattr, unlink};

/// A history that leaves rows of every kind that has to do with names and sessions.
fn history() -> Cluster {
    let mut cluster = Cluster::empty();
    let init = InitCluster { uuid: [1; 16], generation: 3, nonce: u64::MAX, default_goal: 2 };
    let open = |key, name: &str| Command::OpenSession { key: [key; 16], name: name.into() };
    cluster.apply(vec![Command::InitCluster(init), open(2, "host:/mnt"), open(3, "gone")]);
    let mknod =
        ClientOp::Mknod { parent: ROOT_INODE, name: b"c".to_vec(), kind: Kind::CharDevice, mode: 0o600, rdev: 259 };
    let ops = [
        create("file", &[]),
        ClientOp::Mkdir { parent: ROOT_INODE, name: b"dir".to_vec(), mode: 0o1777 },
        ClientOp::Symlink { parent: InodeId(3), name: b"s".to_vec(), target: b"../file".to_vec() },
        ClientOp::Link { inode: InodeId(2), parent: InodeId(3), name: "ü".into() },
        mknod,
        set_xattr(InodeId(2), "user.a", 3),
        create("orphan", &[]),
        unlink("orphan"),
    ];
    for op in ops {
        cluster.run(op).expect("done");
    }
    cluster.run(unlink("nothing")).expect_err("not there");
    cluster.one(Command::Cancel { session: SESSION, seq: caribou_proto::ids::Seq(20) });
    let session = SessionId(2);
    cluster.one(Command::AddIdle { sessions: vec![IdleStep { session, add_ms: 500 }] });
    cluster.one(Command::ExpireSession { session, ttl_ms: 500 });
    cluster
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("two digits");
    (0..text.len()).step_by(2).map(digit).collect()
}

fn write(tables: &MemoryTables) -> String {
    tables.rows().fold(String::new(), |mut text, (table, key, row)| {
        writeln!(text, "{} {} {}", table.name(), hex(key), hex(row)).expect("a string takes everything");
        text
    })
}

fn read(text: &str) -> MemoryTables {
    let row = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let table = Table::ALL.into_iter().find(|table| table.name() == words[0]).expect("a table");
        (table, unhex(words[1]), unhex(words[2]))
    };
    text.lines().map(row).collect()
}

#[test]
fn release_0_1_rows() {
    let path = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
        .join("tests/format/v1/rows.txt");
    let now = history().tables;
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, write(&now)).expect("written");
    }
    let recorded = std::fs::read_to_string(&path).expect("the recorded rows");
    let tables = read(&recorded);
    invariants::check(&tables).expect("recorded rows decode");
    assert_eq!(meta::state_hash(&now), meta::state_hash(&tables), "the same entries lead to another digest");
    assert_eq!(write(&now), recorded, "the same entries lead to other rows");
}
