//! Hosts by SRV, A and AAAA records.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, TokioResolver};

use crate::model::discovery::{DnsLookup, DnsRecord, FoundHost};
use crate::world::discovery::{HostSource, HostSourceError};

/// Limit of all lookups of a list together.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Limit of one query to one server; there are two attempts.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// The most lookups of addresses at a time.
const MAX_QUERIES: usize = 16;

pub(super) struct DnsSource {
    pub(super) lookup: DnsLookup,
}

#[async_trait]
impl HostSource for DnsSource {
    async fn list(&self) -> Result<Vec<FoundHost>, HostSourceError> {
        let listed = tokio::time::timeout(TIMEOUT, self.look_up()).await;
        listed.unwrap_or(Err(HostSourceError::TimedOut { waited: TIMEOUT }))
    }
}

impl DnsSource {
    async fn look_up(&self) -> Result<Vec<FoundHost>, HostSourceError> {
        let resolver = build_resolver(&self.lookup)?;
        match self.lookup.kind {
            DnsRecord::Address => {
                let addresses = look_up_addresses(&resolver, &self.lookup.name).await?;
                Ok(addresses
                    .into_iter()
                    .map(|address| FoundHost { name: name_address(address), address })
                    .collect())
            }
            DnsRecord::Srv => look_up_targets(&resolver, &self.lookup.name).await,
        }
    }
}

fn build_resolver(lookup: &DnsLookup) -> Result<TokioResolver, HostSourceError> {
    let refused = |error: NetError| HostSourceError::Refused { reason: error.to_string() };
    let mut builder = match lookup.server {
        None => Resolver::builder_tokio().map_err(|error| HostSourceError::Refused {
            reason: format!("cannot read /etc/resolv.conf: {error}"),
        })?,
        Some(server) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
            name_server.connections = connections.to_vec();
            let config = ResolverConfig::from_parts(None, vec![], vec![name_server]);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    options.timeout = QUERY_TIMEOUT;
    options.attempts = ATTEMPTS;
    // A host with both kinds of address is one host.
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    builder.build().map_err(refused)
}

/// Where there is no record: an empty list.
async fn look_up_addresses(resolver: &TokioResolver, name: &str) -> Result<Vec<IpAddr>, HostSourceError> {
    match resolver.lookup_ip(name).await {
        Ok(found) => Ok(found.iter().collect()),
        Err(error) => empty_or_error(name, error),
    }
}

async fn look_up_targets(resolver: &TokioResolver, name: &str) -> Result<Vec<FoundHost>, HostSourceError> {
    let answer = match resolver.srv_lookup(name).await {
        Ok(answer) => answer,
        Err(error) => return empty_or_error(name, error),
    };
    let targets = answer.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(target) => Some(target.target.to_string()),
        _ => None,
    });
    let mut targets: Vec<String> = targets.collect();
    targets.sort_unstable();
    targets.dedup();
    let mut hosts = Vec::new();
    for part in targets.chunks(MAX_QUERIES) {
        let found = part.iter().map(async |target| (target, look_up_addresses(resolver, target).await));
        for (target, addresses) in futures_util::future::join_all(found).await {
            let addresses = addresses?;
            let Some(address) = addresses.first() else {
                let reason = format!("the target `{target}` has no address");
                return Err(HostSourceError::Refused { reason });
            };
            hosts.push((target.trim_end_matches('.').to_owned(), *address));
        }
    }
    Ok(name_targets(&hosts))
}

/// The first label of a target is the host's name, where it is the only one: a name that two targets share is that of neither.
fn name_targets(targets: &[(String, IpAddr)]) -> Vec<FoundHost> {
    let label = |target: &str| target.split('.').next().unwrap_or_default().to_owned();
    let is_single = |name: &str| targets.iter().filter(|(target, _)| label(target) == name).count() == 1;
    let to_host = |(target, address): &(String, IpAddr)| {
        let short = label(target);
        let name = if is_single(&short) { short } else { target.clone() };
        FoundHost { name, address: *address }
    };
    targets.iter().map(to_host).collect()
}

/// An address record has no name of its own: `10.0.0.11`, and for IPv6 `fd00--11`.
fn name_address(address: IpAddr) -> String {
    address.to_canonical().to_string().replace(':', "-")
}

fn empty_or_error<T>(name: &str, error: NetError) -> Result<Vec<T>, HostSourceError> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(_)) => Ok(vec![]),
        NetError::Timeout => Err(HostSourceError::Unreachable {
            reason: format!("no DNS server answered for `{name}` in time"),
        }),
        error => Err(HostSourceError::Unreachable { reason: format!("`{name}`: {error}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_named_by_its_first_label_unless_two_share_it() {
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let names = |targets: &[&str]| -> Vec<String> {
            let targets: Vec<_> = targets.iter().map(|target| ((*target).to_owned(), address)).collect();
            name_targets(&targets).into_iter().map(|host| host.name).collect()
        };
        assert_eq!(names(&["web1.example", "web2.example"]), ["web1", "web2"]);
        assert_eq!(names(&["web1.a.example", "web1.b.example"]), ["web1.a.example", "web1.b.example"]);
    }

    #[test]
    fn name_of_an_address_is_a_host_name() {
        for (address, name) in
            [("10.0.0.11", "10.0.0.11"), ("::ffff:10.0.0.11", "10.0.0.11"), ("fd00::11", "fd00--11")]
        {
            assert_eq!(name_address(address.parse().unwrap()), name);
            assert!(name.parse::<crate::model::name::HostName>().is_ok());
        }
    }
}
