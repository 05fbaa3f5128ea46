//! The addresses of a host, compared with those of its server lines on a balancer.

use std::net::IpAddr;

use crate::model::address_conflict::AddressConflict;
use crate::model::balancer::{BalancerSpec, ServerLine};
use crate::model::fleet::Fleet;
use crate::model::host::Host;

/// Finds the lines of a host on one balancer that have the address of another machine. `reported`: the addresses that the host
/// reports. A line without a usable address (a socket, `0.0.0.0`, a name that does not resolve) is no conflict, nor is the
/// loopback of a balancer on the host itself.
pub fn compare_addresses(
    fleet: &Fleet,
    spec: &BalancerSpec,
    host: &Host,
    reported: &[IpAddr],
    lines: &[ServerLine],
) -> Vec<AddressConflict> {
    let mut known: Vec<IpAddr> = host.address.iter().chain(reported).map(IpAddr::to_canonical).collect();
    let mut unique = Vec::new();
    known.retain(|address| {
        let is_new = !unique.contains(address);
        unique.push(*address);
        is_new
    });
    if known.is_empty() {
        return vec![];
    }
    let names = [spec.servers.main_server_name(&host.name), spec.servers.backup_server_name(&host.name)];
    let own = lines.iter().filter(|line| line.backend == spec.backend && names.contains(&line.server));
    own.filter_map(|line| {
        let found = line.address.ip().to_canonical();
        let is_known = known.contains(&found) || found.is_unspecified() || found.is_loopback();
        let found_on = find_other_host(fleet, host, found);
        // Without the host's own list, an address that no other host has may well be a second one of this host.
        let is_comparable = found_on.is_some()
            || reported.iter().any(|address| address.to_canonical().is_ipv4() == found.is_ipv4());
        (!is_known && is_comparable).then(|| AddressConflict {
            host: host.name.clone(),
            balancer: spec.name.clone(),
            line: line.to_string(),
            found,
            found_on,
            known: known.clone(),
        })
    })
    .collect()
}

fn find_other_host(fleet: &Fleet, host: &Host, address: IpAddr) -> Option<crate::model::name::HostName> {
    let has = |other: &&Host| {
        other.name != host.name && other.address.map(|other| other.to_canonical()) == Some(address)
    };
    fleet.hosts.iter().find(has).map(|other| other.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::balancer::ServerCounters;
    use crate::model::example;

    fn compare(address: &str, reported: &[&str]) -> Vec<String> {
        let hosts = vec![example::host("web2", "10.0.0.2"), example::host("web3", "10.0.0.3")];
        let spec = example::balancer("lb1", None);
        let line = ServerLine {
            backend: spec.backend.clone(),
            server: spec.servers.main_server_name(&hosts[0].name),
            address: address.parse().unwrap(),
            check_port: Some(8888),
            is_in_maintenance: false,
            work: ServerCounters::default(),
        };
        let reported: Vec<IpAddr> = reported.iter().map(|address| address.parse().unwrap()).collect();
        let fleet = Fleet { hosts: hosts.clone(), ..example::fleet() };
        let found = compare_addresses(&fleet, &spec, &hosts[0], &reported, &[line]);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn line_with_the_address_of_another_host_is_a_conflict() {
        let backend = example::balancer("lb1", None).backend;
        assert_eq!(
            compare("10.0.0.3:8080", &[]),
            [format!(
                "`lb1` sends the requests of `{backend}/main-web2` to `10.0.0.3` of `web3`, and `web2` has `10.0.0.2`"
            )]
        );
        assert_eq!(
            compare("192.0.2.9:8080", &["10.0.0.2", "172.16.0.2"]),
            [format!(
                "`lb1` sends the requests of `{backend}/main-web2` to `192.0.2.9`, and `web2` has `10.0.0.2`, `172.16.0.2`"
            )]
        );
    }

    #[test]
    fn line_whose_address_cannot_be_compared_is_no_conflict() {
        for (address, reported) in [
            ("10.0.0.2:8080", &[][..]),
            ("[::ffff:10.0.0.2]:8080", &[]),
            ("172.16.0.2:8080", &["10.0.0.2", "172.16.0.2"]),
            ("0.0.0.0:0", &["10.0.0.2"]),
            ("127.0.0.1:8080", &["10.0.0.2"]),
            ("192.0.2.9:8080", &[]),
            ("[2001:db8::9]:8080", &["10.0.0.2"]),
        ] {
            assert_eq!(compare(address, reported), [""; 0], "{address}");
        }
    }
}
