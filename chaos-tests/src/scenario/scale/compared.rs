//! What the small and the full cluster are both asked for, and how far the full one may fall behind.

use std::time::Duration;

use anyhow::Result;
use caribou_cli::bench::Figure;

use super::tree::Tree;
use super::{Args, kernel};
use crate::lab::Lab;
use crate::report::{Verdict, distribution_ms};
use crate::scenario::failover::{self, MAXIMUM_LIMIT_MS};

/// The full cluster's rates are at least this part of the small one's.
const RATE_SHARE: f64 = 0.7;
/// The full cluster's median gap is at most so many times the small one's, and this more.
const GAP_TIMES: f64 = 1.5;
const GAP_MORE_MS: f64 = 50.0;
/// Far from those that have warmed caches.
const OTHER_DRAWS: u64 = 1 << 40;

/// What one of them answered.
pub(super) struct Compared {
    pub(super) rates: Rates,
    /// The longest gap of each kill.
    pub(super) gaps: Vec<Duration>,
}

/// Rates of calls all over the tree.
pub(super) struct Rates {
    pub(super) stats: Figure,
    pub(super) creates: Figure,
}

impl Rates {
    pub(super) async fn measure(tree: &mut Tree, cluster: &str, args: &Args, verdict: &mut Verdict) -> Result<Self> {
        if !args.warm.is_zero() {
            let warming = tree.measure_stats(args.warm, 0).await?;
            let what = format!("{cluster}: stats before those that count, {} in flight", warming.threads);
            verdict.figure(&what, words(&warming));
        }
        let stats = tree.measure_stats(args.time, OTHER_DRAWS).await?;
        let rates = Self { stats, creates: tree.measure_creates(args.time).await? };
        for figure in [&rates.stats, &rates.creates] {
            verdict.figure(&format!("{cluster}: {}s, {} in flight", figure.workload, figure.threads), words(figure));
        }
        Ok(rates)
    }
}

/// Waits for the end of what loading has left to be done, so that rates do not depend on how long ago it was.
pub(super) async fn settle(lab: &Lab, cluster: &str, verdict: &mut Verdict) -> Result<()> {
    let text = match kernel::quiet(lab).await? {
        Some(time) => format!("{} s", time.as_secs()),
        None => "no end was seen".to_owned(),
    };
    verdict.figure(&format!("{cluster}: background writes after loading"), text);
    Ok(())
}

/// The longest gap of each kill of a leader.
pub(super) async fn gaps(lab: &mut Lab, cluster: &str, kills: usize, verdict: &mut Verdict) -> Result<Vec<Duration>> {
    if kills == 0 {
        return Ok(Vec::new());
    }
    let felt = failover::change_leaders(lab, failover::How::Kill, kills).await?;
    let (median, maximum) = distribution_ms(&felt.gaps);
    let calm = felt.calm.as_millis();
    let text = format!("{kills} kills: median {median} ms, maximum {maximum} ms; {calm} ms without a kill");
    verdict.figure(&format!("{cluster}: gaps"), text);
    felt.check_work(verdict);
    Ok(felt.gaps)
}

/// A rate with its latencies.
pub(super) fn words(figure: &Figure) -> String {
    let rate = format!("{:.0} a second", figure.value);
    figure.latency.map_or(rate.clone(), |latency| {
        let ms = |us: f64| us / 1e3;
        format!(
            "{rate}, p50 {:.2} ms, p99 {:.1} ms, longest {:.0} ms",
            ms(latency.p50_us),
            ms(latency.p99_us),
            ms(latency.max_us)
        )
    })
}

/// Notes how the full cluster falls behind the small one, if it does by too much.
pub(super) fn judge(small: &Compared, full: &Compared, verdict: &mut Verdict) {
    judge_rates(&small.rates, &full.rates, verdict);
    judge_gaps(&small.gaps, &full.gaps, verdict);
}

fn judge_rates(small: &Rates, full: &Rates, verdict: &mut Verdict) {
    for (small, full) in [(&small.stats, &full.stats), (&small.creates, &full.creates)] {
        let share = full.value / small.value;
        verdict.check(share >= RATE_SHARE, || {
            let (full, small, workload) = (full.value, small.value, &full.workload);
            format!(
                "{full:.0} {workload}s a second are {share:.2} of the small cluster's {small:.0}, below {RATE_SHARE}"
            )
        });
    }
}

fn judge_gaps(small: &[Duration], full: &[Duration], verdict: &mut Verdict) {
    let ((small, _), (median, maximum)) = (distribution_ms(small), distribution_ms(full));
    let limit = small as f64 * GAP_TIMES + GAP_MORE_MS;
    verdict.check(median as f64 <= limit, || {
        format!("the median gap of the full cluster is {median} ms, above {limit:.0} ms (the small one's: {small} ms)")
    });
    verdict.check(maximum <= MAXIMUM_LIMIT_MS, || {
        format!("the longest gap of the full cluster is {maximum} ms, above {MAXIMUM_LIMIT_MS} ms")
    });
}

#[cfg(test)]
mod tests {
    use caribou_cli::bench::Unit;

    use super::*;

    fn rates(stats: f64, creates: f64) -> Rates {
        let figure = |workload: &str, value| Figure {
            workload: workload.to_owned(),
            threads: 64,
            placement: None,
            unit: Unit::Operations,
            value,
            operations: 1,
            seconds: 1.0,
            latency: None,
        };
        Rates { stats: figure("stat", stats), creates: figure("create", creates) }
    }

    fn violations(judge: impl FnOnce(&mut Verdict)) -> Vec<String> {
        let mut verdict = Verdict::new("scale");
        judge(&mut verdict);
        verdict.violations
    }

    #[test]
    fn each_rate_is_judged() {
        let small = rates(1000.0, 100.0);
        assert!(violations(|v| judge_rates(&small, &rates(700.0, 70.0), v)).is_empty());
        let slow_stats = violations(|v| judge_rates(&small, &rates(690.0, 100.0), v));
        assert!(slow_stats.len() == 1 && slow_stats[0].starts_with("690 stats"), "{slow_stats:?}");
        let slow_creates = violations(|v| judge_rates(&small, &rates(1000.0, 69.0), v));
        assert!(slow_creates.len() == 1 && slow_creates[0].starts_with("69 creates"), "{slow_creates:?}");
    }

    #[test]
    fn median_and_maximum_of_the_gaps_are_judged() {
        let gaps = |ms: [u64; 3]| ms.map(Duration::from_millis);
        let small = gaps([200, 300, 400]);
        assert!(violations(|v| judge_gaps(&small, &gaps([400, 500, 1000]), v)).is_empty());
        let median = violations(|v| judge_gaps(&small, &gaps([400, 501, 600]), v));
        assert!(median.len() == 1 && median[0].contains("501 ms, above 500 ms"), "{median:?}");
        let maximum = violations(|v| judge_gaps(&small, &gaps([400, 500, 1001]), v));
        assert!(maximum.len() == 1 && maximum[0].contains("1001 ms"), "{maximum:?}");
    }
}
