//! What was going on when a promise was broken: the faults at that time, and what servers and mounts wrote to their logs around it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::timeline::{Band, Timeline};
use super::violation::{Call, Said, Violation, When};
use crate::check::finding::{Finding, Moment};
use crate::check::logs::{self, Line};

/// What is looked at before and after.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(1);
/// Lines that are told of one violation.
const MOST_LINES: usize = 30;
/// Faults that are told of one violation.
const MOST_FAULTS: usize = 12;
const HALF_AN_HOUR_US: u64 = 1_800_000_000;
/// What takes longer than this from the earliest to the latest moment did not happen at all of them.
const MOMENT: Duration = Duration::from_secs(10);

/// The faults and the logs of a run.
pub struct Scene {
    started: Moment,
    bands: Vec<Band>,
    lines: Vec<Line>,
}

impl Scene {
    /// What there is in the logs' folder `now`.
    pub fn new(timeline: &Timeline, folder: &Path, now: Moment) -> Result<Self> {
        let (started, mut lines) = (Moment(timeline.started_us), logs::lines(folder)?);
        lines.iter_mut().for_each(|line| line.at = in_time(line.at, started, now));
        lines.sort_by_key(|line| line.at);
        Ok(Self { started, bands: timeline.bands.clone(), lines })
    }

    /// The lines of all logs, in the order of their times.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// How often something was said.
    pub fn count(&self, said: &str) -> usize {
        self.lines.iter().filter(|line| line.text.contains(said)).count()
    }

    /// A finding with what was going on.
    pub fn violation(&self, finding: Finding) -> Violation {
        let us = |moment: Moment| moment.since(self.started);
        let operations = finding.operations.iter().map(|operation| Call::of(operation, us)).collect();
        let mut violation = Violation { text: finding.text, operations, ..Violation::default() };
        let Some((from, to)) = finding.when else { return violation };
        violation.when = Some(When { from_us: us(from), to_us: us(to) });
        let faults = self.faults(from.earlier(BEFORE), to.later(AFTER));
        let window = (from.earlier(BEFORE), self.window_end(from, to, &faults).later(AFTER));
        (violation.said, violation.said_left_out) = self.said(window, from);
        violation.faults = faults.into_iter().take(MOST_FAULTS).cloned().collect();
        violation
    }

    fn at(&self, ms: u64) -> Moment {
        self.started.later(Duration::from_millis(ms))
    }

    /// Faults that were under way at some moment in between.
    fn faults(&self, from: Moment, to: Moment) -> Vec<&Band> {
        self.bands.iter().filter(|band| self.at(band.from_ms) <= to && self.at(band.to_ms) >= from).collect()
    }

    /// Until when the logs are of interest. What happened some time after `from` most likely did so at the next fault.
    fn window_end(&self, from: Moment, to: Moment, faults: &[&Band]) -> Moment {
        if from.later(MOMENT) >= to {
            return to;
        }
        let next = faults.iter().map(|band| self.at(band.to_ms)).filter(|lifted| *lifted >= from).min();
        next.unwrap_or(from).clamp(from, to)
    }

    /// What was said in between: of lines that differ in numbers only, the first; of all those, the ones that matter most, and are
    /// nearest. Also how many lines that leaves out.
    fn said(&self, (from, to): (Moment, Moment), moment: Moment) -> (Vec<Said>, usize) {
        let begin = self.lines.partition_point(|line| line.at < from);
        let end = self.lines.partition_point(|line| line.at <= to);
        let mut alike: BTreeMap<(&str, String), Vec<&Line>> = BTreeMap::new();
        for line in &self.lines[begin..end.max(begin)] {
            alike.entry((line.log.as_str(), logs::shape(&line.text))).or_default().push(line);
        }
        let mut said: Vec<(u64, Said)> = alike
            .into_values()
            .map(|lines| {
                let Line { log, at, weight, text } = lines[0];
                let distance = at.since(moment).max(moment.since(*at));
                let (node, text) = (log.clone(), text.clone());
                (distance, Said { at_us: at.since(self.started), node, weight: *weight, text, count: lines.len() })
            })
            .collect();
        said.sort_by_key(|(distance, said)| (said.weight, *distance));
        let left_out = said.iter().skip(MOST_LINES).map(|(_, said)| said.count).sum();
        let mut said: Vec<Said> = said.into_iter().take(MOST_LINES).map(|(_, said)| said).collect();
        said.sort_by_key(|said| (said.weight, said.at_us));
        (said, left_out)
    }
}

/// When a line was written that says so by a clock which may have been moved by hours: a run takes less than one.
fn in_time(at: Moment, started: Moment, now: Moment) -> Moment {
    let hours = |apart: u64| Duration::from_secs((apart + HALF_AN_HOUR_US) / (2 * HALF_AN_HOUR_US) * 3600);
    let at = at.earlier(hours(at.since(now)));
    at.later(hours(started.since(at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::logs::Weight;
    use crate::nemesis::Kind;

    const STARTED: Moment = Moment(1_796_083_200_000_000);

    fn second(number: u64) -> Moment {
        STARTED.later(Duration::from_secs(number))
    }

    fn band(kind: Kind, from_s: u64, to_s: u64) -> Band {
        let effect = Some("done".to_owned());
        Band { kind, victims: "meta1".to_owned(), from_ms: from_s * 1000, to_ms: to_s * 1000, effect }
    }

    fn scene(logs: &[(&str, String)]) -> Scene {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, text) in logs {
            std::fs::write(dir.path().join(format!("{name}.log")), text).expect("written");
        }
        let bands = vec![band(Kind::KillLeader, 5, 8), band(Kind::Loss, 20, 30), band(Kind::KillFollower, 40, 41)];
        let timeline = Timeline { started_us: STARTED.0, bands, ..Timeline::default() };
        Scene::new(&timeline, dir.path(), second(60)).expect("read")
    }

    fn kinds(violation: &Violation) -> Vec<Kind> {
        violation.faults.iter().map(|band| band.kind).collect()
    }

    #[test]
    fn the_window_is_two_seconds_before_and_one_after_and_what_matters_comes_first() {
        let meta1: String =
            (0..60).map(|second| format!("2026-12-01T00:00:{second:02}.000000Z  INFO raft: beat {second}\n")).collect();
        let meta2 = "2026-12-01T00:00:20.500000Z  WARN disk: it sings\n2026-12-01T00:00:23.000000Z  INFO raft: votes\n\
                     2026-12-01T00:00:24.500000Z ERROR disk: too late\n";
        let scene = scene(&[("meta1", meta1), ("meta2", meta2.to_owned())]);
        let violation = scene.violation(Finding::between(second(22), second(22), "lost"));
        assert_eq!(violation.when, Some(When { from_us: 22_000_000, to_us: 22_000_000 }));
        assert_eq!(kinds(&violation), [Kind::Loss]);
        let said: Vec<(u64, &str, Weight, usize)> =
            violation.said.iter().map(|said| (said.at_us, said.node.as_str(), said.weight, said.count)).collect();
        // Beats are alike: the first is told, with how many there were.
        assert_eq!(
            said,
            [
                (20_500_000, "meta2", Weight::Unexpected, 1),
                (20_000_000, "meta1", Weight::Info, 4),
                (23_000_000, "meta2", Weight::Info, 1)
            ]
        );
        let lines = violation.lines(true);
        assert_eq!(lines[1], "  at 22.000 s, under loss (meta1) 20.0–30.0 s");
        assert!(lines[2].contains("20.500 meta2: WARN disk: it sings"), "{lines:?}");
        assert_eq!(violation.lines(false).len(), 1);
        assert!(violation.html().contains("(4 like it)"));
    }

    #[test]
    fn what_was_lost_some_time_after_its_fsync_is_told_with_the_faults_since() {
        let chunk1 = "2026-12-01T00:00:19.000000Z  INFO store: quiet\n2026-12-01T00:00:29.000000Z ERROR store: torn\n\
                      2026-12-01T00:00:40.500000Z ERROR store: later\n";
        let violation =
            scene(&[("chunk1", chunk1.to_owned())]).violation(Finding::between(second(15), second(50), "lost"));
        assert_eq!(kinds(&violation), [Kind::Loss, Kind::KillFollower]);
        let texts: Vec<&str> = violation.said.iter().map(|said| said.text.as_str()).collect();
        assert_eq!(texts, ["ERROR store: torn", "INFO store: quiet"]);
    }

    #[test]
    fn lines_of_a_clock_that_was_moved_are_put_in_their_place() {
        let now = second(600);
        for (said, meant) in [(30, 30), (3600 + 30, 30), (7200 + 599, 599), (601, 601)] {
            assert_eq!(in_time(second(said), STARTED, now), second(meant), "{said}");
        }
        let hour = Duration::from_secs(3600);
        assert_eq!(in_time(second(30).earlier(hour), STARTED, now), second(30));
        // Before the loads began.
        assert_eq!(
            in_time(STARTED.earlier(Duration::from_secs(5)), STARTED, now),
            STARTED.earlier(Duration::from_secs(5))
        );
    }

    #[test]
    fn a_violation_that_nobody_knows_the_time_of_has_no_evidence() {
        let scene = scene(&[("meta1", "2026-12-01T00:00:01Z ERROR disk: sings\n".to_owned())]);
        let violation = scene.violation(Finding::from("wrong".to_owned()));
        assert!(violation.when.is_none() && violation.faults.is_empty() && violation.said.is_empty());
    }

    #[test]
    fn many_lines_are_cut_where_they_matter_least() {
        let word = |number: u32| {
            char::from_u32('a' as u32 + number % 26).expect("a letter").to_string().repeat(1 + number as usize / 26)
        };
        let text: String = (0..50).map(|n| format!("2026-12-01T00:00:10.{n:06}Z  INFO raft: {}\n", word(n))).collect();
        let scene = scene(&[("meta1", text + "2026-12-01T00:00:10.900000Z  WARN disk: it sings\n")]);
        let violation = scene.violation(Finding::between(second(10), second(10), "lost"));
        assert_eq!((violation.said.len(), violation.said_left_out), (MOST_LINES, 21));
        assert_eq!(violation.said[0].weight, Weight::Unexpected);
        assert!(violation.said[1].text.ends_with(" a"), "the nearest first: {:?}", violation.said[1]);
    }
}
