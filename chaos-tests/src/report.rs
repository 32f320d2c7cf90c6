//! A scenario's verdict: what was checked, what was seen, what contradicts the promises.

use serde::Serialize;

use crate::check::finding::Finding;
use crate::distribution::Distribution;

/// Violations that are shown one by one.
const SHOWN: usize = 20;

/// What came out of one scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    pub scenario: &'static str,
    /// Figures, in the order in which they were noted.
    pub figures: Vec<(String, String)>,
    /// Each a sentence; none: passed.
    pub violations: Vec<String>,
}

impl Verdict {
    pub fn new(scenario: &'static str) -> Self {
        Self { scenario, figures: Vec::new(), violations: Vec::new() }
    }

    /// Notes a figure.
    pub fn figure(&mut self, name: &str, value: impl ToString) {
        self.figures.push((name.to_owned(), value.to_string()));
    }

    /// Notes a violation unless `right`.
    pub fn check(&mut self, right: bool, violation: impl FnOnce() -> String) {
        if !right {
            self.violations.push(violation());
        }
    }

    /// Notes what a check has found.
    pub fn found(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.violations.extend(findings.into_iter().map(String::from));
    }

    pub fn is_passed(&self) -> bool {
        self.violations.is_empty()
    }

    pub fn print(&self, json: bool) {
        if json {
            match serde_json::to_string(self) {
                Ok(text) => println!("{text}"),
                Err(error) => eprintln!("{}: {error}", self.scenario),
            }
            return;
        }
        println!("{}: {}", self.scenario, if self.is_passed() { "passed" } else { "VIOLATED" });
        for (name, value) in &self.figures {
            println!("  {name}: {value}");
        }
        for violation in self.violations.iter().take(SHOWN) {
            println!("  ! {violation}");
        }
        if self.violations.len() > SHOWN {
            println!("  ! and {} more", self.violations.len() - SHOWN);
        }
    }
}

/// Median and maximum of durations in milliseconds, for figures.
pub fn distribution_ms(gaps: &[std::time::Duration]) -> (u128, u128) {
    let of = Distribution::of(gaps);
    (of.median.as_millis(), of.maximum.as_millis())
}
