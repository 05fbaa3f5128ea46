//! `logs` and `history`: what every host has to tell.

use super::{Row, VersionsError, each, whole};
use crate::model::api::deployments::LogsRequest;
use crate::model::history::Entry;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::world::FleetWorld;
use crate::world::link::{Heard, LinkError};

/// What the instances of a version wrote, on every host that has it, all at once. Until a stop is requested, where they are
/// followed.
pub async fn logs(
    world: &FleetWorld,
    hosts: &[Host],
    row: &Row,
    request: &LogsRequest,
    heard: impl Fn(&HostName) -> Heard,
) -> Result<(), VersionsError> {
    let hosts = row.among(hosts);
    let all = each(world, &hosts, async |host, link| link.logs(request, heard(&host.name)).await);
    tokio::select! {
        ended = all => whole(ended).map(|_| ()),
        () = world.stop.requested() => Ok(()),
    }
}

/// What was done about a service, as each host has it recorded.
#[derive(Debug)]
pub struct Histories {
    pub hosts: Vec<(HostName, Vec<Entry>)>,
    pub unread: Vec<(HostName, LinkError)>,
}

/// The latest `limit` rows of every host; one that cannot be asked is named.
pub async fn histories(world: &FleetWorld, hosts: &[Host], service: &ServiceName, limit: u32) -> Histories {
    let mut heard = Histories { hosts: vec![], unread: vec![] };
    for (host, rows) in each(world, hosts, async |_, link| link.history(Some(service), limit).await).await {
        match rows {
            Ok(rows) => heard.hosts.push((host, rows)),
            Err(error) => heard.unread.push((host, error)),
        }
    }
    heard
}
