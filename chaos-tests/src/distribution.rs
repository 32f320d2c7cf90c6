//! The distribution of durations: percentiles, and how many of them are about how long.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::plot;

/// Bins of a histogram, at most.
const BINS: f64 = 16.0;
/// The longest bar of a histogram as text.
const BAR: usize = 40;

/// Percentiles by nearest rank: the shortest duration that at least so many in a hundred do not exceed. All are zero if there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Distribution {
    #[serde(rename = "minimum_ms", serialize_with = "in_ms")]
    pub minimum: Duration,
    #[serde(rename = "median_ms", serialize_with = "in_ms")]
    pub median: Duration,
    #[serde(rename = "p90_ms", serialize_with = "in_ms")]
    pub p90: Duration,
    #[serde(rename = "p99_ms", serialize_with = "in_ms")]
    pub p99: Duration,
    #[serde(rename = "maximum_ms", serialize_with = "in_ms")]
    pub maximum: Duration,
}

fn in_ms<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(duration.as_millis())
}

impl Distribution {
    pub fn of(durations: &[Duration]) -> Self {
        let mut sorted = durations.to_vec();
        sorted.sort();
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or_default()
        };
        Self { minimum: at(0), median: at(50), p90: at(90), p99: at(99), maximum: at(100) }
    }
}

/// Durations of about the same length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bin {
    pub from_ms: u64,
    /// Exclusive.
    pub to_ms: u64,
    pub count: usize,
}

/// Bins of equal, round width from the shortest to the longest.
pub fn histogram(durations: &[Duration]) -> Vec<Bin> {
    let in_ms = |duration: &Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let lengths: Vec<u64> = durations.iter().map(in_ms).collect();
    let (Some(least), Some(most)) = (lengths.iter().min(), lengths.iter().max()) else { return Vec::new() };
    let width = plot::step((most - least + 1) as f64 / (BINS - 1.0)) as u64;
    let bins = (least / width..=most / width).map(|number| {
        let (from_ms, to_ms) = (number * width, (number + 1) * width);
        let count = lengths.iter().filter(|length| (from_ms..to_ms).contains(length)).count();
        Bin { from_ms, to_ms, count }
    });
    bins.collect()
}

/// The histogram for a terminal, a line for each bin.
pub fn in_text(bins: &[Bin]) -> Vec<String> {
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0).max(1);
    let line = |bin: &Bin| {
        let bar = "█".repeat((bin.count * BAR).div_ceil(most));
        format!("{:>5} to {:<5} {bar} {}", bin.from_ms, bin.to_ms, bin.count)
    };
    bins.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(lengths: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        lengths.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let Distribution { minimum, median, p90, p99, maximum } = Distribution::of(&ms((1..=200).rev()));
        assert_eq!([minimum, median, p90, p99, maximum].to_vec(), ms([1, 100, 180, 198, 200]));
        let one = Distribution::of(&ms([7]));
        assert_eq!([one.minimum, one.median, one.p90, one.p99, one.maximum].to_vec(), ms([7, 7, 7, 7, 7]));
        assert_eq!(Distribution::of(&[]), Distribution::default());
        let json = serde_json::to_value(Distribution::of(&ms([7, 9]))).expect("JSON");
        assert_eq!((&json["minimum_ms"], &json["p99_ms"]), (&7.into(), &9.into()));
    }

    #[test]
    fn bins_are_few_and_round_and_hold_everything() {
        let bins = histogram(&ms([203, 199, 274, 274, 280, 408]));
        assert_eq!(bins.iter().map(|bin| bin.count).sum::<usize>(), 6);
        assert_eq!((bins[0].from_ms, bins[0].to_ms, bins[0].count), (180, 200, 1));
        assert!(bins.len() <= 16 && bins.windows(2).all(|pair| pair[0].to_ms == pair[1].from_ms), "{bins:?}");
        assert_eq!(bins.last().map(|bin| bin.count), Some(1));
        assert_eq!(histogram(&ms([5])).len(), 1);
        assert_eq!(histogram(&[]), []);
        assert!(histogram(&ms(0..5000)).len() <= 16);
    }

    #[test]
    fn bars_are_as_long_as_the_most_frequent_one_allows() {
        let bins = [Bin { from_ms: 0, to_ms: 25, count: 20 }, Bin { from_ms: 25, to_ms: 50, count: 0 }];
        assert_eq!(in_text(&bins), [format!("    0 to 25    {} 20", "█".repeat(40)), "   25 to 50     0".to_owned()]);
    }
}
