//! The progress of a kill: what it waits for on a host.

use std::convert::Infallible;
use std::time::Duration;

use super::each_host::report_progress;
use super::idle_connections::{can_retry_flush, flush};
use super::list::FleetDeployment;
use crate::model::api::deployments::DeploymentsView;
use crate::model::deployment::DeploymentId;
use crate::model::fleet::Fleet;
use crate::model::name::HostName;
use crate::model::socket::SocketCount;
use crate::world::FleetWorld;

const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Reports what is open on a version for as long as its kill waits, and has the balancers close the connections that they keep
/// to it.
pub(super) async fn report_drain(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &HostName,
    row: &FleetDeployment,
) -> Infallible {
    let (mut last, mut can_flush) = (String::new(), true);
    loop {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let Some(link) = world.links.get(host) else { return std::future::pending().await };
        let Ok(view) = link.list_deployments().await else { continue };
        if can_flush && has_idle_connections(&view, &row.id) && !is_routed_to(&view, &row.id) {
            can_flush = flush(world, fleet, host).await.iter().any(|(_, flush)| can_retry_flush(flush));
        }
        let text = describe_open_work(&view, row);
        if text != last {
            report_progress(world, Some(host), &text);
            last = text;
        }
    }
}

fn has_idle_connections(view: &DeploymentsView, id: &DeploymentId) -> bool {
    let found = view.deployments.iter().find(|view| view.deployment.id == *id);
    found.is_some_and(|view| view.sockets.as_ref().is_ok_and(|count| count.idle > 0))
}

fn is_routed_to(view: &DeploymentsView, id: &DeploymentId) -> bool {
    let routes = view.services.iter().filter_map(|record| record.routes.as_ref());
    let mut routes = routes.flat_map(|routes| [&routes.main, &routes.backup]);
    routes.any(|route| route.deployment == *id)
}

fn describe_open_work(view: &DeploymentsView, row: &FleetDeployment) -> String {
    let (service, version) = (&row.service, &row.version);
    let Some(found) = view.deployments.iter().find(|view| view.deployment.id == row.id) else {
        return format!("{service} {version}: its files are being removed");
    };
    match &found.sockets {
        Err(error) => format!("{service} {version}: cannot count its connections: {error}"),
        Ok(count) if count.maybe_busy() > 0 => {
            format!("{service} {version}: waiting for {}", format_requests(count.maybe_busy()))
        }
        Ok(SocketCount { idle: 0, .. }) => format!("{service} {version}: no connection is open"),
        Ok(SocketCount { idle, .. }) => format!(
            "{service} {version}: no request is in flight, {idle} idle connections are open, which load balancers keep"
        ),
    }
}

fn format_requests(count: u64) -> String {
    if count == 1 { "1 request in flight".to_owned() } else { format!("{count} requests in flight") }
}
