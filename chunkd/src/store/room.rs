//! The free space of a data folder, and how much of it new replicas and new blocks leave.
//!
//! The file system is asked at each tick. What was let in since counts as used, so that a fast writer cannot run through the reserve between two
//! looks. An estimate: a block counts as a whole when its first byte comes, whatever the file system takes for it then and later, and others may
//! use the disk too. The last word is the file system's (`Volume::broken`).

use std::io;

use caribou_proto::ids::CHUNK_BYTES;
use parking_lot::Mutex;

use super::disk::Space;

/// Free space below which a disk gets no new replica.
const PLACEMENT_RESERVE: u64 = CHUNK_BYTES;
/// What a replica made since the last look is taken to use when a disk is chosen for the next one.
const PLACED_BYTES: u64 = 1 << 20;
/// Free space that new blocks leave to the server's own records: fence and identity (F1, F2), journal (V3), quarantine (R4), headers and tables of
/// recoveries (V1, V4), which are by far the most, with up to 28 KiB for each replica that has not used all places of its sectors yet: enough for a
/// thousand of them. Half of what is asked for a new replica, so that it has as much again to grow into.
const RESERVE: u64 = PLACEMENT_RESERVE / 2;

/// Never blocks.
pub(crate) struct Room(Mutex<Known>);

struct Known {
    /// As of the last look.
    space: Space,
    /// Replicas made since.
    placed: u64,
    /// Bytes of blocks let in since.
    taken_bytes: u64,
}

impl Known {
    fn free_bytes(&self) -> u64 {
        self.space.free_bytes.saturating_sub(self.taken_bytes)
    }

    fn placeable_bytes(&self) -> u64 {
        self.free_bytes().saturating_sub(self.placed.saturating_mul(PLACED_BYTES))
    }
}

impl Room {
    pub(crate) fn new(space: Space) -> Self {
        Self(Mutex::new(Known { space, placed: 0, taken_bytes: 0 }))
    }

    /// As of the last look.
    pub(crate) fn space(&self) -> Space {
        self.0.lock().space
    }

    /// Looks at the free space anew, which may block. What is let in meanwhile may have come too late for the answer, and still counts.
    pub(crate) fn look(&self, space: impl FnOnce() -> io::Result<Space>) -> io::Result<()> {
        let (placed, taken_bytes) = {
            let known = self.0.lock();
            (known.placed, known.taken_bytes)
        };
        let space = space()?;
        let mut known = self.0.lock();
        known.space = space;
        known.placed = known.placed.saturating_sub(placed);
        known.taken_bytes = known.taken_bytes.saturating_sub(taken_bytes);
        Ok(())
    }

    /// What new replicas may count on.
    pub(crate) fn placeable_bytes(&self) -> u64 {
        self.0.lock().placeable_bytes()
    }

    /// Counts a new replica, unless there is too little room for one.
    pub(crate) fn place(&self) -> bool {
        let mut known = self.0.lock();
        let fits = known.placeable_bytes() >= PLACEMENT_RESERVE;
        known.placed += u64::from(fits);
        fits
    }

    /// Counts new blocks, unless they would leave less than the reserve. None at all always fit.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let mut known = self.0.lock();
        let fits = bytes == 0 || known.free_bytes() >= RESERVE.saturating_add(bytes);
        if fits {
            known.taken_bytes += bytes;
        }
        fits
    }

    /// Counts new blocks that may go into the reserve.
    pub(crate) fn take_of_reserve(&self, bytes: u64) {
        self.0.lock().taken_bytes += bytes;
    }
}
