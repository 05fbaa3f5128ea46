//! Rolls back: main answers everything on every host, even if one of them fails.

use std::time::Duration;

use super::{PromotionError, PromotionReport, PromotionRun, StopReason};
use crate::model::api::deployments::{DeploymentsView, RollbackRequest};
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::model::promote::{PromotionEntryKind, PromotionResult};
use crate::model::traffic_split::{TrafficSplitChange, TrafficSplitRequest};
use crate::ops::fleet::reach;
use crate::world::journal_store::JournalError;
use crate::world::link::LinkError;

/// How often the change is sent to an unreachable host, and the interval between attempts.
const MAX_ATTEMPTS: u32 = 5;
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

impl PromotionRun<'_> {
    /// Stops the promotion: no canary stays. A process that lost the lock changes nothing more.
    pub(super) async fn halt(&self, halt: StopReason) -> Result<PromotionReport, PromotionError> {
        match halt {
            StopReason::RollBack { result, reason } => self.roll_back(result, reason).await,
            StopReason::Interrupt { reason } => {
                self.report(format!("{reason}: main answers everything"));
                let unreachable_hosts = self.remove_from_all(&reason, false).await;
                self.append_entry(&PromotionEntryKind::Stopped { reason, unreachable_hosts }).await?;
                Ok(PromotionReport::from_progress(self.read_progress().await?))
            }
            StopReason::Journal(error @ JournalError::LockLost { .. }) => Err(error.into()),
            StopReason::Journal(error) => {
                self.remove_from_all(&error.to_string(), false).await;
                Err(error.into())
            }
        }
    }

    async fn roll_back(
        &self,
        result: PromotionResult,
        reason: String,
    ) -> Result<PromotionReport, PromotionError> {
        let rolling_back = PromotionEntryKind::RollingBack { result, reason: reason.clone() };
        let written = self.append_entry(&rolling_back).await;
        if let Err(error @ JournalError::LockLost { .. }) = written {
            return Err(error.into());
        }
        self.report_entry(&rolling_back);
        let promoting = self.read_progress().await.is_ok_and(|progress| progress.is_promoting);
        let unreachable_hosts = self.remove_from_all(&reason, promoting).await;
        written?;
        if unreachable_hosts.is_empty() {
            return self.finish(result, &reason).await;
        }
        self.append_entry(&PromotionEntryKind::Stopped { reason, unreachable_hosts }).await?;
        Ok(PromotionReport::from_progress(self.read_progress().await?))
    }

    /// Removes the canary of every host; returns the hosts that could not be reached. `promoted`: also rolls main back, where the
    /// version is main already.
    async fn remove_from_all(&self, reason: &str, promoted: bool) -> Vec<(HostName, String)> {
        let told = self.hosts.iter().map(async |host| {
            let error = self.remove_from(host, reason, promoted).await.err()?;
            self.report(format!("{}: may have its canary still: {error}", host.name));
            Some((host.name.clone(), error.to_string()))
        });
        futures_util::future::join_all(told).await.into_iter().flatten().collect()
    }

    async fn remove_from(&self, host: &Host, reason: &str, promoted: bool) -> Result<(), LinkError> {
        let mut tried = 1;
        loop {
            match self.try_remove_from(host, reason, promoted).await {
                Err(error) if error.is_connection_lost() && tried < MAX_ATTEMPTS => tried += 1,
                ended => return ended,
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    async fn try_remove_from(&self, host: &Host, reason: &str, promoted: bool) -> Result<(), LinkError> {
        let link = reach::find_link(self.world, host)?;
        let view = link.list_deployments().await?;
        let service = &self.spec.service;
        if promoted && self.is_main(&view) {
            let (reason, from) = (reason.to_owned(), Some(self.spec.version.clone()));
            let request = RollbackRequest { actor: self.actor.clone(), reason, from, dry_run: false };
            link.rollback(service, &request).await?;
            return Ok(());
        }
        // A change that another command made in the meantime stays.
        if !self.is_canary(&view) {
            return Ok(());
        }
        let request = TrafficSplitRequest {
            forwarded: None,
            change: TrafficSplitChange::RemoveCanary,
            port_range: self.fleet.versions.port_range,
            actor: self.actor.clone(),
            detail: format!("promotion {}: {reason}", self.id),
            dry_run: false,
        };
        link.change_traffic_split(service, &request).await.map(|_| ())
    }

    fn is_main(&self, view: &DeploymentsView) -> bool {
        view.services.iter().any(|record| {
            let routes = record.routes.as_ref();
            routes.is_some_and(|routes| routes.main.deployment == self.target.deployment)
        })
    }

    fn is_canary(&self, view: &DeploymentsView) -> bool {
        view.services.iter().any(|record| {
            let canary = record.layer7.traffic_split.canary.as_ref();
            canary.is_some_and(|canary| canary.deployment == self.target.deployment)
        })
    }
}
