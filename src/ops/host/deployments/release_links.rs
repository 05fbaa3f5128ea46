//! The links `main` and `backup` in the directory of a service.

use super::error::HostDeployError;
use super::record::list_service_deployments;
use crate::model::deployment::Deployment;
use crate::model::forward::{Route, ServiceRecord};
use crate::model::name::ServiceName;
use crate::ops::host::rules;
use crate::ops::host::warn::warn;
use crate::world::HostWorld;

/// `main` and `backup` in the service's directory point at the releases that are. They are for people: what was done before
/// stays done where they cannot be made.
pub(super) fn update_links(world: &HostWorld, service: &ServiceName) {
    let linked = || match rules::read_record(world, service)? {
        Some(record) => link_releases(world, &record, &list_service_deployments(world, service)?),
        None => Ok(()),
    };
    if let Err(error) = linked() {
        warn(world, format!("{service}: the links `main` and `backup` may be old: {error}"));
    }
}

/// Updates the links from a record that the caller has already read.
pub(super) fn link_releases(
    world: &HostWorld,
    record: &ServiceRecord,
    all: &[Deployment],
) -> Result<(), HostDeployError> {
    let service = &record.forward.service;
    let release = |route: Option<&Route>| -> Option<String> {
        let route = route?;
        let one = all.iter().find(|one| one.id == route.deployment)?;
        let instance = one.instances().find(|instance| instance.port == route.target)?;
        instance.digest.as_ref().map(|_| one.release_name(instance.build))
    };
    let routes = record.routes.as_ref();
    let (main, backup) = (routes.map(|routes| &routes.main), routes.map(|routes| &routes.backup));
    world.releases.link(service, "main", release(main).as_deref())?;
    world.releases.link(service, "backup", release(backup).as_deref())?;
    Ok(())
}
