//! The hosts and load balancers of one `switchman.yaml`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use super::balancer::BalancerSpec;
use super::discovery::DiscoverySource;
use super::health::Health;
use super::host::{ConnectConfig, Host, Transport};
use super::journal_location::JournalLocation;
use super::name::{HostName, ServiceName};
use super::ports::{Port, Ports};
use super::roll::{Batch, OnFailure};

/// A checked configuration. Host names, addresses and balancer names are unique, the three ports differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fleet {
    pub service: ServiceName,
    pub ports: Ports,
    /// Empty: the machine itself is the only host switchman acts on.
    pub hosts: Vec<Host>,
    /// Sources that list more hosts; what they list is not among `hosts` before they are read.
    pub discovery: Vec<DiscoverySource>,
    pub balancers: Vec<BalancerSpec>,
    pub health: Health,
    pub limits: FleetLimits,
    pub reach: ConnectConfig,
    pub roll: RollPolicy,
    pub hooks: Hooks,
    pub webhooks: Vec<Webhook>,
    pub journal: JournalLocation,
    pub versions: DeployPolicy,
    /// More services on the same hosts, by name; the one above is not among them.
    pub additional_services: BTreeMap<ServiceName, AdditionalService>,
}

/// Defaults of `deploy`, `assign` and `kill`; flags override them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeployPolicy {
    /// Port range of the instances: first and last.
    pub port_range: (Port, Port),
    /// Releases that are kept although no deployment uses them.
    pub keep_releases: u32,
    /// How long a new main is watched, on every host. Zero: not at all.
    pub watch: Duration,
    /// How long a new instance may take to become healthy.
    pub health_timeout: Duration,
}

/// A service beside the first one: what differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdditionalService {
    pub ports: Ports,
    pub health: Health,
    /// Backend of the service, on every balancer.
    pub backend: String,
}

/// Lower limits of capacity, and time limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FleetLimits {
    /// The capacity floor: how many *other* hosts must have their main vhost UP before one is taken out.
    pub min_up: u32,
    pub drain_timeout: Duration,
}

/// Defaults of `roll`; flags override them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RollPolicy {
    pub batch: Batch,
    pub max_failures: u32,
    pub on_failure: OnFailure,
    /// How long a main vhost may take to become healthy after the command.
    pub health_timeout: Duration,
}

/// Command lines for `sh -c`, run where the operator is, one after another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Hooks {
    pub before_roll: Vec<String>,
    pub before_host: Vec<String>,
    pub after_host: Vec<String>,
    pub after_roll: Vec<String>,
    pub on_failure: Vec<String>,
    /// Timeout of each of them.
    pub timeout: Duration,
}

/// The receiver of a roll's progress, by POST.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Webhook {
    pub url: String,
    /// Timeout of one attempt.
    pub timeout: Duration,
}

impl Fleet {
    /// Returns the same hosts and balancers as they are for one of the services; `None`: there is no such service.
    pub fn for_service(&self, service: &ServiceName) -> Option<Self> {
        if self.service == *service {
            return Some(self.clone());
        }
        let other = self.additional_services.get(service)?;
        let mut fleet = Self {
            service: service.clone(),
            ports: other.ports,
            health: other.health.clone(),
            ..self.clone()
        };
        for balancer in &mut fleet.balancers {
            balancer.backend.clone_from(&other.backend);
        }
        Some(fleet)
    }

    /// The names of all services, the first one first.
    pub fn service_names(&self) -> impl Iterator<Item = &ServiceName> {
        std::iter::once(&self.service).chain(self.additional_services.keys())
    }

    pub fn find_host(&self, name: &HostName) -> Option<&Host> {
        self.hosts.iter().find(|host| &host.name == name)
    }

    /// Returns the address where the main vhost of a host really answers.
    pub fn main_endpoint(&self, host: &Host) -> SocketAddr {
        SocketAddr::new(host.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), self.ports.main.get())
    }

    /// Finds a host by a name that was recorded before: in a fleet without hosts it is this machine's.
    pub fn find_recorded_host(&self, name: &HostName) -> Option<Host> {
        let this_machine = || {
            self.hosts.is_empty().then(|| Host {
                name: name.clone(),
                address: None,
                transport: Transport::Local,
            })
        };
        self.find_host(name).cloned().or_else(this_machine)
    }
}
