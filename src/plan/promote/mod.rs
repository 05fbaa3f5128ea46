//! Is the canary no worse than main over the same minutes? What several hosts counted, and the time -> a verdict.
//!
//! - An interval with fewer requests to the canary than required decides nothing, regardless of their results: one error of
//!   three is no proof. The next interval starts from zero, so that a trickle is held for ever, and reported as such.
//! - Errors are a breach where their share is over the limit and over main's, both surely (95 %; before the interval is over,
//!   when it is looked at again and again, 99.9 %). Where main is as bad, nothing is decided: the canary is not the cause.
//! - The p99 is a breach where surely more than 1 % of the canary's answers, and surely more of them than of main's, took longer
//!   than the allowed multiple of main's p99. Of few answers the p99 is the slowest one: that passes all the less.
//! - What is over a limit and not sure is held, and the interval goes on until it is.
//! - Where main answers too few itself, as at 100 %, its last interval with enough is what is compared with.
//! - A host that could not be read, or whose proxy was not running, leaves a gap: an interval with one passes nothing. What
//!   was counted still may show a breach.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::capped::Merge as _;
use crate::model::deployment::DeploymentId;
use crate::model::name::HostName;
use crate::model::promote::{Judgement, PromotionSpec, PromotionTarget, RequestCounts, StepVerdict};
use crate::model::proxy::ProxyStats;

mod decide;
mod hosts;
mod progress;
#[cfg(test)]
mod tests;

pub use decide::{format_latency, format_share};
pub use hosts::{HostState, PreflightError, find_target, state};
pub use progress::{PromotionProgress, PromotionStepState, StepProgress, build_progress};

use decide::{IntervalFinding, Z_EARLY, Z_FINAL, decide};

/// The judgement of one step of a promotion. Times count from any fixed moment.
#[derive(Debug)]
pub struct Judge<'a> {
    spec: &'a PromotionSpec,
    target: &'a PromotionTarget,
    step: usize,
    /// Main's last interval with enough requests.
    baseline: Option<RequestCounts>,
    /// The counts of each host's proxy at the last reading.
    last_readings: BTreeMap<HostName, ProxyReading>,
    canary: RequestCounts,
    main: RequestCounts,
    gaps: BTreeMap<HostName, String>,
    started_at: Duration,
    due_at: Duration,
}

#[derive(Debug)]
struct ProxyReading {
    pid: u32,
    canary: RequestCounts,
    main: RequestCounts,
}

impl<'a> Judge<'a> {
    pub fn start(
        spec: &'a PromotionSpec,
        target: &'a PromotionTarget,
        step: usize,
        baseline: Option<RequestCounts>,
        now: Duration,
    ) -> Self {
        Self {
            spec,
            target,
            step,
            baseline,
            last_readings: BTreeMap::new(),
            canary: RequestCounts::default(),
            main: RequestCounts::default(),
            gaps: BTreeMap::new(),
            started_at: now,
            due_at: now + spec.interval,
        }
    }

    /// Records the counts of a host's proxy. Its first reading is where the counting begins. A proxy that was restarted begins
    /// again: its counts between its start and this reading may be of any time, and are left out.
    pub fn record_stats(&mut self, host: &HostName, stats: &ProxyStats) {
        let Some(service) = stats.services.iter().find(|one| one.service == self.spec.service) else {
            return self.record_gap(host, format!("its proxy has no place before {}", self.spec.service));
        };
        let leg = |id: &DeploymentId| {
            service
                .upstreams
                .iter()
                .find(|leg| leg.deployment == *id)
                .map(RequestCounts::from_stats)
                .unwrap_or_default()
        };
        let now = ProxyReading {
            pid: stats.pid,
            canary: leg(&self.target.deployment),
            main: leg(&self.target.main),
        };
        if let Some(before) = self.last_readings.get(host) {
            let grown = || {
                Some((now.canary.difference_since(&before.canary)?, now.main.difference_since(&before.main)?))
            };
            match grown().filter(|_| now.pid == before.pid) {
                Some((canary, main)) => {
                    self.canary.absorb(canary);
                    self.main.absorb(main);
                }
                None => self.record_gap(host, "its proxy was restarted".to_owned()),
            }
        }
        self.last_readings.insert(host.clone(), now);
    }

    /// A host could not be read, or does not share now.
    pub fn record_gap(&mut self, host: &HostName, why: String) {
        self.gaps.entry(host.clone()).or_insert(why);
    }

    /// Whether the interval is over.
    pub fn is_due(&self, now: Duration) -> bool {
        now >= self.due_at
    }

    /// `None`: the interval goes on. After a verdict the next one begins.
    pub fn judge(&mut self, now: Duration) -> Option<Judgement> {
        let due = self.is_due(now);
        let length = now.saturating_sub(self.started_at);
        let sure = if due { Z_FINAL } else { Z_EARLY };
        let finding = decide(self.spec, length, &self.canary, &self.main, self.baseline.as_ref(), sure);
        let (verdict, goes_on) = match finding {
            IntervalFinding::Worse(reason) => (StepVerdict::Breach { reason }, false),
            _ if !due => return None,
            _ if !self.gaps.is_empty() => (StepVerdict::Hold { reason: self.describe_gap() }, false),
            IntervalFinding::TooFew(reason) | IntervalFinding::BothOverLimit(reason) => {
                (StepVerdict::Hold { reason }, false)
            }
            IntervalFinding::Inconclusive(reason) => (StepVerdict::Hold { reason }, true),
            IntervalFinding::Good if self.spec.steps.is_last(self.step) => (StepVerdict::Done, false),
            IntervalFinding::Good => (StepVerdict::Advance, false),
        };
        let compared = decide::choose_baseline(self.spec, &self.main, self.baseline.as_ref());
        let judged = Judgement { verdict, canary: self.canary.to_sample(), main: compared.to_sample() };
        if self.main.requests >= decide::min_main_samples(self.spec) {
            self.baseline = Some(self.main.clone());
        }
        self.due_at = now + self.spec.interval;
        if !goes_on {
            self.canary = RequestCounts::default();
            self.main = RequestCounts::default();
            self.gaps.clear();
            self.started_at = now;
        }
        Some(judged)
    }

    /// Main's counts in its last interval with enough requests.
    pub fn baseline(&self) -> Option<&RequestCounts> {
        self.baseline.as_ref()
    }

    fn describe_gap(&self) -> String {
        let gaps: Vec<String> = self.gaps.iter().map(|(host, why)| format!("{host}: {why}")).collect();
        gaps.join("; ")
    }
}
