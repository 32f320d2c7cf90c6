//! Parts of plots, as SVG: scales, axes, bars, labels, and the colours that pages and plots share. Who draws what with them:
//! `run/plot.rs` a timeline, `scenario/failover` a distribution.

use std::fmt::Write as _;

/// Labels of an axis, about so many.
const TICKS: f64 = 12.0;

/// Colours, and what the parts of a plot look like.
pub const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #0b0b0b; --paper: #fcfcfb; --soft: #52514e; --line: #e1e0d9; --track: #2a78d6;
  --process: #c2541b; --network: #7a4fc0; --disk: #b3261e; --client: #1b7f5c; --good: #1b7f5c; --bad: #b3261e; --doubt: #8a6100 }
@media (prefers-color-scheme: dark) { :root { --ink: #f4f4f2; --paper: #1a1a19; --soft: #c3c2b7; --line: #3c3c39; --track: #5a9ef0;
  --process: #f08850; --network: #b59af0; --disk: #f2786e; --client: #5cc9a1; --good: #5cc9a1; --bad: #f2786e; --doubt: #e0b050 } }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink) } svg .small { font-size: 10px; fill: var(--soft); text-anchor: middle }
svg .end { text-anchor: end } svg .start { text-anchor: start } svg .title { font-size: 15px; font-weight: 600 }
svg .paper { fill: var(--paper) } .track { fill: var(--track); fill-opacity: .75 } .base { stroke: var(--line) }
.limit { stroke: var(--bad); stroke-dasharray: 5 4 } .quantile { stroke: var(--soft); stroke-dasharray: 2 3 }
.calm { fill: var(--good); fill-opacity: .08 } .leader { stroke: var(--soft); stroke-dasharray: 3 3 } .mark { fill: var(--bad) }
.over { fill-opacity: .14 } .bar { fill-opacity: .85 }
.process { fill: var(--process) } .network { fill: var(--network) } .disk { fill: var(--disk) } .client { fill: var(--client) }
";

/// Values from 0 to `end`, laid on a line.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub from: f64,
    pub to: f64,
    pub end: f64,
}

impl Scale {
    /// Where a value is; beyond the end there is nothing.
    pub fn at(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * (value / self.end).min(1.0)
    }
}

/// A plot within a page.
pub fn svg(width: f64, height: f64, title: &str, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height:.1}\" role=\"img\">\n<title>{}</title>\n{body}</svg>\n",
        escaped(title)
    )
}

/// A plot that is a file of its own.
pub fn file(width: f64, height: f64, title: &str, body: &str) -> String {
    let paper = rect("paper", (0.0, 0.0), (width, height), "");
    svg(width, height, title, &format!("<style>{STYLE}</style>\n{paper}{body}"))
}

/// A box with its upper left corner and its size. `title` shows to the pointer.
pub fn rect(class: &str, (x, y): (f64, f64), (width, height): (f64, f64), title: &str) -> String {
    let title = if title.is_empty() { String::new() } else { format!("<title>{}</title>", escaped(title)) };
    format!(
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\">{title}</rect>\n"
    )
}

pub fn line(class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> String {
    format!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>\n")
}

pub fn label(class: &str, (x, y): (f64, f64), text: &str) -> String {
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>\n", escaped(text))
}

/// Labels below a horizontal line, at round values.
pub fn axis(y: f64, scale: &Scale, unit: &str) -> String {
    let step = step(scale.end / TICKS);
    let mut text = String::new();
    let mut value = 0.0;
    while value <= scale.end {
        let _ = write!(text, "{}", label("small", (scale.at(value), y), &format!("{value:.0}{unit}")));
        value += step;
    }
    text
}

/// The smallest round step that is not below `least`.
pub fn step(least: f64) -> f64 {
    let mut power = 1.0;
    loop {
        if let Some(step) =
            [1.0, 2.0, 2.5, 5.0].into_iter().map(|digit| digit * power).find(|step| is_whole(*step) && *step >= least)
        {
            return step;
        }
        power *= 10.0;
    }
}

fn is_whole(step: f64) -> bool {
    step.fract() == 0.0
}

/// Text as HTML and SVG show it.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_axes_have_about_a_dozen_labels() {
        for (least, expected) in
            [(0.1, 1.0), (1.5, 2.0), (2.1, 5.0), (8.0, 10.0), (21.0, 25.0), (26.0, 50.0), (170.0, 200.0)]
        {
            assert_eq!(step(least), expected, "{least}");
        }
        for end in [3.0, 60.0, 135.0, 420.0, 7200.0] {
            let labels = axis(0.0, &Scale { from: 0.0, to: 100.0, end }, " s").lines().count();
            assert!((4..=13).contains(&labels), "{labels} labels up to {end}");
        }
    }

    #[test]
    fn a_plot_of_its_own_brings_its_colours() {
        let text = file(100.0, 50.0, "a < b", &label("small", (1.0, 2.0), "\"x\" & y"));
        assert!(text.starts_with("<svg xmlns=") && text.contains("--ink") && text.contains("a &lt; b"), "{text}");
        assert!(text.contains("&quot;x&quot; &amp; y"), "{text}");
    }
}
