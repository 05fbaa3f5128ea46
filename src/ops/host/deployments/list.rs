//! What runs on this host.

use std::sync::{Arc, Mutex, PoisonError};

use super::VersionError;
use super::kill;
use crate::model::api::deployments::{DeploymentView, LogsRequest, VersionsView, Which};
use crate::model::deployment::{Deployment, InstanceId, Process, Runs};
use crate::model::forward::Recorded;
use crate::model::socket::SocketCount;
use crate::ops::host::port_sockets::among;
use crate::plan::drain;
use crate::plan::versions::{find, is_backup, of, role, status};
use crate::world::HostWorld;
use crate::world::link::Heard;

/// How much of a log an error shows.
const LAST: u32 = 10;

/// Everything, at one moment. A part that could not be read says why.
pub async fn view(world: &HostWorld) -> Result<VersionsView, VersionError> {
    let services = world.store.recorded()?;
    let mut deployments = Vec::new();
    for deployment in world.deployments.all()? {
        let sockets = kill::count(world, &deployment).await.map_err(|error| error.to_string());
        let role = role(&services, &deployment);
        // Unread sockets are work until somebody has looked.
        let unread = SocketCount { tie: 1, ..SocketCount::default() };
        deployments.push(DeploymentView {
            role,
            backup: is_backup(&services, &deployment),
            status: status(role, sockets.as_ref().unwrap_or(&unread)),
            process: process(world, &deployment).await,
            by_main: by_main(world, &services, &deployment, &sockets).await,
            sockets,
            deployment,
        });
    }
    Ok(VersionsView { services, deployments, runner: world.runner.name().to_owned() })
}

/// Asked of conntrack only where there is anything to ask about.
async fn by_main(
    world: &HostWorld,
    services: &[Recorded],
    deployment: &Deployment,
    all: &Result<SocketCount, String>,
) -> Result<SocketCount, String> {
    let routes = of(services, &deployment.service).and_then(|record| record.routes.as_ref());
    let (Some(routes), Ok(1..)) = (routes, all.as_ref().map(SocketCount::open)) else {
        return all.clone().map(|_| SocketCount::default());
    };
    let (port, target) = (routes.main.port, deployment.instance.port);
    let led = world.flows.led(port, target).await.map_err(|error| error.to_string())?;
    let open = world.sockets.established(target).await.map_err(|error| error.to_string())?;
    Ok(drain::count(&among(open, &led), &[]).0)
}

pub(in crate::ops::host) async fn process(
    world: &HostWorld,
    deployment: &Deployment,
) -> Result<Process, String> {
    if matches!(deployment.instance.how.runs, Runs::External { .. }) {
        return Ok(Process::External);
    }
    let id = deployment.instance_id(deployment.instance.build);
    world.runner.state(&id).await.map_err(|error| error.to_string())
}

pub async fn logs(world: &HostWorld, request: &LogsRequest, heard: Heard) -> Result<(), VersionError> {
    let all = world.deployments.all()?;
    let deployment = find(&all, &Which::Id(request.id.clone()))?;
    if matches!(deployment.instance.how.runs, Runs::External { .. }) {
        return Ok(());
    }
    let id = deployment.instance_id(deployment.instance.build);
    Ok(world.runner.logs(&id, request.tail, request.follow, heard).await?)
}

/// For an error about an instance; empty where there is none.
pub(super) async fn last_lines(world: &HostWorld, id: &InstanceId) -> Vec<String> {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = lines.clone();
    let heard: Heard = Arc::new(move |line: &str| {
        kept.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
    });
    // Without a log there is nothing to show.
    let _ = world.runner.logs(id, Some(LAST), false, heard).await;
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *lines)
}
