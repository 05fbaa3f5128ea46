//! Sources that list the hosts of a fleet: a Consul catalogue, or names in DNS.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Serialize;

use super::journal_location::AccessFiles;

/// A place outside the configuration that lists hosts, and how its hosts are reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiscoverySource {
    pub lookup: HostLookup,
    pub transport: TransportPattern,
}

impl DiscoverySource {
    /// The paths, which are relative to the configuration at first.
    pub fn list_paths(&mut self) -> Vec<&mut PathBuf> {
        match &mut self.lookup {
            HostLookup::Consul(ConsulLookup { files, .. }) => files.list_paths(),
            HostLookup::Dns(_) => vec![],
        }
    }
}

/// What is looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HostLookup {
    Consul(ConsulLookup),
    Dns(DnsLookup),
}

/// The instances of a service in Consul. Those with a failing check are among them: a host in maintenance has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConsulLookup {
    /// URL without a path.
    pub endpoint: String,
    pub service: String,
    pub tag: Option<String>,
    /// `None`: that of the server which is called.
    pub datacenter: Option<String>,
    pub files: AccessFiles,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DnsLookup {
    pub name: String,
    pub kind: DnsRecord,
    /// `None`: the servers of `/etc/resolv.conf`.
    pub server: Option<SocketAddr>,
}

/// The kind of record that lists the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsRecord {
    /// A target for each host. Ports are those of the configuration.
    Srv,
    /// An address for each host: A records or, where there is none, AAAA records.
    Address,
}

/// The transport to a found host: `{host}` is replaced by its name, `{address}` by its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportPattern {
    Ssh(String),
    /// HOST:PORT
    Tls(String),
    Socket(String),
}

/// A host as a source lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundHost {
    /// The source's own text: not yet a host name.
    pub name: String,
    pub address: IpAddr,
}

impl fmt::Display for HostLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consul(ConsulLookup { endpoint, service, tag, datacenter, .. }) => {
                write!(f, "service `{service}`")?;
                if let Some(tag) = tag {
                    write!(f, " with tag `{tag}`")?;
                }
                if let Some(datacenter) = datacenter {
                    write!(f, " of datacenter `{datacenter}`")?;
                }
                write!(f, " in Consul at {endpoint}")
            }
            Self::Dns(DnsLookup { name, kind, server }) => {
                let records = match kind {
                    DnsRecord::Srv => "SRV",
                    DnsRecord::Address => "A and AAAA",
                };
                write!(f, "{records} records of `{name}`")?;
                match server {
                    Some(server) => write!(f, " at the DNS server {server}"),
                    None => f.write_str(" at the DNS servers of /etc/resolv.conf"),
                }
            }
        }
    }
}
