//! The two server lines of each host.

use std::net::IpAddr;

use super::cfg::Section;
use super::keywords::{ServerAddress, ServerLine, ServerPort};
use super::report::LintReport;
use super::server_pattern::extract_host;
use crate::model::balancer::{BalancerSpec, ServerNames};
use crate::model::finding::Severity::{Problem, Warning};
use crate::model::fleet::Fleet;
use crate::model::ports::Port;

/// The lines of one host; its address where switchman.yaml has it.
pub(super) struct ServerPair<'a> {
    pub host: String,
    pub address: Option<IpAddr>,
    pub main: &'a ServerLine<'a>,
    pub backup: Option<&'a ServerLine<'a>>,
}

impl ServerPair<'_> {
    pub(super) fn lines(&self) -> impl Iterator<Item = &ServerLine<'_>> {
        std::iter::once(self.main).chain(self.backup)
    }
}

/// Pairs the lines of a backend, and reports those that are missing or fit no host.
pub(super) fn pair_servers<'a>(
    all: &'a [ServerLine<'a>],
    section: &Section,
    fleet: &Fleet,
    balancer: &BalancerSpec,
    report: &mut LintReport<'_>,
) -> Vec<ServerPair<'a>> {
    if fleet.hosts.is_empty() {
        return pair_unlisted_hosts(all, section, fleet, balancer, report);
    }
    lint_unknown_hosts(all, fleet, balancer, report);
    pair_listed_hosts(all, section, fleet, balancer, report)
}

fn find_server<'a>(all: &'a [ServerLine<'a>], name: &str) -> Option<&'a ServerLine<'a>> {
    all.iter().find(|server| server.name == name)
}

/// Finds the only line that sends requests to this address and port: HAProxy's name of a vhost may be any.
fn find_server_at<'a>(all: &'a [ServerLine<'a>], address: IpAddr, port: Port) -> Option<&'a ServerLine<'a>> {
    let has_endpoint = |server: &&ServerLine<'_>| {
        server.ip_address() == Some(address) && server.port() == ServerPort::Fixed(port.get())
    };
    let mut found = all.iter().filter(has_endpoint);
    found.next().filter(|_| found.next().is_none())
}

/// Pairs the lines whose addresses HAProxy resolves at run time, by their name in DNS.
fn pair_resolved_slots<'a>(all: &'a [ServerLine<'a>]) -> Vec<ServerPair<'a>> {
    let read_name = |server: &ServerLine<'a>| match server.address() {
        ServerAddress::Name(name) if server.value("resolvers").is_some() => Some(name),
        _ => None,
    };
    let mains = all.iter().filter(|server| !server.is_slot && !server.has_flag("backup"));
    let pair = |main: &'a ServerLine<'a>| {
        let name = read_name(main)?;
        let backup = all.iter().find(|server| server.has_flag("backup") && read_name(server) == Some(name));
        Some(ServerPair { host: name.to_owned(), address: None, main, backup })
    };
    mains.filter_map(pair).collect()
}

/// The hosts of switchman.yaml.
fn pair_listed_hosts<'a>(
    all: &'a [ServerLine<'a>],
    section: &Section,
    fleet: &Fleet,
    balancer: &BalancerSpec,
    report: &mut LintReport<'_>,
) -> Vec<ServerPair<'a>> {
    let mut pairs = pair_resolved_slots(all);
    // Which host has which slot is known at run time only.
    let is_resolved = !pairs.is_empty();
    for host in &fleet.hosts {
        let (main, backup) =
            (balancer.servers.main_server_name(&host.name), balancer.servers.backup_server_name(&host.name));
        let find_vhost = |name: &str, port: Port| {
            find_server(all, name).or_else(|| find_server_at(all, host.address?, port))
        };
        let found = [find_vhost(&main, fleet.ports.main), find_vhost(&backup, fleet.ports.backup)];
        if is_resolved && found == [None, None] {
            continue;
        }
        let address = host.address.map_or("ADDRESS".to_owned(), |address| match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        });
        if found[0].is_none() {
            let (check, port) = (fleet.ports.check, fleet.ports.main);
            let fix = format!("server {main} {address}:{port} check port {check} cookie {}", host.name);
            report_missing(&main, section, &fix, report);
        }
        if found[1].is_none() {
            let port = fleet.ports.backup;
            let fix =
                format!("server {backup} {address}:{port} check port {port} cookie {} backup", host.name);
            report_missing(&backup, section, &fix, report);
        }
        if let [Some(main), backup] = found {
            pairs.push(ServerPair { host: host.name.to_string(), address: host.address, main, backup });
        }
    }
    pairs
}

/// Lines by the pattern of a main or backup, of a host that switchman.yaml does not have.
fn lint_unknown_hosts(
    all: &[ServerLine<'_>],
    fleet: &Fleet,
    balancer: &BalancerSpec,
    report: &mut LintReport<'_>,
) {
    // A line that resolves at run time belongs to a slot, and no host's name is its name.
    for server in all.iter().filter(|server| !server.is_slot && server.value("resolvers").is_none()) {
        let ServerNames { main, backup } = &balancer.servers;
        let hosts = [main, backup].map(|pattern| extract_host(&server.name, pattern));
        let is_listed = |host: &str| fleet.hosts.iter().any(|own| own.name.as_str() == host);
        let Some(host) = hosts.into_iter().flatten().next() else { continue };
        // By the pattern `{host}` every line is named as a main vhost, a spare server of another machine and a unix socket too.
        let is_other = server.has_flag("backup") || server.address() == ServerAddress::Local;
        if is_other && hosts[1].is_none() && main == "{host}" {
            continue;
        }
        if !hosts.into_iter().flatten().any(is_listed) {
            report.add(
                Warning,
                "haproxy-unknown-host",
                server.number,
                format!(
                    "`{}` is a vhost of `{host}`, which switchman.yaml does not have: no roll reaches that host, and its users \
                     stay on what it runs",
                    server.name
                ),
                format!("add `{host}` to `hosts`, or remove the line"),
            );
        }
    }
}

/// Without `hosts:` every line that is no backup is some host's main. A line of another port belongs to no host.
fn pair_unlisted_hosts<'a>(
    all: &'a [ServerLine<'a>],
    section: &Section,
    fleet: &Fleet,
    balancer: &BalancerSpec,
    report: &mut LintReport<'_>,
) -> Vec<ServerPair<'a>> {
    let ServerNames { main, backup } = &balancer.servers;
    let mut pairs = Vec::new();
    for server in all.iter().filter(|server| !server.has_flag("backup")) {
        // A backup that lost its keyword is reported beside its main.
        let of_main = extract_host(&server.name, backup).map(|host| main.replace("{host}", host));
        if of_main.is_some_and(|main| find_server(all, &main).is_some()) {
            continue;
        }
        let Some(host) = extract_host(&server.name, main) else {
            report.add(
                Warning,
                "haproxy-server-name",
                server.number,
                format!(
                    "switchman looks for servers called `{main}` and `{backup}`, and cannot find `{}`",
                    server.name
                ),
                format!("call it `{main}`, or set the names of the lines in `load_balancers[].servers`"),
            );
            continue;
        };
        let other = backup.replace("{host}", host);
        if find_server(all, &other).is_none() {
            let port = fleet.ports.backup;
            let fix = format!("server {other} ADDRESS:{port} check port {port} cookie {host} backup");
            report_missing(&other, section, &fix, report);
        }
        let found = find_server(all, &other);
        let address = server.ip_address();
        pairs.push(ServerPair { host: host.to_owned(), address, main: server, backup: found });
    }
    if pairs.is_empty() {
        let (check, port) = (fleet.ports.check, fleet.ports.main);
        let fix = format!("server main-NAME ADDRESS:{port} check port {check} cookie NAME");
        report_missing(main, section, &fix, report);
    }
    pairs
}

fn report_missing(name: &str, section: &Section, fix: &str, report: &mut LintReport<'_>) {
    report.add(
        Problem,
        "haproxy-no-server",
        section.number,
        format!("the backend `{}` has no server `{name}`", section.name),
        format!("add `{fix}`, or set the names of the lines in `load_balancers[].servers`"),
    );
}
