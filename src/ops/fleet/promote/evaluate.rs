//! One share, judged until it passes.

use std::time::Duration;

use super::{Halt, Rollout};
use crate::model::promote::{Ask, Counts, RolloutWhat, Verdict};
use crate::ops::fleet::deployments::each;
use crate::plan::promote::{Judge, State};

/// Between two looks at what the proxies have counted: often enough that a gross breach ends early.
const LONGEST: Duration = Duration::from_secs(2);
const SHORTEST: Duration = Duration::from_millis(100);

impl Rollout<'_> {
    /// Gives back what main did in its last interval with enough requests.
    pub(super) async fn judge(&self, step: usize, base: Option<Counts>) -> Result<Option<Counts>, Halt> {
        let mut judge = Judge::begin(&self.spec, &self.target, step, base, self.now());
        let pause = (self.spec.interval / 20).clamp(SHORTEST, LONGEST);
        let mut passed = false;
        self.look(&mut judge).await;
        loop {
            self.pause(pause).await?;
            if passed && self.hear()?.asks.contains(&Ask::Promote { step }) {
                return Ok(judge.base().cloned());
            }
            self.look(&mut judge).await;
            if judge.is_due(self.now()) {
                self.still_shares(&mut judge).await?;
            }
            let Some(judged) = judge.judge(self.now()) else { continue };
            let verdict = judged.verdict.clone();
            self.record(&RolloutWhat::Judged { step, judged })?;
            match verdict {
                Verdict::Breach { reason } => return Err(Halt::back(reason)),
                Verdict::Hold { reason } => self.say(format!("holding: {reason}")),
                Verdict::Advance | Verdict::Done if !self.spec.approve => return Ok(judge.base().cloned()),
                Verdict::Advance | Verdict::Done if passed => {}
                Verdict::Advance | Verdict::Done => {
                    passed = true;
                    self.record(&RolloutWhat::Waiting { step })?;
                    let service = &self.spec.service;
                    self.say(format!("passed, waiting for `switchman rollout {service} --promote`"));
                }
            }
        }
    }

    async fn look(&self, judge: &mut Judge<'_>) {
        for (host, stats) in each(self.world, &self.hosts, async |_, link| link.proxy().await).await {
            match stats {
                Ok(Some(stats)) => judge.saw(&host, &stats),
                Ok(None) => judge.missed(&host, "its proxy is gone".to_owned()),
                Err(error) => judge.missed(&host, error.to_string()),
            }
        }
    }

    /// Whether every host is still as this roll-out left it.
    async fn still_shares(&self, judge: &mut Judge<'_>) -> Result<(), Halt> {
        for (host, state) in self.states(&self.hosts).await {
            match state {
                Ok(State::Shares) => {}
                Ok(State::Main) => return Err(self.is_main_already(&host)),
                Ok(State::ProxyOut) => {
                    judge.missed(&host, "its proxy is out of the way, main answers everything".to_owned());
                }
                Ok(State::Away) => {
                    return Err(Halt::back(format!("{host}: another command took the canary away")));
                }
                Ok(State::Overtaken(why)) => return Err(Halt::back(format!("{host}: {why}"))),
                Err(error) => judge.missed(&host, error.to_string()),
            }
        }
        Ok(())
    }
}
