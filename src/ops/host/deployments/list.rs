//! The deployments of this host.

use super::error::HostDeployError;
use super::instance::read_process;
use super::open_connections::count_sockets;
use crate::model::api::deployments::{DeploymentRef, DeploymentView, DeploymentsView, LogsRequest};
use crate::model::deployment::{Deployment, Workload};
use crate::model::forward::ServiceRecord;
use crate::model::observation::ObservationError;
use crate::model::socket::SocketCount;
use crate::ops::host::port_sockets::filter_by_peers;
use crate::plan::drain;
use crate::plan::versions::{derive_status, find_deployment, find_record, find_role, is_backup};
use crate::world::HostWorld;
use crate::world::link::SharedLineSink;
use crate::world::sockets::SocketsError;

/// Collects everything at one moment. A part that could not be read carries the reason.
pub async fn read_view(world: &HostWorld) -> Result<DeploymentsView, HostDeployError> {
    let services = world.store.load_records()?;
    let mut deployments = Vec::new();
    for deployment in world.deployments.all()? {
        let sockets = count_sockets(world, &deployment).await;
        let role = find_role(&services, &deployment);
        // Unread sockets count as work until they have been read.
        let unread = SocketCount { ambiguous: 1, ..SocketCount::default() };
        deployments.push(DeploymentView {
            role,
            backup: is_backup(&services, &deployment),
            status: derive_status(role, sockets.as_ref().unwrap_or(&unread)),
            process: read_process(world, &deployment).await.map_err(ObservationError::new),
            via_main_port: count_main_port_sockets(world, &services, &deployment, &sockets).await,
            sockets: sockets.map_err(ObservationError::new),
            deployment,
        });
    }
    Ok(DeploymentsView { services, deployments, runner: world.runner.name().to_owned() })
}

/// Counts the sockets of main's ports. Reads conntrack only where there is anything to look up.
async fn count_main_port_sockets(
    world: &HostWorld,
    services: &[ServiceRecord],
    deployment: &Deployment,
    all: &Result<SocketCount, SocketsError>,
) -> Result<SocketCount, ObservationError> {
    let routes = find_record(services, &deployment.service).and_then(|record| record.routes.as_ref());
    let (Some(routes), Ok(1..)) = (routes, all.as_ref().map(SocketCount::total)) else {
        return all.as_ref().map(|_| SocketCount::default()).map_err(ObservationError::new);
    };
    let (port, target) = (routes.main.port, deployment.instance.port);
    let peers = world.flows.list_peers(port, target).await.map_err(ObservationError::new)?;
    let open = world.sockets.list_established(target).await.map_err(ObservationError::new)?;
    Ok(drain::count_activities(&filter_by_peers(open, &peers), &[]).0)
}

pub async fn stream_logs(
    world: &HostWorld,
    request: &LogsRequest,
    sink: SharedLineSink,
) -> Result<(), HostDeployError> {
    let all = world.deployments.all()?;
    let deployment = find_deployment(&all, &DeploymentRef::Id(request.id.clone()))?;
    if matches!(deployment.instance.how.workload, Workload::External { .. }) {
        return Ok(());
    }
    let id = deployment.instance_id(deployment.instance.build);
    Ok(world.runner.stream_logs(&id, request.tail, request.follow, sink).await?)
}
