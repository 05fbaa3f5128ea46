//! Counts of an interval -> what they show.

use std::time::Duration;

use crate::model::duration;
use crate::model::percent::Percent;
use crate::model::proxy::Latencies;
use crate::model::rollout::{Counts, Ratio, RolloutSpec};
use crate::plan::compare::{Z95, count, exceeds_by, ratio, wilson};

/// Requests of main that make an interval of it worth comparing with.
pub const MAIN_SAMPLES: u64 = 100;
/// Answers on both sides for a p99 to say anything: of fewer it is the slowest one.
const P99_SAMPLES: u64 = 100;

/// How sure a finding has to be, as a two-sided quantile of the normal distribution: 95 % once, 99.9 % where it is looked at again
/// and again.
pub(super) const AT_THE_END: f64 = Z95;
pub(super) const EARLY: f64 = 3.290_526_731_491_926;

/// What an interval shows of the canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    Good,
    TooFew(String),
    /// Over a limit, and it may be chance.
    Unsure(String),
    /// Over the limit, as main is.
    BothBad(String),
    Worse(String),
}

/// Main over the same minutes, or where that is too little, its last interval with enough.
pub(super) fn compared<'a>(main: &'a Counts, base: Option<&'a Counts>) -> &'a Counts {
    match base {
        Some(base) if main.requests < MAIN_SAMPLES => base,
        _ => main,
    }
}

pub(super) fn decide(
    spec: &RolloutSpec,
    length: Duration,
    canary: &Counts,
    main: &Counts,
    base: Option<&Counts>,
    sure: f64,
) -> Finding {
    let main = compared(main, base);
    let needed = spec.min_samples.max(1);
    if canary.requests < needed {
        return Finding::TooFew(too_few(canary, length, needed));
    }
    let errors = errors(canary, main, spec.max_error_rate, sure);
    let slow = spec.max_p99_ratio.map_or(Finding::Good, |most| slow(canary, main, length, most, sure));
    // The worse of the two is what counts.
    if errors.weight() >= slow.weight() { errors } else { slow }
}

impl Finding {
    const fn weight(&self) -> u8 {
        match self {
            Self::Good => 0,
            Self::TooFew(_) => 1,
            Self::Unsure(_) => 2,
            Self::BothBad(_) => 3,
            Self::Worse(_) => 4,
        }
    }
}

fn too_few(canary: &Counts, length: Duration, needed: u64) -> String {
    let failed =
        if canary.failed > 0 { format!("; {} of them failed", canary.failed) } else { String::new() };
    format!(
        "{} to the canary in {}, {} are needed{failed}",
        requests(canary.requests),
        seconds(length),
        count(needed)
    )
}

fn errors(canary: &Counts, main: &Counts, most: Percent, sure: f64) -> Finding {
    let found = ratio(canary.failed, canary.requests);
    if canary.failed == 0 || found <= most.ratio() {
        return Finding::Good;
    }
    let not_taken = match canary.not_taken {
        0 => String::new(),
        not_taken => format!(" ({} were not taken, main answered them)", count(not_taken)),
    };
    let told = format!(
        "{} of {} to the canary failed{not_taken}: {}, at most {most} may; of main's {}",
        count(canary.failed),
        requests(canary.requests),
        share(canary.failed, canary.requests),
        share(main.failed, main.requests)
    );
    let (low, _) = wilson(canary.failed, canary.requests, sure);
    let over = low > most.ratio();
    if main.requests == 0 {
        return if over { Finding::Worse(told) } else { unsure(&told) };
    }
    let worse = exceeds_by(canary.failed, canary.requests, main.failed, main.requests, sure) > 0.0;
    let main_bad = ratio(main.failed, main.requests) > most.ratio();
    match (over && worse, main_bad && !worse) {
        (true, _) => Finding::Worse(told),
        (false, true) => Finding::BothBad(format!("{told}: main is as bad, so nothing is decided")),
        (false, false) => unsure(&told),
    }
}

fn slow(canary: &Counts, main: &Counts, length: Duration, most: Ratio, sure: f64) -> Finding {
    for (who, found) in [("the canary", canary), ("main", main)] {
        let answers = found.latency.count();
        if answers < P99_SAMPLES {
            let (in_time, answers) = (seconds(length), count(answers));
            return Finding::TooFew(format!(
                "{answers} answers of {who} in {in_time}, {P99_SAMPLES} are needed for a p99"
            ));
        }
    }
    let (Some(found), Some(usual)) = (canary.latency.at(99, 100), main.latency.at(99, 100)) else {
        return Finding::Good;
    };
    if found <= most.times(usual) {
        return Finding::Good;
    }
    let times = ratio(found, usual);
    let told = format!(
        "the canary's p99 is {}, {times:.2} times main's {}, at most {most} times is allowed",
        millis(found),
        millis(usual)
    );
    let limit = most.times(upper_p99(&main.latency, sure));
    let slower: u64 = canary.latency.0.range(limit.saturating_add(1)..).map(|(_, count)| count).sum();
    let (low, _) = wilson(slower, canary.latency.count(), sure);
    if low > 0.01 { Finding::Worse(told) } else { unsure(&told) }
}

fn unsure(told: &str) -> Finding {
    Finding::Unsure(format!("{told}: not sure yet, it may be chance"))
}

/// The longest that main's p99 may really be: the latency at the upper end of the rank's interval (normal approximation of the
/// binomial).
fn upper_p99(latency: &Latencies, sure: f64) -> u64 {
    const WHOLE: u64 = 1_000_000;
    let all = latency.count();
    #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let spread = sure * (0.99 * 0.01 / all.max(1) as f64).sqrt();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1,000,000")]
    let part = ((0.99 + spread).min(1.0) * 1_000_000.0) as u64;
    latency.at(part, WHOLE).unwrap_or(u64::MAX)
}

fn requests(number: u64) -> String {
    format!("{} request{}", count(number), if number == 1 { "" } else { "s" })
}

/// Without the odd milliseconds of a look that came late.
fn seconds(length: Duration) -> String {
    let whole = Duration::from_secs(length.as_secs());
    duration::show(if whole.is_zero() { length } else { whole })
}

/// `0.3%`; of nothing `-`.
pub fn share(part: u64, of: u64) -> String {
    if of == 0 {
        return "-".to_owned();
    }
    let text = format!("{:.2}", ratio(part, of) * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Microseconds for people: `850us`, `20.5ms`, `1.2s`.
pub fn millis(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}us"),
        1_000..1_000_000 => format!("{}.{}ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{}s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}
