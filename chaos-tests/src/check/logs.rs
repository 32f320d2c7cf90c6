//! The logs of servers and mounts: when each line was written and how much it matters; and warnings and errors that are not expected under
//! faults (`log-expected.txt`).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::finding::{Finding, Moment};

const EXPECTED: &str = include_str!("../../log-expected.txt");

/// How much a line matters, what matters most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// A warning, an error or a panic that nobody expects.
    Unexpected,
    /// One that is expected under faults.
    Complaint,
    Info,
    Detail,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Whose log: meta1, chunk2, mount3.
    pub log: String,
    pub at: Moment,
    pub weight: Weight,
    /// Without its time.
    pub text: String,
}

/// All lines of all logs of a folder.
pub fn lines(folder: &Path) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let log = path.file_stem().unwrap_or_default().to_string_lossy();
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            lines.extend(parse(&log, &String::from_utf8_lossy(&bytes)));
        }
    }
    Ok(lines)
}

/// A line without a time of its own (of a panic, a backtrace, an error of several lines) was written with the one before.
fn parse(log: &str, text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let of_its_own = line.split_once(' ').and_then(|(time, rest)| Some((time_of(time)?, rest.trim())));
        let before = lines.last().map_or((Moment::default(), Weight::Info), |line| (line.at, line.weight));
        let (at, weight, text) = match of_its_own {
            Some((at, rest)) => (at, weight(rest), rest),
            None if line.contains("panicked at") => (before.0, Weight::Unexpected, line),
            None => (before.0, before.1, line),
        };
        lines.push(Line { log: log.to_owned(), at, weight, text: text.to_owned() });
    }
    lines
}

fn time_of(word: &str) -> Option<Moment> {
    humantime::parse_rfc3339(word).ok().map(Moment::of)
}

fn weight(text: &str) -> Weight {
    let is_expected = || patterns().any(|pattern| text.contains(pattern));
    match text.split(' ').next() {
        Some("ERROR" | "WARN") if is_expected() => Weight::Complaint,
        Some("ERROR" | "WARN") => Weight::Unexpected,
        Some("DEBUG" | "TRACE") => Weight::Detail,
        _ => Weight::Info,
    }
}

fn patterns() -> impl Iterator<Item = &'static str> {
    EXPECTED.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// What is alike in lines that differ in numbers only.
pub fn shape(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Complaints that nobody expects, each once, with where and when it came first and how often it came.
pub fn unexpected(lines: &[Line]) -> Vec<Finding> {
    let mut found: BTreeMap<String, (&Line, usize)> = BTreeMap::new();
    // What follows a complaint without a time of its own belongs to it.
    let complaints = lines.iter().filter(|line| line.weight == Weight::Unexpected && begins(&line.text));
    for line in complaints {
        let (first, count) = found.entry(shape(&line.text)).or_insert((line, 0));
        *count += 1;
        if line.at < first.at {
            *first = line;
        }
    }
    let told = |(line, count): (&Line, usize)| {
        let Line { log, at, text, .. } = line;
        Finding::between(*at, *at, format!("{log}.log, {count} times: {text}"))
    };
    found.into_values().map(told).collect()
}

fn begins(text: &str) -> bool {
    text.starts_with("WARN") || text.starts_with("ERROR") || text.contains("panicked at")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first of December 2026.
    const DAY: u64 = 1_796_083_200_000_000;

    #[test]
    fn lines_have_their_times_and_what_matters() {
        let expected = patterns().next().expect("some are listed");
        let text = format!(
            "2026-12-01T00:00:01.250000Z  INFO caribou_meta_raft::server: stopping signal=\"SIGTERM\"\n\
             2026-12-01T00:00:02.000001Z  WARN control{{id=3}}: {expected} n=1\n\
             2026-12-01T00:00:03.5Z ERROR disk: it sings\n\
             \n\
             thread 'raft' panicked at src/a.rs:1:2:\n\
             no such row\n\
             2026-12-01T00:00:04.000000Z DEBUG x: y\n"
        );
        let lines = parse("meta1", &text);
        let told: Vec<(u64, Weight, &str)> =
            lines.iter().map(|line| (line.at.0 - DAY, line.weight, line.text.as_str())).collect();
        assert_eq!(told[0], (1_250_000, Weight::Info, "INFO caribou_meta_raft::server: stopping signal=\"SIGTERM\""));
        assert_eq!((told[1].0, told[1].1), (2_000_001, Weight::Complaint));
        assert_eq!(told[2], (3_500_000, Weight::Unexpected, "ERROR disk: it sings"));
        assert_eq!(told[3], (3_500_000, Weight::Unexpected, "thread 'raft' panicked at src/a.rs:1:2:"));
        assert_eq!(told[4], (3_500_000, Weight::Unexpected, "no such row"));
        assert_eq!(told[5], (4_000_000, Weight::Detail, "DEBUG x: y"));
        assert!(lines.iter().all(|line| line.log == "meta1"));
        // The panic's message is told with the panic, not as a complaint of its own.
        assert_eq!(unexpected(&lines).len(), 2);
    }

    #[test]
    fn a_new_warning_is_found_once_with_its_count() {
        let dir = tempfile::tempdir().expect("a folder");
        let expected = patterns().next().expect("some are listed");
        let text = format!(
            "2026-12-01T00:00:01Z  INFO meta: fine\n2026-12-01T00:00:02Z  WARN meta: disk 3 sings\n\
             2026-12-01T00:00:03Z  WARN meta: disk 4 sings\n2026-12-01T00:00:03Z  WARN meta: {expected}\n"
        );
        std::fs::write(dir.path().join("meta1.log"), text).expect("written");
        std::fs::write(dir.path().join("meta1.toml"), "2026-12-01T00:00:02Z  WARN no log").expect("written");
        let found = unexpected(&lines(dir.path()).expect("read"));
        let first = Moment(DAY + 2_000_000);
        assert_eq!(found, [Finding::between(first, first, "meta1.log, 2 times: WARN meta: disk 3 sings")]);
    }
}
