//! Every host shares in the same way.

use std::time::Duration;

use super::{Halt, Rollout};
use crate::model::name::HostName;
use crate::model::proxy::Canary;
use crate::model::traffic_split::SplitChange;
use crate::ops::fleet::deployments::{LEAVES, SplitOptions, VersionsError, change, through};
use crate::plan::promote::State;

/// How often a host that cannot be heard is told, and the pause between.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

impl Rollout<'_> {
    /// The canary of every host gets the share of a step. One host that does not take it is enough to go back on all.
    pub(super) async fn share(&self, step: usize) -> Result<(), Halt> {
        let share = self.spec.steps.share(step).unwrap_or_default();
        self.not_overtaken().await?;
        let canary = Canary {
            deployment: self.target.deployment.clone(),
            percent: Some(share),
            sticky: self.spec.sticky.clone(),
            header: None,
            cookie: None,
        };
        self.say(format!("step {} of {}: {share}", step + 1, self.spec.steps.shares().len()));
        let told = self.tell(SplitChange::Canary(canary), &share.to_string()).await;
        told.map_err(|why| Halt::back(format!("not every host takes a share of {share}: {why}")))
    }

    /// Until every host has heard, within reason.
    pub(super) async fn tell(&self, change_to: SplitChange, detail: &str) -> Result<(), String> {
        let options = SplitOptions {
            forwarded: None,
            service: self.spec.service.clone(),
            change: change_to,
            wait: true,
            actor: self.actor.clone(),
            detail: format!("roll-out {} {detail}", self.id).trim_end().to_owned(),
        };
        for tried in 1.. {
            match change(self.world, self.fleet, &self.hosts, &options).await {
                Ok(done) => {
                    let shares = matches!(options.change, SplitChange::Canary(_));
                    if let Some((host, _)) = done.iter().find(|(_, split)| shares && !split.inserted) {
                        return Err(format!("{host}: its proxy is not in the data path"));
                    }
                    through(self.world, self.fleet, &self.spec.service, done, LEAVES).await;
                    break;
                }
                Err(error) if tried == TRIES || !is_lost(&error) => return Err(error.to_string()),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        Ok(())
    }

    /// What somebody else made main, or gave a share, is not changed back. One that cannot be asked is told all the same, or not.
    pub(super) async fn not_overtaken(&self) -> Result<(), Halt> {
        for (host, state) in self.states(&self.hosts).await {
            match state {
                Ok(State::Overtaken(why)) => return Err(Halt::back(format!("{host}: {why}"))),
                Ok(State::Main) => return Err(self.is_main_already(&host)),
                Ok(State::Shares | State::ProxyOut | State::Away) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Before it has passed every share.
    pub(super) fn is_main_already(&self, host: &HostName) -> Halt {
        Halt::back(format!("{host}: another command made {} main", self.spec.version))
    }
}

pub(super) fn is_lost(error: &VersionsError) -> bool {
    match error {
        VersionsError::Hosts(failed) | VersionsError::Partly { failed, .. } => {
            failed.iter().all(|(_, error)| error.is_lost())
        }
        _ => false,
    }
}
