//! The timeline as an SVG: a strip for each load's completions, faults as bands over all of them, changes of the leader as dashed lines.

use std::fmt::Write as _;

use super::report::Windows;
use super::timeline::{Band, Timeline, Track};
use crate::nemesis::Class;
use crate::plot::{self, Scale, label, line, rect};

const WIDTH: f64 = 1180.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 1160.0;
const TOP: f64 = 46.0;
const STRIP: f64 = 74.0;
const STRIP_GAP: f64 = 12.0;
const LANE: f64 = 15.0;
/// Names of bands take so much for each letter.
const LETTER: f64 = 6.2;
const COLUMNS: f64 = 900.0;

/// Where something is wrong.
pub(super) struct Mark {
    pub at_ms: f64,
    pub title: String,
}

pub(super) fn svg(timeline: &Timeline, windows: &Windows, marks: &[Mark]) -> String {
    let scale = Scale { from: LEFT, to: RIGHT, end: windows.end_ms.max(1) as f64 };
    let lanes = lanes(&timeline.bands, &scale);
    let strips_end = TOP + timeline.tracks.len() as f64 * (STRIP + STRIP_GAP);
    let lane_count = lanes.iter().map(|lane| lane + 1).max().unwrap_or(0);
    let height = strips_end + 26.0 + lane_count as f64 * LANE + 10.0;
    let mut body = String::new();
    for (from, to) in [(0, windows.calm_until_ms), (windows.healed_ms, windows.end_ms)] {
        let (x, end) = (scale.at(from as f64), scale.at(to as f64));
        body += &rect("calm", (x, TOP), (end - x, strips_end - TOP), "");
    }
    for band in &timeline.bands {
        body += &bar(band, &scale, TOP, strips_end - STRIP_GAP - TOP, "over");
    }
    for (at, track) in timeline.tracks.iter().enumerate() {
        body += &strip(track, TOP + at as f64 * (STRIP + STRIP_GAP), &scale, timeline.interval_ms);
    }
    for leader in &timeline.leaders {
        let x = scale.at(leader.at_ms as f64);
        let title = format!("{:.1} s: node {} leads, term {}", leader.at_ms as f64 / 1e3, leader.node_id, leader.term);
        let _ = write!(
            body,
            "<g><title>{title}</title>{}{}</g>",
            line("leader", (x, TOP - 8.0), (x, strips_end - STRIP_GAP)),
            label("small", (x, TOP - 11.0), &leader.node_id.to_string())
        );
    }
    for mark in marks {
        let (x, top) = (scale.at(mark.at_ms), TOP - 24.0);
        let _ = writeln!(
            body,
            "<g><title>{}</title><path class=\"mark\" d=\"M {x:.1} {top} l -6 -12 l 12 0 z\"/></g>",
            plot::escaped(&mark.title)
        );
    }
    body += &plot::axis(strips_end + 8.0, &Scale { end: scale.end / 1e3, ..scale }, " s");
    for (band, lane) in timeline.bands.iter().zip(lanes) {
        let y = strips_end + 22.0 + lane as f64 * LANE;
        body += &bar(band, &scale, y, LANE - 3.0, "bar");
        let (x, width) = extent(band, &scale);
        let (name, width_of_name) = (band.kind.name(), letters(band));
        // At the right edge it stands before its bar.
        body += &match x + width + 3.0 + width_of_name > WIDTH {
            true => label("small end", (x - 3.0, y + 9.5), &name),
            false => label("small start", (x + width + 3.0, y + 9.5), &name),
        };
    }
    plot::svg(WIDTH, height, "Completions of each load over time, faults and leaders", &body)
}

/// Left end and width of a band; the shortest can still be seen.
fn extent(band: &Band, scale: &Scale) -> (f64, f64) {
    let x = scale.at(band.from_ms as f64);
    (x, (scale.at(band.to_ms as f64) - x).max(2.0))
}

/// How wide its name is.
fn letters(band: &Band) -> f64 {
    band.kind.name().len() as f64 * LETTER
}

/// The colour of a band.
pub(super) fn colour(band: &Band) -> &'static str {
    match band.kind.class() {
        Class::Process => "process",
        Class::Network => "network",
        Class::Disk => "disk",
        Class::Client => "client",
    }
}

fn bar(band: &Band, scale: &Scale, y: f64, height: f64, style: &str) -> String {
    let (x, width) = extent(band, scale);
    let title = format!(
        "{} ({}), {:.1} to {:.1} s: {}",
        band.kind.name(),
        band.victims,
        band.from_ms as f64 / 1e3,
        band.to_ms as f64 / 1e3,
        band.effect.as_deref().unwrap_or("without effect"),
    );
    rect(&format!("{style} {}", colour(band)), (x, y), (width, height), &title)
}

/// The first lane where each band and its name have room.
fn lanes(bands: &[Band], scale: &Scale) -> Vec<usize> {
    let mut ends: Vec<f64> = Vec::new();
    let mut lanes = Vec::new();
    for band in bands {
        let (x, width) = extent(band, scale);
        let end = x + width + 10.0 + letters(band);
        // Where the name stands before the bar, both need the room.
        let begin = if end > WIDTH { x - 10.0 - letters(band) } else { x };
        let lane = ends.iter().position(|taken| *taken <= begin).unwrap_or_else(|| {
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
        let next = scale.at((at + 1) as f64 * per_column as f64 * interval_ms as f64);
        let _ = write!(points, " {x:.1},{top:.1} {next:.1},{top:.1}");
        x = next;
    }
    let area = format!("<polygon class=\"track\" points=\"{points} {x:.1},{base:.1}\"/>\n");
    area + &line("base", (LEFT, base), (RIGHT, base))
        + &label("end", (LEFT - 8.0, y + 30.0), &track.name)
        + &label("small end", (LEFT - 8.0, y + 46.0), &format!("to {most:.0}/s"))
}
