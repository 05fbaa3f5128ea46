//! Counts of an interval -> what they show.

use std::time::Duration;

use crate::model::duration;
use crate::model::percent::Percent;
use crate::model::promote::{Counts, Ratio, RolloutSpec};
use crate::model::proxy::Latencies;
use crate::plan::compare::{Z95, count, exceeds_by, ratio, wilson};

/// Requests of main that make an interval of it worth comparing with.
const MAIN_SAMPLES: u64 = 100;

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

/// How many requests of main are enough: where few of the canary are enough, as many.
pub(super) fn enough_of_main(spec: &RolloutSpec) -> u64 {
    spec.min_samples.clamp(1, MAIN_SAMPLES)
}

/// Main over the same minutes, or where that is too little, its last interval with enough.
pub(super) fn compared<'a>(spec: &RolloutSpec, main: &'a Counts, base: Option<&'a Counts>) -> &'a Counts {
    match base {
        Some(base) if main.requests < enough_of_main(spec) => base,
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
    let main = compared(spec, main, base);
    let needed = spec.min_samples.max(1);
    if canary.requests < needed {
        return Finding::TooFew(too_few(canary, length, needed));
    }
    let errors = errors(canary, main, spec.max_error_rate, sure);
    let of_main = enough_of_main(spec);
    let slow =
        spec.max_p99_ratio.map_or(Finding::Good, |most| slow(canary, main, length, most, of_main, sure));
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

fn slow(canary: &Counts, main: &Counts, length: Duration, most: Ratio, needed: u64, sure: f64) -> Finding {
    for (who, found) in [("the canary", canary), ("main", main)] {
        let answers = found.latency.count();
        if answers < needed {
            let (in_time, answers) = (seconds(length), count(answers));
            return Finding::TooFew(format!(
                "{answers} answers of {who} in {in_time}, {} are needed for a p99",
                count(needed)
            ));
        }
    }
    let (Some(found), Some(usual)) = (canary.latency.at(99, 100), main.latency.at(99, 100)) else {
        return Finding::Good;
    };
    let limit = most.times(usual);
    if found <= limit {
        return Finding::Good;
    }
    let times = ratio(found, usual);
    let told = format!(
        "the canary's p99 is {}, {times:.2} times main's {}, at most {most} times is allowed",
        millis(found),
        millis(usual)
    );
    // Its p99 is over the limit where more than 1 % of its answers take longer. Main's own p99 is uncertain too: surely more of
    // the canary's answers than of main's have to.
    let (slower, of) = longer(&canary.latency, limit);
    let (mains, of_main) = longer(&main.latency, limit);
    let (low, _) = wilson(slower, of, sure);
    let worse = low > 0.01 && exceeds_by(slower, of, mains, of_main, sure) > 0.0;
    if worse { Finding::Worse(told) } else { unsure(&told) }
}

/// How many take longer, and of how many.
fn longer(latency: &Latencies, limit: u64) -> (u64, u64) {
    let longer = latency.0.range(limit.saturating_add(1)..).map(|(_, count)| count).sum();
    (longer, latency.count())
}

fn unsure(told: &str) -> Finding {
    Finding::Unsure(format!("{told}: not sure yet, it may be chance"))
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
