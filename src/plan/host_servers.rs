//! The two servers of a host among those of a balancer's backend: by address and port, as its requests reach the host.
//!
//! A name proves nothing: a slot of a `server-template` has the name of its slot and the address of any host. The name decides
//! where several servers have the address, and where no server has it: a balancer that does not report addresses, or that uses
//! another address of the host.

use std::net::SocketAddr;

use crate::model::balancer::{
    AdminState, BackendView, BalancerSpec, ServerLine, ServerState, ServerView, canonicalize,
};
use crate::model::fleet::Fleet;
use crate::model::name::HostName;
use crate::model::ports::Port;

/// The server of one of a host's vhosts, where the backend has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostServer<'a> {
    /// Its name in HAProxy's commands; where there is no server, the configured one.
    pub name: String,
    /// Its name in messages: `web3 (srv7)` where the name is not the configured one.
    pub label: String,
    /// The address that it was searched by; `None` where the host has none in the configuration.
    pub endpoint: Option<SocketAddr>,
    pub view: Option<&'a ServerView>,
}

/// Finds the server of a host's main vhost.
pub fn find_main<'a>(
    fleet: &Fleet,
    spec: &BalancerSpec,
    host: &HostName,
    view: &'a BackendView,
) -> HostServer<'a> {
    find(fleet, fleet.ports.main, host, view, &spec.servers.main_server_name(host))
}

/// Finds the server of a host's backup vhost.
pub fn find_backup<'a>(
    fleet: &Fleet,
    spec: &BalancerSpec,
    host: &HostName,
    view: &'a BackendView,
) -> HostServer<'a> {
    find(fleet, fleet.ports.backup, host, view, &spec.servers.backup_server_name(host))
}

fn find<'a>(
    fleet: &Fleet,
    port: Port,
    host: &HostName,
    view: &'a BackendView,
    configured: &str,
) -> HostServer<'a> {
    let endpoint = find_endpoint(fleet, port, host);
    let at_address: Vec<&ServerView> =
        endpoint.into_iter().flat_map(|endpoint| view.find_servers_at(endpoint)).collect();
    let chosen = match at_address[..] {
        [] => view.find_server(configured),
        [only] => Some(only),
        _ => choose(&at_address, configured),
    };
    let name = chosen.map_or_else(|| configured.to_owned(), |server| server.name.clone());
    let label = if name == configured { name.clone() } else { format!("{host} ({name})") };
    HostServer { name, label, endpoint, view: chosen }
}

/// Several servers have one address: a slot whose name does not resolve any more keeps its last address, and is not meant.
fn choose<'a>(servers: &[&'a ServerView], configured: &str) -> Option<&'a ServerView> {
    let is_resolved = |server: &&&ServerView| !server.admin_state.is_some_and(AdminState::is_unresolved);
    let mut resolved = servers.iter().filter(is_resolved);
    match (resolved.next(), resolved.next()) {
        (Some(only), None) => Some(only),
        _ => servers.iter().find(|server| server.name == configured).copied(),
    }
}

/// Finds the line of a host's main vhost among those of all backends.
pub fn find_main_line<'a>(
    fleet: &Fleet,
    spec: &BalancerSpec,
    host: &HostName,
    lines: &'a [ServerLine],
) -> Option<&'a ServerLine> {
    let configured = spec.servers.main_server_name(host);
    let endpoint = find_endpoint(fleet, fleet.ports.main, host).map(canonicalize);
    let own: Vec<&ServerLine> = lines.iter().filter(|line| line.backend == spec.backend).collect();
    let named = || own.iter().find(|line| line.server == configured).copied();
    let at_address: Vec<&ServerLine> =
        own.iter().filter(|line| Some(canonicalize(line.address)) == endpoint).copied().collect();
    if let [only] = at_address[..] {
        return Some(only);
    }
    let mut in_use = at_address.iter().filter(|line| !line.is_in_maintenance);
    match (in_use.next(), in_use.next()) {
        (Some(only), None) => Some(only),
        _ => named(),
    }
}

/// Describes the servers that send users to a host. Without an address for any server, a balancer proves by the configured names
/// alone that it has none for the host.
pub fn list_host_users(
    fleet: &Fleet,
    spec: &BalancerSpec,
    host: &HostName,
    view: &BackendView,
) -> Vec<String> {
    let is_used = |server: &&ServerView| server.state != ServerState::Maint;
    let describe = |server: &ServerView| format!("`{}` still has it in `{}`", spec.name, server.name);
    let ports = [fleet.ports.main, fleet.ports.backup];
    let endpoints: Vec<SocketAddr> =
        ports.iter().filter_map(|port| find_endpoint(fleet, *port, host)).collect();
    if !endpoints.is_empty() && view.servers().iter().any(|server| server.address.is_some()) {
        let at_address = endpoints.iter().flat_map(|endpoint| view.find_servers_at(*endpoint));
        return at_address.filter(is_used).map(describe).collect();
    }
    let named = [find_main(fleet, spec, host, view), find_backup(fleet, spec, host, view)];
    if named.iter().any(|server| server.view.is_some()) {
        return named.iter().filter_map(|server| server.view).filter(is_used).map(describe).collect();
    }
    if !view.servers().iter().any(|server| is_used(&server)) {
        return vec![];
    }
    let missing = if endpoints.is_empty() { "the host has no address" } else { "it reports no addresses" };
    vec![format!("`{}` may still have it: {missing}", spec.name)]
}

pub fn find_endpoint(fleet: &Fleet, port: Port, host: &HostName) -> Option<SocketAddr> {
    Some(SocketAddr::new(fleet.find_host(host)?.address?, port.get()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::balancer::ServerCounters;
    use crate::model::example::{self, make_server};

    fn server(name: &str, address: &str) -> ServerView {
        let address = Some(address).filter(|text| !text.is_empty()).map(|text| text.parse().unwrap());
        ServerView { address, ..make_server(name, ServerState::Up) }
    }

    /// web2 at 10.0.0.2, web3 at 10.0.0.3; web3's main and backup.
    fn labels(servers: Vec<ServerView>) -> [String; 2] {
        let hosts = vec![example::host("web2", "10.0.0.2"), example::host("web3", "10.0.0.3")];
        let fleet = Fleet { hosts, ..example::fleet() };
        let spec = example::balancer("lb1", None);
        let view = BackendView::new(servers);
        let web3: HostName = "web3".parse().unwrap();
        let found = [find_main(&fleet, &spec, &web3, &view), find_backup(&fleet, &spec, &web3, &view)];
        found.map(|server| if server.view.is_some() { server.label } else { "none".to_owned() })
    }

    #[test]
    fn server_of_any_name_is_found_by_address_and_port() {
        let slots = vec![
            server("srv1", "10.0.0.2:8080"),
            server("srv7", "10.0.0.3:8080"),
            server("spare2", "[::ffff:10.0.0.3]:80"),
        ];
        assert_eq!(labels(slots), ["web3 (srv7)", "web3 (spare2)"]);
        // The names are swapped: the addresses are true.
        let swapped = vec![server("main-web3", "10.0.0.2:8080"), server("main-web2", "10.0.0.3:8080")];
        assert_eq!(labels(swapped), ["web3 (main-web2)", "none"]);
    }

    #[test]
    fn name_decides_where_no_address_is_reported_or_none_is_the_hosts() {
        let hidden = vec![server("main-web2", ""), server("main-web3", ""), server("backup-web3", "")];
        assert_eq!(labels(hidden), ["main-web3", "backup-web3"]);
        // Another address of the host, which the configuration does not have.
        let second = vec![server("main-web3", "192.0.2.3:8080"), server("backup-web3", "192.0.2.3:80")];
        assert_eq!(labels(second), ["main-web3", "backup-web3"]);
    }

    #[test]
    fn name_decides_between_servers_of_one_address() {
        let double = vec![server("old", "10.0.0.3:8080"), server("main-web3", "10.0.0.3:8080")];
        assert_eq!(labels(double), ["main-web3", "none"]);
        let unknown = vec![server("a", "10.0.0.3:8080"), server("b", "10.0.0.3:8080")];
        assert_eq!(labels(unknown), ["none", "none"]);
    }

    #[test]
    fn slot_that_does_not_resolve_any_more_is_not_the_hosts() {
        let left = ServerView { admin_state: Some(AdminState(0x20)), ..server("srv1", "10.0.0.3:8080") };
        assert_eq!(labels(vec![left.clone(), server("srv2", "10.0.0.3:8080")]), ["web3 (srv2)", "none"]);
        assert_eq!(labels(vec![left]), ["web3 (srv1)", "none"], "nothing else is at the address");
    }

    #[test]
    fn balancer_without_addresses_may_still_use_a_host() {
        let hosts = vec![example::host("web3", "10.0.0.3")];
        let fleet = Fleet { hosts, ..example::fleet() };
        let users = |servers: Vec<ServerView>| {
            let host = &fleet.hosts[0].name;
            list_host_users(&fleet, &example::balancer("lb1", None), host, &BackendView::new(servers))
        };
        let maint = |server: ServerView| ServerView { state: ServerState::Maint, ..server };
        let still = |server: &str| vec![format!("`lb1` still has it in `{server}`")];
        assert_eq!(users(vec![server("srv1", "10.0.0.3:80"), server("srv2", "")]), still("srv1"));
        assert_eq!(users(vec![server("srv1", "10.0.0.2:80"), server("srv2", "")]), [""; 0]);
        assert_eq!(users(vec![maint(server("srv1", "10.0.0.3:80"))]), [""; 0]);
        let hidden = vec![server("srv1", ""), maint(server("srv2", ""))];
        assert_eq!(users(hidden), ["`lb1` may still have it: it reports no addresses"]);
        assert_eq!(users(vec![server("main-web3", ""), server("srv2", "")]), still("main-web3"));
        assert_eq!(users(vec![maint(server("main-web3", "")), server("srv2", "")]), [""; 0]);
        assert_eq!(users(vec![maint(server("srv1", ""))]), [""; 0], "no slot has a host");
    }

    #[test]
    fn main_line_is_found_by_address_in_its_own_backend() {
        let hosts = vec![example::host("web3", "10.0.0.3")];
        let fleet = Fleet { hosts, ..example::fleet() };
        let spec = example::balancer("lb1", None);
        let line = |backend: &str, server: &str, address: &str| ServerLine {
            backend: backend.into(),
            server: server.into(),
            address: address.parse().unwrap(),
            check_port: Some(8888),
            is_in_maintenance: false,
            work: ServerCounters::default(),
        };
        let find = |lines: &[ServerLine]| {
            find_main_line(&fleet, &spec, &fleet.hosts[0].name, lines).map(|line| line.server.clone())
        };
        let other = line("other", "srv9", "10.0.0.3:8080");
        let slot = line(&spec.backend, "srv7", "10.0.0.3:8080");
        assert_eq!(find(&[other.clone(), slot]).as_deref(), Some("srv7"));
        let named = line(&spec.backend, "main-web3", "192.0.2.9:8080");
        assert_eq!(find(&[other.clone(), named]).as_deref(), Some("main-web3"));
        assert_eq!(find(&[other]), None);
    }
}
