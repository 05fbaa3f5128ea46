//! `kill`: stopped and forgotten, shadows first, main last.

use std::time::Duration;

use serde::Serialize;

use super::each_host::{all_or_partial, for_each_host, require_owned_hosts, wait_until_stopped};
use super::error::FleetDeployError;
use super::list::{FleetDeployment, Listing};
use crate::model::api::deployments::KillRequest;
use crate::model::deployment::DeploymentId;
use crate::model::failure::ErrorCode;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::model::version::Version;
use crate::plan::versions::DeployRefusal;
use crate::world::FleetWorld;
use crate::world::link::LinkError;

#[derive(Debug, Clone)]
pub struct KillOptions {
    pub force: bool,
    pub drain_timeout: Duration,
    pub keep_files: bool,
    pub actor: Actor,
}

/// A version that was removed from some hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KilledDeployment {
    pub service: ServiceName,
    pub version: Version,
    /// Requests that were in flight when its process was stopped, over all hosts; absent where one host could not count them.
    pub aborted_requests: Option<u64>,
    pub hosts: Vec<HostName>,
}

/// Checks, before the operator is asked and before anything is touched, that no host of the rows belongs to another operation,
/// and that no main leaves other versions without one (seed row D19).
pub async fn check_kill(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    listing: &Listing,
    rows: &[FleetDeployment],
    actor: &Actor,
) -> Result<(), FleetDeployError> {
    for row in rows {
        require_owned_hosts(world, fleet, &row.service, &row.filter_hosts(hosts), actor).await?;
    }
    let is_killed = |id: &DeploymentId| rows.iter().any(|row| row.id == *id);
    let leaves_others = |host: &HostName, service: &ServiceName| {
        let others = listing.rows.iter().filter(|row| row.service == *service && !is_killed(&row.id));
        others.flat_map(|row| &row.hosts).any(|(name, _)| name == host)
    };
    let mut refused = Vec::new();
    for row in rows {
        let hosts = row.filter_hosts(hosts);
        let mains = hosts.iter().map(|host| &host.name).filter(|host| row.is_main_on(host));
        refused.extend(mains.filter(|host| leaves_others(host, &row.service)).map(|host| {
            let message = DeployRefusal::MainWithShadows.to_string();
            (host.clone(), LinkError::Refused { code: ErrorCode::NotAllowed, message })
        }));
    }
    if refused.is_empty() { Ok(()) } else { Err(FleetDeployError::Hosts(refused)) }
}

/// Kills one row after another, main last, so that no other version is left when main is killed (seed row D16,
/// docs/design/seed-systems.md#mvi-and-daeploy). Stops at the first refusal.
pub async fn kill(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    rows: &[FleetDeployment],
    options: &KillOptions,
    mut report: impl FnMut(&KilledDeployment),
) -> Result<Vec<KilledDeployment>, FleetDeployError> {
    let mut order: Vec<&FleetDeployment> = rows.iter().collect();
    order.sort_by_key(|row| (row.service.clone(), row.main != Some(false)));
    for row in &order {
        require_owned_hosts(world, fleet, &row.service, &row.filter_hosts(hosts), &options.actor).await?;
    }
    let mut deployments = Vec::new();
    for row in order {
        let actors =
            require_owned_hosts(world, fleet, &row.service, &row.filter_hosts(hosts), &options.actor).await?;
        let hosts = row.filter_hosts(hosts);
        let request = |host: &Host| KillRequest {
            id: row.id.clone(),
            force: options.force,
            drain_timeout: options.drain_timeout,
            keep_files: options.keep_files,
            actor: actors.find(&host.name),
        };
        let killed = for_each_host(world, &hosts, async |host, link| {
            wait_until_stopped(world, link, link.kill(&request(host))).await
        });
        let killed = all_or_partial(killed.await)?;
        let deployment = KilledDeployment {
            service: row.service.clone(),
            version: row.version.clone(),
            aborted_requests: killed.iter().map(|(_, killed)| killed.aborted_requests).sum(),
            hosts: killed.into_iter().map(|(host, _)| host).collect(),
        };
        report(&deployment);
        deployments.push(deployment);
    }
    Ok(deployments)
}
