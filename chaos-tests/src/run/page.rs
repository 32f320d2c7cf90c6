//! The report as one page that needs nothing else.

use std::fmt::Write as _;

use super::plot;
use super::report::{Check, Outcome, Report};

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #0b0b0b; --paper: #fcfcfb; --soft: #52514e; --line: #e1e0d9; --track: #2a78d6;
  --process: #c2541b; --network: #7a4fc0; --disk: #b3261e; --client: #1b7f5c; --good: #1b7f5c; --bad: #b3261e; --doubt: #8a6100 }
@media (prefers-color-scheme: dark) { :root { --ink: #f4f4f2; --paper: #1a1a19; --soft: #c3c2b7; --line: #3c3c39; --track: #5a9ef0;
  --process: #f08850; --network: #b59af0; --disk: #f2786e; --client: #5cc9a1; --good: #5cc9a1; --bad: #f2786e; --doubt: #e0b050 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1200px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 0 .2rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
code { font: 13px ui-monospace, monospace } p { margin: .3rem 0 } .soft { color: var(--soft) }
.verdict { font-weight: 700 } .passed, .ok { color: var(--good) } .violated { color: var(--bad) } .invalid { color: var(--doubt) }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } pre { white-space: pre-wrap; margin: .3rem 0; color: var(--bad); font: 13px ui-monospace, monospace }
svg { width: 100%; height: auto; margin-top: .5rem } svg text { font: 12px system-ui, sans-serif; fill: var(--ink) }
svg .small { font-size: 10px; fill: var(--soft); text-anchor: middle } svg .end { text-anchor: end } svg .start { text-anchor: start }
.track { fill: var(--track); fill-opacity: .75 } .base { stroke: var(--line) } .calm { fill: var(--good); fill-opacity: .08 }
.leader { stroke: var(--soft); stroke-dasharray: 3 3 } .over { fill-opacity: .14 } .bar { fill-opacity: .85 }
.process { fill: var(--process) } .network { fill: var(--network) } .disk { fill: var(--disk) } .client { fill: var(--client) }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em }";

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
    body += "<h2>What happened</h2>\n<p class=\"soft\">Completions per second of each load; faults as bands, by class:";
    for (class, name) in
        [("process", "processes"), ("network", "network"), ("disk", "disks and power"), ("client", "mounts")]
    {
        let key = "<svg class=\"key\" viewBox=\"0 0 10 10\"><rect class=\"";
        let _ = write!(body, "{key}{class}\" width=\"10\" height=\"10\"/></svg>{name}");
    }
    body += ". Dashed lines: this node leads from here on. Green: before the first fault and after the last.</p>\n";
    body += &plot::svg(&report.timeline, windows);
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
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Caribou under faults: {}</title>\n<style>{STYLE}</style>\n<body>\n{body}</body></html>\n",
        report.outcome().word()
    )
}

fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Violated => "violated",
        Outcome::Invalid => "invalid",
    }
}

fn row(check: &Check) -> String {
    let (class, word) = match (check.violations.is_empty(), check.invalid.is_empty()) {
        (false, _) => ("violated", format!("{} violations", check.violations.len())),
        (_, false) => ("invalid", "proves nothing".to_owned()),
        _ => ("ok", "nothing".to_owned()),
    };
    let told: String =
        check.violations.iter().chain(&check.invalid).map(|text| format!("<pre>{}</pre>", escaped(text))).collect();
    format!(
        "<tr><td>{}<td class=\"soft\">{}<td class=\"{class}\">{word}{told}</tr>\n",
        escaped(check.name),
        escaped(&check.extent)
    )
}

/// Text as HTML and SVG show it.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
