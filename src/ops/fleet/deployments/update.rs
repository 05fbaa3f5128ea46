//! `update`: new code under an id that stays, host by host.

use std::time::Duration;

use super::deploy::pack;
use super::deploy_options::Source;
use super::each_host::{
    build_host_network, explain_lost_release, report_progress, require_owned_hosts, wait_until_stopped,
};
use super::error::FleetDeployError;
use super::idle_connections::flush_repeatedly;
use super::list::FleetDeployment;

use crate::model::api::deployments::UpdateRequest;
use crate::model::deployment::{Deployment, Instance, RunSpecChange};
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::model::ports::{Port, join_ports};
use crate::ops::fleet::lock::run_under_lock;
use crate::ops::fleet::reach;
use crate::world::FleetWorld;
use crate::world::link::{HostLink, LinkError};

#[derive(Debug, Clone)]
pub struct UpdateOptions {
    pub source: Source,
    /// The changes to how it runs now.
    pub run_change: RunSpecChange,
    /// How long each old instance may take to drain.
    pub drain_timeout: Duration,
    pub actor: Actor,
}

/// Updates one host after another under the fleet's lock: the first failure stops it, and every host has the old code or the
/// new one.
pub async fn update(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    row: &FleetDeployment,
    options: &UpdateOptions,
) -> Result<Vec<(HostName, Deployment)>, FleetDeployError> {
    let work = update_under_lock(world, fleet, hosts, row, options);
    run_under_lock(world, &options.actor.user, "update", work).await
}

/// Updates the hosts; the caller holds the fleet lock.
async fn update_under_lock(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    row: &FleetDeployment,
    options: &UpdateOptions,
) -> Result<Vec<(HostName, Deployment)>, FleetDeployError> {
    let has_row = |host: &&Host| row.hosts.iter().any(|(name, _)| *name == host.name);
    let with_row: Vec<Host> = hosts.iter().filter(has_row).cloned().collect();
    let actors = require_owned_hosts(world, fleet, &row.service, &with_row, &options.actor).await?;
    let packed = pack(world, &options.source).await?;
    let mut updated_hosts = Vec::new();
    for (name, view) in &row.hosts {
        let Some(host) = hosts.iter().find(|host| host.name == *name) else { continue };
        let now = &view.deployment.instance;
        let build = view.deployment.next_build();
        let run_spec = options.run_change.clone().apply_to(now.how.clone());
        let update = async {
            let link = reach::find_link(world, host)?;
            if let Some(packed) = &packed {
                // A value that was given differs from its placeholder, which is too short to compare: the host compares it.
                let is_new =
                    |one: &Instance| one.digest.as_ref() == Some(&packed.digest) && one.how == run_spec;
                if view.deployment.active_instances().all(is_new) && !is_altered(link, &view.deployment).await
                {
                    return Ok(view.deployment.clone());
                }
                link.upload_release(&row.service, &view.deployment.release_name(build), &packed.path).await?;
            }
            let request = UpdateRequest {
                id: row.id.clone(),
                how: Some(run_spec),
                digest: packed.as_ref().map(|packed| packed.digest.clone()),
                health_timeout: fleet.versions.health_timeout,
                drain_timeout: options.drain_timeout,
                site: Some(build_host_network(fleet, host)),
                actor: actors.find(name),
                dry_run: false,
                expected_instances: count_instances(&view.deployment),
            };
            tokio::select! {
                updated = wait_until_stopped(world, link, link.update(&request)) => {
                    updated.map_err(|error| explain_lost_release(link, error))
                }
                never = flush_repeatedly(world, fleet, name, &view.deployment) => match never {},
            }
        };
        let updated: Result<Deployment, LinkError> = update.await;
        match updated {
            Ok(deployment) => {
                let ports: Vec<Port> = deployment.active_instances().map(|instance| instance.port).collect();
                let text = format!("build {} on {}", deployment.instance.build, join_ports(&ports));
                report_progress(world, Some(name), text);
                updated_hosts.push((name.clone(), deployment));
            }
            Err(error) if updated_hosts.is_empty() => {
                return Err(FleetDeployError::Hosts(vec![(name.clone(), error)]));
            }
            Err(error) => {
                return Err(FleetDeployError::Partial {
                    done: updated_hosts.len(),
                    failed: vec![(name.clone(), error)],
                });
            }
        }
    }
    Ok(updated_hosts)
}

/// Whether a host reports a changed release of a deployment. One of an older version does not compare them.
async fn is_altered(link: &dyn HostLink, deployment: &Deployment) -> bool {
    for one in deployment.active_instances() {
        let verified = link.verify_release(&deployment.service, &deployment.release_name(one.build)).await;
        if verified.is_ok_and(|check| check.is_altered()) {
            return true;
        }
    }
    false
}

fn count_instances(deployment: &Deployment) -> u32 {
    u32::try_from(deployment.active_instances().count()).unwrap_or(u32::MAX)
}
