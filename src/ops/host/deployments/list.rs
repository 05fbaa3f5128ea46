//! The deployments of this host.

use std::sync::{Arc, Mutex, PoisonError};

use super::HostDeployError;
use super::kill;
use crate::model::api::deployments::{DeploymentRef, DeploymentView, DeploymentsView, LogsRequest};
use crate::model::deployment::{Deployment, InstanceId, ProcessState, Workload};
use crate::model::forward::ServiceRecord;
use crate::model::socket::SocketCount;
use crate::ops::host::port_sockets::filter_by_peers;
use crate::plan::drain;
use crate::plan::versions::{find, find_role, is_backup, of, status};
use crate::world::HostWorld;
use crate::world::link::SharedLineSink;

/// How much of a log an error shows.
const ERROR_LOG_LINES: u32 = 10;

/// Collects everything at one moment. A part that could not be read carries the reason.
pub async fn view(world: &HostWorld) -> Result<DeploymentsView, HostDeployError> {
    let services = world.store.load_records()?;
    let mut deployments = Vec::new();
    for deployment in world.deployments.all()? {
        let sockets = kill::count_sockets(world, &deployment).await.map_err(|error| error.to_string());
        let role = find_role(&services, &deployment);
        // Unread sockets count as work until they have been read.
        let unread = SocketCount { ambiguous: 1, ..SocketCount::default() };
        deployments.push(DeploymentView {
            role,
            backup: is_backup(&services, &deployment),
            status: status(role, sockets.as_ref().unwrap_or(&unread)),
            process: read_process(world, &deployment).await,
            via_main_port: count_main_port_sockets(world, &services, &deployment, &sockets).await,
            sockets,
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
    all: &Result<SocketCount, String>,
) -> Result<SocketCount, String> {
    let routes = of(services, &deployment.service).and_then(|record| record.routes.as_ref());
    let (Some(routes), Ok(1..)) = (routes, all.as_ref().map(SocketCount::total)) else {
        return all.clone().map(|_| SocketCount::default());
    };
    let (port, target) = (routes.main.port, deployment.instance.port);
    let led = world.flows.list_peers(port, target).await.map_err(|error| error.to_string())?;
    let open = world.sockets.list_established(target).await.map_err(|error| error.to_string())?;
    Ok(drain::count(&filter_by_peers(open, &led), &[]).0)
}

pub(in crate::ops::host) async fn read_process(
    world: &HostWorld,
    deployment: &Deployment,
) -> Result<ProcessState, String> {
    if matches!(deployment.instance.how.workload, Workload::External { .. }) {
        return Ok(ProcessState::External);
    }
    let id = deployment.instance_id(deployment.instance.build);
    world.runner.state(&id).await.map_err(|error| error.to_string())
}

pub async fn stream_logs(
    world: &HostWorld,
    request: &LogsRequest,
    heard: SharedLineSink,
) -> Result<(), HostDeployError> {
    let all = world.deployments.all()?;
    let deployment = find(&all, &DeploymentRef::Id(request.id.clone()))?;
    if matches!(deployment.instance.how.workload, Workload::External { .. }) {
        return Ok(());
    }
    let id = deployment.instance_id(deployment.instance.build);
    Ok(world.runner.stream_logs(&id, request.tail, request.follow, heard).await?)
}

/// Reads the last log lines of an instance for an error; empty where there is no log.
pub(super) async fn read_last_lines(world: &HostWorld, id: &InstanceId) -> Vec<String> {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = lines.clone();
    let heard: SharedLineSink = Arc::new(move |line: &str| {
        kept.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
    });
    // Without a log there is nothing to show.
    let _ = world.runner.stream_logs(id, Some(ERROR_LOG_LINES), false, heard).await;
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *lines)
}
