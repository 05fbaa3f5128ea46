//! `access`: whether a service can be called from outside.

use super::each_host::{all_or_partial, for_each_host};
use super::error::FleetDeployError;
use crate::model::api::deployments::AccessRequest;
use crate::model::forward::ChangeResult;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::world::FleetWorld;

/// Makes a service public or private on every host.
pub async fn set_access(
    world: &FleetWorld,
    hosts: &[Host],
    service: &ServiceName,
    request: &AccessRequest,
) -> Result<Vec<(HostName, ChangeResult)>, FleetDeployError> {
    all_or_partial(for_each_host(world, hosts, async |_, link| link.set_access(service, request).await).await)
}
