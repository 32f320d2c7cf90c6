//! The list of cases that are known not to pass, each with its reason, and how a run differs from it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::outcome::{Outcome, Outcomes};

/// See the head of `pjdfstest-expected.txt`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) version: String,
    cases: usize,
    listed: BTreeMap<String, Outcome>,
}

impl Expected {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut expected = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            expected.take(line).with_context(|| format!("in the list of known differences: {line:?}"))?;
        }
        if expected.version.is_empty() || expected.cases == 0 {
            bail!("the list of known differences names no version or no number of cases");
        }
        Ok(expected)
    }

    fn take(&mut self, line: &str) -> Result<()> {
        let (word, rest) = line.split_once(' ').context("one word is not enough")?;
        let outcome = match word {
            "version" => {
                rest.trim().clone_into(&mut self.version);
                return Ok(());
            }
            "cases" => {
                self.cases = rest.trim().parse()?;
                return Ok(());
            }
            "fail" => Outcome::Failed,
            "skip" => Outcome::Skipped,
            _ => bail!("begins with none of version, cases, fail, skip"),
        };
        let (name, reason) = rest.split_once(' ').context("the reason is missing")?;
        if reason.trim().is_empty() {
            bail!("the reason is missing");
        }
        if self.listed.insert(name.to_owned(), outcome).is_some() {
            bail!("listed twice");
        }
        Ok(())
    }

    /// As many cases, and nothing that may fail.
    pub(super) fn all_pass(&self) -> Self {
        Self { listed: BTreeMap::new(), ..self.clone() }
    }

    /// A sentence for everything that differs.
    pub(super) fn compare(&self, outcomes: &Outcomes) -> Vec<String> {
        let mut differences = Vec::new();
        if outcomes.cases.len() != self.cases {
            differences.push(format!("{} cases were run, {} are expected", outcomes.cases.len(), self.cases));
        }
        for (name, (outcome, words)) in &outcomes.cases {
            match self.listed.get(name) {
                Some(listed) if listed == outcome => {}
                Some(listed) if *outcome == Outcome::Passed => {
                    differences.push(format!("{name} passed, and the list says that it {listed}: take it off"));
                }
                None if *outcome == Outcome::Passed => {}
                _ => differences.push(format!("{name} {outcome}: {words}")),
            }
        }
        let missing = self.listed.keys().filter(|name| !outcomes.cases.contains_key(*name));
        differences.extend(missing.map(|name| format!("{name} is listed and was not run")));
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# words\nversion 0.2.2\ncases 3\nfail a::one  Not done yet.\nskip a::two  Not here.\n";

    fn run(one: &str, two: &str, three: &str) -> Outcomes {
        let summary = "Summary: 0 failed, 0 skipped, 0 passed, 0 expected failures, 3 total";
        Outcomes::parse(&format!("a::one {one}\n\twhy\na::two {two}\na::three {three}\n\twhy\n{summary}\n"))
            .expect("whole")
    }

    #[test]
    fn what_is_listed_is_expected() {
        let expected = Expected::parse(LIST).expect("parses");
        assert_eq!(expected.compare(&run("FAILED", "skipped", "ok")), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_told() {
        let expected = Expected::parse(LIST).expect("parses");
        assert_eq!(expected.compare(&run("FAILED", "skipped", "FAILED")), ["a::three failed: why"]);
        assert_eq!(expected.compare(&run("FAILED", "skipped", "skipped")), ["a::three was skipped: why"]);
        let new_pass = expected.compare(&run("ok", "skipped", "ok"));
        assert_eq!(new_pass, ["a::one passed, and the list says that it failed: take it off"]);
        assert_eq!(expected.compare(&run("skipped", "skipped", "ok")), ["a::one was skipped: why"]);
        assert_eq!(expected.all_pass().compare(&run("FAILED", "ok", "ok")), ["a::one failed: why"]);
        let none = expected.compare(&Outcomes::default());
        assert_eq!(none.len(), 3, "{none:?}");
    }

    #[test]
    fn a_list_without_reasons_is_refused() {
        for bad in
            ["fail a::one", "fail a::one  ", "maybe a::one why", "fail a::two why\nskip a::two why", "cases many"]
        {
            assert!(Expected::parse(&format!("version 1\ncases 1\n{bad}\n")).is_err(), "{bad}");
        }
        assert!(Expected::parse("cases 1\n").is_err() && Expected::parse("version 1\n").is_err());
    }
}
