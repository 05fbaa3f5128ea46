//! Hosts that sources list -> hosts of the fleet, beside those of the configuration.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::model::discovery::{DiscoverySource, FoundHost, TransportPattern};
use crate::model::host::{Host, Transport};
use crate::model::name::{HostName, NameError};

/// The most hosts that one source may list: a larger answer is not that of a fleet.
pub const MAX_HOSTS: usize = 2000;

/// Why the answer of a source is no list of hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostListError {
    #[error("it lists no host")]
    Empty,
    #[error("it lists {found} hosts, at most {MAX_HOSTS} are allowed")]
    TooMany { found: usize },
    #[error("`{}` at {address} is no host name: {reason}", .found.escape_debug())]
    BadName { found: String, address: IpAddr, reason: NameError },
    #[error("`{host}` has the address {address}, which is no address of a host")]
    BadAddress { host: HostName, address: IpAddr },
    #[error("two hosts have the name `{host}`: {first} and {second}")]
    DoubleName { host: HostName, first: IpAddr, second: IpAddr },
    #[error("two hosts have the address {address}: `{first}` and `{second}`")]
    DoubleAddress { address: IpAddr, first: HostName, second: HostName },
}

/// Adds the hosts that a source lists, sorted by name. An address that is known already is the known host, also where the
/// source has another name for it: the configuration goes before sources, and a source before those after it.
pub fn add_found_hosts(
    known: &mut Vec<Host>,
    source: &DiscoverySource,
    found: &[FoundHost],
) -> Result<(), HostListError> {
    let mut found = found.to_vec();
    // Two instances of one service on a host are one host.
    found.sort();
    found.dedup();
    match found.len() {
        0 => return Err(HostListError::Empty),
        1..=MAX_HOSTS => {}
        more => return Err(HostListError::TooMany { found: more }),
    }
    let mut fresh: Vec<Host> = Vec::new();
    for FoundHost { name, address } in found {
        let address = address.to_canonical();
        let name: HostName = name.parse().map_err(|reason| {
            let found = name.chars().take(80).collect();
            HostListError::BadName { found, address, reason }
        })?;
        if address.is_unspecified() || address.is_multicast() {
            return Err(HostListError::BadAddress { host: name, address });
        }
        let has_address = |host: &&Host| host.address.map(|known| known.to_canonical()) == Some(address);
        if known.iter().any(|host| has_address(&host)) {
            continue;
        }
        if let Some(first) = fresh.iter().find(has_address) {
            return Err(HostListError::DoubleAddress { address, first: first.name.clone(), second: name });
        }
        if let Some(other) = known.iter().chain(&fresh).find(|host| host.name == name) {
            let first = other.address.unwrap_or(address);
            return Err(HostListError::DoubleName { host: name, first, second: address });
        }
        let transport = fill_pattern(&source.transport, &name, address);
        fresh.push(Host { name, address: Some(address), transport });
    }
    known.append(&mut fresh);
    Ok(())
}

/// Returns the hosts of the configuration, then those that a roll recorded. The configuration goes before the record: an address
/// may have been corrected since.
pub fn add_recorded_hosts(written: &[Host], recorded: Vec<Host>) -> Vec<Host> {
    let is_new = |host: &Host| written.iter().all(|known| known.name != host.name);
    written.iter().cloned().chain(recorded.into_iter().filter(is_new)).collect()
}

fn fill_pattern(pattern: &TransportPattern, host: &HostName, address: IpAddr) -> Transport {
    let fill =
        |text: &str, address: &str| text.replace("{host}", host.as_str()).replace("{address}", address);
    let plain = address.to_string();
    let bracketed = if address.is_ipv6() { format!("[{plain}]") } else { plain.clone() };
    match pattern {
        TransportPattern::Ssh(text) => Transport::Ssh(fill(text, &plain)),
        TransportPattern::Tls(text) => Transport::Tls(fill(text, &bracketed)),
        TransportPattern::Socket(text) => Transport::Socket(PathBuf::from(fill(text, &plain))),
    }
}

/// The difference between the hosts of an operation and those that are listed now; `None` where there is none.
pub fn describe_change(before: &[HostName], now: &[HostName]) -> Option<String> {
    let list = |verb: &str, names: &[HostName], without: &[HostName]| {
        let names: Vec<String> =
            names.iter().filter(|name| !without.contains(name)).map(|name| format!("`{name}`")).collect();
        (!names.is_empty()).then(|| format!("{} {verb}", names.join(", ")))
    };
    let changes = [list("appeared", now, before), list("vanished", before, now)];
    let changes: Vec<String> = changes.into_iter().flatten().collect();
    (!changes.is_empty()).then(|| changes.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::discovery::{DnsLookup, DnsRecord, HostLookup};
    use crate::model::example;

    fn source(transport: TransportPattern) -> DiscoverySource {
        let lookup = DnsLookup { name: "web.internal".into(), kind: DnsRecord::Address, server: None };
        DiscoverySource { lookup: HostLookup::Dns(lookup), transport }
    }

    fn add(found: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let mut hosts = vec![example::host("web1", "10.0.0.1")];
        let found: Vec<FoundHost> = found
            .iter()
            .map(|(name, address)| FoundHost { name: (*name).into(), address: address.parse().unwrap() })
            .collect();
        let source = source(TransportPattern::Ssh("deploy@{address}".into()));
        add_found_hosts(&mut hosts, &source, &found).map_err(|error| error.to_string())?;
        let text = |host: &Host| format!("{} {} {}", host.name, host.address.unwrap(), host.transport);
        Ok(hosts[1..].iter().map(text).collect())
    }

    #[test]
    fn found_hosts_are_sorted_and_follow_the_written_ones() {
        let found = [("web3", "10.0.0.3"), ("web2", "::ffff:10.0.0.2"), ("web3", "10.0.0.3")];
        assert_eq!(
            add(&found).unwrap(),
            ["web2 10.0.0.2 ssh deploy@10.0.0.2", "web3 10.0.0.3 ssh deploy@10.0.0.3"]
        );
        assert_eq!(add(&[("node-a", "10.0.0.1")]).unwrap(), [""; 0], "the written host, by its address");
    }

    #[test]
    fn list_that_is_no_fleet_is_an_error() {
        assert_eq!(add(&[]).unwrap_err(), "it lists no host");
        let all: Vec<String> = (0..=MAX_HOSTS).map(|at| format!("10.1.{}.{}", at / 250, at % 250)).collect();
        let many: Vec<(&str, &str)> = all.iter().map(|text| (text.as_str(), text.as_str())).collect();
        assert_eq!(add(&many).unwrap_err(), "it lists 2001 hosts, at most 2000 are allowed");
        assert_eq!(add(&many[1..]).unwrap().len(), MAX_HOSTS);
        let bad = add(&[("-oProxyCommand=x", "10.0.0.2")]).unwrap_err();
        assert!(bad.starts_with("`-oProxyCommand=x` at 10.0.0.2 is no host name: "), "{bad}");
        assert!(add(&[("web 2", "10.0.0.2")]).is_err() && add(&[("", "10.0.0.2")]).is_err());
        assert!(add(&[("web2", "0.0.0.0")]).unwrap_err().contains("no address of a host"));
        let twice = add(&[("web2", "10.0.0.2"), ("web2", "10.0.0.3")]).unwrap_err();
        assert_eq!(twice, "two hosts have the name `web2`: 10.0.0.2 and 10.0.0.3");
        let twice = add(&[("web1", "10.0.0.9")]).unwrap_err();
        assert_eq!(twice, "two hosts have the name `web1`: 10.0.0.1 and 10.0.0.9");
        let twice = add(&[("web2", "10.0.0.2"), ("web3", "10.0.0.2")]).unwrap_err();
        assert_eq!(twice, "two hosts have the address 10.0.0.2: `web2` and `web3`");
    }

    #[test]
    fn pattern_gets_name_and_address() {
        let fill = |pattern, address: &str| {
            fill_pattern(&pattern, &"web2".parse().unwrap(), address.parse().unwrap()).to_string()
        };
        assert_eq!(fill(TransportPattern::Tls("{address}:9443".into()), "10.0.0.2"), "https://10.0.0.2:9443");
        assert_eq!(fill(TransportPattern::Tls("{address}:9443".into()), "fd00::2"), "https://[fd00::2]:9443");
        assert_eq!(fill(TransportPattern::Ssh("{host}.lan".into()), "10.0.0.2"), "ssh web2.lan");
        let socket = TransportPattern::Socket("/run/{host}.sock".into());
        assert_eq!(fill(socket, "10.0.0.2"), "unix:///run/web2.sock");
    }

    #[test]
    fn configuration_goes_before_the_record() {
        let written = [example::host("web1", "10.0.0.9")];
        let recorded = vec![example::host("web1", "10.0.0.1"), example::host("web2", "10.0.0.2")];
        let both = add_recorded_hosts(&written, recorded.clone());
        assert_eq!(both, [written[0].clone(), recorded[1].clone()]);
    }

    #[test]
    fn change_names_hosts() {
        let names = |text: &str| -> Vec<HostName> {
            text.split_whitespace().map(|name| name.parse().unwrap()).collect()
        };
        let change = |before: &str, now: &str| describe_change(&names(before), &names(now));
        assert_eq!(change("web1 web2", "web2 web1"), None);
        assert_eq!(
            change("web1 web2", "web1 web3 web4").unwrap(),
            "`web3`, `web4` appeared; `web2` vanished"
        );
    }
}
