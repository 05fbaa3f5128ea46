//! `check` from an operator's machine: what can be known of a fleet without being on its hosts.

use crate::model::api::{Hello, HostView, StatusRequest};
use crate::model::finding::Finding;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::observation::ObservationError;
use crate::plan::check::clock::measure_clock_offset;
use crate::plan::check::fleet::{FleetFacts, HostFacts, LinkFailure, collect_findings, list_local_files};
use crate::world::FleetWorld;
use crate::world::files::FileSystem;
use crate::world::link::{HostLink, LinkError};

use super::port_conflicts::{ConfigConflicts, find_conflicts};
use super::promote;
use super::reach::{build_status_request, find_link, list_host_addresses, read_balancers};
use super::roll;
use crate::lint::{self, HaproxyCfg};

pub async fn check(
    world: &FleetWorld,
    files: &dyn FileSystem,
    fleet: &Fleet,
    hosts: &[Host],
    cfg: Option<&HaproxyCfg>,
) -> Vec<Finding> {
    let mut all = collect_findings(fleet, &collect_facts(world, files, fleet, hosts).await);
    all.extend(lint::lint_haproxy(fleet, cfg));
    all
}

async fn collect_facts(
    world: &FleetWorld,
    files: &dyn FileSystem,
    fleet: &Fleet,
    hosts: &[Host],
) -> FleetFacts {
    let query_all = futures_util::future::join_all(hosts.iter().map(|host| query_host(world, fleet, host)));
    let (facts, views) = tokio::join!(query_all, read_balancers(world));
    let view = |spec: &crate::model::balancer::BalancerSpec| {
        let at = world.balancers.iter().position(|balancer| balancer.spec().name == spec.name)?;
        views.get(at).map(|view| view.as_ref().map(|view| (**view).clone()).map_err(ObservationError::new))
    };
    FleetFacts {
        hosts: facts,
        balancers: fleet.balancers.iter().map(view).collect(),
        missing: list_local_files(fleet).into_iter().filter(|file| !files.exists(&file.path)).collect(),
        roll: roll::read_last(world).await.map_err(ObservationError::new),
        lock: world.lock.read_holder().await.map_err(ObservationError::new),
        // The same file as the rolls: an error is reported once.
        promotion: promote::read_last(world).await.ok().flatten(),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// Greeted first, so that a host that is not there costs one wait and not two.
async fn query_host(world: &FleetWorld, fleet: &Fleet, host: &Host) -> HostFacts {
    let transport = find_link(world, host).map(HostLink::transport_label).unwrap_or_default();
    let asked_at = world.clock.now();
    let hello = send_hello(world, host).await;
    let theirs = hello.as_ref().ok().and_then(|hello| hello.now);
    let clock_offset = theirs.and_then(|theirs| measure_clock_offset(asked_at, theirs, world.clock.now()));
    let view = match &hello {
        Ok(_) => Some(read_host_view(world, fleet, host).await.map_err(ObservationError::new)),
        Err(_) => None,
    };
    let seen = view.as_ref().and_then(|view| view.as_ref().ok());
    let reported = hello.as_ref().map(|hello| hello.addresses.as_slice()).unwrap_or_default();
    let conflicts = find_conflicts(world, fleet, host, seen, reported).await;
    let ConfigConflicts { ports: port_conflicts, addresses: address_conflicts } = conflicts;
    HostFacts {
        host: host.clone(),
        transport,
        hello: hello.map_err(classify_link_error),
        view,
        clock_offset,
        port_conflicts,
        address_conflicts,
    }
}

async fn send_hello(world: &FleetWorld, host: &Host) -> Result<Hello, LinkError> {
    find_link(world, host)?.greet().await
}

async fn read_host_view(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Result<HostView, LinkError> {
    let addresses = list_host_addresses(world, fleet, host).await;
    let request = StatusRequest { send_packet: true, addresses, ..build_status_request(fleet, host) };
    find_link(world, host)?.fetch_status(&request).await
}

fn classify_link_error(error: LinkError) -> LinkFailure {
    match error {
        LinkError::Unreachable { reason, ssh, .. } => LinkFailure::Unreachable { reason, ssh },
        LinkError::VersionMismatch { .. } => LinkFailure::VersionMismatch(error.to_string()),
        LinkError::Refused { message, .. } => LinkFailure::Refused(message),
        LinkError::Broken { .. } | LinkError::TimedOut { .. } | LinkError::Abandoned { .. } => {
            LinkFailure::Unreachable { reason: error.to_string(), ssh: None }
        }
    }
}
