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
         chunk server closes them, later and by itself: neither close(2) nor fsync(2) waits for it. It is the nearest to Caribou's promise, on \
         one metadata node instead of three.",
        "MooseFS has one master here and no metalogger; Caribou always has three metadata nodes. All of them share this machine's \
         processors and its one disk, so whatever is replicated costs the same processors again.",
        "MooseFS's daemons and its mount give themselves nice -19, as shipped; Caribou's run at nice 0.",
        "Each system is fresh in every turn, is the only one that is up, and is warmed up. Caches of both mounts are as shipped: attributes one \
         second in both; names one second in Caribou, of folders one second and of files not at all in MooseFS. So `stat` right after \
         `create`, and `readdir + stat` of one folder by many threads, are answered to a large part by the kernel with Caribou.",
        "Cold means that files were synced and this machine's page cache was dropped, the servers' with it. The servers' own memory stays \
         (MooseFS's master has everything there, Caribou's metadata nodes what fits their caches); a host below a virtual machine may \
         still cache.",
        "Both delete later what is unlinked. MooseFS's chunk servers begin minutes after a turn; Caribou's move replicas to a quarantine \
         within seconds, which falls into the rows that follow. MooseFS's trash, a day as shipped, is off, so that a turn leaves nothing.",
        "Caribou's mount raises the kernel's read-ahead of its mount to 8 MiB (as root); MooseFS's leaves it at the kernel's 128 KiB and reads ahead \
         by itself. MooseFS runs in a network namespace of its own, on a dummy device; Caribou on loopback.",
        "MooseFS keeps access times (as shipped: at the first access to a new file), which its synced master syncs; Caribou keeps none.",
        "Caribou keeps files of up to 16 KiB with their attributes on its metadata nodes (three copies, synced when they are closed); the rows \
         of 4 KiB files and most of the tree's files are such, and read cold they may come from the leader's memory. MooseFS keeps all of them in \
         chunks, two copies.",
        "The local disk keeps one copy, without a network, a server or a FUSE mount: what the hardware gives.",
        "With one thread, a shared folder is a private one and is measured once.",
    ]
}

/// What a person should know of a group's figures.
pub fn note(group: Group) -> Option<&'static str> {
    match group {
        Group::Metadata => Some(
            "`stat` follows `create` at once and may be answered from the kernel's cache; `stat, cold` and `readdir + stat` come after the \
             caches were dropped. With several threads files are read by another one than made them.",
        ),
        Group::Small => Some(
            "Each file is one write of 4 KiB, closed; `+ fsync` syncs before the close. Every byte read is compared.",
        ),
        Group::Big => Some(
            "Random reads take every block at most once. `random write` is a fixed number of overwrites and one fsync, which is timed; \
             at the end the whole file is compared with what was written last.",
        ),
        Group::OneCopy | Group::ThreeCopies => None,
        Group::Programs => Some(
            "Times of whole programs, less is better; hardly any syncs but SQLite, so the local disk's are mostly those of its page cache. \
                 `git commit` is init, add and commit. `rm -rf` removes the tree, its copy and the repository. The copy's checksums are compared with the archive's.",
        ),
    }
}
