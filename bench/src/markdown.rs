//! The results as tables for a person.

use std::fmt::Write as _;

use caribou_cli::bench::figure::rounded;

use crate::differences;
use crate::floor::Judged;
use crate::plan::Group;
use crate::report::Report;
use crate::rows::{Key, Row, Summary};
use crate::system::System;

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut page = String::from("# Caribou, MooseFS and the local disk\n\n");
    page += &head(report);
    page += "\n## What differs\n\n";
    for sentence in &report.differences {
        let _ = writeln!(page, "- {sentence}");
    }
    page += "\n![How many times faster Caribou is than MooseFS](ratios.svg)\n";
    for group in Group::ALL {
        let rows: Vec<&Row> = report.rows.iter().filter(|row| row.key.group == group).collect();
        if !rows.is_empty() {
            page += &section(group, &rows, &report.systems);
        }
    }
    page
}

fn head(report: &Report) -> String {
    let machine = &report.machine;
    let mut head = String::new();
    if report.is_quick {
        head += "**A quick run: it shows that everything works; its figures mean little.**\n\n";
    }
    if report.rounds < report.rounds_planned {
        let _ = write!(head, "**Not whole: {} of {} rounds.**\n\n", report.rounds, report.rounds_planned);
    }
    let moosefs = report.moosefs_version.as_ref().map_or_else(String::new, |v| format!(", MooseFS {v}"));
    let _ = writeln!(
        head,
        "Caribou {}{moosefs}, by `make bench` on {} × {}, {} GiB memory, Linux {}, {}. {} rounds in {:.0} minutes, systems alternating; before a \
         turn the processors were {:.1} % busy (at most {:.1} %).",
        report.revision,
        machine.processors,
        machine.processor,
        machine.memory_gib,
        machine.kernel,
        machine.disk,
        report.rounds,
        report.seconds / 60.0,
        report.busy_percent.mean,
        report.busy_percent.max
    );
    if report.tree.files > 0 {
        let (tree, bytes) = (&report.tree, report.tree.bytes as f64 / 1e6);
        let _ = writeln!(head, "The tree is {}: {} files, {bytes:.1} MB.", tree.path.display(), tree.files);
    }
    let (reached, all) = report.floors();
    let _ = write!(
        head,
        "\nA cell is the median of the rounds [least – most], then the median p50 and p99 of single operations. A ratio says how many times \
         faster Caribou is (of medians, [least – most] of the single rounds); a floor is what it has to reach. **{reached} of {all} floors are \
         reached.**\n"
    );
    head
}

fn section(group: Group, rows: &[&Row], systems: &[System]) -> String {
    let mut text = format!("\n## {}\n\n", group.title());
    if let Some(note) = differences::note(group) {
        let _ = write!(text, "{note}\n\n");
    }
    let mut header = vec!["workload", "threads"];
    let has_folders = rows.iter().any(|row| row.key.placement.is_some());
    if has_folders {
        header.push("folder");
    }
    header.push("unit");
    header.extend(systems.iter().map(|system| system.title()));
    let others: Vec<System> = systems.iter().copied().filter(|s| *s != System::Caribou).collect();
    let ratio_heads: Vec<String> = others.iter().map(|system| format!("× {}", system.title())).collect();
    let has_ratios = systems.contains(&System::Caribou);
    if has_ratios {
        header.extend(ratio_heads.iter().map(String::as_str));
    }
    let _ = writeln!(text, "| {} |\n|{}", header.join(" | "), "---|".repeat(header.len()));
    for row in rows {
        let mut cells = vec![row.key.workload.clone(), row.key.threads.to_string()];
        if has_folders {
            cells.push(row.key.placement.map_or_else(String::new, |p| p.name().to_owned()));
        }
        cells.push(row.key.unit.name().to_owned());
        cells.extend(systems.iter().map(|system| row.systems.get(system).map_or_else(String::new, measured)));
        if has_ratios {
            cells.extend(others.iter().map(|system| compared(row, *system)));
        }
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn measured(summary: &Summary) -> String {
    let mut cell = format!("**{}**", rounded(summary.median));
    if summary.runs.len() > 1 {
        let _ = write!(cell, " [{} – {}]", rounded(summary.min), rounded(summary.max));
    }
    if let (Some(p50), Some(p99)) = (summary.p50_us, summary.p99_us) {
        let time = caribou_cli::bench::table::time;
        let _ = write!(cell, "<br>{}, {}", time(p50), time(p99));
    }
    cell
}

fn compared(row: &Row, system: System) -> String {
    let Some(ratio) = row.ratios.get(&system) else { return String::new() };
    let mut cell = format!("**{}**", rounded(ratio.of_medians));
    if row.systems.values().any(|summary| summary.runs.len() > 1) {
        let _ = write!(cell, " [{} – {}]", rounded(ratio.min), rounded(ratio.max));
    }
    for judged in row.floors.iter().filter(|judged| judged.against == system) {
        let _ = write!(cell, "<br>{} (≥ {})", if judged.ok { "ok" } else { "**miss**" }, judged.floor);
    }
    cell
}

/// One floor as a line on a terminal.
pub fn sentence(key: &Key, judged: &Judged) -> String {
    let folder = key.placement.map_or_else(String::new, |placement| format!(", {}", placement.name()));
    format!(
        "{} {}: {}, {} thread{}{folder}: {} times {}, floor {}",
        if judged.ok { "ok  " } else { "miss" },
        key.group.title(),
        key.workload,
        key.threads,
        if key.threads == 1 { "" } else { "s" },
        rounded(judged.ratio),
        judged.against.title(),
        judged.floor
    )
}

#[cfg(test)]
mod tests {
    use caribou_cli::bench::Unit;

    use super::*;
    use crate::rows::Runs;
    use crate::rows::tests::figure;

    fn rows() -> Vec<Row> {
        let mut runs = Runs::default();
        for (system, values) in [(System::Caribou, [700.0, 900.0]), (System::MooseFs, [1000.0, 1000.0])] {
            for value in values {
                runs.add(Group::Metadata, system, vec![figure("create", 16, Unit::Operations, value)]);
            }
        }
        runs.rows()
    }

    #[test]
    fn a_row_shows_median_spread_ratio_and_floor() {
        let rows = rows();
        let text = section(Group::Metadata, &rows.iter().collect::<Vec<_>>(), &[System::Caribou, System::MooseFs]);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(
            lines[0],
            "| workload | threads | folder | unit | Caribou | MooseFS as shipped | × MooseFS as shipped |"
        );
        let line = lines[2];
        assert!(
            line.starts_with("| create | 16 | private | ops/s | **800** [700 – 900]<br>800 µs, 1.60 ms |"),
            "{line}"
        );
        assert!(line.ends_with("| **0.80** [0.70 – 0.90]<br>ok (≥ 0.7) |"), "{line}");
        assert!(lines.iter().all(|line| line.matches('|').count() == lines[0].matches('|').count()), "{text}");
    }

    #[test]
    fn without_caribou_there_are_no_ratios() {
        let rows = rows();
        let text = section(Group::Metadata, &rows.iter().collect::<Vec<_>>(), &[System::MooseFs]);
        assert!(!text.contains('×'), "{text}");
    }

    #[test]
    fn a_miss_is_said() {
        let row = &rows()[0];
        let judged = Judged { ok: false, floor: 0.95, ..row.floors[0].clone() };
        let line = sentence(&row.key, &judged);
        assert!(
            line.starts_with("miss Metadata") && line.contains("0.80 times MooseFS as shipped, floor 0.95"),
            "{line}"
        );
    }
}
