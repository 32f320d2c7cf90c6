//! The timeline as an SVG: a strip for each load's completions, faults as bands over all of them, changes of the leader as dashed lines.

use std::fmt::Write as _;

use super::page::escaped;
use super::report::Windows;
use super::timeline::{Band, Timeline, Track};
use crate::nemesis::Class;

const WIDTH: f64 = 1180.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 1160.0;
const TOP: f64 = 40.0;
const STRIP: f64 = 74.0;
const STRIP_GAP: f64 = 12.0;
const LANE: f64 = 15.0;
/// Bars narrower than this show their names only to the pointer; others take so much for each letter.
const LETTER: f64 = 6.2;
const COLUMNS: f64 = 900.0;
/// Labels of the axis, about so many.
const TICKS: u64 = 12;

struct Scale {
    end_ms: f64,
}

impl Scale {
    fn x(&self, ms: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (ms / self.end_ms).min(1.0)
    }
}

pub(super) fn svg(timeline: &Timeline, windows: &Windows) -> String {
    let scale = Scale { end_ms: (windows.end_ms.max(1)) as f64 };
    let lanes = lanes(&timeline.bands, &scale);
    let strips_end = TOP + timeline.tracks.len() as f64 * (STRIP + STRIP_GAP);
    let lane_count = lanes.iter().map(|lane| lane + 1).max().unwrap_or(0);
    let height = strips_end + 26.0 + lane_count as f64 * LANE + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>Completions of each load over time, faults and leaders</title>\n"
    );
    for (from, to) in [(0, windows.calm_until_ms), (windows.healed_ms, windows.end_ms)] {
        let (x, width) = (scale.x(from as f64), scale.x(to as f64) - scale.x(from as f64));
        let height = strips_end - TOP;
        let _ =
            writeln!(svg, "<rect class=\"calm\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\"/>");
    }
    for band in &timeline.bands {
        svg += &bar(band, &scale, TOP, strips_end - STRIP_GAP - TOP, "over");
    }
    for (at, track) in timeline.tracks.iter().enumerate() {
        svg += &strip(track, TOP + at as f64 * (STRIP + STRIP_GAP), &scale, timeline.interval_ms);
    }
    for leader in &timeline.leaders {
        let x = scale.x(leader.at_ms as f64);
        let _ = writeln!(
            svg,
            "<g><title>{:.1} s: node {} leads, term {}</title><line class=\"leader\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\"/>\
             <text class=\"small\" x=\"{x:.1}\" y=\"{}\">{}</text></g>",
            leader.at_ms as f64 / 1e3,
            leader.node_id,
            leader.term,
            TOP - 8.0,
            strips_end - STRIP_GAP,
            TOP - 11.0,
            leader.node_id
        );
    }
    svg += &axis(strips_end + 8.0, &scale);
    for (band, lane) in timeline.bands.iter().zip(lanes) {
        let y = strips_end + 22.0 + lane as f64 * LANE;
        svg += &bar(band, &scale, y, LANE - 3.0, "bar");
        let (x, width) = extent(band, &scale);
        let name = band.kind.name();
        let (x, anchor) = (x + width + 3.0, "start");
        let _ = writeln!(svg, "<text class=\"small {anchor}\" x=\"{x:.1}\" y=\"{:.1}\">{name}</text>", y + 9.5);
    }
    svg + "</svg>\n"
}

/// Left end and width of a band; the shortest can still be seen.
fn extent(band: &Band, scale: &Scale) -> (f64, f64) {
    let x = scale.x(band.from_ms as f64);
    (x, (scale.x(band.to_ms as f64) - x).max(2.0))
}

fn bar(band: &Band, scale: &Scale, y: f64, height: f64, style: &str) -> String {
    let (x, width) = extent(band, scale);
    let class = match band.kind.class() {
        Class::Process => "process",
        Class::Network => "network",
        Class::Disk => "disk",
        Class::Client => "client",
    };
    format!(
        "<rect class=\"{style} {class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"><title>{} ({}), {:.1} to {:.1} s: {}</title></rect>\n",
        band.kind.name(),
        escaped(&band.victims),
        band.from_ms as f64 / 1e3,
        band.to_ms as f64 / 1e3,
        escaped(band.effect.as_deref().unwrap_or("without effect")),
    )
}

/// The first lane where each band and its name have room.
fn lanes(bands: &[Band], scale: &Scale) -> Vec<usize> {
    let mut ends: Vec<f64> = Vec::new();
    let mut lanes = Vec::new();
    for band in bands {
        let (x, width) = extent(band, scale);
        let end = x + width + 10.0 + band.kind.name().len() as f64 * LETTER;
        let lane = ends.iter().position(|taken| *taken <= x).unwrap_or_else(|| {
            ends.push(0.0);
            ends.len() - 1
        });
        ends[lane] = end;
        lanes.push(lane);
    }
    lanes
}

fn strip(track: &Track, y: f64, scale: &Scale, interval_ms: u64) -> String {
    let per_column = ((track.counts.len() as f64 / COLUMNS).ceil() as usize).max(1);
    let seconds = (per_column as f64 * interval_ms as f64) / 1e3;
    let rates: Vec<f64> = track.counts.chunks(per_column).map(|c| c.iter().sum::<u64>() as f64 / seconds).collect();
    let most = rates.iter().copied().fold(1.0, f64::max);
    let (base, mut points) = (y + STRIP, format!("{LEFT:.1},{:.1}", y + STRIP));
    let mut x = LEFT;
    for (at, rate) in rates.iter().enumerate() {
        let top = base - STRIP * rate / most;
        let next = scale.x((at + 1) as f64 * per_column as f64 * interval_ms as f64);
        let _ = write!(points, " {x:.1},{top:.1} {next:.1},{top:.1}");
        x = next;
    }
    format!(
        "<polygon class=\"track\" points=\"{points} {x:.1},{base:.1}\"/>\n<line class=\"base\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{base}\" y2=\"{base}\"/>\n\
         <text class=\"end\" x=\"{0}\" y=\"{1}\">{2}</text>\n<text class=\"small end\" x=\"{0}\" y=\"{3}\">to {most:.0}/s</text>\n",
        LEFT - 8.0,
        y + 30.0,
        track.name,
        y + 46.0
    )
}

fn axis(y: f64, scale: &Scale) -> String {
    let seconds = (scale.end_ms / 1e3) as u64;
    let steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800];
    let step = steps.into_iter().find(|step| seconds / step <= TICKS).unwrap_or(3600);
    let mut text = String::new();
    for at in (0..=seconds).step_by(step as usize) {
        let x = scale.x(at as f64 * 1e3);
        let _ = writeln!(text, "<text class=\"small\" x=\"{x:.1}\" y=\"{y}\">{at} s</text>");
    }
    text
}
