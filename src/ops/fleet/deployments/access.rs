//! `access`: whether a service can be called from outside.

use super::{VersionsError, each, whole};
use crate::model::api::deployments::AccessRequest;
use crate::model::forward::Changed;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::world::FleetWorld;

/// The same on every host.
pub async fn access(
    world: &FleetWorld,
    hosts: &[Host],
    service: &ServiceName,
    request: &AccessRequest,
) -> Result<Vec<(HostName, Changed)>, VersionsError> {
    whole(each(world, hosts, async |_, link| link.access(service, request).await).await)
}
