//! The way back: main answers everything on every host, whatever fails on one of them.

use std::time::Duration;

use super::{Halt, Rollout, RolloutError, RolloutReport};
use crate::model::api::deployments::{RollbackRequest, VersionsView};
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::model::promote::{RolloutResult, RolloutWhat};
use crate::model::traffic_split::{SplitChange, SplitRequest};
use crate::ops::fleet::reach;
use crate::world::journal::JournalError;
use crate::world::link::LinkError;

/// How often a host that cannot be heard is told, and the pause between.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(2);

impl Rollout<'_> {
    /// The course is left: no canary stays. Only who lost the lock touches nothing more.
    pub(super) async fn leave(&self, halt: Halt) -> Result<RolloutReport, RolloutError> {
        match halt {
            Halt::Back { result, why } => self.back(result, why).await,
            Halt::Stop { why } => {
                self.say(format!("{why}: main answers everything"));
                let untold = self.away(&why, false).await;
                self.record(&RolloutWhat::Stopped { why, untold })?;
                Ok(RolloutReport::of(self.stands()?))
            }
            Halt::Journal(error @ JournalError::LockLost { .. }) => Err(error.into()),
            Halt::Journal(error) => {
                self.away(&error.to_string(), false).await;
                Err(error.into())
            }
        }
    }

    async fn back(&self, result: RolloutResult, why: String) -> Result<RolloutReport, RolloutError> {
        self.say(format!("{why}: main answers everything"));
        let written = self.record(&RolloutWhat::Returning { result, why: why.clone() });
        if let Err(error @ JournalError::LockLost { .. }) = written {
            return Err(error.into());
        }
        let promoting = self.stands().is_ok_and(|stands| stands.promoting);
        let untold = self.away(&why, promoting).await;
        written?;
        if untold.is_empty() {
            return self.end(result, &why);
        }
        self.record(&RolloutWhat::Stopped { why, untold })?;
        Ok(RolloutReport::of(self.stands()?))
    }

    /// Takes the canary of every host away; those that could not be told. `promoted`: and main back, where it is main already.
    async fn away(&self, why: &str, promoted: bool) -> Vec<(HostName, String)> {
        let told = self.hosts.iter().map(async |host| {
            let error = self.away_from(host, why, promoted).await.err()?;
            self.say(format!("{}: may have its canary still: {error}", host.name));
            Some((host.name.clone(), error.to_string()))
        });
        futures_util::future::join_all(told).await.into_iter().flatten().collect()
    }

    async fn away_from(&self, host: &Host, why: &str, promoted: bool) -> Result<(), LinkError> {
        let mut tried = 1;
        loop {
            match self.try_away(host, why, promoted).await {
                Err(error) if error.is_lost() && tried < TRIES => tried += 1,
                ended => return ended,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_away(&self, host: &Host, why: &str, promoted: bool) -> Result<(), LinkError> {
        let link = reach::link(self.world, host)?;
        let view = link.versions().await?;
        let service = &self.spec.service;
        if promoted && self.is_main(&view) {
            let (why, from) = (why.to_owned(), Some(self.spec.version.clone()));
            let request = RollbackRequest { actor: self.actor.clone(), why, from };
            link.rollback(service, &request).await?;
            return Ok(());
        }
        // What somebody else did meanwhile is his.
        if !self.is_canary(&view) {
            return Ok(());
        }
        let request = SplitRequest {
            forwarded: None,
            change: SplitChange::NoCanary,
            range: self.fleet.versions.ports,
            actor: self.actor.clone(),
            detail: format!("roll-out {}: {why}", self.id),
        };
        link.split(service, &request).await.map(|_| ())
    }

    fn is_main(&self, view: &VersionsView) -> bool {
        view.services.iter().any(|record| {
            let routes = record.routes.as_ref();
            routes.is_some_and(|routes| routes.main.deployment == self.target.deployment)
        })
    }

    fn is_canary(&self, view: &VersionsView) -> bool {
        view.services.iter().any(|record| {
            let canary = record.layer7.splits.canary.as_ref();
            canary.is_some_and(|canary| canary.deployment == self.target.deployment)
        })
    }
}
