//! `logs` and `history`: the log lines and history entries of every host.

use super::{FleetDeployError, FleetDeployment, all_or_partial, each};
use crate::model::api::deployments::LogsRequest;
use crate::model::history::HistoryEntry;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::world::FleetWorld;
use crate::world::link::{LinkError, SharedLineSink};

/// Streams the output of a version's instances, from every host that has it, concurrently. Followed logs end on a stop request.
pub async fn stream_logs(
    world: &FleetWorld,
    hosts: &[Host],
    row: &FleetDeployment,
    request: &LogsRequest,
    heard: impl Fn(&HostName) -> SharedLineSink,
) -> Result<(), FleetDeployError> {
    let hosts = row.filter_hosts(hosts);
    let all = each(world, &hosts, async |host, link| link.stream_logs(request, heard(&host.name)).await);
    tokio::select! {
        ended = all => all_or_partial(ended).map(|_| ()),
        () = world.stop.wait() => Ok(()),
    }
}

/// The history of a service, as each host has recorded it.
#[derive(Debug)]
pub struct HostHistories {
    pub hosts: Vec<(HostName, Vec<HistoryEntry>)>,
    pub unread: Vec<(HostName, LinkError)>,
}

/// Reads the latest `limit` entries of every host; a host that cannot be read is named.
pub async fn read_histories(
    world: &FleetWorld,
    hosts: &[Host],
    service: &ServiceName,
    limit: u32,
) -> HostHistories {
    let mut heard = HostHistories { hosts: vec![], unread: vec![] };
    for (host, rows) in
        each(world, hosts, async |_, link| link.load_history(Some(service), limit).await).await
    {
        match rows {
            Ok(rows) => heard.hosts.push((host, rows)),
            Err(error) => heard.unread.push((host, error)),
        }
    }
    heard
}
