//! The endpoint where the state of HAProxy can be read, from its stats sockets and statistics pages.

use std::net::{IpAddr, SocketAddr};

use crate::lint::cfg::{ParsedCfg, Section};
use crate::model::balancer::StatsEndpoint;

/// The endpoint of the file, or the line that it lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FoundEndpoint {
    pub endpoint: Option<StatsEndpoint>,
    /// The line that `global` needs for it.
    pub new_socket: Option<String>,
    pub note: Option<String>,
}

/// The port of the proposed socket.
const SOCKET_PORT: u16 = 9999;

/// Finds the best endpoint: a socket on TCP, then a page without a password, then a socket that the file lacks. A path is only
/// for switchman on the machine of HAProxy.
pub(super) fn find_endpoint(cfg: &ParsedCfg, balancer: Option<IpAddr>, is_on_host: bool) -> FoundEndpoint {
    let sockets = list_sockets(cfg);
    let tcp = sockets.iter().find_map(|text| parse_bind(text, balancer, is_on_host));
    if let Some(address) = tcp {
        let host = address.ip().to_string();
        return found(StatsEndpoint::Tcp { host, port: address.port() });
    }
    let path = sockets.iter().map(|text| text.trim_start_matches("unix@")).find(|text| text.starts_with('/'));
    if let Some(path) = path.filter(|_| is_on_host) {
        return found(StatsEndpoint::Unix(path.into()));
    }
    if let Some(page) = find_page(cfg, balancer, is_on_host) {
        return found(StatsEndpoint::Http(page));
    }
    let Some(balancer) = balancer else {
        let reason = match path {
            Some(path) => format!("the stats socket {path} can be read on the load balancer only"),
            None => "no stats socket of the file can be read from the hosts".to_owned(),
        };
        let note = format!(
            "{reason}, and the address of the load balancer is not in the file: switchman waits for the computed limit instead of \
             reading HAProxy's state. Give the address with `--balancer ADDRESS`"
        );
        return FoundEndpoint { note: Some(note), ..FoundEndpoint::default() };
    };
    let family = if balancer.is_ipv4() { "ipv4" } else { "ipv6" };
    let address = SocketAddr::new(balancer, SOCKET_PORT);
    FoundEndpoint {
        endpoint: Some(StatsEndpoint::Tcp { host: balancer.to_string(), port: SOCKET_PORT }),
        new_socket: Some(format!("    stats socket {family}@{address} level user")),
        note: None,
    }
}

fn found(endpoint: StatsEndpoint) -> FoundEndpoint {
    FoundEndpoint { endpoint: Some(endpoint), ..FoundEndpoint::default() }
}

fn list_sockets(cfg: &ParsedCfg) -> Vec<&str> {
    let global = cfg.find_first("global").into_iter().flat_map(|global| &global.lines);
    global.filter(|line| line.starts_with(&["stats", "socket"])).filter_map(|line| line.word(2)).collect()
}

/// The address that clients connect to: a wildcard needs the address of the load balancer, and a loopback address is only for
/// its own machine.
fn parse_bind(text: &str, balancer: Option<IpAddr>, is_on_host: bool) -> Option<SocketAddr> {
    let text = text.trim_start_matches("ipv4@").trim_start_matches("ipv6@");
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = match bare {
        "" | "*" => None,
        bare => Some(bare.parse::<IpAddr>().ok()?),
    };
    match address.filter(|address| !address.is_unspecified()) {
        Some(address) if address.is_loopback() && !is_on_host => None,
        Some(address) => Some(SocketAddr::new(address, port)),
        None => balancer.map(|address| SocketAddr::new(address, port)),
    }
}

/// A statistics page over plain HTTP that requires no password.
fn find_page(cfg: &ParsedCfg, balancer: Option<IpAddr>, is_on_host: bool) -> Option<String> {
    let pages = cfg.proxies().filter(|proxy| proxy.kind != "backend");
    pages.into_iter().find_map(|proxy| {
        let path = cfg.find_setting(proxy, &["stats", "uri"])?.word(2)?;
        let is_closed = cfg.find_setting(proxy, &["stats", "auth"]).is_some()
            || cfg.find_setting(proxy, &["stats", "http-request"]).is_some();
        let address = find_plain_bind(proxy, balancer, is_on_host).filter(|_| !is_closed)?;
        let is_plain = path.starts_with('/') && path.chars().all(|c| c.is_ascii_graphic());
        is_plain.then(|| format!("http://{address}{path}"))
    })
}

fn find_plain_bind(proxy: &Section, balancer: Option<IpAddr>, is_on_host: bool) -> Option<SocketAddr> {
    let plain = proxy.find_all(&["bind"]).filter(|line| !line.has_word("ssl"));
    let mut addresses = plain.filter_map(|line| line.word(1)).flat_map(|text| text.split(','));
    addresses.find_map(|text| parse_bind(text, balancer, is_on_host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, balancer: Option<&str>, is_on_host: bool) -> FoundEndpoint {
        let balancer = balancer.map(|text| text.parse().unwrap());
        find_endpoint(&ParsedCfg::parse(text), balancer, is_on_host)
    }

    fn tcp(host: &str, port: u16) -> Option<StatsEndpoint> {
        Some(StatsEndpoint::Tcp { host: host.into(), port })
    }

    #[test]
    fn socket_on_tcp_is_preferred() {
        let text = "global\n stats socket /run/a.sock\n stats socket ipv4@10.0.0.2:9999 level user\n";
        assert_eq!(find(text, None, false).endpoint, tcp("10.0.0.2", 9999));
        assert_eq!(find("global\n stats socket [fd00::2]:99\n", None, false).endpoint, tcp("fd00::2", 99));
        assert_eq!(
            find("global\n stats socket *:99\n", Some("10.0.0.9"), false).endpoint,
            tcp("10.0.0.9", 99)
        );
    }

    #[test]
    fn path_is_for_the_machine_of_haproxy_only() {
        let text = "global\n stats socket /run/a.sock mode 600 level admin\n";
        assert_eq!(find(text, None, true).endpoint, Some(StatsEndpoint::Unix("/run/a.sock".into())));
        let other = find(text, None, false);
        assert!(other.endpoint.is_none() && other.note.unwrap().contains("--balancer"));
        let new = find(text, Some("10.0.0.2"), false);
        assert_eq!(new.endpoint, tcp("10.0.0.2", 9999));
        assert_eq!(new.new_socket.unwrap().trim(), "stats socket ipv4@10.0.0.2:9999 level user");
    }

    #[test]
    fn page_with_password_or_on_loopback_is_left_out() {
        let page = |more: &str| {
            format!("defaults\n stats uri /s\nlisten x\n bind 10.0.0.2:8404\n stats enable\n{more}")
        };
        let open = Some(StatsEndpoint::Http("http://10.0.0.2:8404/s".into()));
        assert_eq!(find(&page(""), None, false).endpoint, open);
        assert_eq!(find(&page(" stats auth a:b\n"), None, false).endpoint, None);
        assert_eq!(find(&page("").replace("10.0.0.2", "127.0.0.1"), None, false).endpoint, None);
    }
}
