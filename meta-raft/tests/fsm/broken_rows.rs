//! A row that is damaged is noticed, or harmless; it is never a panic (STYLE 24).

use caribou_meta_raft::fsm::command::{ClientOp, Command, IdleStep};
use caribou_meta_raft::fsm::invariants;
use caribou_meta_raft::fsm::read;
use caribou_meta_raft::fsm::tables::memory::MemoryTables;
use caribou_meta_raft::fsm::tables::{Table, replies};
use caribou_proto::ids::{InodeId, ROOT_INODE, Seq};

use crate::cluster::{Cluster, SESSION, create, set_xattr, unlink};

type Row = (Table, Vec<u8>, Vec<u8>);

/// A state with a row in nearly every table.
fn rows() -> Vec<Row> {
    let mut cluster = Cluster::new();
    cluster.run(create("f", &[1, 2])).expect("created");
    cluster.run(set_xattr(InodeId(2), "user.a", 3)).expect("set");
    let symlink = ClientOp::Symlink { parent: ROOT_INODE, name: b"s".to_vec(), target: b"t".to_vec() };
    cluster.run(symlink).expect("made");
    cluster.run(ClientOp::Mkdir { parent: ROOT_INODE, name: b"d".to_vec(), mode: 0o755 }).expect("made");
    cluster.run(create("o", &[1])).expect("created");
    cluster.run(unlink("o")).expect("unlinked");
    let open = Command::OpenSession { key: [8; 16], name: "gone".into() };
    let caribou_meta_raft::fsm::reply::Reply::SessionOpened { session } = cluster.one(open) else { panic!("opened") };
    cluster.one(Command::AddIdle { sessions: vec![IdleStep { session, add_ms: 9 }] });
    cluster.one(Command::ExpireSession { session, ttl_ms: 9 });
    cluster.tables.rows().map(|(table, key, row)| (table, key.to_vec(), row.to_vec())).collect()
}

fn read_everything(tables: &MemoryTables) -> bool {
    let checked = invariants::check(tables).is_ok();
    let replies = (1..9).all(|seq| replies::get(tables, SESSION, Seq(seq)).is_ok());
    let statfs = read::statfs(tables).is_ok();
    checked && replies && statfs
}

#[test]
fn a_row_that_is_cut_or_longer_is_noticed() {
    let rows = rows();
    assert!(read_everything(&MemoryTables::from_iter(rows.clone())));
    for (at, (table, key, row)) in rows.iter().enumerate() {
        // Nobody reads the hash and the last time here; names, targets and values have any length.
        let free = *table == Table::Meta && matches!(key[..], [7] | [8]);
        for length in (0..row.len()).chain([row.len() + 1]) {
            let mut damaged = rows.clone();
            damaged[at].2.resize(length, 1);
            let fine = read_everything(&MemoryTables::from_iter(damaged));
            // The key says it all.
            let marker = row.len() == 1;
            assert!(!fine || free || marker, "{table:?} {key:?} with {length} of {} bytes", row.len());
        }
    }
}

#[test]
fn a_flipped_bit_is_no_panic() {
    let rows = rows();
    for at in 0..rows.len() {
        for bit in 0..rows[at].2.len() * 8 {
            let mut damaged = rows.clone();
            damaged[at].2[bit / 8] ^= 1 << (bit % 8);
            read_everything(&MemoryTables::from_iter(damaged));
        }
    }
}
