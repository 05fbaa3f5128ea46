//! The hosts and load balancers of one `switchman.yaml`.

use std::time::Duration;

use serde::Serialize;

use super::balancer::BalancerSpec;
use super::health::Health;
use super::host::{Host, Reach};
use super::name::{HostName, ServiceName};
use super::ports::Ports;
use super::roll::{Batch, OnFailure};

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
    pub reach: Reach,
    pub roll: RollPolicy,
    pub hooks: Hooks,
    pub webhooks: Vec<Webhook>,
}

/// What may not be gone below, and how long anything may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// The capacity floor: how many *other* hosts must have their main vhost UP before one is taken out.
    pub min_up: u32,
    pub drain_timeout: Duration,
}

/// What `roll` does unless its flags say otherwise.
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
    /// Bound on each of them.
    pub timeout: Duration,
}

/// Who is told how a roll goes, by POST.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Webhook {
    pub url: String,
    /// Bound on one try.
    pub timeout: Duration,
}

impl Fleet {
    pub fn host(&self, name: &HostName) -> Option<&Host> {
        self.hosts.iter().find(|host| &host.name == name)
    }
}
