//! What it was measured on, and whether somebody else was at work there.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

/// How long the processors are watched before a turn.
const WATCHED: Duration = Duration::from_millis(500);

/// The machine, in words.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub processor: String,
    pub processors: usize,
    pub memory_gib: f64,
    pub kernel: String,
    /// Type and mount options of the file system below all of them.
    pub disk: String,
}

impl Machine {
    pub fn look(dir: &Path) -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).with_context(|| path.to_owned());
        let (cpu, memory, mounts) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?, read("/proc/self/mounts")?);
        let processor = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or(": unknown");
        let kib = memory.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap_or_default();
        let kib: f64 = kib.trim().trim_end_matches("kB").trim().parse().unwrap_or(0.0);
        Ok(Self {
            processor: processor.trim_start_matches([' ', '\t', ':']).to_owned(),
            processors: std::thread::available_parallelism()?.get(),
            memory_gib: (kib / 1024.0 / 1024.0 * 10.0).round() / 10.0,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            disk: disk_of(&std::fs::canonicalize(dir)?, &mounts),
        })
    }
}

/// The file system that holds a folder: the mount with the longest path above it, the last one if there are several.
fn disk_of(dir: &Path, mounts: &str) -> String {
    let lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|fields| fields.len() > 3);
    let above = lines.filter(|fields| dir.starts_with(fields[1]));
    match above.max_by_key(|fields| fields[1].len()) {
        Some(fields) => format!("{} ({})", fields[2], fields[3]),
        None => "unknown".to_owned(),
    }
}

/// Share of the processors' time, in percent, that was not idle while nothing of ours was up.
pub fn busy_percent() -> Result<f64> {
    let before = times()?;
    std::thread::sleep(WATCHED);
    let after = times()?;
    Ok(busy(before, after))
}

/// Idle and total ticks.
fn times() -> Result<(u64, u64)> {
    parse(&std::fs::read_to_string("/proc/stat")?).context("/proc/stat has no line of all processors")
}

fn parse(stat: &str) -> Option<(u64, u64)> {
    let ticks: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|t| t.parse().ok()).collect();
    // The fourth is idle, the fifth waits for a disk with nothing else to do; guests (9, 10) are in user time already.
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((idle, ticks.iter().take(8).sum()))
}

fn busy((idle_before, before): (u64, u64), (idle_after, after): (u64, u64)) -> f64 {
    let total = after.saturating_sub(before);
    if total == 0 {
        return 0.0;
    }
    100.0 - 100.0 * idle_after.saturating_sub(idle_before) as f64 / total as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_disk_is_idle_and_guests_count_once() {
        let before = parse("cpu  100 0 50 800 50 0 0 0 90 0\ncpu0 1").expect("a line");
        let after = parse("cpu  150 0 50 820 80 0 0 0 140 0\n").expect("a line");
        assert_eq!((before, after), ((850, 1000), (900, 1100)));
        assert_eq!(busy(before, after), 50.0);
        assert_eq!(busy(after, after), 0.0);
        assert_eq!(parse("intr 1 2"), None);
    }

    #[test]
    fn the_disk_is_the_innermost_mount() {
        let mounts = "/dev/vda / ext4 rw,relatime 0 0\n/dev/vdb /srv xfs rw 0 0\ntmpfs /srv/data/x tmpfs rw 0 0\n";
        assert_eq!(disk_of(Path::new("/srv/data"), mounts), "xfs (rw)");
        assert_eq!(disk_of(Path::new("/srvother"), mounts), "ext4 (rw,relatime)");
    }
}
