//! The deployments of this host.

use std::sync::Arc;

use async_trait::async_trait;

use super::error::HostDeployError;
use super::instance::{read_process, read_worst_process};
use super::open_connections::{count_port_sockets, count_sockets};
use crate::model::api::deployments::{
    DeploymentRef, DeploymentView, DeploymentsView, InstanceView, LogsRequest,
};
use crate::model::deployment::{Deployment, Workload};
use crate::model::forward::ServiceRecord;
use crate::model::observation::ObservationError;
use crate::model::socket::SocketCount;
use crate::ops::host::port_sockets::filter_by_peers;
use crate::plan::drain;
use crate::plan::versions::{derive_status, find_deployment, find_record, find_role, is_backup};
use crate::world::HostWorld;
use crate::world::link::{LineSink, SharedLineSink};
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
            process: read_worst_process(world, &deployment).await.map_err(ObservationError::new),
            via_main_port: count_main_port_sockets(world, &services, &deployment, &sockets).await,
            sockets: sockets.map_err(ObservationError::new),
            instances: read_instances(world, &services, &deployment).await,
            deployment,
        });
    }
    Ok(DeploymentsView { services, deployments, runner: world.runner.name().to_owned() })
}

/// Reads the instances of a deployment that has several.
async fn read_instances(
    world: &HostWorld,
    services: &[ServiceRecord],
    deployment: &Deployment,
) -> Vec<InstanceView> {
    if !deployment.has_several_instances() {
        return vec![];
    }
    let routes = find_record(services, &deployment.service).and_then(|record| record.routes.as_ref());
    let mut views = Vec::new();
    for instance in deployment.active_instances() {
        views.push(InstanceView {
            number: instance.number,
            build: instance.build,
            port: instance.port,
            healthy: !routes.is_some_and(|routes| routes.unhealthy.contains(&instance.port)),
            process: read_process(world, deployment, instance).await.map_err(ObservationError::new),
            sockets: count_port_sockets(world, instance.port).await.map_err(ObservationError::new),
        });
    }
    views
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
    let (port, mut found) = (routes.main.port, Vec::new());
    for target in deployment.active_instances().map(|instance| instance.port) {
        let peers = world.flows.list_peers(port, target).await.map_err(ObservationError::new)?;
        let open = world.sockets.list_established(target).await.map_err(ObservationError::new)?;
        found.extend(filter_by_peers(open, &peers));
    }
    Ok(drain::count_activities(&found, &[]).0)
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
    let streams = deployment.active_instances().map(|instance| {
        let sink: SharedLineSink = if deployment.has_several_instances() {
            Arc::new(NumberedSink { number: instance.number, sink: sink.clone() })
        } else {
            sink.clone()
        };
        let id = deployment.instance_id(instance);
        async move { world.runner.stream_logs(&id, request.tail, request.follow, sink).await }
    });
    futures_util::future::try_join_all(streams).await?;
    Ok(())
}

/// A receiver of the lines of one of several instances: each line begins with the number of its instance.
struct NumberedSink {
    number: u32,
    sink: SharedLineSink,
}

#[async_trait]
impl LineSink for NumberedSink {
    async fn write_line(&self, line: &str) {
        self.sink.write_line(&format!("{} | {line}", self.number)).await;
    }
}
