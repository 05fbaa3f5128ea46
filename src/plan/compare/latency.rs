//! How long the shadow took, request by request.

use schemars::JsonSchema;
use serde::Serialize;

use super::stats::{Rate, Z95, compute_ratio, to_f64};
use crate::model::evidence::PairedLatency;
use crate::model::proxy::Latencies;

/// Durations in microseconds, read off buckets at most 2 % wide.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct LatencyFinding {
    pub main: Quantiles,
    pub shadow: Quantiles,
    /// The shadow's 50th and 99th percentile by main's.
    pub p50_ratio: f64,
    pub p99_ratio: f64,
    /// The median over all requests of how much slower the shadow was (less than 0: faster).
    pub median_difference_us: i64,
    /// The interval that holds the true median in 95 of 100 cases.
    pub low_us: i64,
    pub high_us: i64,
    /// Requests in which the shadow was the slower one.
    pub slower_requests: Rate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Quantiles {
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

impl LatencyFinding {
    /// `None` of nothing.
    pub(super) fn from_latency(latency: &PairedLatency) -> Option<Self> {
        let (main, shadow) = (compute_quantiles(&latency.main)?, compute_quantiles(&latency.shadow)?);
        let (slower, faster) = (latency.slowdown.count(), latency.speedup.count());
        let all = slower + faster;
        // The ranks of a binomial variable's 95 % around the middle.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "far below 2^53")]
        let half = (Z95 * to_f64(all).sqrt() / 2.0).ceil() as u64;
        let middle = all.div_ceil(2);
        let at = |rank: u64| find_difference(latency, rank.clamp(1, all));
        Some(Self {
            main,
            shadow,
            p50_ratio: compute_ratio(shadow.p50_us, main.p50_us.max(1)),
            p99_ratio: compute_ratio(shadow.p99_us, main.p99_us.max(1)),
            median_difference_us: at(middle)?,
            low_us: at(middle.saturating_sub(half))?,
            high_us: at(middle + half)?,
            slower_requests: Rate::new(slower, all),
        })
    }
}

fn compute_quantiles(of: &Latencies) -> Option<Quantiles> {
    Some(Quantiles {
        p50_us: of.quantile(50, 100)?,
        p90_us: of.quantile(90, 100)?,
        p99_us: of.quantile(99, 100)?,
        max_us: of.quantile(1, 1)?,
    })
}

/// The difference of that rank, from the fastest on.
fn find_difference(latency: &PairedLatency, rank: u64) -> Option<i64> {
    let signed = |us: u64| i64::try_from(us).unwrap_or(i64::MAX);
    let faster = latency.speedup.0.iter().rev().map(|(us, count)| (-signed(*us), count));
    let slower = latency.slowdown.0.iter().map(|(us, count)| (signed(*us), count));
    let mut seen = 0;
    let reached = |(_, count): &(i64, &u64)| {
        seen += **count;
        seen >= rank
    };
    faster.chain(slower).find(reached).map(|(us, _)| us)
}
