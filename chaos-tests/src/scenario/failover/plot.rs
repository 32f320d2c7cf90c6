//! The gaps of many kills as a plot: each of them, and how they are distributed.

use std::time::Duration;

use crate::distribution::{Bin, Distribution, histogram};
use crate::plot::{self, Scale, label, line, rect};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 880.0;
/// The two parts: from top to base line.
const GAPS: (f64, f64) = (70.0, 230.0);
const BINS: (f64, f64) = (300.0, 460.0);
const HEIGHT: f64 = 500.0;
/// Free room above the longest bar, and the widest bar of a gap.
const HEADROOM: f64 = 1.15;
const WIDEST: f64 = 24.0;

/// What is above a limit is in another colour. `limit`: of the longest gap, `median_limit`: of the median.
pub(super) fn svg(gaps: &[Duration], limit: Duration, median_limit: Duration) -> String {
    let of = Distribution::of(gaps);
    let title = format!(
        "The gap of a mount at each of {} kills of the leader: median {} ms, maximum {} ms",
        gaps.len(),
        of.median.as_millis(),
        of.maximum.as_millis()
    );
    let mut body = label("title", (LEFT - 50.0, 26.0), &title);
    body += &each(gaps, &of, limit, median_limit);
    body += &distributed(&histogram(gaps), &of);
    plot::file(WIDTH, HEIGHT, &title, &body)
}

fn in_ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A bar for each kill, in their order.
fn each(gaps: &[Duration], of: &Distribution, limit: Duration, median_limit: Duration) -> String {
    let (top, base) = GAPS;
    let across = Scale { from: LEFT, to: RIGHT, end: gaps.len().max(1) as f64 };
    let up = Scale { from: base, to: top, end: in_ms(of.maximum).max(in_ms(median_limit)) * HEADROOM };
    let mut body = label("small start", (LEFT, top - 12.0), "the longest gap of each kill in ms, in their order");
    let width = ((RIGHT - LEFT) / across.end * 0.8).min(WIDEST);
    for (at, gap) in gaps.iter().enumerate() {
        let (x, y) = (across.at(at as f64 + 0.5) - width / 2.0, up.at(in_ms(*gap)));
        let class = if *gap > limit { "bar disk" } else { "track" };
        body += &rect(class, (x, y), (width, base - y), &format!("kill {}: {} ms", at + 1, gap.as_millis()));
    }
    body += &line("base", (LEFT, base), (RIGHT, base));
    for (value, class, name) in [(median_limit, "limit", "limit of the median"), (limit, "limit", "limit of each")] {
        if in_ms(value) <= up.end {
            let y = up.at(in_ms(value));
            body += &line(class, (LEFT, y), (RIGHT, y));
            body += &label("small end", (RIGHT, y - 4.0), &format!("{name}, {} ms", value.as_millis()));
        }
    }
    let step = plot::step(up.end / 5.0);
    for tick in 0..=(up.end / step) as u32 {
        let value = f64::from(tick) * step;
        body += &label("small end", (LEFT - 8.0, up.at(value) + 3.0), &format!("{value:.0}"));
    }
    body
}

/// A bar for each bin, with the percentiles.
fn distributed(bins: &[Bin], of: &Distribution) -> String {
    let (top, base) = BINS;
    let (Some(first), Some(last)) = (bins.first(), bins.last()) else { return String::new() };
    let (from, width_ms) = (first.from_ms as f64, (first.to_ms - first.from_ms) as f64);
    let across = Scale { from: LEFT, to: RIGHT, end: last.to_ms as f64 - from };
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(1).max(1);
    let up = Scale { from: base, to: top, end: most as f64 * HEADROOM };
    let mut body = label("small start", (LEFT, top - 32.0), "kills by the length of their gap in ms");
    for bin in bins {
        let (x, y) = (across.at(bin.from_ms as f64 - from), up.at(bin.count as f64));
        let width = across.at(width_ms) - LEFT;
        let title = format!("{} to {} ms: {} kills", bin.from_ms, bin.to_ms, bin.count);
        body += &rect("track", (x + 1.0, y), (width - 2.0, base - y), &title);
        if bin.count > 0 {
            body += &label("small", (x + width / 2.0, y - 3.0), &bin.count.to_string());
        }
        body += &label("small", (x, base + 14.0), &bin.from_ms.to_string());
    }
    body += &label("small", (RIGHT, base + 14.0), &last.to_ms.to_string());
    body += &line("base", (LEFT, base), (RIGHT, base));
    let quantiles =
        [("minimum", of.minimum), ("median", of.median), ("p90", of.p90), ("p99", of.p99), ("maximum", of.maximum)];
    let mut words = Vec::new();
    for (name, value) in quantiles {
        let x = across.at(in_ms(value) - from);
        body += &line("quantile", (x, top - 8.0), (x, base));
        words.push(format!("{name} {} ms", value.as_millis()));
    }
    body + &label("small start", (LEFT, base + 32.0), &format!("dashed: {}", words.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gap_and_every_bin_has_its_bar() {
        let gaps: Vec<Duration> = [203, 199, 274, 280, 1408].map(Duration::from_millis).to_vec();
        let svg = svg(&gaps, Duration::from_millis(1000), Duration::from_millis(350));
        for (at, gap) in gaps.iter().enumerate() {
            assert!(svg.contains(&format!("<title>kill {}: {} ms</title>", at + 1, gap.as_millis())), "{svg}");
        }
        assert_eq!(svg.matches("class=\"bar disk\"").count(), 1, "only one is above the limit");
        let bins = histogram(&gaps);
        assert_eq!(svg.matches(" kills</title>").count(), bins.len());
        assert!(svg.contains("median 274 ms, p90 1408 ms") && svg.contains("limit of each, 1000 ms"), "{svg}");
    }

    #[test]
    fn without_a_kill_there_is_still_a_plot() {
        assert!(svg(&[], Duration::from_secs(1), Duration::from_millis(350)).ends_with("</svg>\n"));
    }
}
