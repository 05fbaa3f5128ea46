//! Sets the same share on every host.

use std::time::Duration;

use super::{PromotionRun, StopReason};
use crate::model::name::HostName;
use crate::model::proxy::Canary;
use crate::model::traffic_split::TrafficSplitChange;
use crate::ops::fleet::deployments::{
    FLUSH_TIMEOUT, FleetDeployError, SplitOptions, apply_split_under_lock, wait_until_inserted,
};
use crate::plan::promote::HostState;

/// How often the change is sent to an unreachable host, and the interval between attempts.
const MAX_ATTEMPTS: u32 = 3;
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Why a change of the traffic split is not in effect on every host.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangeSplitError {
    #[error("{0}: its proxy is not in the data path")]
    ProxyBypassed(HostName),
    #[error(transparent)]
    NotApplied(#[from] FleetDeployError),
}

impl PromotionRun<'_> {
    /// The canary of every host gets the share of a step. One host that does not take it is enough to go back on all.
    pub(super) async fn set_share(&self, step: usize) -> Result<(), StopReason> {
        let share = self.spec.steps.share_at(step).unwrap_or_default();
        self.check_not_overtaken().await?;
        let canary = Canary {
            deployment: self.target.deployment.clone(),
            percent: Some(share),
            sticky: self.spec.sticky.clone(),
            header: None,
            cookie: None,
        };
        let applied = self.apply_change(TrafficSplitChange::SetCanary(canary), &share.to_string()).await;
        applied.map_err(|error| {
            StopReason::roll_back(format!("not every host takes a share of {share}: {error}"))
        })
    }

    /// Applies the change on every host, with [`MAX_ATTEMPTS`] attempts.
    pub(super) async fn apply_change(
        &self,
        change_to: TrafficSplitChange,
        detail: &str,
    ) -> Result<(), ChangeSplitError> {
        let options = SplitOptions {
            forwarded: None,
            service: self.spec.service.clone(),
            change: change_to,
            wait: true,
            actor: self.actor.clone(),
            detail: format!("promotion {} {detail}", self.id).trim_end().to_owned(),
        };
        for tried in 1.. {
            match apply_split_under_lock(self.world, self.fleet, &self.hosts, &options).await {
                Ok(done) => {
                    let shares = matches!(options.change, TrafficSplitChange::SetCanary(_));
                    if let Some((host, _)) = done.iter().find(|(_, split)| shares && !split.inserted) {
                        return Err(ChangeSplitError::ProxyBypassed(host.clone()));
                    }
                    wait_until_inserted(self.world, self.fleet, &self.spec.service, done, FLUSH_TIMEOUT)
                        .await;
                    break;
                }
                Err(error) if tried == MAX_ATTEMPTS || !is_lost(&error) => return Err(error.into()),
                Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
            }
        }
        Ok(())
    }

    /// Checks that no other command made a version main or gave one a share, which is not changed back. An unreachable host is
    /// not an error here: the change itself is retried.
    pub(super) async fn check_not_overtaken(&self) -> Result<(), StopReason> {
        for (host, state) in self.read_states(&self.hosts).await {
            match state {
                Ok(HostState::Overtaken(reason)) => {
                    return Err(StopReason::roll_back(format!("{host}: {reason}")));
                }
                Ok(HostState::Main) => return Err(self.already_main_reason(&host)),
                Ok(HostState::CanaryActive | HostState::ProxyBypassed | HostState::NoCanary) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Before it has passed every share.
    pub(super) fn already_main_reason(&self, host: &HostName) -> StopReason {
        StopReason::roll_back(format!("{host}: another command made {} main", self.spec.version))
    }
}

pub(super) fn is_lost(error: &FleetDeployError) -> bool {
    match error {
        FleetDeployError::Hosts(failed) | FleetDeployError::Partial { failed, .. } => {
            failed.iter().all(|(_, error)| error.is_connection_lost())
        }
        _ => false,
    }
}
