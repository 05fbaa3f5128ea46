//! The hosts and load balancers of one `switchman.yaml`.

use std::time::Duration;

use serde::Serialize;

use super::balancer::BalancerSpec;
use super::health::Health;
use super::host::Host;
use super::name::{HostName, ServiceName};
use super::ports::Ports;

/// One checked configuration. Host names, addresses and balancer names are unique, the three ports differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fleet {
    pub service: ServiceName,
    pub ports: Ports,
    /// Empty: the machine itself is the only host switchman acts on.
    pub hosts: Vec<Host>,
    pub balancers: Vec<BalancerSpec>,
    pub health: Health,
    pub limits: Limits,
}

/// What may not be gone below, and how long anything may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// The capacity floor: how many *other* hosts must have their main vhost UP before one is taken out.
    pub min_up: u32,
    pub drain_timeout: Duration,
}

impl Fleet {
    pub fn host(&self, name: &HostName) -> Option<&Host> {
        self.hosts.iter().find(|host| &host.name == name)
    }
}
