//! A HAProxy load balancer: how switchman reaches it, and the state it reports for the servers of a backend.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::name::{BalancerName, HostName};
use super::ports::Port;

/// A load balancer of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BalancerSpec {
    pub name: BalancerName,
    /// How its state is read. `None`: it cannot be read, and switchman waits for the computed limit instead.
    pub stats_endpoint: Option<StatsEndpoint>,
    /// The HAProxy backend that holds the server lines of this service.
    pub backend: String,
    pub servers: ServerNames,
    /// The check settings of its server lines: what the limit is computed from.
    pub check: CheckTiming,
    /// Whether it runs on the web host itself, so that its health checks pass the OUTPUT chain and not PREROUTING.
    pub is_on_host: bool,
}

/// The endpoint where HAProxy's state is read. The commands are the ones of HAProxy's management guide, 9.3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StatsEndpoint {
    /// A `stats socket` at a path of this machine.
    Unix(PathBuf),
    /// A `stats socket` at a path of another machine, reached through ssh.
    Ssh(SshSocket),
    /// A `stats socket` on TCP: host name or address, port.
    Tcp { host: String, port: u16 },
    /// The statistics page as CSV over HTTP or HTTPS; the URL may contain user and password.
    Http(String),
}

/// A unix socket of another machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SshSocket {
    /// Host name or `user@host`, as ssh takes it.
    pub destination: String,
    pub port: Option<Port>,
    /// Put before the destination on ssh's command line.
    pub options: Vec<String>,
    pub path: PathBuf,
}

impl fmt::Display for SshSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, host) = match self.destination.rsplit_once('@') {
            Some((user, host)) => (format!("{user}@"), host),
            None => (String::new(), self.destination.as_str()),
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        write!(f, "ssh://{user}{host}{port}{}", self.path.display())
    }
}

impl StatsEndpoint {
    /// Returns the address of the balancer's machine, where the endpoint names it by number.
    pub fn address(&self) -> Option<IpAddr> {
        let host = match self {
            Self::Unix(_) => return None,
            Self::Ssh(socket) => socket.destination.rsplit('@').next()?,
            Self::Tcp { host, .. } => host.as_str(),
            Self::Http(url) => {
                let (_, rest) = url.split_once("://")?;
                let authority = rest.split(['/', '?', '#']).next()?;
                let host = authority.rsplit('@').next()?;
                match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                    Some((inner, _)) => inner,
                    None => host.split(':').next()?,
                }
            }
        };
        host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
    }
}

impl fmt::Display for StatsEndpoint {
    /// As in `switchman.yaml`, without a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Ssh(socket) => write!(f, "{socket}"),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Http(url) => f.write_str(&strip_password(url)),
        }
    }
}

fn strip_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let mut authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A password with a `/` in it ends the authority early: what looks like the port is then no number.
    let port = rest[..authority].rsplit_once(':').map(|(_, port)| port).unwrap_or_default();
    if !rest[..authority].contains('@')
        && !port.ends_with(']')
        && port.parse::<u16>().is_err()
        && !port.is_empty()
    {
        authority = rest.len();
    }
    match rest[..authority].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

/// The names of a host's two server lines in haproxy.cfg: `{host}` is replaced by the host's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerNames {
    pub main: String,
    pub backup: String,
}

impl Default for ServerNames {
    fn default() -> Self {
        Self { main: "main-{host}".to_owned(), backup: "backup-{host}".to_owned() }
    }
}

impl ServerNames {
    pub fn main_server_name(&self, host: &HostName) -> String {
        self.main.replace("{host}", host.as_str())
    }

    pub fn backup_server_name(&self, host: &HostName) -> String {
        self.backup.replace("{host}", host.as_str())
    }
}

/// HAProxy's check settings of a server line (configuration manual, 5.2), with HAProxy's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CheckTiming {
    /// Time between two checks.
    pub inter: Duration,
    /// Time between two checks while the state is changing; `inter` when not set.
    pub fastinter: Option<Duration>,
    pub fall: u32,
    pub rise: u32,
    /// `timeout check`; `inter` when not set.
    pub timeout: Option<Duration>,
}

impl Default for CheckTiming {
    fn default() -> Self {
        Self { inter: Duration::from_secs(2), fastinter: None, fall: 3, rise: 2, timeout: None }
    }
}

/// The verdict of HAProxy's health check on a server. Texts such as `UP 1/3`, `DOWN 1/2`, `MAINT (via b/s)`
/// are matched by prefix (management guide, 9.1, field `status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerState {
    Up,
    /// Up, with failed checks counting down: `UP 1/3`.
    GoingDown,
    Down,
    /// Down, with passed checks counting up: `DOWN 1/2`.
    GoingUp,
    Drain,
    /// Stopping: `NOLB` gets no new traffic (a 404 with `disable-on-404`).
    Stopping,
    Maint,
    NoCheck,
    /// A text this version of switchman does not know. Never read as UP.
    Unknown,
}

impl ServerState {
    /// Up without a doubt. A server that fails its checks is not, nor is one that was never checked: after a start HAProxy
    /// calls every server `UP 1/3` until its first check (measured on 2.6, `check_status` is `INI`).
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up | Self::NoCheck)
    }

    /// Whether the server is out of service: no new requests, and cookie holders go elsewhere too. `drain` is not
    /// out of service: cookie clients stay (docs/design/measurements.md#m35).
    pub const fn is_out_of_service(self) -> bool {
        matches!(self, Self::Down | Self::GoingUp | Self::Maint)
    }
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Up => "UP",
            Self::GoingDown => "UP, failing",
            Self::Down => "DOWN",
            Self::GoingUp => "DOWN, rising",
            Self::Drain => "DRAIN",
            Self::Stopping => "NOLB",
            Self::Maint => "MAINT",
            Self::NoCheck => "no check",
            Self::Unknown => "unknown",
        })
    }
}

/// `srv_admin_state`: a bit mask, not an enumeration (management guide, `show servers state`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct AdminState(pub u32);

impl AdminState {
    /// Set by a command on the socket or by the configuration.
    pub const FORCED_MAINT: u32 = 0x01;
    /// Inherited from a tracked server.
    pub const INHERITED_MAINT: u32 = 0x02;
    /// `disabled` in the configuration.
    pub const CONFIG_MAINT: u32 = 0x04;
    pub const FORCED_DRAIN: u32 = 0x08;
    pub const INHERITED_DRAIN: u32 = 0x10;
    /// The name did not resolve.
    pub const RESOLVE_MAINT: u32 = 0x20;
    /// The address was set at run time: this has no bearing on maintenance.
    pub const ADDRESS_SET: u32 = 0x40;

    pub const fn is_in_maintenance(self) -> bool {
        self.0 & (Self::FORCED_MAINT | Self::INHERITED_MAINT | Self::CONFIG_MAINT | Self::RESOLVE_MAINT) != 0
    }

    /// Whether its name does not resolve: a slot of a `server-template` without a server is so too.
    pub const fn is_unresolved(self) -> bool {
        self.0 & Self::RESOLVE_MAINT != 0
    }

    pub const fn is_in_drain(self) -> bool {
        self.0 & (Self::FORCED_DRAIN | Self::INHERITED_DRAIN) != 0
    }
}

/// The state of one server line as HAProxy reports it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerView {
    pub name: String,
    /// The address that it sends requests to. `None`: the balancer does not report it, or the server has none now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    pub state: ServerState,
    /// HAProxy's own words for the state, such as `DOWN 1/2`.
    pub status: String,
    /// Declared `backup` in haproxy.cfg.
    pub backup: bool,
    /// Only over the stats socket; `None` over HTTP.
    pub admin_state: Option<AdminState>,
    pub weight: u32,
    /// The result of the last check, such as `L4CON` or `L7OK/200`; empty before the first.
    pub last_check: String,
    pub work: ServerCounters,
}

/// HAProxy's counters of work on a server (management guide, 9.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ServerCounters {
    /// `scur`: sessions now, tunnels (websockets) among them.
    pub sessions: u64,
    /// `qcur`: requests queued for this server now.
    pub queued: u64,
    /// `used_conn_cur`: connections to the server that carry a request now; `None` before HAProxy 2.2.
    pub connections_used: Option<u64>,
    /// `idle_conn_cur` and `safe_conn_cur`: connections to the server that HAProxy keeps for reuse; `None` before HAProxy 2.2.
    pub idle_connections: Option<u64>,
    /// `lbtot`: times a server was selected, since start.
    pub selected_total: u64,
}

impl ServerCounters {
    /// Counts the requests that a drain waits for: never `srv_icur`, idle pooled connections are not work.
    pub fn in_flight(&self) -> u64 {
        (self.sessions + self.queued).max(self.connections_used.unwrap_or(0))
    }

    /// Counts the connections to the server that HAProxy has now: those of sessions (`mode tcp` has no others) and those kept
    /// for reuse. `None` before HAProxy 2.2.
    pub fn connections(&self) -> Option<u64> {
        Some(self.sessions.max(self.connections_used?) + self.idle_connections?)
    }
}

/// A server line of any backend, with the address it sends requests to and its health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerLine {
    pub backend: String,
    pub server: String,
    pub address: SocketAddr,
    /// The port that its health check connects to; `None`: it has no health check.
    pub check_port: Option<u16>,
    pub is_in_maintenance: bool,
    pub work: ServerCounters,
}

/// `backend/server`, as HAProxy's commands name a server line.
impl fmt::Display for ServerLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.backend, self.server)
    }
}

/// All servers of one backend at one moment, in HAProxy's order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BackendView {
    servers: Vec<ServerView>,
    /// Indices into `servers`, by name: each waiting host looks for its own line, several times a second.
    #[serde(skip)]
    by_name: Vec<usize>,
    /// The same by address, of those that have one.
    #[serde(skip)]
    by_address: Vec<(SocketAddr, usize)>,
}

impl BackendView {
    pub fn new(servers: Vec<ServerView>) -> Self {
        let mut by_name: Vec<usize> = (0..servers.len()).collect();
        by_name.sort_by(|one, other| servers[*one].name.cmp(&servers[*other].name));
        let addresses = servers.iter().enumerate();
        let mut by_address: Vec<(SocketAddr, usize)> =
            addresses.filter_map(|(at, server)| Some((canonicalize(server.address?), at))).collect();
        by_address.sort_unstable();
        Self { servers, by_name, by_address }
    }

    pub fn servers(&self) -> &[ServerView] {
        &self.servers
    }

    /// The first of that name.
    pub fn find_server(&self, name: &str) -> Option<&ServerView> {
        let at = self.by_name.partition_point(|at| self.servers[*at].name.as_str() < name);
        self.by_name.get(at).map(|at| &self.servers[*at]).filter(|server| server.name == name)
    }

    /// The servers that send requests to this address, in HAProxy's order.
    pub fn find_servers_at(&self, address: SocketAddr) -> impl Iterator<Item = &ServerView> {
        let address = canonicalize(address);
        let first = self.by_address.partition_point(|(one, _)| *one < address);
        let found = self.by_address[first..].iter().take_while(move |(one, _)| *one == address);
        found.map(|(_, at)| &self.servers[*at])
    }
}

/// HAProxy prints an IPv4 address of a dual-stack line as IPv6.
pub fn canonicalize(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_set_at_run_time_is_not_maintenance() {
        assert!(!AdminState(0x40).is_in_maintenance());
        assert!(AdminState(0x41).is_in_maintenance());
        assert!(AdminState(0x20).is_in_maintenance());
        assert!(AdminState(0x08).is_in_drain() && !AdminState(0x08).is_in_maintenance());
    }

    #[test]
    fn backend_view_finds_server_by_name() {
        let named = |name| crate::model::example::make_server(name, ServerState::Up);
        let view = BackendView::new(vec![named("b"), named("a"), named("ab"), named("c")]);
        for server in view.servers() {
            assert_eq!(view.find_server(&server.name), Some(server));
        }
        assert!(["", "aa", "d"].iter().all(|name| view.find_server(name).is_none()));
    }

    #[test]
    fn backend_view_finds_servers_by_address() {
        let at = |name: &str, address: Option<&str>| ServerView {
            address: address.map(|address| address.parse().unwrap()),
            ..crate::model::example::make_server(name, ServerState::Up)
        };
        let view = BackendView::new(vec![
            at("srv2", Some("10.0.0.2:8080")),
            at("srv1", Some("[::ffff:10.0.0.1]:8080")),
            at("srv3", None),
            at("srv4", Some("10.0.0.1:8080")),
            at("srv5", Some("10.0.0.1:80")),
        ]);
        let find = |address: &str| -> Vec<&str> {
            view.find_servers_at(address.parse().unwrap()).map(|server| server.name.as_str()).collect()
        };
        assert_eq!(find("10.0.0.1:8080"), ["srv1", "srv4"]);
        assert_eq!(find("10.0.0.2:8080"), ["srv2"]);
        assert_eq!(find("10.0.0.3:8080"), [""; 0]);
    }

    #[test]
    fn stats_endpoint_display_hides_password() {
        let shown = |url: &str| StatsEndpoint::Http(url.to_owned()).to_string();
        assert_eq!(shown("http://u:p@lb:8404/stats;csv"), "http://lb:8404/stats;csv");
        assert_eq!(shown("http://lb:8404/a@b"), "http://lb:8404/a@b");
        assert_eq!(shown("http://[::1]/a@b"), "http://[::1]/a@b");
        assert_eq!(shown("http://u:p/w@lb:8404/stats"), "http://lb:8404/stats");
        assert_eq!(shown("http://u:p?w@lb:8404/stats"), "http://lb:8404/stats");
    }
}
