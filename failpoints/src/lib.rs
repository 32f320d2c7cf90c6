//! Places where a process can be told to die, as by SIGKILL: before and after each change of a disk that another one relies on.
//!
//! [`FILE`] names a file, which need not exist. At every point the process looks whether the file names it, as `ApplyWritten`, or as
//! `ApplyWritten:3` for the third time from then on; if it does the process ends there, with nothing dropped and nothing flushed. A file, since
//! a leader has to be told while it leads. Without the variable, and in release builds, a point does nothing.
//!
//! The crate `fail` was weighed and left: it can end a process by a panic only, which unwinds, and its points are switched on by a feature, that is
//! by another build of everything.

use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};

use rustix::process::{Signal, getpid, kill_process};

/// The environment variable with the file's path.
pub const FILE: &str = "CARIBOU_KILL_AT";

/// Every point and, by the program that passes it, all of them: neither can lack one.
macro_rules! points {
    ($($(#[$whose:meta])* $all:ident { $($(#[$what:meta])* $point:ident,)* })*) => {
        /// Where a process can be told to die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $($($(#[$what])* $point,)*)*
        }

        $($(#[$whose])* pub const $all: &[Point] = &[$(Point::$point),*];)*
    };
}

points! {
    /// The metadata node's.
    META {
        /// Its folder is its own and says whose it is; nothing in it has been opened.
        StartLocked,
        /// The Raft log has been read.
        StartLogOpened,
        /// The state has been opened, and what broken installs had left is gone.
        StartStateOpened,
        /// The checkpoints have been found.
        StartSnapshotsOpened,
        /// Raft runs; nobody is served yet.
        StartRaftUp,

        /// The identity is on disk under another name.
        IdentityWritten,
        /// And under its own.
        IdentityRenamed,

        /// Entries are about to be written to the log.
        LogUnwritten,
        /// They are on disk, and nobody has been told.
        LogWritten,
        /// A vote, the same.
        VoteUnwritten,
        VoteWritten,
        /// That entries are cut off.
        TruncateUnwritten,
        TruncateWritten,
        /// That entries are purged.
        PurgeUnwritten,
        PurgeWritten,
        /// A segment that holds only purged entries is gone.
        SegmentDropped,
        /// A segment is on disk under another name.
        SegmentFilled,
        /// And under its own.
        SegmentRenamed,

        /// What entries change is about to be written to the state.
        ApplyUnwritten,
        /// The state has it, in memory.
        ApplyWritten,
        /// The state is about to be made durable.
        FlushBegun,
        Flushed,

        /// A checkpoint is on disk under another name.
        CheckpointMade,
        /// And under its own.
        CheckpointRenamed,
        /// The folder of an old checkpoint or state is about to be removed.
        FolderObsolete,
        FolderRemoved,

        /// The folder for a snapshot is there and empty.
        SnapshotOffered,
        /// A piece of it has been written.
        SnapshotPieceWritten,
        /// All pieces have been.
        SnapshotGathered,
        /// It is on disk.
        SnapshotSynced,
        /// The log is on disk too; the snapshot is about to become the state.
        InstallBegun,
        /// Its folder has the name of the newest state.
        InstallRenamed,
        /// It is open.
        InstallOpened,
        /// It is the state; the old one is still there.
        InstallSwapped,
        /// It has a checkpoint of its own; Raft has not been told.
        InstallDone,
    }

    /// The chunk server's: its changes of a data folder on a real file system, each after the call.
    CHUNKD {
        /// A file has been created, or emptied.
        FileCreated,
        FileWritten,
        FileSynced,
        FileRenamed,
        FileUnlinked,
        /// A folder's names are durable.
        FolderSynced,
    }
}

/// Ends the process if it has been told to die here.
#[inline]
pub fn pass(point: Point) {
    if cfg!(debug_assertions) {
        look(point);
    }
}

/// What was read last and how often that point has been passed since.
#[derive(Debug, Default)]
struct Order {
    text: String,
    passed: u64,
}

impl Order {
    /// Whether this passage is the one. Another text begins to count anew.
    fn is_due(&mut self, text: &str, point: Point) -> bool {
        let (name, at) = text.trim().split_once(':').unwrap_or((text.trim(), "1"));
        if name != format!("{point:?}") {
            return false;
        }
        if self.text != text {
            *self = Self { text: text.to_owned(), passed: 0 };
        }
        self.passed += 1;
        at.parse::<u64>() == Ok(self.passed)
    }
}

fn look(point: Point) {
    static PATH: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os(FILE).map(PathBuf::from));
    static ORDER: Mutex<Order> = Mutex::new(Order { text: String::new(), passed: 0 });
    let Some(text) = PATH.as_ref().and_then(|path| std::fs::read_to_string(path).ok()) else { return };
    let mut order = ORDER.lock().expect("nobody panics with it");
    if order.is_due(&text, point) {
        die(point);
    }
}

fn die(point: Point) -> ! {
    eprintln!("{}", last_words(point));
    // The signal has come when the call returns; if it cannot be sent, nothing goes on all the same.
    let _ = kill_process(getpid(), Signal::KILL);
    std::process::abort()
}

/// What a process that dies at a point says on standard error.
pub fn last_words(point: Point) -> String {
    format!("told to die at {point:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_passage_that_was_named_is_the_one() {
        let mut order = Order::default();
        assert!(!order.is_due("", Point::LogWritten));
        assert!(order.is_due("LogWritten\n", Point::LogWritten));
        assert!(!order.is_due("LogWritten:2", Point::LogWritten));
        assert!(!order.is_due("LogWritten:2", Point::ApplyWritten));
        assert!(order.is_due("LogWritten:2", Point::LogWritten));
        assert!(!order.is_due("ApplyWritten:2", Point::ApplyWritten), "it counts from when it was told");
        assert!(!order.is_due("Applied", Point::ApplyWritten));
    }

    #[test]
    fn a_point_belongs_to_one_program() {
        assert!(META.iter().all(|point| !CHUNKD.contains(point)));
    }
}
