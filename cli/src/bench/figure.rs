//! What came out of one workload: a rate or a time, and the latencies of its operations.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Nanoseconds in a microsecond.
const NANOS_PER_MICRO: f64 = 1e3;
/// Significant digits of recorded latencies.
const DIGITS: u8 = 3;

/// What a figure's value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    #[serde(rename = "ops/s")]
    Operations,
    #[serde(rename = "entries/s")]
    Entries,
    /// 10^6 bytes per second.
    #[serde(rename = "MB/s")]
    Megabytes,
    /// Time for the whole: the only unit of which less is better.
    #[serde(rename = "s")]
    Seconds,
}

impl Unit {
    /// As it is written behind a value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operations => "ops/s",
            Self::Entries => "entries/s",
            Self::Megabytes => "MB/s",
            Self::Seconds => "s",
        }
    }

    /// The value of `units` done in `time`.
    pub fn value(self, units: u64, time: Duration) -> f64 {
        // A clock that did not move must not make a rate infinite.
        let seconds = time.as_secs_f64().max(1e-9);
        match self {
            Self::Operations | Self::Entries => units as f64 / seconds,
            Self::Megabytes => units as f64 / seconds / 1e6,
            Self::Seconds => seconds,
        }
    }

    /// How many times faster `ours` is than `theirs`.
    pub fn times_faster(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Self::Seconds => theirs / ours,
            _ => ours / theirs,
        }
    }
}

/// Where the threads of a workload work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// A folder for each thread.
    Private,
    /// One folder for all.
    Shared,
}

impl Placement {
    pub fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Shared => "shared",
        }
    }
}

/// Latencies of single operations, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

impl Latency {
    /// An empty histogram of nanoseconds that grows as needed.
    pub fn histogram() -> Histogram<u64> {
        Histogram::new(DIGITS).expect("three digits are in a histogram's range")
    }

    /// Notes how long one operation took.
    pub fn record(nanos: &mut Histogram<u64>, time: Duration) {
        // Below a year, so that the histogram can grow as far as needed.
        let value = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(1 << 54);
        nanos.record(value).expect("a histogram that grows takes any value");
    }

    /// Of a histogram of nanoseconds; nothing of an empty one.
    pub fn of(nanos: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| nanos.value_at_quantile(quantile) as f64 / NANOS_PER_MICRO;
        (!nanos.is_empty()).then(|| Self {
            p50_us: at(0.5),
            p99_us: at(0.99),
            max_us: nanos.max() as f64 / NANOS_PER_MICRO,
        })
    }
}

/// What one run of one workload gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub workload: String,
    pub threads: usize,
    /// Absent where it makes no difference.
    pub placement: Option<Placement>,
    pub unit: Unit,
    pub value: f64,
    /// Operations that were done and timed.
    pub operations: u64,
    pub seconds: f64,
    /// Absent where only the whole was timed.
    pub latency: Option<Latency>,
}

/// A number with about three digits that matter, as a person writes it.
pub fn rounded(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => grouped(value.round() as i64),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Thousands set apart.
fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_units_in_their_time_and_seconds_are_the_time() {
        let time = Duration::from_millis(500);
        assert_eq!(Unit::Operations.value(100, time), 200.0);
        assert_eq!(Unit::Megabytes.value(3_000_000, time), 6.0);
        assert_eq!(Unit::Seconds.value(100, time), 0.5);
        assert!(Unit::Entries.value(1, Duration::ZERO).is_finite());
    }

    #[test]
    fn faster_means_a_higher_rate_or_a_shorter_time() {
        assert_eq!(Unit::Operations.times_faster(200.0, 100.0), 2.0);
        assert_eq!(Unit::Seconds.times_faster(2.0, 1.0), 0.5);
    }

    #[test]
    fn quantiles_come_from_nanoseconds() {
        let mut nanos = Latency::histogram();
        (1..=100).for_each(|n| Latency::record(&mut nanos, Duration::from_micros(n * 10)));
        let latency = Latency::of(&nanos).expect("not empty");
        assert!((latency.p50_us - 500.0).abs() < 1.0, "{latency:?}");
        assert!((latency.p99_us - 990.0).abs() < 1.0, "{latency:?}");
        assert!((latency.max_us - 1000.0).abs() < 1.0, "{latency:?}");
        assert_eq!(Latency::of(&Latency::histogram()), None);
    }

    #[test]
    fn numbers_keep_three_digits() {
        let texts = [0.01234, 0.5, 1.234, 12.34, 123.4, 1234.4, 1234567.0].map(rounded);
        assert_eq!(texts, ["0.012", "0.50", "1.23", "12.3", "123", "1,234", "1,234,567"]);
    }
}
