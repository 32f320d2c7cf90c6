//! Warnings and errors in the servers' logs: each has to be one that is expected under faults (`log-expected.txt`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const EXPECTED: &str = include_str!("../../log-expected.txt");

/// A message that nobody expects, with how often it came and where it came first.
#[derive(Debug, PartialEq, Eq)]
pub struct Unexpected {
    pub line: String,
    pub log: PathBuf,
    pub count: usize,
}

/// Looks through all logs of a folder.
pub fn unexpected(folder: &Path) -> Result<Vec<Unexpected>> {
    let mut found: BTreeMap<String, Unexpected> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let log = entry?.path();
        if log.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        for line in text.lines().filter(|line| is_complaint(line) && !is_expected(line)) {
            let shape: String = line.chars().skip_while(|c| *c != ' ').filter(|c| !c.is_ascii_digit()).collect();
            let new = || Unexpected { line: line.to_owned(), log: log.clone(), count: 0 };
            found.entry(shape).or_insert_with(new).count += 1;
        }
    }
    Ok(found.into_values().collect())
}

fn is_complaint(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.nth(1).is_some_and(|level| level == "WARN" || level == "ERROR") || line.contains("panicked at")
}

fn is_expected(line: &str) -> bool {
    patterns().any(|pattern| line.contains(pattern))
}

fn patterns() -> impl Iterator<Item = &'static str> {
    EXPECTED.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_warning_is_found_once_with_its_count() {
        let dir = tempfile::tempdir().expect("a folder");
        let expected = patterns().next().expect("some are listed");
        let text = format!(
            "2026-01-01T00:00:01Z  INFO meta: fine\n2026-01-01T00:00:02Z  WARN meta: disk 3 sings\n\
             2026-01-01T00:00:03Z  WARN meta: disk 4 sings\n2026-01-01T00:00:03Z  WARN meta: {expected}\n"
        );
        std::fs::write(dir.path().join("meta1.log"), text).expect("written");
        let found = unexpected(dir.path()).expect("read");
        assert_eq!((found.len(), found[0].count), (1, 2), "{found:?}");
        assert!(found[0].line.ends_with("disk 3 sings"));
    }
}
