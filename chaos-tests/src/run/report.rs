//! What a run has come to: for a person on the terminal, as a page, and as JSON beside it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::evidence::Scene;
use super::judge::Examined;
use super::timeline::{Timeline, Track};
use super::violation::Violation;
use super::{Args, page, wanted};
use crate::nemesis::{Class, Kind};
use crate::report::Verdict;

/// Completions per second that a load has to reach while nothing is broken: below, the run says nothing.
const FLOOR: f64 = 1.0;
/// And that all loads have to reach together on average under faults.
const FLOOR_UNDER_FAULTS: f64 = 5.0;
/// And each of them, and which share of what it did before the faults.
const FLOOR_OF_EACH: f64 = 0.1;
const SHARE_OF_EACH: f64 = 0.02;
/// Violations of one check that are shown one by one.
pub(super) const SHOWN: usize = 20;
/// Those of them that the terminal shows with operations, faults and lines of logs.
const IN_DETAIL: usize = 3;

/// One promise, and what was found.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub name: &'static str,
    /// What was compared, and how much of it.
    pub extent: String,
    pub violations: Vec<Violation>,
    /// What was planted, and what the check said to it: how a violation would read.
    pub controls: Vec<Control>,
    /// Why it proves nothing.
    pub invalid: Vec<String>,
}

/// A planted violation. It has to be found, or the check is blind.
#[derive(Debug, Clone, Serialize)]
pub struct Control {
    pub planted: &'static str,
    pub found: Option<Violation>,
}

impl Check {
    pub fn new(name: &'static str, extent: impl Into<String>) -> Self {
        let (violations, controls, invalid) = (Vec::new(), Vec::new(), Vec::new());
        Self { name, extent: extent.into(), violations, controls, invalid }
    }

    /// What was found, with what was going on then.
    pub fn of(examined: Examined, scene: &Scene) -> Self {
        let Examined { name, extent, findings, controls } = examined;
        let mut check = Self::new(name, extent);
        check.violations = findings.into_iter().map(|finding| scene.violation(finding)).collect();
        for (planted, found) in controls {
            if found.is_none() {
                check.invalid.push(format!("control: {planted} was not found"));
            }
            check.controls.push(Control { planted, found: found.map(|finding| scene.violation(finding)) });
        }
        check
    }
}

/// The parts of a run, in milliseconds after its start.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Windows {
    pub calm_until_ms: u64,
    pub faults_until_ms: u64,
    pub healed_ms: u64,
    pub end_ms: u64,
}

/// Faults of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct Inflicted {
    pub kind: Kind,
    pub class: Class,
    pub count: usize,
    pub without_effect: usize,
    /// Longest time without a completion of any load that overlaps with one of them.
    pub longest_gap_ms: u64,
}

impl Inflicted {
    /// One of them at least.
    fn took_effect(&self) -> bool {
        self.count > self.without_effect
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Passed,
    Violated,
    Invalid,
}

/// See the module.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub command: String,
    pub outcome: Outcome,
    pub windows: Windows,
    pub faults: Vec<Inflicted>,
    /// Kinds that were to come and of which no fault took effect: the run says nothing about them.
    pub never_in_effect: Vec<Kind>,
    /// Faults that took effect while another one was under way.
    pub overlapping: usize,
    pub checks: Vec<Check>,
    pub timeline: Timeline,
}

pub(super) fn names(kinds: &[Kind], between: &str) -> String {
    let names: Vec<String> = kinds.iter().map(|kind| kind.name()).collect();
    names.join(between)
}

/// The command that makes the same run again.
pub fn command(args: &Args) -> String {
    let mut text = format!(
        "caribou-chaos run --seed {} --minutes {} --profile {} --meta {} --chunk {}",
        args.seed,
        args.minutes,
        args.profile.name(),
        args.meta,
        args.chunk
    );
    if !args.only.is_empty() {
        text += &format!(" --only {}", names(&args.only, ","));
    }
    if args.plain {
        text += " --plain";
    }
    text
}

impl Report {
    pub fn new(args: &Args, windows: Windows, timeline: Timeline, mut checks: Vec<Check>) -> Self {
        checks.push(load_check(&windows, &timeline));
        let faults = inflicted(&timeline);
        let took_effect = |kind: Kind| faults.iter().any(|fault| fault.kind == kind && fault.took_effect());
        let never_in_effect = wanted(args).into_iter().filter(|kind| !took_effect(*kind)).collect();
        let mut report = Self {
            command: command(args),
            outcome: Outcome::Passed,
            windows,
            faults,
            never_in_effect,
            overlapping: timeline.overlapping().filter(|band| band.effect.is_some()).count(),
            checks,
            timeline,
        };
        if report.checks.iter().any(|check| !check.invalid.is_empty()) {
            report.outcome = Outcome::Invalid;
        }
        if report.checks.iter().any(|check| !check.violations.is_empty()) {
            report.outcome = Outcome::Violated;
        }
        report
    }

    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Faults that took effect.
    pub fn injections(&self) -> usize {
        self.faults.iter().map(|fault| fault.count - fault.without_effect).sum()
    }

    pub fn kinds(&self) -> usize {
        self.faults.iter().filter(|fault| fault.took_effect()).count()
    }

    /// The same as a scenario's verdict; what makes a run invalid counts against it too.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::new("run");
        verdict.figure("faults", self.injections());
        verdict.figure("kinds", self.kinds());
        verdict.figure("overlapping", self.overlapping);
        for check in &self.checks {
            verdict.figure(check.name, &check.extent);
            let found = check.violations.iter().map(|violation| format!("{}: {}", check.name, violation.text));
            let blind = check.invalid.iter().map(|why| format!("{} proves nothing: {why}", check.name));
            verdict.violations.extend(found.chain(blind));
        }
        verdict
    }

    /// The page, and JSON beside it.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, page::html(self)).with_context(|| path.display().to_string())?;
        let json = path.with_extension("json");
        std::fs::write(&json, serde_json::to_vec_pretty(self)?).with_context(|| json.display().to_string())
    }

    pub fn print(&self, path: &Path) {
        println!("{}", self.command);
        println!(
            "{} faults of {} kinds took effect, {} of them overlapping",
            self.injections(),
            self.kinds(),
            self.overlapping
        );
        for check in &self.checks {
            let word = match (check.violations.is_empty(), check.invalid.is_empty()) {
                (false, _) => "VIOLATED",
                (_, false) => "INVALID",
                _ => "ok",
            };
            println!("  {word:<8} {}: {}", check.name, check.extent);
            for (number, violation) in check.violations.iter().take(SHOWN).enumerate() {
                violation.lines(number < IN_DETAIL).iter().for_each(|line| println!("    {line}"));
            }
            if check.violations.len() > SHOWN {
                println!("    ! and {} more", check.violations.len() - SHOWN);
            }
            check.invalid.iter().for_each(|text| println!("    ! {text}"));
        }
        if !self.never_in_effect.is_empty() {
            println!("never took effect: {}", names(&self.never_in_effect, ", "));
        }
        println!("{}: {}", self.outcome.word(), path.display());
    }
}

impl Outcome {
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Violated => "VIOLATED",
            Self::Invalid => "INVALID",
        }
    }

    /// Exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Violated => 1,
            Self::Invalid => 2,
        }
    }
}

/// Loads that stand still without a fault make a run worthless.
fn load_check(windows: &Windows, timeline: &Timeline) -> Check {
    let Windows { calm_until_ms, faults_until_ms, healed_ms, end_ms } = *windows;
    let mut check = Check::new("load", "");
    let mut extents = Vec::new();
    let mut together = 0.0;
    for track in &timeline.tracks {
        let (before, after) = (track.rate(0, calm_until_ms), track.rate(healed_ms, end_ms));
        let under = track.rate(calm_until_ms, faults_until_ms);
        together += under;
        let Track { name, .. } = track;
        extents.push(format!("{name} {before:.0}, {under:.0}, {after:.0}/s"));
        for (rate, when) in [(before, "before"), (after, "after")] {
            if rate < FLOOR {
                check.invalid.push(format!("{name}: {rate:.1} completions a second {when} the faults"));
            }
        }
        if under < FLOOR_OF_EACH.max(before * SHARE_OF_EACH) {
            check.invalid.push(format!("{name}: {under:.2} completions a second under faults, {before:.0} before"));
        }
    }
    if together < FLOOR_UNDER_FAULTS {
        check.invalid.push(format!("all loads together: {together:.1} completions a second under faults"));
    }
    check.extent = format!("before, under and after the faults: {}", extents.join("; "));
    let without: Vec<String> =
        timeline.bands.iter().filter(|band| band.effect.is_none()).map(|band| band.kind.name()).collect();
    if without.len() == timeline.bands.len() {
        check.invalid.push("no fault took effect".to_owned());
    } else if without.len() * 4 > timeline.bands.len() {
        check.invalid.push(format!("faults without effect: {}", without.join(", ")));
    }
    check
}

fn inflicted(timeline: &Timeline) -> Vec<Inflicted> {
    let mut by_kind: BTreeMap<Kind, Inflicted> = BTreeMap::new();
    for band in &timeline.bands {
        let (kind, class) = (band.kind, band.kind.class());
        let new = || Inflicted { kind, class, count: 0, without_effect: 0, longest_gap_ms: 0 };
        let fault = by_kind.entry(kind).or_insert_with(new);
        fault.count += 1;
        fault.without_effect += usize::from(band.effect.is_none());
        // What follows within two seconds is still of the fault.
        let gaps = timeline.tracks.iter().map(|track| track.longest_gap(band.from_ms, band.to_ms + 2000));
        let gap = gaps.max().unwrap_or_default();
        fault.longest_gap_ms = fault.longest_gap_ms.max(u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
    }
    by_kind.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::super::timeline::Band;
    use super::*;
    use crate::check::finding::{Finding, Moment, Operation};

    const STARTED: Moment = Moment(1_796_083_200_000_000);

    fn args() -> Args {
        Args {
            seed: 7,
            minutes: 1.0,
            profile: super::super::Profile::Everything,
            only: vec![Kind::KillLeader],
            plain: true,
            meta: 3,
            chunk: 3,
            report: "x.html".into(),
        }
    }

    fn timeline(counts: Vec<u64>) -> Timeline {
        let band = |from_ms, to_ms, effect: Option<&str>| Band {
            kind: Kind::KillLeader,
            victims: "meta1".into(),
            from_ms,
            to_ms,
            effect: effect.map(str::to_owned),
        };
        let bands = vec![band(1000, 2000, Some("done")), band(1500, 1800, Some("done"))];
        let tracks = vec![Track { name: "names".into(), counts }];
        Timeline { started_us: STARTED.0, interval_ms: 100, tracks, bands, leaders: vec![] }
    }

    const WINDOWS: Windows = Windows { calm_until_ms: 1000, faults_until_ms: 3000, healed_ms: 3000, end_ms: 4000 };

    #[test]
    fn a_run_is_violated_invalid_or_passed() {
        let good = Report::new(&args(), WINDOWS, timeline(vec![5; 40]), vec![Check::new("a", "all")]);
        assert_eq!((good.outcome(), good.injections(), good.overlapping), (Outcome::Passed, 2, 2));
        assert!(good.never_in_effect.is_empty());
        assert!(good.command.ends_with("--only kill-leader --plain"), "{}", good.command);
        let mut weak = timeline(vec![5; 40]);
        weak.bands[1].effect = None;
        let weak = Report::new(&args(), WINDOWS, weak, vec![]);
        assert_eq!((weak.injections(), weak.overlapping), (1, 1), "of those that took effect");
        let calm = Timeline { bands: vec![], ..timeline(vec![5; 40]) };
        assert_eq!(Report::new(&args(), WINDOWS, calm, vec![]).outcome(), Outcome::Invalid, "no fault proves nothing");
        let idle = Report::new(&args(), WINDOWS, timeline([vec![5; 30], vec![0; 10]].concat()), vec![]);
        assert_eq!(idle.outcome(), Outcome::Invalid);
        let blind = Examined { controls: vec![("a lost block", None)], ..Examined::new("a", "all") };
        let report = Report::new(&args(), WINDOWS, timeline(vec![5; 40]), vec![check(blind)]);
        assert_eq!((report.outcome(), report.outcome().code()), (Outcome::Invalid, 2));
        assert_eq!(report.verdict().violations, ["a proves nothing: control: a lost block was not found"]);
        assert!(good.verdict().is_passed());
        let found = check(Examined { findings: vec![Finding::from("lost".to_owned())], ..Examined::new("a", "all") });
        let report = Report::new(&args(), WINDOWS, timeline([vec![5; 30], vec![0; 10]].concat()), vec![found]);
        assert_eq!(report.outcome(), Outcome::Violated);
        assert_eq!(report.outcome().code(), 1);
        assert!(report.verdict().violations.contains(&"a: lost".to_owned()));
    }

    /// What was examined, beside a log with one complaint.
    fn check(examined: Examined) -> Check {
        let dir = tempfile::tempdir().expect("a folder");
        let log = "2026-12-01T00:00:01.400000Z  WARN disk: <it> sings\n";
        std::fs::write(dir.path().join("chunk2.log"), log).expect("written");
        let now = STARTED.later(std::time::Duration::from_secs(60));
        Check::of(examined, &Scene::new(&timeline(vec![]), dir.path(), now).expect("read"))
    }

    fn came_back() -> Finding {
        let at = |ms: u64| STARTED.later(std::time::Duration::from_millis(ms));
        let told = |client, call: &str, answer: &str, from, to, is_wrong| Operation {
            client,
            call: call.to_owned(),
            answer: answer.to_owned(),
            called_at: at(from),
            answered_at: at(to),
            is_wrong,
        };
        let operations = vec![
            told(0, "unlink n1", "done", 1500, 1503, false),
            told(3, "look n1 up", "inode 10, 1 link", 1510, 1512, true),
        ];
        Finding { operations, ..Finding::between(at(1510), at(1512), "<b> came back") }
    }

    #[test]
    fn the_page_shows_what_is_wrong_faults_checks_and_how_to_do_it_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("report.html");
        let controls = vec![("a wrong answer", Some(came_back()))];
        let found =
            check(Examined { name: "names", extent: "400 operations".into(), findings: vec![came_back()], controls });
        Report::new(&args(), WINDOWS, timeline(vec![5; 40]), vec![found]).write(&path).expect("written");
        let html = std::fs::read_to_string(&path).expect("read");
        for text in [
            "VIOLATED",
            "kill-leader",
            "&lt;b&gt; came back",
            "--seed 7",
            "<svg",
            "400 operations",
            "chunk2",
            "&lt;it&gt; sings",
            "look n1 up",
            "1.5100 s",
            "class=\"wrong\"",
            "class=\"mark\"",
            "a wrong answer",
        ] {
            assert!(html.contains(text), "{text} is missing");
        }
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path.with_extension("json")).expect("read")).expect("JSON");
        assert_eq!(json["outcome"], "violated");
        assert_eq!(json["timeline"]["bands"][0]["kind"], "kill-leader");
        let violation = &json["checks"][0]["violations"][0];
        assert_eq!(violation["when"]["from_us"], 1_510_000);
        assert_eq!(violation["operations"][1]["answer"], "inode 10, 1 link");
        assert_eq!(violation["faults"][1]["from_ms"], 1500);
        assert_eq!(
            (&violation["said"][0]["node"], &violation["said"][0]["at_us"]),
            (&"chunk2".into(), &1_400_000.into())
        );
        assert_eq!(json["checks"][0]["controls"][0]["found"]["text"], "<b> came back");
    }

    #[test]
    fn a_load_that_hardly_works_under_faults_makes_a_run_invalid() {
        // A hundred a second before and after, and so many in the two seconds of faults.
        let run = |under: u64| {
            let mut timeline = timeline(vec![5; 40]);
            let counts = [vec![10; 10], vec![under], vec![0; 19], vec![10; 10]].concat();
            timeline.tracks.push(Track { name: "copies".into(), counts });
            Report::new(&args(), WINDOWS, timeline, vec![])
        };
        assert_eq!(run(6).outcome(), Outcome::Passed);
        for under in [0, 2] {
            let report = run(under);
            assert_eq!(report.outcome(), Outcome::Invalid);
            let why = &report.checks[0].invalid;
            assert!(why.len() == 1 && why[0].starts_with("copies: ") && why[0].ends_with("100 before"), "{why:?}");
        }
    }

    #[test]
    fn kinds_that_never_took_effect_are_told() {
        let args = Args { only: vec![Kind::KillLeader, Kind::StopLeader, Kind::KillMount], ..args() };
        let mut timeline = timeline(vec![5; 40]);
        // One that nobody felt; the mount's turn never came.
        timeline.bands[1] = Band { kind: Kind::StopLeader, effect: None, ..timeline.bands[1].clone() };
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("report.html");
        Report::new(&args, WINDOWS, timeline, vec![]).write(&path).expect("written");
        let html = std::fs::read_to_string(&path).expect("read");
        assert!(html.contains("says nothing about them: stop-leader, kill-mount.</p>"));
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path.with_extension("json")).expect("read")).expect("JSON");
        assert_eq!(json["never_in_effect"], serde_json::json!(["stop-leader", "kill-mount"]));
    }

    #[test]
    fn the_terminal_shows_the_same_in_short() {
        let found = check(Examined { findings: vec![came_back()], ..Examined::new("names", "") });
        let lines = found.violations[0].lines(true);
        assert_eq!(
            lines,
            [
                "! <b> came back",
                "  between 1.510 and 1.512 s, under kill-leader (meta1) 1.0–2.0 s, kill-leader (meta1) 1.5–1.8 s",
                "    1.5000–1.5030 client 0: unlink n1 → done",
                "  ✗ 1.5100–1.5120 client 3: look n1 up → inode 10, 1 link",
                "  1.400 chunk2: WARN disk: <it> sings",
            ]
        );
    }
}
