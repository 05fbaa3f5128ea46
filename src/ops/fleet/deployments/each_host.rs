//! Sends a request to every host concurrently, and collects the result of each.

use std::pin::pin;
use std::time::Duration;

use super::error::FleetDeployError;
use crate::model::api::deployments::HostNetwork;
use crate::model::duration;
use crate::model::failure::ErrorCode;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::ops::fleet::owner::{HostActors, claim_hosts, require_owned};
use crate::ops::fleet::reach;
use crate::world::FleetWorld;
use crate::world::link::{HostLink, LinkError};
use crate::world::reporter::Event;

/// The result of each host, in the order of the hosts.
pub(in crate::ops::fleet) type PerHost<T> = Vec<(HostName, Result<T, LinkError>)>;

/// Returns all values, or the errors of the hosts that failed.
pub(super) fn all_or_partial<T>(results: PerHost<T>) -> Result<Vec<(HostName, T)>, FleetDeployError> {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (host, result) in results {
        match result {
            Ok(value) => done.push((host, value)),
            Err(error) => failed.push((host, error)),
        }
    }
    match (done.len(), failed.is_empty()) {
        (_, true) => Ok(done),
        (0, false) => Err(FleetDeployError::Hosts(failed)),
        (done, false) => Err(FleetDeployError::Partial { done, failed }),
    }
}

/// Sends the same request to every host concurrently.
pub(in crate::ops::fleet) async fn for_each_host<T>(
    world: &FleetWorld,
    hosts: &[Host],
    send: impl AsyncFn(&Host, &dyn HostLink) -> Result<T, LinkError>,
) -> PerHost<T> {
    let requests = hosts.iter().map(async |host| {
        let result = match reach::find_link(world, host) {
            Ok(link) => send(host, link).await,
            Err(error) => Err(error),
        };
        (host.name.clone(), result)
    });
    futures_util::future::join_all(requests).await
}

/// Waits for the answer of a host until the operator stops the command. The host notices that its caller hung up, and ends the
/// waits of the request.
pub(super) async fn wait_until_stopped<T>(
    world: &FleetWorld,
    link: &dyn HostLink,
    request: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    let abandoned = || Err(LinkError::Abandoned { via: link.transport_label() });
    if world.stop.is_requested() {
        return abandoned();
    }
    tokio::select! {
        biased;
        answer = request => answer,
        () = world.stop.wait() => abandoned(),
    }
}

/// How long a read may take before the host that has not answered is named.
const SILENT_WAIT: Duration = Duration::from_secs(1);

/// Waits for the answer of a host, and reports the wait if it is a long one.
pub(super) async fn report_long_wait<T>(
    world: &FleetWorld,
    host: &HostName,
    read: impl Future<Output = T>,
) -> T {
    let mut read = pin!(read);
    tokio::select! {
        biased;
        answer = &mut read => return answer,
        () = tokio::time::sleep(SILENT_WAIT) => report_progress(world, Some(host), "waiting for its answer"),
    }
    read.await
}

/// Names the lost connection where a host does not have the release that this command has placed: an agent that ended before the
/// deployment was recorded leaves it to the next one, which removes it.
pub(super) fn explain_lost_release(link: &dyn HostLink, error: LinkError) -> LinkError {
    match error {
        LinkError::Refused { code: ErrorCode::NoRelease, .. } => LinkError::Broken {
            via: link.transport_label(),
            reason: "its agent ended after it had placed the release, which is removed again".to_owned(),
        },
        error => error,
    }
}

/// Returns the actors for a change of a service's versions on these hosts, before anything is touched.
pub(super) async fn require_owned_hosts(
    world: &FleetWorld,
    fleet: &Fleet,
    service: &ServiceName,
    hosts: &[Host],
    actor: &Actor,
) -> Result<HostActors, FleetDeployError> {
    let fleet = Fleet { service: service.clone(), ..fleet.clone() };
    require_owned(world, &fleet, hosts, actor).await.map_err(|hosts| FleetDeployError::Owned { hosts })
}

/// Returns the actors for a change that each host accepts or refuses by itself.
pub(super) async fn claim_service_hosts(
    world: &FleetWorld,
    fleet: &Fleet,
    service: &ServiceName,
    hosts: &[Host],
    actor: &Actor,
) -> HostActors {
    let fleet = Fleet { service: service.clone(), ..fleet.clone() };
    claim_hosts(world, &fleet, hosts, actor).await.0
}

/// Builds what a host has to know of the service's network in the fleet.
pub(super) fn build_host_network(fleet: &Fleet, host: &Host) -> HostNetwork {
    HostNetwork {
        ports: fleet.ports,
        address: reach::build_status_request(fleet, host).main.ip(),
        balancer_is_local: fleet.balancers.iter().any(|balancer| balancer.is_on_host),
        port_range: fleet.versions.port_range,
        keep_releases: fleet.versions.keep_releases,
    }
}

/// Reports a line of progress, of one host or of the whole command.
pub(super) fn report_progress(world: &FleetWorld, host: Option<&HostName>, text: impl Into<String>) {
    world.reporter.report(&Event::DeploymentProgress { host: host.cloned(), text: text.into() });
}

/// How long something took, for people.
pub(super) fn format_elapsed(started_at: tokio::time::Instant) -> String {
    duration::format(started_at.elapsed())
}
