//! What every back end of [`Tables`] must do: one suite, run on each (STYLE 24), through [`Txn`] as `apply` uses it.
//!
//! Panics at the first difference from an ordered map.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{Changes, Table, Tables, Txn, Visit};

type Reference = BTreeMap<(Table, Vec<u8>), Vec<u8>>;
type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Runs the suite on an empty back end; `commit` takes changes in one atomic write.
pub(crate) fn run<T: Tables>(backend: &mut T, mut commit: impl FnMut(&mut T, Changes)) {
    nothing_in_an_empty_one(backend);
    order_and_borders(backend, &mut commit);
    an_overlay_hides_and_shows(backend, &mut commit);
    as_an_ordered_map(backend, &mut commit);
}

/// The rows from `from` on, at most `limit`.
fn rows(tables: &dyn Tables, table: Table, from: &[u8], limit: usize) -> Rows {
    let mut rows = Rows::new();
    tables
        .scan(table, from, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            if rows.len() >= limit { Visit::Stop } else { Visit::Next }
        })
        .expect("a scan");
    rows
}

fn change(base: &dyn Tables, change: impl FnOnce(&mut Txn<'_>)) -> Changes {
    let mut txn = Txn::new(base);
    change(&mut txn);
    txn.keep(|_, _, _| {});
    txn.finish()
}

fn nothing_in_an_empty_one(backend: &dyn Tables) {
    for table in Table::ALL {
        assert_eq!(backend.get(table, b"key").expect("a get"), None, "{table:?}");
        assert_eq!(rows(backend, table, b"", 1), [], "{table:?}");
    }
}

fn order_and_borders<T: Tables>(backend: &mut T, commit: &mut impl FnMut(&mut T, Changes)) {
    let keys: [&[u8]; 7] = [&[0], &[0, 0], &[0, 255], &[1], &[127; 300], &[128], &[255, 255]];
    let changes = change(backend, |txn| {
        for table in Table::ALL {
            for (i, key) in keys.iter().enumerate().rev() {
                // An empty value is a row too.
                txn.put(table, *key, vec![table as u8; i]);
            }
        }
    });
    commit(backend, changes);
    for table in Table::ALL {
        let expected: Rows = keys.iter().enumerate().map(|(i, key)| (key.to_vec(), vec![table as u8; i])).collect();
        assert_eq!(rows(backend, table, b"", 100), expected, "{table:?} in byte order, and no other table's rows");
        assert_eq!(rows(backend, table, &[0, 1], 100), expected[2..], "from between two keys");
        assert_eq!(rows(backend, table, &[1], 2), expected[3..5], "from a key on, until told to stop");
        assert_eq!(rows(backend, table, &[255, 255, 0], 9), [], "from behind the last one");
        assert_eq!(backend.get(table, &[0]).expect("a get"), Some(vec![]));
        assert_eq!(backend.get(table, &[0, 1]).expect("a get"), None, "no key but an exact one");
    }
    let changes = change(backend, |txn| {
        for table in Table::ALL {
            keys.iter().for_each(|key| txn.delete(table, *key));
            txn.delete(table, [9]);
        }
    });
    commit(backend, changes);
    nothing_in_an_empty_one(backend);
}

fn an_overlay_hides_and_shows<T: Tables>(backend: &mut T, commit: &mut impl FnMut(&mut T, Changes)) {
    let table = Table::Inodes;
    let changes = change(backend, |txn| [1, 3, 5, 7].into_iter().for_each(|key| txn.put(table, [key], [key])));
    commit(backend, changes);
    let mut txn = Txn::new(&*backend);
    txn.put(table, [2], [20]);
    txn.put(table, [3], [30]);
    txn.delete(table, [5]);
    txn.keep(|_, _, _| {});
    txn.put(table, [3], [31]);
    txn.put(table, [5], [50]);
    txn.delete(table, [7]);
    txn.put(table, [9], [90]);
    let pending: Rows = [(1, 1), (2, 20), (3, 31), (5, 50), (9, 90)].map(|(k, v)| (vec![k], vec![v])).into();
    assert_eq!(rows(&txn, table, b"", 9), pending, "pending over kept over stored");
    assert_eq!(rows(&txn, table, &[2], 2), pending[1..3]);
    txn.discard();
    let kept: Rows = [(1, 1), (2, 20), (3, 30), (7, 7)].map(|(k, v)| (vec![k], vec![v])).into();
    assert_eq!(rows(&txn, table, b"", 9), kept, "a discarded command leaves nothing behind");
    assert_eq!(txn.get(table, &[5]).expect("a get"), None);
    let changes = txn.finish();
    assert_eq!(rows(backend, table, b"", 1), [(vec![1], vec![1])], "nothing is stored before the commit");
    commit(backend, changes);
    assert_eq!(rows(backend, table, b"", 9), kept);
    let changes = change(backend, |txn| [1, 2, 3, 7].into_iter().for_each(|key| txn.delete(table, [key])));
    commit(backend, changes);
}

/// Random changes, the same each time, compared in the overlay and after the commit.
fn as_an_ordered_map<T: Tables>(backend: &mut T, commit: &mut impl FnMut(&mut T, Changes)) {
    let mut numbers = 0x2545_F491_4F6C_DD1D_u64;
    let mut draw = move |below: u64| {
        numbers = numbers.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (numbers >> 33) % below
    };
    let tables = [Table::Meta, Table::Inodes, Table::Dentries, Table::EndedSessions];
    let mut reference = Reference::new();
    for round in 0..60 {
        let mut txn = Txn::new(&*backend);
        for _ in 0..draw(4) {
            let mut tried = reference.clone();
            for _ in 0..draw(12) {
                let table = tables[draw(4) as usize];
                let key: Vec<u8> = (0..=draw(3)).map(|_| [0, 1, 128, 255][draw(4) as usize]).collect();
                if draw(3) == 0 {
                    txn.delete(table, key.clone());
                    tried.remove(&(table, key));
                } else {
                    let value = vec![round; draw(5) as usize];
                    txn.put(table, key.clone(), value.clone());
                    tried.insert((table, key), value);
                }
            }
            compare(&txn, &tried, &tables);
            if draw(4) == 0 {
                txn.discard();
            } else {
                txn.keep(|_, _, _| {});
                reference = tried;
            }
            compare(&txn, &reference, &tables);
        }
        let changes = txn.finish();
        commit(backend, changes);
        compare(backend, &reference, &tables);
    }
}

fn compare(tables: &dyn Tables, reference: &Reference, which: &[Table]) {
    for table in which {
        for from in [&[][..], &[1], &[1, 128], &[255]] {
            let range = reference.range((Bound::Included((*table, from.to_vec())), Bound::Unbounded));
            let expected: Rows =
                range.take_while(|((t, _), _)| t == table).map(|((_, k), v)| (k.clone(), v.clone())).collect();
            assert_eq!(rows(tables, *table, from, usize::MAX), expected, "{table:?} from {from:?}");
        }
    }
    for ((table, key), value) in reference {
        assert_eq!(tables.get(*table, key).expect("a get").as_ref(), Some(value));
    }
}

#[test]
fn memory_tables_conform() {
    run(&mut super::memory::MemoryTables::default(), |tables, changes| tables.commit(changes));
}
