//! All shares have passed: the version becomes main.

use std::time::Duration;

use super::{PromotionRun, StopReason};
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::model::promote::PromotionSpec;
use crate::ops::fleet::deployments::{self, AssignOptions, DeploymentName, PerHost, for_each_host};
use crate::plan::promote::{HostState, state};

/// How often an unreachable host is queried, and the interval between attempts.
const MAX_ATTEMPTS: u32 = 3;
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

impl PromotionRun<'_> {
    /// A host's canary goes with it. What cannot be done on one host is taken back on all.
    pub(super) async fn make_main(&self) -> Result<(), StopReason> {
        let PromotionSpec { service, version, watch, .. } = &self.spec;
        self.check_not_aborted().await?;
        self.check_can_become_main().await?;
        self.report(format!("{service} {version} becomes main"));
        let options = AssignOptions::new_flip(*watch, &self.actor);
        let name = DeploymentName::from_version(service, version);
        let flipped =
            deployments::flip_under_lock(&self.unstoppable_world, self.fleet, &self.hosts, &name, &options)
                .await;
        flipped.map_err(|error| StopReason::roll_back(format!("it does not become main: {error}")))
    }

    /// Checks that the version is main already or that every host is as this promotion left it: between a crash and a resume other
    /// commands may have changed it.
    async fn check_can_become_main(&self) -> Result<(), StopReason> {
        let mut hosts = self.hosts.clone();
        for tried in 1.. {
            let mut unread: Vec<HostName> = vec![];
            for (host, state) in self.read_states(&hosts).await {
                let reason = match state {
                    Ok(HostState::Main | HostState::CanaryActive | HostState::ProxyBypassed) => continue,
                    Ok(HostState::NoCanary) => "it has no share any more".to_owned(),
                    Ok(HostState::Overtaken(reason)) => reason,
                    Err(error) if error.is_connection_lost() && tried < MAX_ATTEMPTS => {
                        unread.push(host);
                        continue;
                    }
                    Err(error) => error.to_string(),
                };
                return Err(StopReason::roll_back(format!("it does not become main: {host}: {reason}")));
            }
            if unread.is_empty() {
                break;
            }
            hosts.retain(|host| unread.contains(&host.name));
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
        Ok(())
    }

    pub(super) async fn read_states(&self, hosts: &[Host]) -> PerHost<HostState> {
        let state = async |_: &Host, link: &dyn crate::world::link::HostLink| {
            Ok(state(&link.list_deployments().await?, &self.spec, &self.target))
        };
        for_each_host(self.world, hosts, state).await
    }
}
