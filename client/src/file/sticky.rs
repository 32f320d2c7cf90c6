//! Errors of write-back: kept per inode and told once to every handle, at its next write, fsync or close (W5). An error that
//! no handle has been told yet is also told to the next one that opens the file.

/// The inode's side.
#[derive(Debug, Default)]
pub(crate) struct Sticky {
    /// Counts errors.
    count: u64,
    errno: i32,
    /// Errors up to this one have been told to some handle.
    told: u64,
}

/// A handle's side: which errors it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen(u64);

impl Sticky {
    pub(crate) fn record(&mut self, errno: i32) {
        self.count += 1;
        self.errno = errno;
    }

    /// What a handle that opens now is taken to know.
    pub(crate) fn open(&self) -> Seen {
        Seen(self.told)
    }

    /// Knows everything that has happened so far: for waits on nobody's behalf.
    pub(crate) fn now(&self) -> Seen {
        Seen(self.count)
    }

    /// An error since `seen`, without counting as told.
    pub(crate) fn since(&self, seen: Seen) -> Option<i32> {
        (seen.0 < self.count).then_some(self.errno)
    }

    /// The error that this handle has not been told, once.
    pub(crate) fn check(&mut self, seen: &mut Seen) -> Option<i32> {
        if seen.0 == self.count {
            return None;
        }
        (seen.0, self.told) = (self.count, self.count);
        Some(self.errno)
    }

    /// An error that nobody was told yet.
    pub(crate) fn is_untold(&self) -> bool {
        self.told < self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_handle_is_told_once() {
        let mut sticky = Sticky::default();
        let (mut a, mut b) = (sticky.open(), sticky.open());
        sticky.record(5);
        assert_eq!((sticky.check(&mut a), sticky.check(&mut a)), (Some(5), None));
        assert_eq!(sticky.check(&mut sticky.open()), None, "somebody was told");
        assert_eq!(sticky.check(&mut b), Some(5));
        sticky.record(28);
        let mut late = sticky.open();
        assert_eq!(sticky.check(&mut late), Some(28), "nobody was told before");
    }
}
