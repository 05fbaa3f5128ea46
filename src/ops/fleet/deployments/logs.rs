//! `logs` and `history`: the log lines and history entries of every host.

use super::each_host::{all_or_partial, for_each_host};
use super::error::FleetDeployError;
use super::list::{FleetDeployment, require_answers};
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
    make_sink: impl Fn(&HostName) -> SharedLineSink,
) -> Result<(), FleetDeployError> {
    let hosts = row.filter_hosts(hosts);
    let all = for_each_host(world, &hosts, async |host, link| {
        link.stream_logs(request, make_sink(&host.name)).await
    });
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

impl HostHistories {
    /// Returns an error that names the hosts that did not answer.
    pub fn require_answers(&self) -> Result<(), FleetDeployError> {
        require_answers(self.hosts.len(), &self.unread)
    }
}

/// Reads the latest `limit` entries of every host; a host that cannot be read is named.
pub async fn read_histories(
    world: &FleetWorld,
    hosts: &[Host],
    service: &ServiceName,
    limit: u32,
) -> HostHistories {
    let mut histories = HostHistories { hosts: vec![], unread: vec![] };
    for (host, rows) in
        for_each_host(world, hosts, async |_, link| link.load_history(Some(service), limit).await).await
    {
        match rows {
            Ok(rows) => histories.hosts.push((host, rows)),
            Err(error) => histories.unread.push((host, error)),
        }
    }
    histories
}
