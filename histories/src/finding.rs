//! What a check has found: a promise that was broken, when, and which operations contradict each other.
//!
//! Times are those of this machine's clock, which all processes of a run share: findings, operations and lines of logs can be put side by
//! side.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Microseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment(pub u64);

impl Moment {
    pub fn now() -> Self {
        Self::of(SystemTime::now())
    }

    pub fn of(time: SystemTime) -> Self {
        Self(micros(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }

    /// Microseconds after another moment; 0 if it was before.
    pub fn since(self, other: Self) -> u64 {
        self.0.saturating_sub(other.0)
    }

    pub fn earlier(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(micros(by)))
    }

    pub fn later(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What is wrong, in a sentence.
    pub text: String,
    /// From when to when it happened, as far as anybody knows.
    pub when: Option<(Moment, Moment)>,
    /// The operations that contradict each other, in the order of their calls, if it is about operations.
    pub operations: Vec<Operation>,
}

/// One operation of one client, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub client: usize,
    pub call: String,
    pub answer: String,
    pub called_at: Moment,
    pub answered_at: Moment,
    /// Its answer is the one that nothing explains.
    pub is_wrong: bool,
}

impl Finding {
    /// Something that is seen just now.
    pub fn now(text: impl Into<String>) -> Self {
        let now = Moment::now();
        Self::between(now, now, text)
    }

    /// Something that happened at some moment in between.
    pub fn between(from: Moment, to: Moment, text: impl Into<String>) -> Self {
        Self { when: Some((from, to)), ..Self::from(text.into()) }
    }

    /// The same, told as a part of something.
    pub fn within(mut self, what: &str) -> Self {
        self.text = format!("{what}: {}", self.text);
        self
    }
}

/// Something of which nobody knows when it happened.
impl From<String> for Finding {
    fn from(text: String) -> Self {
        Self { text, when: None, operations: Vec::new() }
    }
}

impl From<Finding> for String {
    fn from(finding: Finding) -> Self {
        finding.text
    }
}
