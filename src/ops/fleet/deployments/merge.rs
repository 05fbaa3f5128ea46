//! `merge`: a version that hosts have under different ids becomes one deployment.

use super::each_host::{all_or_partial, for_each_host, require_owned_hosts};
use super::error::FleetDeployError;
use super::list::{FleetDeployment, list_deployments};
use crate::model::api::deployments::MergeRequest;
use crate::model::deployment::DeploymentId;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::model::version::Version;
use crate::ops::fleet::lock::run_under_lock;
use crate::plan::versions::{find_health_difference, find_release_difference};
use crate::world::FleetWorld;

/// Gives every host the oldest id of the version. Returns it, and the hosts that had another one. Refused where hosts have
/// different releases under that version.
pub async fn merge(
    world: &FleetWorld,
    fleet: &Fleet,
    (service, version): (&ServiceName, &Version),
    actor: &Actor,
) -> Result<(DeploymentId, Vec<HostName>), FleetDeployError> {
    let merged = async {
        let listing = list_deployments(world, &fleet.hosts).await;
        listing.require_complete()?;
        let rows = listing.list_parts(service, version);
        // Ids sort by time.
        let Some(oldest) = rows.iter().min_by_key(|row| &row.id) else {
            return Err(FleetDeployError::NoVersion { service: service.clone(), version: version.clone() });
        };
        require_equal_releases(&rows)?;
        let others: Vec<Host> =
            fleet.hosts.iter().filter(|host| !oldest.is_on(&host.name)).cloned().collect();
        let actors = require_owned_hosts(world, fleet, service, &others, actor).await?;
        let (mut changed, parts) = (vec![], rows.iter().filter(|row| row.id != oldest.id));
        for part in parts {
            let request = |host: &Host| MergeRequest {
                id: part.id.clone(),
                into: oldest.id.clone(),
                revision: oldest.revision,
                actor: actors.find(&host.name),
                dry_run: false,
            };
            let hosts = part.filter_hosts(&fleet.hosts);
            let merged =
                for_each_host(world, &hosts, async |host, link| link.merge(&request(host)).await).await;
            let done = all_or_partial(merged)?;
            changed.extend(done.into_iter().map(|(host, _)| host));
        }
        Ok((oldest.id.clone(), changed))
    };
    run_under_lock(world, &actor.user, "merge", merged).await
}

/// Returns an error that names two hosts with different releases.
fn require_equal_releases(rows: &[&FleetDeployment]) -> Result<(), FleetDeployError> {
    let mut all = rows.iter().flat_map(|row| &row.hosts);
    let Some((first, expected)) = all.next() else { return Ok(()) };
    for (host, view) in all {
        let (there, given) = (&view.deployment.instance, &expected.deployment.instance);
        // Two hosts may run it with and without a sandbox: it is the same release.
        let (there_spec, there_digest) = (&there.how, there.digest.as_ref());
        let difference = find_release_difference(
            &view.deployment.service,
            (there_spec, there_digest),
            (&given.how, given.digest.as_ref()),
        )
        .or_else(|| find_health_difference(&view.deployment.health, &expected.deployment.health));
        if let Some(difference) = difference {
            return Err(FleetDeployError::CannotMerge {
                service: view.deployment.service.clone(),
                version: view.deployment.version.clone(),
                host: host.clone(),
                other: first.clone(),
                difference,
            });
        }
    }
    Ok(())
}
