//! The lock that serializes deploys, updates and kills of one service.

use std::time::Duration;

use super::error::HostDeployError;
use super::recovery::recover_service;
use crate::model::name::ServiceName;
use crate::world::HostWorld;
use crate::world::store::LockGuard;

/// How long one deploy, update or kill of a service waits for another one: none of them takes longer than its own bounds,
/// and an operator prefers an error to a long wait.
const SERVICE_LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Serializes deploys, updates and kills of a service. What an earlier one left half done is repaired first, but for a dry run:
/// [`load_recovered`](super::record::load_recovered) returns what the repair would leave.
pub(super) async fn lock_service(
    world: &HostWorld,
    service: &ServiceName,
    purpose: &str,
    is_dry_run: bool,
) -> Result<Box<dyn LockGuard>, HostDeployError> {
    let held = world.deployments.lock_service(service, purpose, SERVICE_LOCK_TIMEOUT).await?;
    if !is_dry_run {
        recover_service(world, service).await?;
    }
    Ok(held)
}
