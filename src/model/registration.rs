//! A host's registrations in a service catalogue, and the numbered slots that its load balancers resolve.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::health::Health;
use super::journal_location::AccessFiles;
use super::name::{HostName, ServiceName};
use super::ports::{Port, Ports};

/// The key of a registration's metadata that names its host.
pub const HOST_META: &str = "switchman-host";

/// The Consul agent that a host registers at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryLocation {
    /// URL without a path.
    pub endpoint: String,
    pub files: AccessFiles,
}

/// What the agent of a host registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationSpec {
    pub host: HostIdentity,
    /// The slots of each service: 1 to this number.
    pub slots: u16,
    pub services: Vec<RegisteredService>,
}

/// A host as the catalogue knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostIdentity {
    #[serde(rename = "host")]
    pub name: HostName,
    /// The address that load balancers connect to.
    pub address: IpAddr,
}

/// A service of the configuration with its name in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredService {
    pub service: ServiceName,
    /// A label in DNS.
    pub catalog_name: String,
    pub ports: Ports,
    /// The health check of services that no deployment answers.
    pub health: Health,
}

/// An entry of the catalogue that belongs to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Unique at one Consul agent, which several hosts may share.
    pub id: String,
    pub name: String,
    pub address: IpAddr,
    pub port: Port,
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
    /// `None`: DNS has the entry for as long as its node is alive.
    pub check: Option<RegistrationCheck>,
}

/// The check of a registration, which the agent renews. It becomes critical by itself where the agent does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationCheck {
    pub is_passing: bool,
    pub output: String,
}

/// The entry of a slot in the key-value store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotClaim {
    pub slot: u16,
    pub owner: HostIdentity,
    /// The session that holds the slot; `None` after it ended with its node.
    pub session: Option<String>,
    pub modified_index: u64,
}

/// An instance of a service as the whole catalogue has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    pub node: String,
    pub id: String,
    /// The host of the metadata.
    pub host: Option<String>,
    pub tags: Vec<String>,
    /// Whether the node has failed, so that DNS leaves out all that is registered at it.
    pub is_node_failed: bool,
}

/// The registration of a service as its host records it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegistrationState {
    /// The slot that the host had last.
    #[serde(default)]
    pub slot: Option<u16>,
    /// The session of the host that holds the slot. A claim that it holds is the host's own, also after a change of its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Whether an operator took the host out of DNS.
    #[serde(default)]
    pub is_withdrawn: bool,
    /// The reason why the host is not registered as it should be.
    #[serde(default)]
    pub problem: Option<String>,
}

impl Registration {
    /// The beginning of the ids of all registrations of a host. No host name has a colon.
    pub fn id_prefix(host: &HostName) -> String {
        format!("switchman:{host}:")
    }
}

impl fmt::Display for HostIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` at {}", self.name, self.address)
    }
}
