//! What this process has used so far, as the kernel counts it. For operators; nothing depends on it.

use std::fs;

/// The kernel shows times in hundredths of a second.
const TICK_MS: u64 = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Of the threads that there are now.
    pub(crate) context_switches: u64,
    /// In user space and in the kernel.
    pub(crate) cpu_ms: u64,
}

/// Zeros where the kernel does not say.
pub(crate) fn usage() -> Usage {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    Usage { context_switches: texts.map(|text| switches(&text)).sum(), cpu_ms: ticks(&stat) * TICK_MS }
}

fn switches(status: &str) -> u64 {
    let counts = status.lines().filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
    counts.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum()
}

/// `utime` and `stime`, the 14th and the 15th field. The second is the name in parentheses and may hold anything.
fn ticks(stat: &str) -> u64 {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(14 - 3).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_among_the_others() {
        let status = "Name:\traft\nSpeculation_Store_Bypass:\tvulnerable\nvoluntary_ctxt_switches:\t150\n\
                      nonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(switches(status), 157);
        assert_eq!(ticks("77 (a ) b) S 1 1 1 0 -1 4194560 9 0 0 0 120 30 0 0 20 0 1 0 5 0 0"), 150);
        assert_eq!((switches(""), ticks("")), (0, 0));
    }

    #[test]
    fn this_process_has_used_something() {
        while usage().cpu_ms == 0 {
            std::hint::spin_loop();
        }
        assert!(usage().context_switches > 0);
    }
}
