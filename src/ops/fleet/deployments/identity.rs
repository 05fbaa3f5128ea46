//! The id and the revision of a deploy: those that the version has on other hosts, or new ones.

use super::deploy_options::DeployOptions;
use super::error::FleetDeployError;
use super::list::Listing;
use crate::model::deployment::{DeploymentId, Digest};
use crate::model::history::Actor;
use crate::plan::versions::find_release_difference;
use crate::world::FleetWorld;

/// Joins the deployment that the version has on other hosts, if its release is the same there.
pub(super) fn choose_identity(
    world: &FleetWorld,
    options: &DeployOptions,
    digest: Option<&Digest>,
    existing: &Listing,
) -> Result<(DeploymentId, u32), FleetDeployError> {
    if let Some(row) = existing.find(&options.service, &options.version) {
        existing.require_merged(row)?;
        for (host, view) in &row.hosts {
            let instance = &view.deployment.instance;
            let there = (&instance.how, instance.digest.as_ref());
            if let Some(difference) = find_release_difference(there, (&options.run_spec, digest)) {
                return Err(FleetDeployError::OtherRelease {
                    service: options.service.clone(),
                    version: options.version.clone(),
                    host: host.clone(),
                    difference,
                });
            }
        }
        return Ok((row.id.clone(), row.revision));
    }
    let of_service = existing.rows.iter().filter(|row| row.service == options.service);
    let revision = of_service.map(|row| row.revision).max().unwrap_or(0).saturating_add(1);
    Ok((DeploymentId::new(world.clock.now(), generate_salt(&options.actor)), revision))
}

/// Random enough for two operators in the same millisecond.
fn generate_salt(actor: &Actor) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's own source of randomness for its maps.
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(actor.pid);
    hasher.finish()
}
