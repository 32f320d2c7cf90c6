//! A broken promise as a person reads it: what contradicts what, under which faults, and what the nodes said then. Times are those of the
//! run, from its beginning.

use std::fmt::Write as _;

use serde::Serialize;

use super::plot::colour;
use super::timeline::Band;
use crate::check::finding::{Moment, Operation};
use crate::check::logs::Weight;
use crate::plot::escaped;

/// What the terminal shows of each part.
const SHORT_OPERATIONS: usize = 6;
const SHORT_FAULTS: usize = 4;
const SHORT_LINES: usize = 3;
/// Longest line of a log on the terminal, in characters.
const SHORT_LINE: usize = 160;

/// See the module.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Violation {
    pub text: String,
    /// Nothing: nobody knows when it happened.
    pub when: Option<When>,
    /// The operations that contradict each other.
    pub operations: Vec<Call>,
    /// Faults under way then, or shortly before.
    pub faults: Vec<Band>,
    /// Lines of the logs of servers and mounts, what matters most first.
    pub said: Vec<Said>,
    /// Lines that there were besides.
    pub said_left_out: usize,
}

/// When it happened, at the earliest and at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct When {
    pub from_us: u64,
    pub to_us: u64,
}

/// An operation in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Call {
    pub client: usize,
    pub called_us: u64,
    pub answered_us: u64,
    pub call: String,
    pub answer: String,
    /// This answer is the one that cannot be.
    pub is_wrong: bool,
}

/// What a node wrote to its log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Said {
    pub at_us: u64,
    /// meta1, chunk2, mount3.
    pub node: String,
    pub weight: Weight,
    pub text: String,
    /// How many lines differ from it in numbers only, itself included.
    pub count: usize,
}

impl Call {
    /// `us`: a moment on the clock of the run.
    pub fn of(operation: &Operation, us: impl Fn(Moment) -> u64) -> Self {
        let Operation { client, call, answer, called_at, answered_at, is_wrong } = operation.clone();
        Self { client, called_us: us(called_at), answered_us: us(answered_at), call, answer, is_wrong }
    }
}

fn seconds(us: u64, digits: usize) -> String {
    format!("{:.digits$}", us as f64 / 1e6)
}

fn in_words(band: &Band) -> String {
    let (from, to) = (band.from_ms as f64 / 1e3, band.to_ms as f64 / 1e3);
    format!("{} ({}) {from:.1}–{to:.1} s", band.kind.name(), band.victims)
}

impl When {
    fn words(self) -> String {
        let digits = if self.to_us.saturating_sub(self.from_us) < 1_000_000 { 3 } else { 1 };
        let (from, to) = (seconds(self.from_us, digits), seconds(self.to_us, digits));
        if from == to { format!("at {from} s") } else { format!("between {from} and {to} s") }
    }
}

impl Violation {
    /// For the terminal: all of it, shortened, or what it is about only.
    pub fn lines(&self, in_detail: bool) -> Vec<String> {
        let mut lines = vec![format!("! {}", self.text)];
        let Some(when) = self.when.filter(|_| in_detail) else { return lines };
        let mut faults: Vec<String> = self.faults.iter().take(SHORT_FAULTS).map(in_words).collect();
        if self.faults.len() > SHORT_FAULTS {
            faults.push(format!("{} more", self.faults.len() - SHORT_FAULTS));
        }
        let faults = if faults.is_empty() { "no fault".to_owned() } else { faults.join(", ") };
        lines.push(format!("  {}, under {faults}", when.words()));
        let early = self.operations.len().saturating_sub(SHORT_OPERATIONS);
        let told = self.operations.iter().enumerate().filter(|(at, call)| *at >= early || call.is_wrong);
        for (_, call) in told {
            let Call { client, called_us, answered_us, call, answer, is_wrong } = call;
            let (from, to) = (seconds(*called_us, 4), seconds(*answered_us, 4));
            let mark = if *is_wrong { '✗' } else { ' ' };
            lines.push(format!("  {mark} {from}–{to} client {client}: {call} → {answer}"));
        }
        for said in self.said.iter().filter(|said| said.weight != Weight::Detail).take(SHORT_LINES) {
            let text: String = said.text.chars().take(SHORT_LINE).collect();
            lines.push(format!("  {} {}: {text}", seconds(said.at_us, 3), said.node));
        }
        lines
    }

    /// For the page.
    pub fn html(&self) -> String {
        let mut html = format!("<p>{}</p>\n", escaped(&self.text));
        if let Some(when) = self.when {
            let _ = write!(html, "<p class=\"soft\">It happened {}. Faults then: ", when.words());
            let told =
                |band: &Band| format!("<span class=\"fault {}\">{}</span>", colour(band), escaped(&in_words(band)));
            let faults: Vec<String> = self.faults.iter().map(told).collect();
            let _ = writeln!(html, "{}.</p>", if faults.is_empty() { "none".to_owned() } else { faults.join(", ") });
        }
        html += &self.operations_html();
        html + &self.said_html()
    }

    fn operations_html(&self) -> String {
        if self.operations.is_empty() {
            return String::new();
        }
        let mut html = "<table class=\"fine\"><tr><th class=\"n\">Called at<th class=\"n\">Answered at<th>Client<th>Call<th>Answer</tr>\n".to_owned();
        for call in &self.operations {
            let Call { client, called_us, answered_us, call, answer, is_wrong } = call;
            let _ = writeln!(
                html,
                "<tr{}><td class=\"n\">{} s<td class=\"n\">{} s<td>{client}<td>{}<td>{}</tr>",
                if *is_wrong { " class=\"wrong\"" } else { "" },
                seconds(*called_us, 4),
                seconds(*answered_us, 4),
                escaped(call),
                escaped(answer)
            );
        }
        html + "</table>\n"
    }

    fn said_html(&self) -> String {
        if self.said.is_empty() {
            return String::new();
        }
        let mut html = "<details open><summary>What the nodes said then, what matters most first</summary>\n<table class=\"fine\">\n".to_owned();
        for said in &self.said {
            let class = match said.weight {
                Weight::Unexpected => "violated",
                Weight::Complaint => "invalid",
                Weight::Info | Weight::Detail => "soft",
            };
            let more = if said.count > 1 { format!(" <b>({} like it)</b>", said.count) } else { String::new() };
            let _ = writeln!(
                html,
                "<tr class=\"{class}\"><td class=\"n\">{} s<td>{}<td><code>{}</code>{more}</tr>",
                seconds(said.at_us, 3),
                escaped(&said.node),
                escaped(&said.text)
            );
        }
        html += "</table>\n";
        if self.said_left_out > 0 {
            let _ = writeln!(html, "<p class=\"soft\">and {} lines more</p>", self.said_left_out);
        }
        html + "</details>\n"
    }
}
