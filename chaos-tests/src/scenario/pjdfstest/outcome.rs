//! What pjdfstest printed: a line for each case with its outcome, indented words below it, a summary at the end.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, bail};

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "was skipped",
        })
    }
}

/// All cases of a run by name, with the first words that were said about each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcomes {
    pub(super) cases: BTreeMap<String, (Outcome, String)>,
}

impl Outcomes {
    /// Reads a run. It has to be whole: the summary must count what was read.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut outcomes = Self::default();
        let mut last: Option<String> = None;
        let mut total = None;
        for line in text.lines() {
            if let Some((name, outcome)) = case(line) {
                if outcomes.cases.insert(name.to_owned(), (outcome, String::new())).is_some() {
                    bail!("the case {name} was run twice");
                }
                last = Some(name.to_owned());
            } else if line.starts_with("Summary: ") {
                total = line.rsplit(", ").next().and_then(|words| words.strip_suffix(" total")?.parse::<usize>().ok());
            } else if let Some((_, words)) = last.as_ref().and_then(|name| outcomes.cases.get_mut(name))
                && words.is_empty()
            {
                line.trim().clone_into(words);
            }
        }
        match total {
            Some(total) if total == outcomes.cases.len() => Ok(outcomes),
            Some(total) => bail!("the summary counts {total} cases, and {} can be read", outcomes.cases.len()),
            None => bail!("it ended before its summary, after {} cases", outcomes.cases.len()),
        }
    }

    /// Puts the outcomes of a part that was run by itself in the place of these.
    pub(super) fn replace(&mut self, part: Self) {
        self.cases.extend(part.cases);
    }

    pub(super) fn summary(&self) -> String {
        let count = |outcome| self.cases.values().filter(|(found, _)| *found == outcome).count();
        let (passed, failed, skipped) = (count(Outcome::Passed), count(Outcome::Failed), count(Outcome::Skipped));
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// `unlink::remove_type::fifo     ok`
fn case(line: &str) -> Option<(&str, Outcome)> {
    let (name, outcome) = line.split_once(' ')?;
    let outcome = match outcome.trim() {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        "skipped" => Outcome::Skipped,
        _ => return None,
    };
    name.contains("::").then_some((name, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "unlink::remove::fifo                      ok\n\
                       chown::changes                            FAILED\n\tassertion `left == right` failed\n  left: 1\n\
                       link::link_count_max                      skipped\n\tCannot get value\n\
                       \nSummary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total\n";

    #[test]
    fn a_run_is_read() {
        let outcomes = Outcomes::parse(RUN).expect("whole");
        let of = |name: &str| outcomes.cases[name].clone();
        assert_eq!(of("unlink::remove::fifo"), (Outcome::Passed, String::new()));
        assert_eq!(of("chown::changes"), (Outcome::Failed, "assertion `left == right` failed".to_owned()));
        assert_eq!(of("link::link_count_max"), (Outcome::Skipped, "Cannot get value".to_owned()));
        assert_eq!(outcomes.summary(), "1 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn a_run_that_is_not_whole_is_no_result() {
        let cut = RUN.split("\nSummary").next().expect("a beginning");
        assert!(Outcomes::parse(cut).expect_err("no summary").to_string().contains("after 3 cases"));
        let less = RUN.replace("3 total", "4 total");
        assert!(Outcomes::parse(&less).expect_err("one missing").to_string().contains("counts 4"));
        assert!(Outcomes::parse("").is_err());
    }

    #[test]
    fn a_part_takes_the_place_of_what_was_skipped() {
        let mut all = Outcomes::parse(RUN).expect("whole");
        let part = "link::link_count_max ok\nSummary: 0 failed, 0 skipped, 1 passed, 0 expected failures, 1 total\n";
        all.replace(Outcomes::parse(part).expect("whole"));
        assert_eq!(all.summary(), "2 passed, 1 failed, 0 skipped");
    }
}
