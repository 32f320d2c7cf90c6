//! The ratios as an SVG: a row for each workload, a mark for each rival, on a logarithmic scale around one.
//!
//! Colours follow the reader's scheme, light or dark; the background is the plot's own, so that it can be read on any page.

use std::fmt::Write as _;

use caribou_cli::bench::figure::rounded;

use crate::plan::Group;
use crate::rows::{Key, Row};
use crate::system::System;

const WIDTH: f64 = 960.0;
/// Where the scale begins and ends.
const LEFT: f64 = 320.0;
const RIGHT: f64 = 780.0;
/// Where the first row begins: title, legend and scale are above.
const TOP: f64 = 112.0;
const ROW: f64 = 20.0;
const HEADING: f64 = 30.0;
const BOTTOM: f64 = 20.0;
/// Marks of one row stand this far above and below its middle.
const APART: f64 = 4.0;
/// The scale reaches at least so far, even if no ratio does.
const LEAST_RANGE: (f64, f64) = (0.25, 4.0);
/// Ratios beyond are drawn at the edge.
const WIDEST_RANGE: (f64, f64) = (0.01, 1000.0);
/// Steps of the scale within a power of ten.
const STEPS: [f64; 3] = [1.0, 2.0, 5.0];

/// Colours without variables, which not every program that draws SVG knows.
const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #0b0b0b }
.title { font-size: 16px; font-weight: 600 }
.head { font-weight: 600 }
.value { text-anchor: end; font-variant-numeric: tabular-nums }
.miss { font-weight: 700 }
.spread { stroke-width: 2; opacity: .45 }
.floor { stroke-width: 2 }
.paper { fill: #fcfcfb }
.stripe { fill: #f3f2ee }
.muted { fill: #52514e }
.grid { stroke: #e1e0d9 }
.one { stroke: #52514e; stroke-width: 1.5 }
.shipped { fill: #2a78d6; stroke: #2a78d6 }
.synced { fill: #c2541b; stroke: #c2541b }
.mark { stroke: #fcfcfb }
@media (prefers-color-scheme: dark) {
text { fill: #ffffff }
.paper { fill: #1a1a19 }
.stripe { fill: #232322 }
.muted { fill: #c3c2b7 }
.grid { stroke: #3c3c39 }
.one { stroke: #c3c2b7 }
.shipped { fill: #5a9ef0; stroke: #5a9ef0 }
.synced { fill: #f08850; stroke: #f08850 }
.mark { stroke: #1a1a19 }
}";

/// The plot of all rows that were compared with MooseFS.
pub fn svg(rows: &[Row]) -> String {
    let compared: Vec<&Row> =
        rows.iter().filter(|row| System::RIVALS.iter().any(|rival| row.ratios.contains_key(rival))).collect();
    let scale = Scale::over(&compared);
    let groups = Group::ALL.into_iter().filter(|group| compared.iter().any(|row| row.key.group == *group)).count();
    let height = TOP + compared.len() as f64 * ROW + groups as f64 * HEADING + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>How many times faster Caribou is than MooseFS</title>\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n"
    );
    svg += &legend();
    let mut body = String::new();
    let mut y = TOP;
    let mut last = None;
    for (at, row) in compared.iter().enumerate() {
        if last != Some(row.key.group) {
            last = Some(row.key.group);
            y += HEADING;
            let _ = writeln!(body, "<text class=\"head\" x=\"16\" y=\"{}\">{}</text>", y - 9.0, row.key.group.title());
        }
        if at % 2 == 1 {
            let width = WIDTH - 16.0;
            let _ = writeln!(svg, "<rect class=\"stripe\" x=\"8\" y=\"{y}\" width=\"{width}\" height=\"{ROW}\"/>");
        }
        body += &drawn(row, y + ROW / 2.0, &scale);
        y += ROW;
    }
    svg += &scale.grid(y);
    svg + &body + "</svg>\n"
}

fn legend() -> String {
    format!(
        "<text class=\"title\" x=\"16\" y=\"28\">How many times faster Caribou is than MooseFS</text>\n\
         <text class=\"muted\" x=\"16\" y=\"48\">Right of 1× Caribou is faster. Marks are ratios of medians, bars reach over \
         single rounds, ticks are floors, ▾ marks what is below its floor.</text>\n\
         {}<text x=\"30\" y=\"72\">MooseFS as shipped: it syncs nothing</text>\n\
         {}<text x=\"290\" y=\"72\">MooseFS synced</text>\n\
         <text class=\"value muted\" x=\"868\" y=\"{label}\">shipped</text>\n\
         <text class=\"value muted\" x=\"944\" y=\"{label}\">synced</text>\n",
        mark(System::MooseFs, 20.0, 68.0),
        mark(System::MooseFsSynced, 280.0, 68.0),
        label = TOP - 8.0,
    )
}

/// Label, both marks and both numbers of one row around the height `y`.
fn drawn(row: &Row, y: f64, scale: &Scale) -> String {
    let mut text = format!("<text x=\"24\" y=\"{}\">{}</text>\n", y + 4.0, escaped(&label(&row.key)));
    for (rival, at, column) in [(System::MooseFs, y - APART, 868.0), (System::MooseFsSynced, y + APART, 944.0)] {
        let Some(ratio) = row.ratios.get(&rival) else { continue };
        let (class, x) = (class(rival), scale.x(ratio.of_medians));
        let (from, to) = (scale.x(ratio.min), scale.x(ratio.max));
        let _ =
            writeln!(text, "<line class=\"{class} spread\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{at}\" y2=\"{at}\"/>");
        let judged = row.floors.iter().find(|judged| judged.against == rival);
        if let Some(judged) = judged {
            let (x, top, end) = (scale.x(judged.floor), at - 4.0, at + 4.0);
            let _ =
                writeln!(text, "<line class=\"{class} floor\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{end}\"/>");
        }
        text += &mark(rival, x, at);
        let is_missed = judged.is_some_and(|judged| !judged.ok);
        let (weight, sign) = if is_missed { (" miss", "▾ ") } else { ("", "") };
        let value = rounded(ratio.of_medians);
        let _ = writeln!(text, "<text class=\"value{weight}\" x=\"{column}\" y=\"{}\">{sign}{value}</text>", y + 4.0);
    }
    text
}

/// A circle for the shipped, a diamond for the synced: they differ without their colours too.
fn mark(rival: System, x: f64, y: f64) -> String {
    let class = class(rival);
    if rival == System::MooseFs {
        return format!("<circle class=\"{class} mark\" cx=\"{x:.1}\" cy=\"{y}\" r=\"4.5\"/>\n");
    }
    let points = [(x, y - 5.5), (x + 5.5, y), (x, y + 5.5), (x - 5.5, y)].map(|(x, y)| format!("{x:.1},{y:.1}"));
    format!("<polygon class=\"{class} mark\" points=\"{}\"/>\n", points.join(" "))
}

fn class(rival: System) -> &'static str {
    if rival == System::MooseFs { "shipped" } else { "synced" }
}

fn label(key: &Key) -> String {
    let mut label = key.workload.clone();
    if key.group != Group::Programs && !key.workload.starts_with("sequential") {
        let _ = write!(label, ", {} thread{}", key.threads, if key.threads == 1 { "" } else { "s" });
    }
    match key.placement {
        Some(placement) if key.threads > 1 => label + ", " + placement.name(),
        _ => label,
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// From ratios to places, logarithmically.
struct Scale {
    from: f64,
    to: f64,
}

impl Scale {
    /// Wide enough for all ratios and floors, from one step to another.
    fn over(rows: &[&Row]) -> Self {
        let ratios = rows.iter().flat_map(|row| System::RIVALS.iter().filter_map(|rival| row.ratios.get(rival)));
        let all = ratios.flat_map(|ratio| [ratio.min, ratio.max, ratio.of_medians]);
        let (from, to) = all.fold(LEAST_RANGE, |(from, to), ratio| (f64::min(from, ratio), f64::max(to, ratio)));
        let (from, to) = (from.max(WIDEST_RANGE.0), to.min(WIDEST_RANGE.1));
        let steps = steps();
        let below = steps.iter().copied().rfind(|step| *step <= from);
        let above = steps.iter().copied().find(|step| *step >= to);
        Self { from: below.unwrap_or(WIDEST_RANGE.0), to: above.unwrap_or(WIDEST_RANGE.1) }
    }

    fn x(&self, ratio: f64) -> f64 {
        let place = (ratio.clamp(self.from, self.to) / self.from).ln() / (self.to / self.from).ln();
        LEFT + place * (RIGHT - LEFT)
    }

    /// Lines and numbers down to the height `end`.
    fn grid(&self, end: f64) -> String {
        let mut grid = String::new();
        for step in steps().into_iter().filter(|step| (self.from..=self.to).contains(step)) {
            let (x, top) = (self.x(step), TOP);
            let class = if step == 1.0 { "one" } else { "grid" };
            let _ = writeln!(grid, "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{end}\"/>");
            let y = TOP - 8.0;
            let _ =
                writeln!(grid, "<text class=\"muted\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{y}\">{step}×</text>");
        }
        grid
    }
}

/// All numbers that may stand at the scale, ascending.
fn steps() -> Vec<f64> {
    let powers = (-2..=3).flat_map(|power| {
        STEPS.map(|step| if power < 0 { step / 10f64.powi(-power) } else { step * 10f64.powi(power) })
    });
    powers.collect()
}

#[cfg(test)]
mod tests {
    use caribou_cli::bench::Unit;

    use super::*;
    use crate::rows::Runs;
    use crate::rows::tests::figure;

    fn rows(ratios: &[(f64, f64)]) -> Vec<Row> {
        let mut runs = Runs::default();
        for (at, (shipped, synced)) in ratios.iter().enumerate() {
            let workload = format!("write {at} <&>");
            for (system, value) in
                [(System::Caribou, 100.0), (System::MooseFs, 100.0 / shipped), (System::MooseFsSynced, 100.0 / synced)]
            {
                runs.add(Group::Small, system, vec![figure(&workload, 16, Unit::Operations, value)]);
            }
        }
        runs.rows()
    }

    #[test]
    fn one_is_where_one_is_and_ratios_are_as_far_apart_as_their_logarithms() {
        let rows = rows(&[(0.5, 8.0)]);
        let scale = Scale::over(&rows.iter().collect::<Vec<_>>());
        assert_eq!((scale.from, scale.to), (0.2, 10.0));
        assert!((scale.x(0.2) - LEFT).abs() < 1e-9 && (scale.x(10.0) - RIGHT).abs() < 1e-9);
        let (half, one, two) = (scale.x(0.5), scale.x(1.0), scale.x(2.0));
        assert!(((one - half) - (two - one)).abs() < 1e-9);
        assert_eq!(scale.x(1e9), RIGHT, "what is beyond stays at the edge");
    }

    #[test]
    fn every_row_has_its_label_two_marks_and_a_missed_floor_is_marked() {
        let svg = svg(&rows(&[(0.5, 8.0), (2.0, 3.0)]));
        assert_eq!(svg.matches("<circle").count(), 3, "two rows and the legend");
        assert_eq!(svg.matches("<polygon").count(), 3);
        assert_eq!(svg.matches(">▾ ").count(), 1, "0.5 is below the floor of 4 KiB files");
        assert!(svg.contains("write 0 &lt;&amp;&gt;, 16 threads, private"), "{svg}");
        assert!(svg.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn the_scale_has_steps_in_order() {
        let steps = steps();
        assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
        assert!(steps.contains(&1.0) && steps.contains(&0.02) && steps.contains(&5000.0));
    }

    #[test]
    fn without_rivals_there_is_an_empty_plot() {
        assert!(svg(&[]).ends_with("</svg>\n"));
    }
}
