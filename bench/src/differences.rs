//! What differs between the systems, in words: printed before the run and above every table, because a ratio without it misleads.

use crate::plan::Group;

/// How each answers, and what was made equal.
pub fn sentences() -> Vec<&'static str> {
    vec![
        "Caribou answers a change of metadata when a majority of its three metadata nodes has it on disk (fdatasync), and an fsync when the \
         bytes are on the disks of all replicas. It runs with its default configuration.",
        "MooseFS as shipped syncs neither metadata nor chunks, not even on fsync(2): traced, its daemons make no fsync-like call for \
         creates, writes or fsync; an answer means that the data are in the servers' memory, and a power cut takes them.",
        "MooseFS synced has CHANGELOG_SAVE_MODE = 2 and HDD_FSYNC_BEFORE_CLOSE = 1: its one master syncs each change; chunks are synced when a \
         chunk server closes them, which an fsync(2) of a file that stays open does not wait for. It is the nearest to Caribou's promise, on \
         one metadata node instead of three.",
        "MooseFS has one master here and no metalogger; Caribou always has three metadata nodes. All of them share this machine's \
         processors and its one disk, so whatever is replicated costs the same processors again.",
        "MooseFS's daemons and its mount give themselves nice -19, as shipped; Caribou's run at nice 0.",
        "Each system is fresh in every turn, is the only one that is up, and is warmed up; caches of both mounts are as shipped (attributes \
         one second). MooseFS's trash is off, since Caribou has none. Cold means that this machine's page cache was dropped, the servers' \
         with it; a host below a virtual machine may still cache.",
        "The local disk keeps one copy, without a network, a server or a FUSE mount: what the hardware gives.",
        "With one thread, a shared folder is a private one and is measured once.",
    ]
}

/// What a person should know of a group's figures.
pub fn note(group: Group) -> Option<&'static str> {
    match group {
        Group::Metadata => Some(
            "`stat` follows `create` at once and may be answered from the kernel's cache; `stat, cold` and `readdir + stat` come after the \
             caches were dropped. Files are read by another thread than made them.",
        ),
        Group::Small => Some(
            "Each file is one write of 4 KiB, closed; `+ fsync` syncs before the close. Every byte read is compared.",
        ),
        Group::Big => Some(
            "Random reads take every block at most once. `random write` is a fixed number of overwrites and one fsync, which is timed; \
             at the end the whole file is compared with what was written last.",
        ),
        Group::OneCopy | Group::ThreeCopies => None,
        Group::Programs => {
            Some("Times of whole programs, less is better; the copy's checksums are compared with the archive's.")
        }
    }
}
