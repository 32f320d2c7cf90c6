//! One conformance suite for both disks: what the store relies on holds in memory as on a real file system.

use std::io::ErrorKind;
use std::path::Path;

use caribou_chunkd::store::disk::{Disk, OpenMode};
use caribou_chunkd::store::file::FileDisk;
use caribou_chunkd::store::memory::MemoryDisk;

fn on_both(check: impl Fn(&dyn Disk)) {
    check(&MemoryDisk::new("memory"));
    let folder = tempfile::tempdir().unwrap();
    check(&FileDisk::open(folder.path()).unwrap());
}

fn kind<T>(result: std::io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn files_are_sparse_and_short_reads_mean_the_end() {
    on_both(|disk| {
        let file = disk.open("f", OpenMode::CreateNew).unwrap();
        assert!(file.is_empty().unwrap());
        file.write_at(b"hello", 100_000).unwrap();
        assert_eq!(file.len().unwrap(), 100_005);
        let mut buf = [9; 10];
        assert_eq!(file.read_at(&mut buf, 99_998).unwrap(), 7);
        assert_eq!(&buf[..7], b"\0\0hello");
        assert_eq!(file.read_at(&mut buf, 100_005).unwrap(), 0);
        assert_eq!(file.read_at(&mut buf, 500_000).unwrap(), 0);
        file.extend(200_000).unwrap();
        file.extend(5).unwrap();
        assert_eq!(file.len().unwrap(), 200_000);
        assert_eq!(file.read_at(&mut buf, 100_004).unwrap(), 10);
        assert_eq!(&buf, b"o\0\0\0\0\0\0\0\0\0");
        file.sync_data().unwrap();
    });
}

#[test]
fn punching_zeroes_a_range_and_keeps_the_length() {
    on_both(|disk| {
        let file = disk.open("f", OpenMode::CreateNew).unwrap();
        file.write_at(&[7; 20_000], 0).unwrap();
        file.punch(5000, 7001).unwrap();
        file.punch(19_999, 1 << 20).unwrap();
        file.punch(1 << 22, 1 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 20_000);
        let mut buf = [1; 20_000];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 20_000);
        for (at, byte) in buf.iter().enumerate() {
            let expected = if (5000..12_001).contains(&at) || at == 19_999 { 0 } else { 7 };
            assert_eq!(*byte, expected, "at {at}");
        }
    });
}

#[test]
fn names() {
    on_both(|disk| {
        assert_eq!(kind(disk.open("a", OpenMode::Existing)), Some(ErrorKind::NotFound));
        disk.open("a", OpenMode::CreateNew).unwrap().write_at(b"1", 0).unwrap();
        assert_eq!(kind(disk.open("a", OpenMode::CreateNew)), Some(ErrorKind::AlreadyExists));
        assert_eq!(kind(disk.open("dir/a", OpenMode::CreateNew)), Some(ErrorKind::NotFound));
        disk.create_dir("dir").unwrap();
        disk.create_dir("dir").unwrap();
        disk.open("dir/b", OpenMode::Truncate).unwrap().write_at(b"22", 0).unwrap();
        disk.rename("a", "dir/b").unwrap();
        assert_eq!(disk.open("dir/b", OpenMode::Existing).unwrap().len().unwrap(), 1);
        assert_eq!(kind(disk.rename("a", "c")), Some(ErrorKind::NotFound));
        disk.sync_dir("").unwrap();
        disk.sync_dir("dir").unwrap();
        assert_eq!(disk.list("dir").unwrap(), ["b"]);
        assert_eq!(disk.list("").unwrap(), ["dir"]);
        assert_eq!(kind(disk.list("none")), Some(ErrorKind::NotFound));
        assert!(disk.open("dir/b", OpenMode::Truncate).unwrap().is_empty().unwrap());
        disk.unlink("dir/b").unwrap();
        assert_eq!(kind(disk.unlink("dir/b")), Some(ErrorKind::NotFound));
        assert!(disk.space().unwrap().total_bytes > 0);
    });
}

#[test]
fn an_open_file_outlives_its_name() {
    on_both(|disk| {
        let file = disk.open("a", OpenMode::CreateNew).unwrap();
        file.write_at(b"x", 0).unwrap();
        disk.rename("a", "b").unwrap();
        file.write_at(b"y", 1).unwrap();
        assert_eq!(disk.open("b", OpenMode::Existing).unwrap().len().unwrap(), 2);
        disk.unlink("b").unwrap();
        let mut buf = [0; 2];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 2);
    });
}

#[test]
fn the_lock_is_exclusive_and_leaves_no_trace() {
    on_both(|disk| {
        let guard = disk.lock().unwrap();
        assert_eq!(disk.lock().err().unwrap().kind(), ErrorKind::WouldBlock);
        assert!(disk.list("").unwrap().is_empty());
        drop(guard);
        disk.lock().unwrap();
    });
}

#[test]
fn a_missing_folder_is_an_error() {
    assert_eq!(kind(FileDisk::open(Path::new("/nonexistent/folder"))), Some(ErrorKind::NotFound));
}

#[test]
fn power_loss_keeps_exactly_what_was_synced() {
    for seed in 0..50 {
        let disk = MemoryDisk::new("memory");
        let file = disk.open("a", OpenMode::CreateNew).unwrap();
        file.write_at(&[1; 4096], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir("").unwrap();
        file.write_at(&[2; 4096], 0).unwrap();
        disk.open("b", OpenMode::CreateNew).unwrap();
        let after = disk.power_cut(seed);
        assert!(file.write_at(b"x", 0).is_err(), "an old handle is dead");
        let mut buf = [0; 4096];
        assert_eq!(after.open("a", OpenMode::Existing).unwrap().read_at(&mut buf, 0).unwrap(), 4096);
        for word in buf.chunks(8) {
            assert!(word == [1; 8] || word == [2; 8], "old or new, sectors may be torn");
        }
    }
}
