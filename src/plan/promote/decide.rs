//! Counts of an interval -> what they show.

use std::time::Duration;

use crate::model::duration;
use crate::model::percent::Percent;
use crate::model::plural::Count;
use crate::model::promote::{PromotionSpec, Ratio, RequestCounts};
use crate::model::proxy::Latencies;
use crate::plan::compare::{Z95, compute_excess_lower_bound, compute_ratio, compute_wilson_interval, count};

/// Requests of main that make an interval of it worth comparing with.
const MIN_MAIN_SAMPLES: u64 = 100;

/// How sure a finding has to be, as a two-sided quantile of the normal distribution: 95 % once, 99.9 % where it is looked at
/// again and again.
pub(super) const Z_FINAL: f64 = Z95;
pub(super) const Z_EARLY: f64 = 3.290_526_731_491_926;

/// The result of an interval for the canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IntervalFinding {
    Good,
    TooFew(String),
    /// Over a limit, and it may be chance.
    Inconclusive(String),
    /// Over the limit, as main is.
    BothOverLimit(String),
    Worse(String),
}

/// How many requests of main are enough: where few of the canary are enough, as many.
pub(super) fn min_main_samples(spec: &PromotionSpec) -> u64 {
    spec.min_samples.clamp(1, MIN_MAIN_SAMPLES)
}

/// Main over the same minutes, or where that is too little, its last interval with enough.
pub(super) fn choose_baseline<'a>(
    spec: &PromotionSpec,
    main: &'a RequestCounts,
    base: Option<&'a RequestCounts>,
) -> &'a RequestCounts {
    match base {
        Some(base) if main.requests < min_main_samples(spec) => base,
        _ => main,
    }
}

pub(super) fn decide(
    spec: &PromotionSpec,
    length: Duration,
    canary: &RequestCounts,
    main: &RequestCounts,
    base: Option<&RequestCounts>,
    sure: f64,
) -> IntervalFinding {
    let main = choose_baseline(spec, main, base);
    let needed = spec.min_samples.max(1);
    if canary.requests < needed {
        return IntervalFinding::TooFew(describe_too_few(canary, main, length, needed));
    }
    let errors = judge_errors(canary, main, spec.max_error_rate, sure);
    let of_main = min_main_samples(spec);
    let slow = spec
        .max_p99_ratio
        .map_or(IntervalFinding::Good, |most| judge_latency(canary, main, length, most, of_main, sure));
    // The worse of the two is what counts.
    if errors.severity() >= slow.severity() { errors } else { slow }
}

impl IntervalFinding {
    const fn severity(&self) -> u8 {
        match self {
            Self::Good => 0,
            Self::TooFew(_) => 1,
            Self::Inconclusive(_) => 2,
            Self::BothOverLimit(_) => 3,
            Self::Worse(_) => 4,
        }
    }
}

fn describe_too_few(canary: &RequestCounts, main: &RequestCounts, length: Duration, needed: u64) -> String {
    if canary.requests == 0 && main.requests == 0 {
        let in_time = format_seconds(length);
        return format!("canary 0, main 0 requests in {in_time}: is there traffic?");
    }
    let failed =
        if canary.failed > 0 { format!("; {} of them failed", canary.failed) } else { String::new() };
    format!(
        "{} to the canary in {}, {} are needed{failed}",
        format_requests(canary.requests),
        format_seconds(length),
        count(needed)
    )
}

fn judge_errors(canary: &RequestCounts, main: &RequestCounts, most: Percent, sure: f64) -> IntervalFinding {
    let found = compute_ratio(canary.failed, canary.requests);
    if canary.failed == 0 || found <= most.ratio() {
        return IntervalFinding::Good;
    }
    let not_taken = match canary.fallbacks {
        0 => String::new(),
        not_taken => format!(" ({} were not taken, main answered them)", count(not_taken)),
    };
    let summary = format!(
        "{} of {} to the canary failed{not_taken}: {}, at most {most} may; of main's {}",
        count(canary.failed),
        format_requests(canary.requests),
        format_share(canary.failed, canary.requests),
        format_share(main.failed, main.requests)
    );
    let (low, _) = compute_wilson_interval(canary.failed, canary.requests, sure);
    let over = low > most.ratio();
    if main.requests == 0 {
        return if over { IntervalFinding::Worse(summary) } else { describe_inconclusive(&summary) };
    }
    let worse =
        compute_excess_lower_bound(canary.failed, canary.requests, main.failed, main.requests, sure) > 0.0;
    let main_bad = compute_ratio(main.failed, main.requests) > most.ratio();
    match (over && worse, main_bad && !worse) {
        (true, _) => IntervalFinding::Worse(summary),
        (false, true) => {
            IntervalFinding::BothOverLimit(format!("{summary}: main is as bad, so nothing is decided"))
        }
        (false, false) => describe_inconclusive(&summary),
    }
}

fn judge_latency(
    canary: &RequestCounts,
    main: &RequestCounts,
    length: Duration,
    most: Ratio,
    needed: u64,
    sure: f64,
) -> IntervalFinding {
    for (who, found) in [("the canary", canary), ("main", main)] {
        let answers = found.latency.count();
        if answers < needed {
            let (in_time, answers) = (format_seconds(length), count(answers));
            return IntervalFinding::TooFew(format!(
                "{} of {who} in {in_time}, {} are needed for a p99",
                Count(answers, "answer"),
                count(needed)
            ));
        }
    }
    let (Some(found), Some(usual)) = (canary.latency.quantile(99, 100), main.latency.quantile(99, 100))
    else {
        return IntervalFinding::Good;
    };
    let limit = most.multiply(usual);
    if found <= limit {
        return IntervalFinding::Good;
    }
    let times = compute_ratio(found, usual);
    let summary = format!(
        "the canary's p99 is {}, {times:.2} times main's {}, at most {most} times is allowed",
        format_latency(found),
        format_latency(usual)
    );
    // Its p99 is over the limit where more than 1 % of its answers take longer. Main's own p99 is uncertain too: surely more of
    // the canary's answers than of main's have to.
    let (slower, of) = count_longer(&canary.latency, limit);
    let (mains, of_main) = count_longer(&main.latency, limit);
    let (low, _) = compute_wilson_interval(slower, of, sure);
    let worse = low > 0.01 && compute_excess_lower_bound(slower, of, mains, of_main, sure) > 0.0;
    if worse { IntervalFinding::Worse(summary) } else { describe_inconclusive(&summary) }
}

/// How many take longer, and of how many.
fn count_longer(latency: &Latencies, limit: u64) -> (u64, u64) {
    let longer = latency.0.range(limit.saturating_add(1)..).map(|(_, count)| count).sum();
    (longer, latency.count())
}

fn describe_inconclusive(summary: &str) -> IntervalFinding {
    IntervalFinding::Inconclusive(format!("{summary}: not sure yet, it may be chance"))
}

fn format_requests(number: u64) -> String {
    Count(count(number), "request").to_string()
}

/// Without the odd milliseconds of a look that came late.
fn format_seconds(length: Duration) -> String {
    let whole = Duration::from_secs(length.as_secs());
    duration::format(if whole.is_zero() { length } else { whole })
}

/// `0.3%`; of nothing `-`.
pub fn format_share(part: u64, of: u64) -> String {
    if of == 0 {
        return "-".to_owned();
    }
    let text = format!("{:.2}", compute_ratio(part, of) * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Microseconds for people: `850us`, `20.5ms`, `1.2s`.
pub fn format_latency(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}us"),
        1_000..1_000_000 => format!("{}.{}ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{}s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}
