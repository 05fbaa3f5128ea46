//! `kill`: stopped and forgotten, shadows first, main last.

use std::time::Duration;

use serde::Serialize;

use super::each_host::{all_or_partial, for_each_host, require_owned_hosts};
use super::error::FleetDeployError;
use super::list::FleetDeployment;
use crate::model::api::deployments::KillRequest;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::model::version::Version;
use crate::world::FleetWorld;

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
        let actor =
            require_owned_hosts(world, fleet, &row.service, &row.filter_hosts(hosts), &options.actor).await?;
        let hosts = row.filter_hosts(hosts);
        let request = KillRequest {
            id: row.id.clone(),
            force: options.force,
            drain_timeout: options.drain_timeout,
            keep_files: options.keep_files,
            actor,
            dry_run: false,
        };
        let killed =
            all_or_partial(for_each_host(world, &hosts, async |_, link| link.kill(&request).await).await)?;
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
