//! What the kernel says of metadata nodes: their memory, and how much they write.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::Lab;

/// Less than this written by all metadata nodes together in each of some looks in a row: nothing is left to be flushed or compacted.
const QUIET_BYTES: u64 = 1 << 20;
const QUIET_LOOKS: usize = 3;
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long background work may take until it counts as endless.
const QUIET_PATIENCE: Duration = Duration::from_secs(900);

/// A process's memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// Its own: all that does not come from files, and so cannot be taken back.
    pub(super) own: u64,
    /// With pages of files that it has mapped.
    pub(super) resident: u64,
}

/// Of each metadata node that runs.
pub(super) fn memory(lab: &Lab) -> Result<Vec<Memory>> {
    pids(lab).map(|pid| Memory::parse(&read(pid, "status")?)).collect()
}

/// Waits until the metadata nodes have ended what a load leaves to be done in the background. None: it was still going on when patience
/// ended.
pub(super) async fn quiet(lab: &Lab) -> Result<Option<Duration>> {
    let started = Instant::now();
    let (mut before, mut looks) = (written(lab)?, 0);
    while started.elapsed() < QUIET_PATIENCE {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = written(lab)?;
        looks = if now.saturating_sub(before) < QUIET_BYTES { looks + 1 } else { 0 };
        before = now;
        if looks == QUIET_LOOKS {
            return Ok(Some(started.elapsed().saturating_sub(LOOK_EVERY * QUIET_LOOKS as u32)));
        }
    }
    Ok(None)
}

fn written(lab: &Lab) -> Result<u64> {
    pids(lab).map(|pid| field(&fields(&read(pid, "io")?), "write_bytes")).sum()
}

fn pids(lab: &Lab) -> impl Iterator<Item = i32> {
    lab.cluster.layout().meta.iter().filter_map(|node| node.process).map(|process| process.pid)
}

fn read(pid: i32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).context(path)
}

impl Memory {
    fn parse(status: &str) -> Result<Self> {
        let fields = fields(status);
        let bytes = |name| field(&fields, name).map(|kib| kib << 10);
        Ok(Self { own: bytes("RssAnon")? + bytes("RssShmem")?, resident: bytes("VmRSS")? })
    }
}

/// Lines as `name: number unit`; others are left out.
fn fields(text: &str) -> BTreeMap<&str, u64> {
    let number = |value: &str| value.split_whitespace().next().and_then(|word| word.parse().ok());
    text.lines().filter_map(|line| line.split_once(':')).filter_map(|(n, v)| Some((n, number(v)?))).collect()
}

fn field(fields: &BTreeMap<&str, u64>, name: &str) -> Result<u64> {
    fields.get(name).copied().with_context(|| format!("the kernel says nothing of {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_without_mapped_files() {
        let status = "Name:\tcaribou-meta\nVmRSS:\t    1100 kB\nRssAnon:\t    1000 kB\nRssFile:\t      90 kB\nRssShmem:\t      10 kB\n";
        let memory = Memory::parse(status).expect("all fields are there");
        assert_eq!(memory, Memory { own: 1010 << 10, resident: 1100 << 10 });
        assert!(Memory::parse("VmRSS:\t1100 kB\n").is_err(), "an old kernel is no reason to see no memory");
    }
}
