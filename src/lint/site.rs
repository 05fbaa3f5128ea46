//! The parsed file beside what switchman.yaml knows: whose ports are reached, and what HAProxy checks to decide on a server.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::cfg::{ParsedCfg, Section};
use super::keywords::{ServerAddress, ServerLine, ServerPort, read_servers};
use crate::model::ports::Ports;

/// The ports of one service on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub host: String,
    pub address: IpAddr,
    pub ports: Ports,
}

pub(super) struct Site<'a> {
    pub cfg: &'a ParsedCfg,
    pub addresses: &'a BTreeMap<String, Vec<IpAddr>>,
}

/// Decides whether HAProxy marks a server DOWN, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CheckTarget {
    /// A connection to this port, at these addresses; none where the name has no known address.
    Port { addresses: Vec<IpAddr>, port: u16 },
    /// Nothing: UP for ever.
    Nothing,
    /// `disabled`: in MAINT from the start.
    Disabled,
    /// Not written in the file.
    Unknown,
}

impl CheckTarget {
    /// Whether the server follows the forward of this host and service.
    pub(super) fn follows_forward(&self, target: &Target) -> bool {
        matches!(self, Self::Port { addresses, port }
            if *port == target.ports.check.get() && (addresses.is_empty() || addresses.contains(&target.address)))
    }
}

impl<'a> Site<'a> {
    pub(super) fn resolve(&self, address: ServerAddress<'_>) -> Vec<IpAddr> {
        match address {
            ServerAddress::Ip(address) => vec![address],
            ServerAddress::Name(name) => self.addresses.get(name).cloned().unwrap_or_default(),
            _ => vec![],
        }
    }

    /// The check that decides on a server, also through `track`.
    pub(super) fn find_check(&self, section: &'a Section, server: &ServerLine<'a>) -> CheckTarget {
        self.follow_check(section, server, 0)
    }

    fn follow_check(&self, section: &'a Section, server: &ServerLine<'a>, depth: usize) -> CheckTarget {
        // HAProxy refuses circles.
        const MAX_DEPTH: usize = 16;
        if server.has_flag("disabled") {
            return CheckTarget::Disabled;
        }
        if let Some(tracked) = server.value("track") {
            return match self.find_tracked(section, tracked) {
                Some((proxy, server)) if depth < MAX_DEPTH => self.follow_check(proxy, &server, depth + 1),
                _ => CheckTarget::Unknown,
            };
        }
        if !server.has_flag("check") {
            return if server.is_open { CheckTarget::Unknown } else { CheckTarget::Nothing };
        }
        let elsewhere = server.value("addr").map(|text| (text, text.trim_matches(['[', ']']).parse()));
        let addresses = match elsewhere {
            Some((_, Ok(address))) => vec![address],
            Some((name, Err(_))) => self.addresses.get(name).cloned().unwrap_or_default(),
            None => self.resolve(server.address()),
        };
        let own = match server.port() {
            ServerPort::Fixed(port) => Some(port),
            _ => None,
        };
        let port = if server.is_known("port") { server.check_port().or(own) } else { None };
        port.map_or(CheckTarget::Unknown, |port| CheckTarget::Port { addresses, port })
    }

    /// The line after `track`: `server`, or `proxy/server`.
    pub(super) fn find_tracked(
        &self,
        section: &'a Section,
        tracked: &str,
    ) -> Option<(&'a Section, ServerLine<'a>)> {
        let (proxy, name) = match tracked.split_once('/') {
            Some((proxy, name)) => (self.find_proxy(proxy)?, name),
            None => (section, tracked),
        };
        let server = read_servers(self.cfg, proxy).into_iter().find(|server| server.name == name)?;
        Some((proxy, server))
    }

    pub(super) fn find_proxy(&self, name: &str) -> Option<&'a Section> {
        self.cfg.find("backend", name).or_else(|| self.cfg.find("listen", name))
    }

    /// Where traffic of a server can arrive: of a line without address or port, what clients connect to and what `set-dst`
    /// and `set-dst-port` rules set.
    pub(super) fn find_destination(&self, section: &Section, server: &ServerLine<'_>) -> Destination {
        let mut found =
            Destination { addresses: self.resolve(server.address()), ports: vec![], has_open_port: false };
        let proxies: Vec<&Section> = match section.kind.as_str() {
            "backend" => {
                self.cfg.proxies().filter(|proxy| proxy.kind != "backend").chain([section]).collect()
            }
            _ => vec![section],
        };
        if server.address() == ServerAddress::OfClient {
            let values = proxies.iter().flat_map(|proxy| list_set_values(proxy, "set-dst"));
            found.addresses.extend(values.filter_map(|text| parse_constant(text)?.parse::<IpAddr>().ok()));
        }
        match server.port() {
            ServerPort::Fixed(port) => found.ports.push(port),
            ServerPort::OfClient(offset) => {
                let mut ports: Vec<u16> = proxies.iter().flat_map(|proxy| list_bind_ports(proxy)).collect();
                for text in proxies.iter().flat_map(|proxy| list_set_values(proxy, "set-dst-port")) {
                    match parse_constant(text).and_then(|text| text.parse().ok()) {
                        Some(port) => ports.push(port),
                        None => found.has_open_port = true,
                    }
                }
                let moved = ports.into_iter().filter_map(|port| u16::try_from(i32::from(port) + offset).ok());
                found.ports.extend(moved);
            }
            ServerPort::Unknown => found.has_open_port = true,
        }
        found
    }
}

/// Where traffic of a server line arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<u16>,
    /// The port can be any other too.
    pub has_open_port: bool,
}

/// The values that rules of a proxy set: `http-request set-dst VALUE`, `tcp-request content set-dst-port VALUE`.
fn list_set_values<'a>(proxy: &'a Section, action: &'a str) -> impl Iterator<Item = &'a str> {
    proxy.lines.iter().filter_map(move |line| {
        let at = match line.word(0) {
            Some("http-request") => 1,
            Some("tcp-request") => 2,
            _ => return None,
        };
        line.word(at + 1).filter(|_| line.word(at) == Some(action))
    })
}

/// The text of `ipv4(10.0.0.11)`, `str(10.0.0.11)` or `int(8080)`; `None` for what a request decides.
fn parse_constant(text: &str) -> Option<&str> {
    let (fetch, rest) = text.split_once('(')?;
    let is_constant = ["int", "str", "ipv4", "ipv6"].contains(&fetch);
    rest.strip_suffix(')').filter(|_| is_constant)
}

/// The ports of the `bind` lines of a proxy: `:80`, `10.0.0.1:80,:81`, `:8000-8009`.
pub(super) fn list_bind_ports(proxy: &Section) -> Vec<u16> {
    let addresses =
        proxy.find_all(&["bind"]).filter_map(|line| line.word(1)).flat_map(|text| text.split(','));
    let ranges = addresses.filter_map(|address| {
        let text = address.rsplit_once(':')?.1;
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    });
    ranges.flatten().collect()
}
