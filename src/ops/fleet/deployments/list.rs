//! `ls`, `describe`: every host's view, one row per version.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::deployment_name::DeploymentName;
use super::each_host::{PerHost, for_each_host, report_long_wait};
use super::error::FleetDeployError;
use crate::model::api::deployments::{DeploymentView, DeploymentsView};
use crate::model::deployment::{Access, DeploymentId, DeploymentStatus, Role};
use crate::model::forward::ServiceRecord;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::model::port_forward::Switch;
use crate::model::socket::SocketCount;
use crate::model::version::Version;
use crate::plan::traffic_split;
use crate::world::FleetWorld;
use crate::world::link::{HostLink, LinkError};

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
    /// The status that needs the most care on any host.
    pub status: VersionStatus,
    /// Requests in flight, over all hosts; absent where one host could not count them.
    pub active: Option<u64>,
    pub hosts: Vec<(HostName, DeploymentView)>,
    /// The version's shares of the requests where a proxy is in the data path, each once: `copies 100%`, `canary 25%`.
    pub traffic: Vec<String>,
    /// Whether it is the newest revision of its service on the hosts that were read.
    #[serde(rename = "latest")]
    pub is_latest: bool,
    /// The hosts of the version where the service is in maintenance: load balancers mark main DOWN there.
    pub maintenance: Vec<HostName>,
    /// The hosts of the version where the service is private, if it is public on others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub private_on: Vec<HostName>,
}

/// What a version does, over all hosts. In the order of lists (seed row R15, docs/design/seed-systems.md#restate).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum VersionStatus {
    /// Main.
    Active,
    /// A share of the requests, such as `20%`: it answers users, so it is not safe to remove.
    Canary(String),
    Draining,
    Drained,
}

impl fmt::Display for VersionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.pad("Active"),
            Self::Canary(share) => f.pad(&format!("Canary {share}")),
            Self::Draining => f.pad("Draining"),
            Self::Drained => f.pad("Drained"),
        }
    }
}

impl Serialize for VersionStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl VersionStatus {
    /// Returns the status on one host, by the host's own and its record.
    fn from_view(view: &DeploymentView, record: Option<&ServiceRecord>) -> Self {
        let canary = record.and_then(|record| record.layer7.traffic_split.canary.as_ref());
        match (view.status, canary.filter(|canary| canary.deployment == view.deployment.id)) {
            (DeploymentStatus::Active, _) => Self::Active,
            (_, Some(canary)) => Self::Canary(traffic_split::describe_share(canary)),
            (DeploymentStatus::Draining, None) => Self::Draining,
            (DeploymentStatus::Drained, None) => Self::Drained,
        }
    }
}

impl FleetDeployment {
    /// Returns the hosts, of these, that have the version.
    pub(super) fn filter_hosts(&self, hosts: &[Host]) -> Vec<Host> {
        hosts.iter().filter(|host| self.is_on(&host.name)).cloned().collect()
    }

    /// Whether a host has the version.
    pub(super) fn is_on(&self, host: &HostName) -> bool {
        self.hosts.iter().any(|(name, _)| name == host)
    }

    /// Whether the version is main on every host that has it.
    pub fn is_main(&self) -> bool {
        self.main == Some(true)
    }

    /// Whether the version is main on this host.
    pub(super) fn is_main_on(&self, host: &HostName) -> bool {
        self.hosts.iter().any(|(name, view)| name == host && view.role == Role::Main)
    }

    /// Returns an error that names the hosts, of these, that do not have the version.
    pub fn require_on(&self, hosts: &[Host]) -> Result<(), FleetDeployError> {
        let lacks = |host: &&Host| !self.is_on(&host.name);
        let lacking: Vec<HostName> = hosts.iter().filter(lacks).map(|host| host.name.clone()).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let (service, version) = (self.service.clone(), self.version.clone());
        Err(FleetDeployError::MissingOnHosts { service, version, hosts: lacking })
    }
}

/// Every view that was read, and the hosts that could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// Sorted by service, then by age.
    pub rows: Vec<FleetDeployment>,
    #[serde(serialize_with = "serialize_errors")]
    pub unread: Vec<(HostName, LinkError)>,
}

/// Writes an error as its text.
pub(super) fn serialize_errors<S: Serializer>(
    errors: &[(HostName, LinkError)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(errors.iter().map(|(host, error)| (host, error.to_string())))
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

    /// The rows of this name.
    #[must_use]
    pub fn filter_by_name(self, name: &DeploymentName) -> Self {
        match name {
            DeploymentName::Id(id) => self.filter_by_id(id),
            DeploymentName::Service { service, version } => self.filter(Some(service), version.as_ref()),
        }
    }

    /// Returns the deployment of this name; without a version, the service's main.
    pub fn resolve(&self, name: &DeploymentName) -> Result<&FleetDeployment, FleetDeployError> {
        match self.find_named(name) {
            // A host that cannot be read may have it.
            Err(_) if !self.unread.is_empty() => {
                Err(FleetDeployError::Unread { hosts: self.unread.clone(), missing: vec![] })
            }
            found => {
                let row = found?;
                // An id names one part by itself.
                if matches!(name, DeploymentName::Service { .. }) {
                    self.require_merged(row)?;
                }
                Ok(row)
            }
        }
    }

    fn find_named(&self, name: &DeploymentName) -> Result<&FleetDeployment, FleetDeployError> {
        match name {
            DeploymentName::Id(id) => {
                self.rows.iter().find(|row| row.id == *id).ok_or(FleetDeployError::NoMatch)
            }
            DeploymentName::Service { service, version: Some(version) } => {
                self.find(service, version).ok_or_else(|| FleetDeployError::NoVersion {
                    service: service.clone(),
                    version: version.clone(),
                })
            }
            DeploymentName::Service { service, version: None } => {
                let mut rows = self.rows.iter().filter(|row| row.service == *service);
                match (rows.next(), rows.next()) {
                    (Some(only), None) => Ok(only),
                    _ => self.find_main(service).ok_or(FleetDeployError::NoMatch),
                }
            }
        }
    }

    /// Returns the deployment that becomes main: on every one of the hosts.
    pub fn resolve_target(
        &self,
        name: &DeploymentName,
        hosts: &[Host],
    ) -> Result<&FleetDeployment, FleetDeployError> {
        let has = |service: &ServiceName| self.rows.iter().any(|row| row.service == *service);
        let target = match self.resolve(name) {
            Err(FleetDeployError::NoVersion { service, .. }) if !has(&service) && self.unread.is_empty() => {
                Err(FleetDeployError::NoMain(service))
            }
            found => found,
        }?;
        match target.require_on(hosts) {
            // A host that cannot be read may have the version.
            Err(FleetDeployError::MissingOnHosts { hosts: mut missing, .. }) if !self.unread.is_empty() => {
                missing.retain(|host| !self.unread.iter().any(|(unread, _)| unread == host));
                Err(FleetDeployError::Unread { hosts: self.unread.clone(), missing })
            }
            found => found.map(|()| target),
        }
    }

    /// Lists the rows of a version: more than one where hosts have it under different ids.
    pub(super) fn list_parts(&self, service: &ServiceName, version: &Version) -> Vec<&FleetDeployment> {
        self.rows.iter().filter(|row| row.service == *service && row.version == *version).collect()
    }

    /// Returns an error if hosts have the version of a row under different ids.
    pub(super) fn require_merged(&self, row: &FleetDeployment) -> Result<(), FleetDeployError> {
        let parts = self.list_parts(&row.service, &row.version);
        if parts.len() == 1 {
            return Ok(());
        }
        let names = |row: &FleetDeployment| row.hosts.iter().map(|(host, _)| host.clone()).collect();
        let parts = parts.into_iter().map(|row| (row.id.clone(), names(row))).collect();
        let (service, version) = (row.service.clone(), row.version.clone());
        Err(FleetDeployError::SplitVersion { service, version, parts })
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
        if self.unread.is_empty() {
            Ok(())
        } else {
            Err(FleetDeployError::Unread { hosts: self.unread.clone(), missing: vec![] })
        }
    }

    /// Returns an error that names the hosts that did not answer, where the command only lists.
    pub fn require_answers(&self, hosts: &[Host]) -> Result<(), FleetDeployError> {
        require_answers(hosts.len() - self.unread.len(), &self.unread)
    }

    /// The main of a service, where it is one anywhere.
    pub fn find_main(&self, service: &ServiceName) -> Option<&FleetDeployment> {
        self.rows.iter().find(|row| row.service == *service && row.main != Some(false))
    }
}

/// Returns an error that names the hosts that did not answer.
pub(super) fn require_answers(read: usize, unread: &[(HostName, LinkError)]) -> Result<(), FleetDeployError> {
    match (read, unread) {
        (_, []) => Ok(()),
        (0, unread) => Err(FleetDeployError::Unread { hosts: unread.to_vec(), missing: vec![] }),
        (read, unread) => Err(FleetDeployError::PartlyRead { read, unread: unread.to_vec() }),
    }
}

/// Lists the deployments of all hosts. A host that cannot be read is named, and the others are shown.
pub async fn list_deployments(world: &FleetWorld, hosts: &[Host]) -> Listing {
    let read = async |host: &Host, link: &dyn HostLink| {
        report_long_wait(world, &host.name, link.list_deployments()).await
    };
    merge_views(for_each_host(world, hosts, read).await)
}

/// Lists the deployments of the hosts that answer within this time; the others are unread.
pub async fn list_answered(world: &FleetWorld, hosts: &[Host], timeout: Duration) -> Listing {
    let read = async |_: &Host, link: &dyn HostLink| {
        let late = |_| LinkError::TimedOut { via: link.transport_label(), waited: timeout };
        tokio::time::timeout(timeout, link.list_deployments()).await.map_err(late)?
    };
    merge_views(for_each_host(world, hosts, read).await)
}

fn merge_views(views: PerHost<DeploymentsView>) -> Listing {
    let mut listing = Listing::default();
    for (host, view) in views {
        match view {
            Ok(view) => merge_host_view(&mut listing.rows, &host, view),
            Err(error) => listing.unread.push((host, error)),
        }
    }
    let order = |row: &FleetDeployment| (row.service.clone(), row.revision);
    listing.rows.sort_by_key(order);
    let rows = &mut listing.rows;
    for row in rows.iter_mut().filter(|row| row.private_on.len() == row.hosts.len()) {
        row.private_on.clear();
    }
    for at in 0..rows.len() {
        rows[at].is_latest = rows.get(at + 1).is_none_or(|next| next.service != rows[at].service);
    }
    listing
}

fn merge_host_view(rows: &mut Vec<FleetDeployment>, host: &HostName, view: DeploymentsView) {
    for one in view.deployments {
        let deployment = &one.deployment;
        let main = one.role == Role::Main;
        let record = view.services.iter().find(|record| record.forward.service == deployment.service);
        let active = one.sockets.as_ref().ok().map(SocketCount::maybe_busy);
        let traffic = record
            .map(|record| traffic_split::describe_traffic(&record.layer7.traffic_split, &deployment.id))
            .unwrap_or_default();
        let status = VersionStatus::from_view(&one, record);
        let is_out = record.is_some_and(|record| record.switch == Switch::Off);
        let is_private = record.is_some_and(|record| record.access == Access::Private);
        let Some(row) = rows.iter_mut().find(|row| row.id == deployment.id) else {
            rows.push(FleetDeployment {
                service: deployment.service.clone(),
                version: deployment.version.clone(),
                id: deployment.id.clone(),
                revision: deployment.revision,
                main: Some(main),
                access: record.map(|record| record.access).unwrap_or_default(),
                status,
                active,
                hosts: vec![(host.clone(), one)],
                traffic,
                is_latest: false,
                maintenance: is_out.then(|| host.clone()).into_iter().collect(),
                private_on: is_private.then(|| host.clone()).into_iter().collect(),
            });
            continue;
        };
        row.main = row.main.filter(|all| *all == main);
        row.active = row.active.zip(active).map(|(all, active)| all + active);
        if status < row.status {
            row.status = status;
        }
        row.maintenance.extend(is_out.then(|| host.clone()));
        row.private_on.extend(is_private.then(|| host.clone()));
        row.hosts.push((host.clone(), one));
        for share in traffic {
            if !row.traffic.contains(&share) {
                row.traffic.push(share);
            }
        }
    }
}
