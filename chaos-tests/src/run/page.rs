//! The report as one page that needs nothing else.

use std::fmt::Write as _;

use super::plot::{self, Mark};
use super::report::{Check, Outcome, Report, SHOWN, names};
use super::violation::Violation;
use crate::plot::{STYLE as COLOURS, escaped};

const STYLE: &str = "\
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1200px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 0 .2rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem } h3 { font-size: 1rem; margin: 1.2rem 0 .2rem }
code { font: 13px ui-monospace, monospace } p { margin: .3rem 0 } .soft { color: var(--soft) }
.verdict { font-weight: 700 } .passed, .ok { color: var(--good) } .violated { color: var(--bad) } .invalid { color: var(--doubt) }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
section { border-left: 3px solid var(--bad); padding-left: 1rem; margin: 1rem 0 } section.control { border-color: var(--good) }
.fine { width: auto; font-size: 14px; margin: .4rem 0 } .fine th, .fine td { padding: .1rem 1.2rem .1rem 0 } .fine code { overflow-wrap: anywhere }
.wrong td { color: var(--bad); font-weight: 600 } summary { cursor: pointer; margin: .3rem 0 }
.fault { font-weight: 600 } .fault.process { color: var(--process) } .fault.network { color: var(--network) }
.fault.disk { color: var(--disk) } .fault.client { color: var(--client) }
body > svg { width: 100%; height: auto; margin-top: .5rem } .key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em }";

pub(super) fn html(report: &Report) -> String {
    let mut body = format!(
        "<h1>Caribou under faults: <span class=\"verdict {}\">{}</span></h1>\n<p><code>{}</code></p>\n",
        class(report.outcome()),
        report.outcome().word(),
        escaped(&report.command)
    );
    let windows = &report.windows;
    let _ = writeln!(
        body,
        "<p>{} faults of {} kinds took effect, {} of them overlapping, within {:.0} s; everything was whole again {:.1} s after the last was lifted.</p>",
        report.injections(),
        report.kinds(),
        report.overlapping,
        (windows.faults_until_ms - windows.calm_until_ms) as f64 / 1e3,
        (windows.healed_ms - windows.faults_until_ms) as f64 / 1e3
    );
    if !report.never_in_effect.is_empty() {
        let never = names(&report.never_in_effect, ", ");
        let _ = writeln!(body, "<p>Never took effect, so that this run says nothing about them: {never}.</p>");
    }
    body += &wrong(report);
    body += "<h2>What happened</h2>\n<p class=\"soft\">Completions per second of each load; faults as bands, by class:";
    for (class, name) in
        [("process", "processes"), ("network", "network"), ("disk", "disks and power"), ("client", "mounts")]
    {
        let key = "<svg class=\"key\" viewBox=\"0 0 10 10\"><rect class=\"";
        let _ = write!(body, "{key}{class}\" width=\"10\" height=\"10\"/></svg>{name}");
    }
    body += ". Dashed lines: this node leads from here on. Green: before the first fault and after the last.";
    let marks = marks(report);
    body += if marks.is_empty() { "</p>\n" } else { " Triangles: something is wrong.</p>\n" };
    body += &plot::svg(&report.timeline, windows, &marks);
    body += "<h2>What was checked</h2>\n<table><tr><th>Promise<th>Looked at<th>Found</tr>\n";
    report.checks.iter().for_each(|check| body += &row(check));
    body += "</table>\n<h2>Faults</h2>\n<table><tr><th>Kind<th>Class<th class=\"n\">Inflicted<th class=\"n\">Without effect<th class=\"n\">Longest gap of a load</tr>\n";
    for fault in &report.faults {
        let class = format!("{:?}", fault.class).to_lowercase();
        let _ = writeln!(
            body,
            "<tr><td>{}<td>{class}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{:.1} s</tr>",
            fault.kind.name(),
            fault.count,
            fault.without_effect,
            fault.longest_gap_ms as f64 / 1e3
        );
    }
    body += "</table>\n<p class=\"soft\">The gap is the longest time without a completion of any one load, from a fault's beginning until two seconds after its end, to a tenth of a second.</p>\n\
             <h2>Each fault</h2>\n<table><tr><th class=\"n\">From<th class=\"n\">To<th>Kind<th>Victims<th>Effect</tr>\n";
    for band in &report.timeline.bands {
        let _ = writeln!(
            body,
            "<tr><td class=\"n\">{:.1} s<td class=\"n\">{:.1} s<td>{}<td>{}<td>{}</tr>",
            band.from_ms as f64 / 1e3,
            band.to_ms as f64 / 1e3,
            band.kind.name(),
            escaped(&band.victims),
            escaped(band.effect.as_deref().unwrap_or("none"))
        );
    }
    body += "</table>\n";
    body += &controls(report);
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Caribou under faults: {}</title>\n<style>{COLOURS}{STYLE}</style>\n<body>\n{body}</body></html>\n",
        report.outcome().word()
    )
}

/// Each violation with what contradicts what, the faults then, and what the nodes said.
fn wrong(report: &Report) -> String {
    let mut html = String::new();
    for check in report.checks.iter().filter(|check| !check.violations.is_empty()) {
        let _ = writeln!(html, "<h3>{}</h3>", escaped(check.name));
        for violation in check.violations.iter().take(SHOWN) {
            let _ = writeln!(html, "<section>{}</section>", violation.html());
        }
        if check.violations.len() > SHOWN {
            let _ = writeln!(html, "<p>and {} more</p>", check.violations.len() - SHOWN);
        }
    }
    if html.is_empty() { html } else { format!("<h2>What is wrong</h2>\n{html}") }
}

/// How a violation would read: those that were planted.
fn controls(report: &Report) -> String {
    let mut html = String::new();
    for check in &report.checks {
        for control in &check.controls {
            let word = if control.found.is_some() { "found" } else { "NOT found" };
            let told = control.found.as_ref().map(Violation::html).unwrap_or_default();
            let _ = writeln!(
                html,
                "<details><summary>{}: {}: {word}</summary><section class=\"control\">{told}</section></details>",
                escaped(check.name),
                escaped(control.planted)
            );
        }
    }
    let head = "<h2>Controls</h2>\n<p class=\"soft\">What was planted after the run, and has to be found: a check that misses it is blind.</p>\n";
    if html.is_empty() { html } else { format!("{head}{html}") }
}

fn marks(report: &Report) -> Vec<Mark> {
    let violations = report.checks.iter().flat_map(|check| check.violations.iter().take(SHOWN));
    let mark = |violation: &Violation| {
        Some(Mark { at_ms: violation.when?.from_us as f64 / 1e3, title: violation.text.clone() })
    };
    violations.filter_map(mark).collect()
}

fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Violated => "violated",
        Outcome::Invalid => "invalid",
    }
}

fn row(check: &Check) -> String {
    let (class, word) = match (check.violations.len(), check.invalid.is_empty()) {
        (0, true) => ("ok", "nothing".to_owned()),
        (0, false) => ("invalid", "proves nothing".to_owned()),
        (1, _) => ("violated", "a violation, above".to_owned()),
        (count, _) => ("violated", format!("{count} violations, above")),
    };
    let told: String = check.invalid.iter().map(|text| format!("<p>{}</p>", escaped(text))).collect();
    format!(
        "<tr><td>{}<td class=\"soft\">{}<td class=\"{class}\">{word}{told}</tr>\n",
        escaped(check.name),
        escaped(&check.extent)
    )
}
