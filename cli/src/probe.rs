//! Measures what a mounted client feels: the longest time between two consecutive completions of operations.
//!
//! Four threads work without pause, each in a folder of its own: one writes and fsyncs, one creates and unlinks, one renames,
//! one makes folders and lists. A gap is a property of all of them together only where *nobody* completed anything; so each
//! thread's gaps are taken, and the longest over all threads counts (the strictest reading).

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Threads at work; one of them writes and fsyncs.
pub const THREADS: usize = 4;

/// Probing a mount until it is stopped.
pub struct Probe {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    root: PathBuf,
}

struct Shared {
    stop: AtomicBool,
    completions: AtomicU64,
    started: Instant,
    /// Per thread: when the last operation completed, and the longest gap since the last reset.
    tracks: Vec<Mutex<Track>>,
    errors: Mutex<Vec<String>>,
}

#[derive(Clone, Copy)]
struct Track {
    last: Instant,
    longest: Duration,
}

/// What came out.
#[derive(Debug, Clone)]
pub struct ProbeResult {
    pub completions: u64,
    pub elapsed: Duration,
    /// Operations that failed, with their errors; none is expected.
    pub errors: Vec<String>,
}

impl Probe {
    /// Starts the threads below `mount`.
    pub fn start(mount: &Path) -> Result<Self> {
        let root = mount.join(format!(".caribou-probe-{}", std::process::id()));
        fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
        let now = Instant::now();
        let track = || Mutex::new(Track { last: now, longest: Duration::ZERO });
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            completions: AtomicU64::new(0),
            started: now,
            tracks: (0..THREADS).map(|_| track()).collect(),
            errors: Mutex::default(),
        });
        let mut threads = Vec::new();
        for number in 0..THREADS {
            let dir = root.join(number.to_string());
            fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
            let shared = shared.clone();
            threads.push(std::thread::spawn(move || shared.work(number, &dir)));
        }
        Ok(Self { shared, threads, root })
    }

    /// The longest gap of any thread since the last call, the one that is open now included.
    pub fn take_longest_gap(&self) -> Duration {
        let take = |track: &Mutex<Track>| {
            let mut track = track.lock().expect("no thread panics with this lock");
            let longest = track.longest.max(track.last.elapsed());
            track.longest = Duration::ZERO;
            longest
        };
        self.shared.tracks.iter().map(take).max().unwrap_or_default()
    }

    /// Operations completed so far.
    pub fn completions(&self) -> u64 {
        self.shared.completions.load(Ordering::Relaxed)
    }

    /// Stops the threads and removes their folder.
    pub fn stop(self) -> Result<ProbeResult> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a probing thread panicked"))?;
        }
        fs::remove_dir_all(&self.root).with_context(|| self.root.display().to_string())?;
        Ok(ProbeResult {
            completions: self.shared.completions.load(Ordering::Relaxed),
            elapsed: self.shared.started.elapsed(),
            errors: self.shared.errors.lock().expect("no thread panics with this lock").clone(),
        })
    }
}

impl Shared {
    fn work(&self, number: usize, dir: &Path) {
        for round in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let result = match number {
                0 => write_and_sync(dir, round),
                1 => create_and_unlink(dir, round),
                2 => rename(dir, round),
                _ => make_and_list(dir, round),
            };
            let mut track = self.tracks[number].lock().expect("no thread panics with this lock");
            let now = Instant::now();
            track.longest = track.longest.max(now - track.last);
            track.last = now;
            drop(track);
            match result {
                Ok(()) => {
                    self.completions.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let mut errors = self.errors.lock().expect("no thread panics with this lock");
                    errors.push(format!("thread {number}, round {round}: {error}"));
                }
            }
        }
    }
}

/// One block of a file that is kept, overwritten in turn, with fsync.
fn write_and_sync(dir: &Path, round: u64) -> std::io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("synced"))?;
    file.write_all_at(&[round as u8; 4096], (round % 256) * 4096)?;
    file.sync_all()
}

fn create_and_unlink(dir: &Path, round: u64) -> std::io::Result<()> {
    let path = dir.join(format!("file{round}"));
    let mut file = OpenOptions::new().create_new(true).write(true).open(&path)?;
    file.write_all(b"caribou")?;
    drop(file);
    fs::remove_file(path)
}

fn rename(dir: &Path, round: u64) -> std::io::Result<()> {
    if round == 0 {
        fs::write(dir.join("name0"), b"")?;
    }
    fs::rename(dir.join(format!("name{round}")), dir.join(format!("name{}", round + 1)))
}

fn make_and_list(dir: &Path, round: u64) -> std::io::Result<()> {
    let path = dir.join(format!("folder{round}"));
    fs::create_dir(&path)?;
    let count = fs::read_dir(dir)?.count();
    if count != 1 {
        return Err(std::io::Error::other(format!("{count} entries where 1 is")));
    }
    fs::remove_dir(path)
}
