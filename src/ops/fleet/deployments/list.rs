//! `ls`, `describe`: every host's view, one row per version.

use serde::Serialize;

use super::{FleetDeployError, each};
use crate::model::api::deployments::{DeploymentView, DeploymentsView};
use crate::model::deployment::{Access, DeploymentId, DeploymentStatus, Role};
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::model::version::Version;
use crate::plan::traffic_split;
use crate::world::FleetWorld;

/// A version of a service, over all hosts that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FleetDeployment {
    pub service: ServiceName,
    pub version: Version,
    pub id: DeploymentId,
    pub revision: u32,
    /// Main on every host that has it; `None`: on some of them.
    pub main: Option<bool>,
    pub access: Access,
    /// Draining where it is on any host.
    pub status: DeploymentStatus,
    /// Requests in flight, over all hosts; absent where one host could not count them.
    pub active: Option<u64>,
    pub hosts: Vec<(HostName, DeploymentView)>,
    /// The version's shares of the requests where a proxy is in the data path, each once: `copies 100%`, `canary 25%`.
    pub traffic: Vec<String>,
}

impl FleetDeployment {
    /// Returns the hosts, of these, that have the version.
    pub(super) fn filter_hosts(&self, hosts: &[Host]) -> Vec<Host> {
        let has = |host: &&Host| self.hosts.iter().any(|(name, _)| *name == host.name);
        hosts.iter().filter(has).cloned().collect()
    }
}

/// Every view that was read, and the hosts that could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// Sorted by service, then by age.
    pub rows: Vec<FleetDeployment>,
    pub unread: Vec<(HostName, String)>,
}

impl Listing {
    /// The rows that are meant: all, a service's, or one.
    #[must_use]
    pub fn filter(mut self, service: Option<&ServiceName>, version: Option<&Version>) -> Self {
        self.rows.retain(|row| {
            service.is_none_or(|service| row.service == *service)
                && version.is_none_or(|version| row.version == *version)
        });
        self
    }

    #[must_use]
    pub fn filter_by_id(mut self, id: &DeploymentId) -> Self {
        self.rows.retain(|row| row.id == *id);
        self
    }

    pub fn find(&self, service: &ServiceName, version: &Version) -> Option<&FleetDeployment> {
        self.rows.iter().find(|row| row.service == *service && row.version == *version)
    }

    /// Whether every host was read.
    pub fn require_complete(&self) -> Result<(), FleetDeployError> {
        if self.unread.is_empty() { Ok(()) } else { Err(FleetDeployError::Unread(self.unread.clone())) }
    }

    /// The main of a service, where it is one anywhere.
    pub fn main(&self, service: &ServiceName) -> Option<&FleetDeployment> {
        self.rows.iter().find(|row| row.service == *service && row.main != Some(false))
    }
}

/// Lists the deployments of all hosts. A host that cannot be read is named, and the others are shown.
pub async fn list_deployments(world: &FleetWorld, hosts: &[Host]) -> Listing {
    let mut listing = Listing::default();
    for (host, view) in each(world, hosts, async |_, link| link.list_deployments().await).await {
        match view {
            Ok(view) => merge_host_view(&mut listing.rows, &host, view),
            Err(error) => listing.unread.push((host, error.to_string())),
        }
    }
    let order = |row: &FleetDeployment| (row.service.clone(), row.revision);
    listing.rows.sort_by_key(order);
    listing
}

fn merge_host_view(rows: &mut Vec<FleetDeployment>, host: &HostName, view: DeploymentsView) {
    for one in view.deployments {
        let main = one.role == Role::Main;
        let record = view.services.iter().find(|record| record.forward.service == one.deployment.service);
        let active = one.sockets.as_ref().ok().map(crate::model::socket::SocketCount::maybe_busy);
        let gets = record
            .map(|record| traffic_split::describe_traffic(&record.layer7.traffic_split, &one.deployment.id))
            .unwrap_or_default();
        let same = |row: &&mut FleetDeployment| row.id == one.deployment.id;
        let Some(row) = rows.iter_mut().find(same) else {
            rows.push(FleetDeployment {
                service: one.deployment.service.clone(),
                version: one.deployment.version.clone(),
                id: one.deployment.id.clone(),
                revision: one.deployment.revision,
                main: Some(main),
                access: record.map(|record| record.access).unwrap_or_default(),
                status: one.status,
                active,
                hosts: vec![(host.clone(), one)],
                traffic: gets,
            });
            continue;
        };
        row.main = row.main.filter(|all| *all == main);
        row.active = row.active.zip(active).map(|(all, here)| all + here);
        // Active before Draining before Drained: the row shows the status that needs the most care.
        row.status = row.status.min(one.status);
        row.hosts.push((host.clone(), one));
        for gets in gets {
            if !row.traffic.contains(&gets) {
                row.traffic.push(gets);
            }
        }
    }
}
