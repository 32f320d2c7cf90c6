//! A guess whether a file that is created for writing will be written to. If so, the grant of its first chunk comes with the creation (W1)
//! and the first write waits for no round of its own; if not, the grant is a chunk that has to be ended, removed and deleted for nothing.
//!
//! The guess is what became of the files before: programs that make files without content (lock files, markers, `touch`) make many in a
//! row. A wrong guess costs one of the two and nothing else.

use std::sync::atomic::{AtomicU32, Ordering};

/// After so many new files in a row that were closed empty, the next is expected to stay empty too.
const EMPTY_IN_A_ROW: u32 = 8;

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Foresight {
    empty_in_a_row: AtomicU32,
}

impl Foresight {
    pub(crate) fn expects_bytes(&self) -> bool {
        self.empty_in_a_row.load(Ordering::Relaxed) < EMPTY_IN_A_ROW
    }

    /// A new file was written to.
    pub(crate) fn written(&self) {
        self.empty_in_a_row.store(0, Ordering::Relaxed);
    }

    /// A new file's last handle for writing was closed, and nothing had been written.
    pub(crate) fn left_empty(&self) {
        let counted = self.empty_in_a_row.load(Ordering::Relaxed).saturating_add(1);
        self.empty_in_a_row.store(counted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_files_in_a_row_change_the_guess_and_one_write_changes_it_back() {
        let foresight = Foresight::default();
        for _ in 1..EMPTY_IN_A_ROW {
            foresight.left_empty();
            assert!(foresight.expects_bytes());
        }
        foresight.left_empty();
        assert!(!foresight.expects_bytes());
        foresight.written();
        assert!(foresight.expects_bytes());
    }
}
