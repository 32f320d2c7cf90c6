//! libfaketime, which stands between a program and its C library: a file says how wrong the wall clock of the program is, at any time anew.
//!
//! A metadata node brings an allocator of its own, jemalloc, which asks for the time while it starts. libfaketime then begins with looking for
//! functions that no C library has; the message of such a failure asks the allocator for memory, and so each would wait for the other.
//! They are made for it, therefore: nobody calls them. And the C++ library, whose start asks for memory before anything else, has to start
//! after libfaketime: of libraries that are loaded beforehand the first starts last.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use caribou_cli::local::{Part, ProcessId};

/// Right, in the library's words.
pub(super) const RIGHT: &str = "+0";

/// What it looks for in vain, in C, and the version in which it does.
const ABSENT: &str = "\
int __ftime(void) { return -1; }
int timer_gettime(void) { return -1; }
int timer_settime(void) { return -1; }
";
const VERSION: &str = "-Wl,-soname,GLIBC_2.2,--default-symver";
const CXX: &str = "libstdc++.so.6";

/// See the module.
#[derive(Debug)]
pub(super) struct Library {
    faketime: PathBuf,
    absent: PathBuf,
    /// What says the time.
    file: PathBuf,
}

impl Library {
    /// Makes what it needs in a folder. The time is right.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let (absent, file) = (folder.join("absent.so"), folder.join("clock"));
        let library = Self { faketime: find()?, absent, file };
        if !library.absent.exists() {
            compile(&folder.join("absent.c"), &library.absent)?;
        }
        library.say(RIGHT)?;
        Ok(library)
    }

    /// How wrong clocks are from now on, to a second: the library looks once in each.
    pub(super) fn say(&self, offset: &str) -> Result<()> {
        std::fs::write(&self.file, format!("{offset}\n")).with_context(|| self.file.display().to_string())
    }

    /// Words in front of a server's program. Monotonic clocks and times of files stay right.
    pub(super) fn words(&self, part: Part) -> Vec<String> {
        let faketime = self.faketime.display();
        let preload = match part {
            Part::Meta => format!("{CXX}:{faketime}:{}", self.absent.display()),
            Part::Chunk => faketime.to_string(),
        };
        vec![
            "env".to_owned(),
            format!("LD_PRELOAD={preload}"),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            "FAKETIME_CACHE_DURATION=0".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "NO_FAKE_STAT=1".to_owned(),
        ]
    }
}

/// The library's shared memory keeps its name only as long as it takes to find it: a process that is killed would leave it behind.
pub(super) fn forget_shared(process: ProcessId) {
    for name in ["faketime_shm_", "sem.faketime_sem_"] {
        // Another release of the library may have none.
        let _ = std::fs::remove_file(Path::new("/dev/shm").join(format!("{name}{}", process.pid)));
    }
}

fn find() -> Result<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").context("/usr/lib")?.flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    found.find(|path| path.is_file()).context("clocks that jump need libfaketime: install Debian's package libfaketime")
}

fn compile(source: &Path, library: &Path) -> Result<()> {
    std::fs::write(source, ABSENT).with_context(|| source.display().to_string())?;
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-nostdlib", VERSION, "-o"]).arg(library).arg(source);
    let output = command.output().context("clocks that jump need a C compiler: install Debian's package gcc")?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loaded_first_starts_last() {
        let library = Library { faketime: "/f.so".into(), absent: "/a.so".into(), file: "/clock".into() };
        assert_eq!(library.words(Part::Meta)[1], "LD_PRELOAD=libstdc++.so.6:/f.so:/a.so");
        assert_eq!(library.words(Part::Chunk)[1], "LD_PRELOAD=/f.so");
    }

    #[test]
    fn what_no_library_has_can_be_made() {
        let dir = tempfile::tempdir().expect("a folder");
        compile(&dir.path().join("a.c"), &dir.path().join("a.so")).expect("compiled");
        let made = std::fs::read(dir.path().join("a.so")).expect("made");
        let has = |name: &str| made.windows(name.len()).any(|bytes| bytes == name.as_bytes());
        assert!(made.starts_with(b"\x7fELF") && has("__ftime") && has("timer_settime") && has("GLIBC_2.2"));
    }
}
