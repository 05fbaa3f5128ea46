//! Compares the version's answers as a shadow with main's, before the version answers users.

use super::set_share::is_lost;
use super::{PromotionRun, StopReason};
use crate::model::promote::PromotionEntryKind;
use crate::model::traffic_split::TrafficSplitChange;
use crate::ops::fleet::deployments::{CompareOptions, FleetDeployError, compare, list_deployments};
use crate::plan::compare::{ComparisonVerdict, Criteria};

impl PromotionRun<'_> {
    /// Waits until enough requests are compared.
    pub(super) async fn wait_for_match(&self) -> Result<(), StopReason> {
        let mut recorded_reason = String::new();
        loop {
            self.check_not_overtaken().await?;
            let (verdict, reason) = match self.compare_answers().await {
                Ok(shown) => shown,
                // A host that cannot be read now may be the one where answers differ.
                Err(error) if is_retryable(&error) => (ComparisonVerdict::Insufficient, error.to_string()),
                Err(error) => {
                    return Err(StopReason::roll_back(format!("its answers cannot be compared: {error}")));
                }
            };
            if reason != recorded_reason {
                let passed = verdict == ComparisonVerdict::Same;
                self.record(&PromotionEntryKind::Compared { passed, reason: reason.clone() })?;
                recorded_reason.clone_from(&reason);
            }
            match verdict {
                ComparisonVerdict::Differs => {
                    return Err(StopReason::roll_back(format!("its answers differ from main's: {reason}")));
                }
                ComparisonVerdict::Insufficient => self.report(format!("holding: {reason}")),
                ComparisonVerdict::Same => return Ok(()),
            }
            self.sleep_or_stop(self.spec.interval).await?;
        }
    }

    /// A version cannot answer users and get copies of the same requests.
    pub(super) async fn stop_mirroring(&self) -> Result<(), StopReason> {
        let off = TrafficSplitChange::RemoveMirror(self.target.deployment.clone());
        let recorded_reason = self.apply_change(off, "").await;
        recorded_reason.map_err(|why| StopReason::roll_back(format!("not every host ends its copies: {why}")))
    }

    async fn compare_answers(&self) -> Result<(ComparisonVerdict, String), FleetDeployError> {
        let options = CompareOptions {
            service: self.spec.service.clone(),
            version: self.spec.version.clone(),
            criteria: Criteria {
                require_match: self.spec.require_match,
                min_samples: self.spec.min_samples,
                ignore: self.spec.ignore.clone(),
            },
        };
        let listing = list_deployments(self.world, &self.hosts).await;
        let report = compare(self.world, &self.hosts, &listing, &options).await?;
        Ok((report.verdict, report.reason))
    }
}

/// Whether the error may pass without a change by the operator.
fn is_retryable(error: &FleetDeployError) -> bool {
    matches!(error, FleetDeployError::Unread(_)) || is_lost(error)
}
