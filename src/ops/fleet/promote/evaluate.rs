//! Evaluates one step until it passes.

use std::time::Duration;

use super::{PromotionRun, StopReason};
use crate::model::promote::{OperatorRequest, PromotionEntryKind, RequestCounts, StepVerdict};
use crate::ops::fleet::deployments::for_each_host;
use crate::plan::promote::{HostState, Judge};

/// The interval between two reads of the proxies' counters: short enough that a gross breach ends early.
const MAX_READ_INTERVAL: Duration = Duration::from_secs(2);
const MIN_READ_INTERVAL: Duration = Duration::from_millis(100);

/// Returns what is the same in two reasons that differ in their counts alone.
fn strip_digits(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_ascii_digit()).collect()
}

impl PromotionRun<'_> {
    /// Returns main's counts of its last interval with enough requests.
    pub(super) async fn evaluate_step(
        &self,
        step: usize,
        base: Option<RequestCounts>,
    ) -> Result<Option<RequestCounts>, StopReason> {
        let mut judge = Judge::start(&self.spec, &self.target, step, base, self.elapsed());
        let pause = (self.spec.interval / 20).clamp(MIN_READ_INTERVAL, MAX_READ_INTERVAL);
        let mut passed = false;
        // A hold is reported once for each kind of reason, not at every interval.
        let mut reported_hold: Option<String> = None;
        self.read_stats(&mut judge).await;
        loop {
            self.sleep_or_stop(pause).await?;
            if passed && self.read_requests().await?.requests.contains(&OperatorRequest::Approve { step }) {
                return Ok(judge.baseline().cloned());
            }
            self.read_stats(&mut judge).await;
            if judge.is_due(self.elapsed()) {
                self.check_still_sharing(&mut judge).await?;
            }
            let Some(judged) = judge.judge(self.elapsed()) else { continue };
            let verdict = judged.verdict.clone();
            let entry = PromotionEntryKind::Judged { step, judgement: judged };
            let hold = match &verdict {
                StepVerdict::Hold { reason } => Some(strip_digits(reason)),
                _ => None,
            };
            self.append_entry(&entry).await?;
            if hold.is_none() || hold != reported_hold {
                self.report_entry(&entry);
            }
            reported_hold = hold;
            match verdict {
                StepVerdict::Breach { reason } => return Err(StopReason::roll_back(reason)),
                StepVerdict::Hold { .. } => {}
                StepVerdict::Advance | StepVerdict::Done if !self.spec.require_approval => {
                    return Ok(judge.baseline().cloned());
                }
                StepVerdict::Advance | StepVerdict::Done if passed => {}
                StepVerdict::Advance | StepVerdict::Done => {
                    passed = true;
                    self.record(&PromotionEntryKind::AwaitingApproval { step }).await?;
                }
            }
        }
    }

    async fn read_stats(&self, judge: &mut Judge<'_>) {
        for (host, stats) in
            for_each_host(self.world, &self.hosts, async |_, link| link.read_proxy_stats().await).await
        {
            match stats {
                Ok(Some(stats)) => judge.record_stats(&host, &stats),
                Ok(None) => judge.record_gap(&host, "its proxy is not running".to_owned()),
                Err(error) => judge.record_gap(&host, error.to_string()),
            }
        }
    }

    /// Whether every host is still as this promotion left it.
    async fn check_still_sharing(&self, judge: &mut Judge<'_>) -> Result<(), StopReason> {
        for (host, state) in self.read_states(&self.hosts).await {
            match state {
                Ok(HostState::CanaryActive) => {}
                Ok(HostState::Main) => return Err(self.already_main_reason(&host)),
                Ok(HostState::ProxyBypassed) => {
                    judge
                        .record_gap(&host, "its proxy is out of the way, main answers everything".to_owned());
                }
                Ok(HostState::NoCanary) => {
                    return Err(StopReason::roll_back(format!(
                        "{host}: another command took the canary away"
                    )));
                }
                Ok(HostState::Overtaken(reason)) => {
                    return Err(StopReason::roll_back(format!("{host}: {reason}")));
                }
                Err(error) => judge.record_gap(&host, error.to_string()),
            }
        }
        Ok(())
    }
}
