//! Which errors of programs a fault explains.
//!
//! A client keeps every byte until an fsync that covers it is acknowledged (W5): as long as its mount lives, nothing that servers go through,
//! least of all a power cut, is EIO for a program. What is left: a mount that dies takes with it what it had not synced; one that was away for
//! longer than its session is told that others have written to the chunk since; and a reader is told that every replica is damaged where a
//! server's disk has failed or gone back while the other holder is away.

use super::timeline::Band;
use crate::nemesis::Kind;
use crate::workload::worker::{AWAY, DEAD};

/// The C library's words for EIO.
const EIO: &str = "Input/output error";
/// What a worker calls a read of what others write (`workload::registers`). Programs that copy read nothing through their mount.
const READ: &str = "(read of ";

/// Whether a fault may be why a program got this error. Its text names the file, by a path beneath the mount.
pub fn explains(fault: &Band, error: &str) -> bool {
    // A mount's fault has its path for a victim. What `cp` and `rm` say has the file's in the middle.
    let is_of_its_mount = || error.contains(&format!("{}/", fault.victims));
    match fault.kind {
        Kind::KillMount if is_of_the_dead(error) => true,
        _ if !error.contains(EIO) => false,
        Kind::KillMount => is_of_its_mount(),
        Kind::FreezeMount => is_of_its_mount() && is_of_many(error),
        Kind::FailDiskChunkServer | Kind::OldImageChunkServer => error.contains(READ),
        _ => false,
    }
}

fn is_of_the_dead(error: &str) -> bool {
    error.starts_with(AWAY) || DEAD.iter().any(|text| error.contains(text))
}

/// Whether several mounts write the file: who was away may lose what others have followed.
fn is_of_many(error: &str) -> bool {
    error.contains("(write of register") || error.contains("/shared: ")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::workload::{copies, worker};

    const MOUNT: &str = "/nowhere/mnt1";
    const OTHERS: [&str; 3] = ["/nowhere/mnt2", "/nowhere/mnt10", "/nowhere/else/mnt1"];
    /// Files below a mount, and what workers call what they do with them.
    const CALLS: [(&str, &str); 8] = [
        ("written0", "write of block 7"),
        ("written0", "fsync"),
        ("appended2", "append"),
        ("storm3", "a small file"),
        ("shared", "write of block 7"),
        ("shared", "fsync"),
        ("registers/small", "write of register 0"),
        ("registers/small", "read of register 0"),
    ];

    fn fault(kind: Kind, victims: &str) -> Band {
        Band { kind, victims: victims.to_owned(), from_ms: 0, to_ms: 1, effect: None }
    }

    /// What a worker tells of an error while its mount is there.
    fn told(path: &str, call: &str, errno: i32) -> String {
        let text = worker::told(Path::new(path), call, &io::Error::from_raw_os_error(errno)).text;
        text.strip_prefix(AWAY).expect("nothing is mounted there").to_owned()
    }

    /// What `cp` complains of, as the copier tells it.
    fn copied(mount: &str, error: &str) -> String {
        let line = format!("cp: error writing '{mount}/copied4/tree0/f1': {error}");
        copies::told(vec![line.clone(), line], true).remove(0)
    }

    /// The calls on a mount whose EIO a fault explains.
    fn explained(fault: &Band, mount: &str) -> Vec<(&'static str, &'static str)> {
        let is_explained =
            |(file, call): &(&str, &str)| explains(fault, &told(&format!("{mount}/{file}"), call, libc::EIO));
        CALLS.into_iter().filter(is_explained).collect()
    }

    #[test]
    fn what_servers_go_through_explains_no_eio() {
        let others = [Kind::KillMount, Kind::FreezeMount, Kind::FailDiskChunkServer, Kind::OldImageChunkServer];
        for kind in Kind::all().iter().filter(|kind| !others.contains(kind)) {
            let fault = fault(*kind, "chunk1 chunk2 chunk3");
            assert!(explained(&fault, MOUNT).is_empty(), "{}", kind.name());
            assert!(!explains(&fault, &copied(MOUNT, EIO)), "{}", kind.name());
        }
    }

    #[test]
    fn a_killed_mount_explains_eio_of_its_own_files() {
        let killed = fault(Kind::KillMount, MOUNT);
        assert_eq!(explained(&killed, MOUNT), CALLS);
        assert!(explains(&killed, &copied(MOUNT, EIO)));
        for other in OTHERS {
            assert!(explained(&killed, other).is_empty(), "{other}");
            assert!(!explains(&killed, &copied(other, EIO)), "{other}");
        }
    }

    #[test]
    fn a_killed_mount_explains_that_it_is_gone() {
        let (killed, frozen) = (fault(Kind::KillMount, MOUNT), fault(Kind::FreezeMount, MOUNT));
        let gone = told(&format!("{MOUNT}/written0"), "fsync", libc::ENOTCONN);
        let away = format!("{AWAY}{}", told(&format!("{MOUNT}/written0"), "fsync", libc::ENOENT));
        for error in [gone, away, copied(MOUNT, DEAD[1])] {
            assert!(explains(&killed, &error) && !explains(&frozen, &error), "{error}");
        }
        assert!(!explains(&killed, &told(&format!("{MOUNT}/written0"), "fsync", libc::ENOSPC)));
    }

    #[test]
    fn a_frozen_mount_explains_eio_of_what_others_write_too() {
        let frozen = fault(Kind::FreezeMount, MOUNT);
        let of_many = [("shared", "write of block 7"), ("shared", "fsync"), ("registers/small", "write of register 0")];
        assert_eq!(explained(&frozen, MOUNT), of_many);
        assert!(!explains(&frozen, &copied(MOUNT, EIO)));
        for other in OTHERS {
            assert!(explained(&frozen, other).is_empty(), "{other}");
        }
    }

    #[test]
    fn a_disk_that_fails_or_goes_back_explains_eio_of_reads() {
        for kind in [Kind::FailDiskChunkServer, Kind::OldImageChunkServer] {
            let fault = fault(kind, "chunk1");
            assert_eq!(explained(&fault, MOUNT), [("registers/small", "read of register 0")]);
            assert!(!explains(&fault, &copied(MOUNT, EIO)));
        }
    }
}
