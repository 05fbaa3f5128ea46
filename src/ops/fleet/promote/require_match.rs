//! Compares the version's answers as a shadow with main's, before the version answers users.

use super::set_share::is_lost;
use super::{PromotionRun, StopReason};
use crate::model::name::HostName;
use crate::model::promote::PromotionEntryKind;
use crate::model::traffic_split::TrafficSplitChange;
use crate::ops::fleet::deployments::{CompareOptions, FleetDeployError, compare, list_deployments};
use crate::plan::compare::{ComparedHeaders, ComparisonReport, ComparisonVerdict, Criteria, Rate};
use crate::world::link::LinkError;

/// What is known about the match: another entry is recorded when it changes.
#[derive(PartialEq)]
enum MatchEvidence {
    Compared(ComparisonVerdict, Rate),
    Unread(Vec<(HostName, LinkError)>),
}

impl PromotionRun<'_> {
    /// Waits until enough requests are compared.
    pub(super) async fn wait_for_match(&self) -> Result<(), StopReason> {
        let mut recorded = None;
        loop {
            self.check_not_overtaken().await?;
            let (evidence, verdict, reason) = match self.compare_answers().await {
                Ok(report) => {
                    let evidence = MatchEvidence::Compared(report.verdict, report.matching);
                    (evidence, report.verdict, report.reason)
                }
                // A host that cannot be read now may be the one where answers differ.
                Err(error) => match find_unread_hosts(&error) {
                    Some(hosts) => (
                        MatchEvidence::Unread(hosts.to_vec()),
                        ComparisonVerdict::Insufficient,
                        error.to_string(),
                    ),
                    None => {
                        return Err(StopReason::roll_back(format!(
                            "its answers cannot be compared: {error}"
                        )));
                    }
                },
            };
            if recorded.as_ref() != Some(&evidence) {
                let passed = verdict == ComparisonVerdict::Same;
                self.record(&PromotionEntryKind::Compared { passed, reason: reason.clone() }).await?;
                recorded = Some(evidence);
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
        let applied = self.apply_change(off, "").await;
        applied.map_err(|error| StopReason::roll_back(format!("not every host ends its copies: {error}")))
    }

    async fn compare_answers(&self) -> Result<ComparisonReport, FleetDeployError> {
        let options = CompareOptions {
            service: self.spec.service.clone(),
            version: self.spec.version.clone(),
            criteria: Criteria {
                require_match: self.spec.require_match,
                min_samples: self.spec.min_samples,
                ignore: self.spec.ignore.clone(),
                headers: ComparedHeaders::default(),
            },
        };
        let listing = list_deployments(self.world, &self.hosts).await;
        compare(self.world, &self.hosts, &listing, &options).await
    }
}

/// Returns the hosts that could not be read, if that may pass without a change by the operator.
fn find_unread_hosts(error: &FleetDeployError) -> Option<&[(HostName, LinkError)]> {
    match error {
        FleetDeployError::Unread { hosts, .. } => Some(hosts),
        FleetDeployError::Hosts(failed) | FleetDeployError::Partial { failed, .. } => {
            is_lost(error).then_some(failed)
        }
        _ => None,
    }
}
