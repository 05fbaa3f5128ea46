//! The progress of a kill: what it waits for on a host.

use std::convert::Infallible;
use std::time::Duration;

use super::each_host::report_progress;
use super::list::FleetDeployment;
use crate::model::api::deployments::DeploymentsView;
use crate::model::name::HostName;
use crate::model::socket::SocketCount;
use crate::world::FleetWorld;

const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Reports what is open on a version for as long as its kill waits.
pub(super) async fn report_drain(world: &FleetWorld, host: &HostName, row: &FleetDeployment) -> Infallible {
    let mut last = String::new();
    loop {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let Some(link) = world.links.get(host) else { return std::future::pending().await };
        let Ok(view) = link.list_deployments().await else { continue };
        let text = describe_open_work(&view, row);
        if text != last {
            report_progress(world, Some(host), &text);
            last = text;
        }
    }
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
