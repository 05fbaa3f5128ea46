//! Reads of the record: deployments of this host.

use super::error::HostDeployError;
use super::system_actor::system_actor;
use crate::model::api::deployments::DeploymentRef;
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::forward::ServiceRecord;
use crate::model::name::ServiceName;
use crate::plan::versions;
use crate::world::HostWorld;
use crate::world::store::StoreError;

/// Lists the deployments of a service, oldest first.
pub(super) fn list_service_deployments(
    world: &HostWorld,
    service: &ServiceName,
) -> Result<Vec<Deployment>, StoreError> {
    world.deployments.of(service)
}

/// Loads a deployment as it is recorded now.
pub(super) fn load_deployment(world: &HostWorld, id: &DeploymentId) -> Result<Deployment, HostDeployError> {
    let all = world.deployments.all()?;
    let which = DeploymentRef::Id(id.clone());
    Ok(versions::find_deployment(&all, &which)?.clone())
}

/// Loads records and deployments as they are once the interrupted changes of a service are repaired. Where a command has repaired
/// them under its lock, this is what is recorded.
pub(super) fn load_recovered(
    world: &HostWorld,
    service: &ServiceName,
) -> Result<(Vec<ServiceRecord>, Vec<Deployment>), StoreError> {
    let (records, all) = (world.store.load_records()?, world.deployments.all()?);
    Ok(versions::project_recovery(&records, &all, service, &system_actor()))
}
