//! The list of stressors: which are run with which options, and which are left out for which reason.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// See the head of `stress-ng.txt`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stressors {
    /// In the order of the list, with options.
    pub(super) run: Vec<Stressor>,
    /// By name, with reasons.
    pub(super) out: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stressor {
    pub(super) name: String,
    pub(super) options: Vec<String>,
}

impl Stressors {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut list = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            list.take(line).with_context(|| format!("in the list of stressors: {line:?}"))?;
        }
        Ok(list)
    }

    fn take(&mut self, line: &str) -> Result<()> {
        let (word, rest) = line.split_once(' ').context("the name is missing")?;
        let mut words = rest.split_whitespace().map(str::to_owned);
        let name = words.next().context("the name is missing")?;
        if self.names(&name) {
            bail!("listed twice");
        }
        match word {
            "run" => self.run.push(Stressor { name, options: words.collect() }),
            "out" => {
                let reason = words.collect::<Vec<_>>().join(" ");
                if reason.is_empty() {
                    bail!("the reason is missing");
                }
                self.out.insert(name, reason);
            }
            _ => bail!("begins with neither run nor out"),
        }
        Ok(())
    }

    fn names(&self, name: &str) -> bool {
        self.out.contains_key(name) || self.run.iter().any(|stressor| stressor.name == name)
    }

    /// Stressors of a class that the list does not name. `class`: what `stress-ng --class NAME?` prints.
    pub(super) fn unlisted(&self, class: &str) -> Result<Vec<String>> {
        let (_, names) = class.split_once("stressors:").with_context(|| format!("no list of stressors: {class:?}"))?;
        Ok(names.split_whitespace().filter(|name| !self.names(name)).map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stressors_and_reasons_are_read() {
        let list =
            Stressors::parse("# words\nrun hdd --hdd-bytes 16m\n\nout verity  There is none.\n").expect("parses");
        let hdd = Stressor { name: "hdd".to_owned(), options: vec!["--hdd-bytes".to_owned(), "16m".to_owned()] };
        assert_eq!(list.run, [hdd]);
        assert_eq!(list.out["verity"], "There is none.");
    }

    #[test]
    fn what_the_list_does_not_name_is_told() {
        let list = Stressors::parse("run hdd\nout verity why\n").expect("parses");
        assert_eq!(list.unlisted("class 'io' stressors: hdd verity seek\n").expect("a class"), ["seek"]);
        assert!(list.unlisted("unknown class\n").is_err());
    }

    #[test]
    fn a_list_without_reasons_is_refused() {
        for bad in ["out verity", "out verity ", "maybe hdd", "run", "run hdd\nout hdd why", "run hdd\nrun hdd"] {
            assert!(Stressors::parse(bad).is_err(), "{bad}");
        }
    }
}
