//! Is the canary no worse than main over the same minutes? What several hosts counted, and the time -> a verdict.
//!
//! - An interval with fewer requests to the canary than asked for decides nothing, whatever they were: one error of three is no
//!   proof. The next one begins anew, so that a trickle is held for ever, and said so.
//! - Errors are a breach where their share is over the limit and over main's, both surely (95 %; before the interval is over, when
//!   it is looked at again and again, 99.9 %). Where main is as bad, nothing is decided: that is somebody else's outage.
//! - The p99 is a breach where surely more than 1 % of the canary's answers, and surely more of them than of main's, took longer
//!   than the allowed multiple of main's p99. Of few answers the p99 is the slowest one: that passes all the less.
//! - What is over a limit and not sure is held, and the interval goes on until it is.
//! - Where main answers too few itself, as at 100 %, its last interval with enough is what is compared with.
//! - A host that could not be read, or whose proxy was gone, leaves a gap: an interval with one passes nothing. What was counted
//!   still may show a breach.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::capped::Merge as _;
use crate::model::deployment::DeploymentId;
use crate::model::name::HostName;
use crate::model::promote::{Counts, Judged, RolloutSpec, Target, Verdict};
use crate::model::proxy::ProxyStats;

mod decide;
mod hosts;
mod progress;
#[cfg(test)]
mod tests;

pub use decide::{millis, share};
pub use hosts::{NotReady, State, ready, state};
pub use progress::{Reached, Standing, StepStanding, standing};

use decide::{AT_THE_END, EARLY, Finding, decide};

/// One step of a roll-out as it is judged. Times count from any fixed moment.
#[derive(Debug)]
pub struct Judge<'a> {
    spec: &'a RolloutSpec,
    target: &'a Target,
    step: usize,
    /// Main's last interval with enough requests.
    base: Option<Counts>,
    /// What each host's proxy had counted at the last look.
    last: BTreeMap<HostName, Reading>,
    canary: Counts,
    main: Counts,
    gaps: BTreeMap<HostName, String>,
    began: Duration,
    due: Duration,
}

#[derive(Debug)]
struct Reading {
    pid: u32,
    canary: Counts,
    main: Counts,
}

impl<'a> Judge<'a> {
    pub fn begin(
        spec: &'a RolloutSpec,
        target: &'a Target,
        step: usize,
        base: Option<Counts>,
        now: Duration,
    ) -> Self {
        Self {
            spec,
            target,
            step,
            base,
            last: BTreeMap::new(),
            canary: Counts::default(),
            main: Counts::default(),
            gaps: BTreeMap::new(),
            began: now,
            due: now + spec.interval,
        }
    }

    /// A host's proxy has counted so much. Its first look is where the counting begins. A proxy that was restarted begins anew:
    /// what it counted between its start and this look may be of any time, and is left out.
    pub fn saw(&mut self, host: &HostName, stats: &ProxyStats) {
        let Some(service) = stats.services.iter().find(|one| one.service == self.spec.service) else {
            return self.missed(host, format!("its proxy has no place before {}", self.spec.service));
        };
        let leg = |id: &DeploymentId| {
            service.legs.iter().find(|leg| leg.deployment == *id).map(Counts::of).unwrap_or_default()
        };
        let now =
            Reading { pid: stats.pid, canary: leg(&self.target.deployment), main: leg(&self.target.main) };
        if let Some(before) = self.last.get(host) {
            let grown = || Some((now.canary.since(&before.canary)?, now.main.since(&before.main)?));
            match grown().filter(|_| now.pid == before.pid) {
                Some((canary, main)) => {
                    self.canary.absorb(canary);
                    self.main.absorb(main);
                }
                None => self.missed(host, "its proxy was restarted".to_owned()),
            }
        }
        self.last.insert(host.clone(), now);
    }

    /// A host could not be read, or does not share now.
    pub fn missed(&mut self, host: &HostName, why: String) {
        self.gaps.entry(host.clone()).or_insert(why);
    }

    /// Whether the interval is over.
    pub fn is_due(&self, now: Duration) -> bool {
        now >= self.due
    }

    /// `None`: the interval goes on. After a verdict the next one begins.
    pub fn judge(&mut self, now: Duration) -> Option<Judged> {
        let due = self.is_due(now);
        let length = now.saturating_sub(self.began);
        let sure = if due { AT_THE_END } else { EARLY };
        let finding = decide(self.spec, length, &self.canary, &self.main, self.base.as_ref(), sure);
        let (verdict, goes_on) = match finding {
            Finding::Worse(reason) => (Verdict::Breach { reason }, false),
            _ if !due => return None,
            _ if !self.gaps.is_empty() => (Verdict::Hold { reason: self.gap() }, false),
            Finding::TooFew(reason) | Finding::BothBad(reason) => (Verdict::Hold { reason }, false),
            Finding::Unsure(reason) => (Verdict::Hold { reason }, true),
            Finding::Good if self.spec.steps.is_last(self.step) => (Verdict::Done, false),
            Finding::Good => (Verdict::Advance, false),
        };
        let compared = decide::compared(self.spec, &self.main, self.base.as_ref());
        let judged = Judged { verdict, canary: self.canary.sample(), main: compared.sample() };
        if self.main.requests >= decide::enough_of_main(self.spec) {
            self.base = Some(self.main.clone());
        }
        self.due = now + self.spec.interval;
        if !goes_on {
            self.canary = Counts::default();
            self.main = Counts::default();
            self.gaps.clear();
            self.began = now;
        }
        Some(judged)
    }

    /// What main did in its last interval with enough requests.
    pub fn base(&self) -> Option<&Counts> {
        self.base.as_ref()
    }

    fn gap(&self) -> String {
        let gaps: Vec<String> = self.gaps.iter().map(|(host, why)| format!("{host}: {why}")).collect();
        gaps.join("; ")
    }
}
