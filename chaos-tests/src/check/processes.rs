//! What servers hold: descriptors and memory must not grow with the faults that they survive.

use std::fs;

/// Descriptors that a server may have open at rest.
const MAX_DESCRIPTORS: usize = 512;
/// Growth of a server's memory that is no leak: caches and RocksDB's buffers fill.
const MAX_GROWTH_BYTES: u64 = 1 << 30;

/// What one process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Holding {
    pub descriptors: usize,
    pub resident_bytes: u64,
}

impl Holding {
    /// None if the process is gone.
    pub fn of(pid: i32) -> Option<Self> {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        Some(Self { descriptors, resident_bytes: kib << 10 })
    }

    /// What is too much, compared with the beginning.
    pub fn excess(self, name: &str, before: Option<Self>) -> Option<String> {
        if self.descriptors > MAX_DESCRIPTORS {
            return Some(format!("{name} has {} descriptors open at rest", self.descriptors));
        }
        let grown = self.resident_bytes.saturating_sub(before.map_or(0, |holding| holding.resident_bytes));
        let mib = |bytes: u64| bytes >> 20;
        (grown > MAX_GROWTH_BYTES).then(|| format!("{name} has grown by {} MiB", mib(grown)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_holds_is_counted_and_too_much_is_told() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let before = Holding::of(pid).expect("it is there");
        let _file = fs::File::open("/proc/self/status").expect("opened");
        assert!(Holding::of(pid).expect("it is there").descriptors > before.descriptors - 1);
        assert_eq!(before.excess("this", Some(before)), None);
        let many = Holding { descriptors: MAX_DESCRIPTORS + 1, ..before };
        assert!(many.excess("this", None).is_some_and(|text| text.contains("513 descriptors")));
        let large = Holding { resident_bytes: before.resident_bytes + (2 << 30), ..before };
        assert!(large.excess("this", Some(before)).is_some_and(|text| text.contains("2048 MiB")));
    }
}
