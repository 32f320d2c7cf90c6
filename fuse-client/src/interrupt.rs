//! Letting a waiting caller go (S5). The kernel waits a request out once user space has it, even for SIGKILL, so a call that
//! has waited for a moment looks whether its thread has been signalled; if so it is answered with EINTR and given up.
//!
//! Which signals count:
//! - those that end the process (not caught, not ignored, not blocked): always;
//! - SIGINT, SIGTERM, SIGHUP and SIGQUIT, also when they are caught: a person wants the program to stop;
//! - other caught ones only after a long wait: timers, profilers and children that end must not make a call fail during a failover;
//! - never those whose default is to be ignored, unless the program catches them, and never SIGCHLD, SIGURG, SIGWINCH, SIGCONT, SIGPROF.
//!
//! A process that is already exiting takes no signals: it waits for its files' write-back if it exits by itself (for a bounded
//! time), and not at all if it was killed.

use std::time::Duration;

use tokio::time::Instant;

/// When a call first looks, and how often from then on.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// From here on every caught signal counts.
const LONG_WAIT: Duration = Duration::from_secs(5);
/// How long a process that exits by itself waits for the write-back of files that it did not close.
const EXIT_PATIENCE: Duration = Duration::from_secs(10);
/// `PF_EXITING` of the kernel's task flags.
const EXITING: u64 = 0x4;

/// Resolves when the thread has to be let go; never for a thread that cannot be seen.
pub(crate) async fn interrupted(pid: u32) {
    if pid == 0 {
        return std::future::pending().await;
    }
    let start = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
            return std::future::pending().await;
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if must_go(&status, &stat, start.elapsed()) {
            return;
        }
    }
}

/// The verdict on the texts of `/proc/PID/status` and `/proc/PID/stat`.
fn must_go(status: &str, stat: &str, waited: Duration) -> bool {
    if let Some(exit_signal) = exiting(stat) {
        return exit_signal != 0 || waited >= EXIT_PATIENCE;
    }
    let mask = |name| mask_of(status, name);
    let pending = (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") & !mask("SigIgn:");
    let caught = mask("SigCgt:");
    let harmless = bits(&[libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH, libc::SIGCONT]);
    let stop = bits(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT]);
    let fatal = pending & !caught & !harmless;
    let wanted = pending & caught & stop;
    let any_caught = pending & caught & !harmless & !bits(&[libc::SIGPROF]);
    fatal != 0 || wanted != 0 || (any_caught != 0 && waited >= LONG_WAIT)
}

/// `Some(signal)` for a process that is exiting: the signal that killed it, 0 if none or not to be seen.
fn exiting(stat: &str) -> Option<u64> {
    // The second field is the name in parentheses and may hold anything; the third one follows the last parenthesis.
    let (_, rest) = stat.rsplit_once(')')?;
    let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<u64>().ok();
    let is_exiting = field(9).is_some_and(|flags| flags & EXITING != 0);
    is_exiting.then(|| field(52).unwrap_or(0) & 0x7f)
}

fn mask_of(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn bits(signals: &[i32]) -> u64 {
    signals.iter().fold(0, |mask, signal| mask | 1 << (signal - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    fn status(pending: &[i32], blocked: &[i32], ignored: &[i32], caught: &[i32]) -> String {
        format!(
            "Name:\tcp\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n",
            0,
            bits(pending),
            bits(blocked),
            bits(ignored),
            bits(caught)
        )
    }

    #[test]
    fn what_ends_the_process_ends_the_wait() {
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGALRM] {
            assert!(must_go(&status(&[signal], &[], &[], &[]), "", SOON), "{signal}");
        }
        assert!(!must_go(&status(&[libc::SIGTERM], &[libc::SIGTERM], &[], &[]), "", SOON), "blocked");
        assert!(!must_go(&status(&[libc::SIGTERM], &[], &[libc::SIGTERM], &[]), "", SOON), "ignored");
        assert!(!must_go(&status(&[], &[], &[], &[]), "", LONG_WAIT));
    }

    #[test]
    fn housekeeping_does_not_make_calls_fail_during_a_failover() {
        for signal in [libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH, libc::SIGCONT] {
            assert!(!must_go(&status(&[signal], &[], &[], &[]), "", LONG_WAIT), "{signal}");
            assert!(!must_go(&status(&[signal], &[], &[], &[signal]), "", LONG_WAIT), "{signal} caught");
        }
        assert!(
            must_go(&status(&[libc::SIGINT], &[], &[], &[libc::SIGINT]), "", SOON),
            "Ctrl-C counts although it is caught"
        );
        let timer = status(&[libc::SIGALRM], &[], &[], &[libc::SIGALRM]);
        assert!(!must_go(&timer, "", SOON) && must_go(&timer, "", LONG_WAIT));
    }

    #[test]
    fn exiting_processes() {
        let stat = |flags: u64, code: u64| {
            let zeros = "0 ".repeat(52 - 10);
            format!("77 (a ) b) D 1 1 1 0 -1 {flags} {zeros}{code}")
        };
        let quiet = status(&[], &[], &[], &[]);
        assert_eq!(exiting(&stat(0x0040_0000, 9)), None);
        assert!(must_go(&quiet, &stat(0x0040_0004, 9), SOON), "killed");
        assert!(!must_go(&quiet, &stat(0x0040_0004, 0), SOON), "exits by itself: waits for its write-back");
        assert!(must_go(&quiet, &stat(0x0040_0004, 0x100), EXIT_PATIENCE));
    }

    #[test]
    fn this_process_is_readable() {
        let pid = std::process::id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("there");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("there");
        assert!(status.contains("ShdPnd:"));
        assert_eq!(exiting(&stat), None);
        assert!(!must_go(&status, &stat, SOON));
    }
}
