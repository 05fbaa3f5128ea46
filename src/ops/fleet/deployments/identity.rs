//! The id and the revision of a deploy: those that the version has on other hosts, or new ones.

use super::deploy_options::DeployOptions;
use super::error::FleetDeployError;
use super::list::Listing;
use crate::model::deployment::{DeploymentId, Digest};
use crate::model::health::Health;
use crate::model::history::Actor;
use crate::plan::versions::{find_health_difference, find_release_difference};
use crate::world::FleetWorld;

/// The attributes that a version has on every host.
pub(super) struct Identity {
    pub id: DeploymentId,
    pub revision: u32,
    pub health: Health,
}

/// Joins the deployment that the version has on other hosts, if its release is the same there. A deploy that names no health
/// check has that of the deployment, or that of the service.
pub(super) fn choose_identity(
    world: &FleetWorld,
    options: &DeployOptions,
    digest: Option<&Digest>,
    existing: &Listing,
    of_service: &Health,
) -> Result<Identity, FleetDeployError> {
    if let Some(row) = existing.find(&options.service, &options.version) {
        existing.require_merged(row)?;
        for (host, view) in &row.hosts {
            let instance = &view.deployment.instance;
            let there = (&instance.how, instance.digest.as_ref());
            let health = options
                .health
                .as_ref()
                .and_then(|given| find_health_difference(&view.deployment.health, given));
            let difference = find_release_difference(&options.service, there, (&options.run_spec, digest));
            if let Some(difference) = difference.or(health) {
                return Err(FleetDeployError::OtherRelease {
                    service: options.service.clone(),
                    version: options.version.clone(),
                    host: host.clone(),
                    difference,
                });
            }
        }
        let there = row.hosts.first().map(|(_, view)| &view.deployment.health);
        let health = options.health.as_ref().or(there).unwrap_or(of_service).clone();
        return Ok(Identity { id: row.id.clone(), revision: row.revision, health });
    }
    let others = existing.rows.iter().filter(|row| row.service == options.service);
    Ok(Identity {
        id: DeploymentId::new(world.clock.now(), generate_salt(&options.actor)),
        revision: others.map(|row| row.revision).max().unwrap_or(0).saturating_add(1),
        health: options.health.as_ref().unwrap_or(of_service).clone(),
    })
}

/// Random enough for two operators in the same millisecond.
fn generate_salt(actor: &Actor) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's own source of randomness for its maps.
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(actor.pid);
    hasher.finish()
}
