//! What the journal says after a loss of power, and whatever its bytes are.

use proptest::prelude::*;

use super::*;
use crate::store::memory::MemoryDisk;

const DISK: [u8; 16] = [7; 16];

fn chunk(id: u64) -> ChunkId {
    ChunkId(id)
}

#[test]
fn covers_before_and_lets_go_after() {
    let disk = Arc::new(MemoryDisk::new("m"));
    let contents = Contents { watermark: chunk(100), ..Contents::default() };
    let journal = Journal::begin(disk.clone(), DISK, contents).unwrap();
    let syncs = disk.syncs();
    journal.ensure(chunk(5), ChunkVersion(1), GrantId(9)).unwrap();
    assert_eq!(disk.syncs(), syncs + 1);
    journal.ensure(chunk(5), ChunkVersion(1), GrantId(9)).unwrap();
    journal.ensure(chunk(100), ChunkVersion(1), GrantId(10)).unwrap();
    journal.ensure(chunk(120), ChunkVersion(1), GrantId(11)).unwrap();
    assert_eq!(disk.syncs(), syncs + 1, "neither known nor new chunks pay");
    let found = Journal::replay(&disk.power_cut(1), DISK).unwrap().unwrap();
    assert!(found.covers(chunk(5)) && found.covers(chunk(100)) && found.covers(chunk(120)) && !found.covers(chunk(6)));
}

#[test]
fn settling_raises_the_watermark_and_names_the_busy() {
    let disk = Arc::new(MemoryDisk::new("m"));
    let journal = Journal::begin(disk.clone(), DISK, Contents::default()).unwrap();
    for id in 1..=4 {
        journal.ensure(chunk(id), ChunkVersion(1), GrantId(id)).unwrap();
    }
    let busy = |id: ChunkId| if id.0 == 3 { Standing::Busy(ChunkVersion(1), GrantId(3)) } else { Standing::Idle };
    journal.settle(busy).unwrap();
    let found = Journal::replay(&disk.power_cut(3), DISK).unwrap().unwrap();
    assert_eq!(found.watermark, chunk(5));
    assert_eq!(found.highest_grant, GrantId(4));
    assert_eq!(found.entries.keys().copied().collect::<Vec<_>>(), [chunk(3)]);
}

// V3, M17: what the leader has told sets a watermark, also a lower one than none.
#[test]
fn a_lowered_watermark_covers_nothing_before_it_is_durable() {
    let begin = || {
        let disk = Arc::new(MemoryDisk::new("m"));
        let contents = Contents { watermark: NONE_BY_RANGE, ..Contents::default() };
        (disk.clone(), Journal::begin(disk, DISK, contents).unwrap())
    };
    let ensure = |journal: &Journal, id| journal.ensure(chunk(id), ChunkVersion(1), GrantId(1));
    let (disk, journal) = begin();
    ensure(&journal, 70).unwrap();
    journal.told(Some(chunk(50)), true);
    journal.settle(|_| Standing::Idle).unwrap();
    let syncs = disk.syncs();
    ensure(&journal, 71).unwrap();
    assert_eq!(disk.syncs(), syncs);
    let found = Journal::replay(&disk.power_cut(1), DISK).unwrap().unwrap();
    assert_eq!(found.watermark, chunk(71), "above what was told, and what was seen here");
    let (disk, journal) = begin();
    journal.told(Some(chunk(50)), true);
    disk.set_hook(Some(Arc::new(|_: &str| Err(io::Error::other("it never got there")))));
    assert!(journal.settle(|_| Standing::Idle).is_err());
    assert!(ensure(&journal, 71).is_err());
}

#[test]
fn grows_over_many_files() {
    let disk = Arc::new(MemoryDisk::new("m"));
    let contents = Contents { watermark: chunk(u64::MAX), ..Contents::default() };
    let journal = Journal::begin(disk.clone(), DISK, contents).unwrap();
    for id in 0..9000 {
        journal.ensure(chunk(id), ChunkVersion(1), GrantId(id)).unwrap();
        if id % 3000 == 0 {
            journal.settle(|id| if id.0 % 2 == 0 { Standing::Lingering } else { Standing::Idle }).unwrap();
        }
    }
    let found = Journal::replay(&disk.power_cut(9), DISK).unwrap().unwrap();
    let live = journal.contents();
    assert!(live.entries.keys().all(|id| found.covers(*id)));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = decode_all(&bytes, DISK);
    }

    // Whatever survives of what was not synced, what was synced is there.
    #[test]
    fn synced_entries_survive(ids in prop::collection::vec(0u64..50, 1..60), seed in any::<u64>()) {
        let disk = Arc::new(MemoryDisk::new("m"));
        let contents = Contents { watermark: chunk(1000), ..Contents::default() };
        let journal = Journal::begin(disk.clone(), DISK, contents).unwrap();
        for id in &ids {
            journal.ensure(chunk(*id), ChunkVersion(1), GrantId(1)).unwrap();
            if id % 7 == 0 {
                journal.settle(|id| if id.0 % 3 == 0 { Standing::Idle } else { Standing::Lingering }).unwrap();
            }
        }
        let found = Journal::replay(&disk.power_cut(seed), DISK).unwrap().unwrap();
        prop_assert!(journal.contents().entries.keys().all(|id| found.covers(*id)));
    }
}
