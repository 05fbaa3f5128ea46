//! The key `hosts`: written hosts by name, and the sources that list more.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use indexmap::IndexMap;
use indexmap::map::Entry;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_yaml::Spanned;

use crate::model::name::HostName;

/// Host name -> address. `consul` and `dns` are no host names: they list hosts, beside those that are written. Without `hosts`,
/// the machine itself is the host.
#[derive(Debug, Default, JsonSchema)]
pub struct Hosts {
    /// The instances of a service in Consul are hosts too.
    #[schemars(with = "Option<ConsulHosts>")]
    pub consul: Option<Spanned<ConsulHosts>>,
    /// The hosts of a name in DNS are hosts too.
    #[schemars(with = "Option<DnsHosts>")]
    pub dns: Option<Spanned<DnsHosts>>,
    #[schemars(flatten, with = "IndexMap<String, Host>")]
    pub written: IndexMap<HostName, Host>,
}

/// A written host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The address HAProxy connects to.
    #[schemars(with = "String")]
    pub address: Spanned<IpAddr>,
    /// Destination that the operator's ssh uses, such as deploy@web1. Default: the host's name.
    #[schemars(with = "Option<String>")]
    pub ssh: Option<Spanned<String>>,
    /// Agent of the host, used instead of ssh: https://HOST:PORT, or unix:///PATH on this machine.
    #[schemars(with = "Option<String>")]
    pub agent: Option<Spanned<String>>,
}

/// Hosts of a Consul catalogue. Instances with a failing check are hosts too: one in maintenance has such a check. The name of a
/// host is the metadata `switchman-host` of its registration or, without it, the name of its node.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsulHosts {
    /// URL of a Consul agent or server. Default `http://127.0.0.1:8500`.
    #[schemars(with = "Option<String>")]
    pub address: Option<Spanned<String>>,
    /// Name of the service in Consul.
    #[schemars(with = "String")]
    pub service: Spanned<String>,
    /// Only instances with this tag.
    pub tag: Option<String>,
    /// Default: that of the Consul agent.
    pub datacenter: Option<String>,
    /// A file with the ACL token. Paths are relative to this file.
    pub token_file: Option<PathBuf>,
    /// Certificate authorities of Consul (PEM). Default: those that the machine trusts.
    pub ca: Option<PathBuf>,
    /// The client's own certificate (PEM), with `key`.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Destination that the operator's ssh uses: `{host}` is replaced by the host's name, `{address}` by its address. Default
    /// `{address}`.
    #[schemars(with = "Option<String>")]
    pub ssh: Option<Spanned<String>>,
    /// Agent of each host, used instead of ssh, such as `https://{address}:9443`.
    #[schemars(with = "Option<String>")]
    pub agent: Option<Spanned<String>>,
}

/// Hosts by DNS, of one kind of record. The ports are those of `ports`, not those of SRV records.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsHosts {
    /// A name with SRV records: each target is a host, named by the first label of the target.
    #[schemars(with = "Option<String>")]
    pub srv: Option<Spanned<String>>,
    /// A name with A or AAAA records: each address is a host, named by the address.
    #[schemars(with = "Option<String>")]
    pub a: Option<Spanned<String>>,
    /// IP address of the DNS server, with its port where it is not 53. Default: the servers of /etc/resolv.conf.
    #[schemars(with = "Option<String>")]
    pub server: Option<Spanned<String>>,
    /// As in `consul`.
    #[schemars(with = "Option<String>")]
    pub ssh: Option<Spanned<String>>,
    /// As in `consul`.
    #[schemars(with = "Option<String>")]
    pub agent: Option<Spanned<String>>,
}

/// By hand: serde's `flatten` would lose the lines of the values.
impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct HostsVisitor;

        impl<'de> Visitor<'de> for HostsVisitor {
            type Value = Hosts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of host names, `consul` and `dns`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Hosts, A::Error> {
                let mut hosts = Hosts::default();
                while let Some(name) = map.next_key::<HostName>()? {
                    match name.as_str() {
                        "consul" => hosts.consul = Some(map.next_value()?),
                        "dns" => hosts.dns = Some(map.next_value()?),
                        _ => match hosts.written.entry(name) {
                            Entry::Occupied(twice) => {
                                let text = format!("the key `{}` appears twice", twice.key());
                                return Err(A::Error::custom(text));
                            }
                            Entry::Vacant(free) => {
                                free.insert(map.next_value()?);
                            }
                        },
                    }
                }
                Ok(hosts)
            }

            /// `hosts:` with nothing below it.
            fn visit_unit<E: Error>(self) -> Result<Hosts, E> {
                Ok(Hosts::default())
            }
        }

        from.deserialize_map(HostsVisitor)
    }
}
