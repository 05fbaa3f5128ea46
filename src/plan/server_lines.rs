//! Server lines beside those of the configuration that send requests to a host's main vhost.

use std::net::SocketAddr;

use crate::model::balancer::{ServerLine, canonicalize};
use crate::model::ports::Port;

/// Returns the lines of a balancer that send requests to the main vhost of a host, other than its own main line, which is
/// `(backend, server)`. They are found by address and port: those of the host's own main line, and `endpoints`, the main vhost's
/// port on every address that is known of the host.
pub fn find_lines_to_main<'a>(
    lines: &'a [ServerLine],
    (backend, server): (&str, &str),
    endpoints: &[SocketAddr],
) -> Vec<&'a ServerLine> {
    let is_own = |line: &&ServerLine| line.backend == backend && line.server == server;
    let own = lines.iter().find(is_own).map(|line| canonicalize(line.address));
    let reaches = |line: &&ServerLine| {
        let address = canonicalize(line.address);
        Some(address) == own || endpoints.iter().any(|endpoint| canonicalize(*endpoint) == address)
    };
    lines.iter().filter(|line| !is_own(line) && reaches(line)).collect()
}

/// Returns whether users of the line get errors while the forward is off: HAProxy does not check the check port there, so the
/// line stays UP.
pub fn ignores_forward(line: &ServerLine, check: Port) -> bool {
    !line.is_in_maintenance && line.check_port != Some(check.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::balancer::ServerCounters;
    use crate::model::example::port;

    fn line(name: &str, address: &str, check_port: Option<u16>) -> ServerLine {
        let (backend, server) = name.split_once('/').unwrap();
        ServerLine {
            backend: backend.into(),
            server: server.into(),
            address: address.parse().unwrap(),
            check_port,
            is_in_maintenance: false,
            work: ServerCounters::default(),
        }
    }

    #[test]
    fn lines_are_found_by_address_and_port() {
        let lines = [
            line("servers/main-web1", "10.0.0.11:8080", Some(8888)),
            line("servers/backup-web1", "10.0.0.11:80", Some(80)),
            line("ws/web1", "10.0.0.11:8080", None),
            line("api/a", "[::ffff:10.0.0.11]:8080", Some(8080)),
            line("ws/web2", "10.0.0.12:8080", None),
            line("servers/main-web2", "10.9.9.9:8080", Some(8888)),
            // The address that HAProxy uses for web2, which is not the configured one.
            line("other/x", "10.9.9.9:8080", None),
        ];
        let find = |server: &str, configured: &str| -> Vec<String> {
            let endpoints: Vec<SocketAddr> =
                configured.split(' ').map(|endpoint| endpoint.parse().unwrap()).collect();
            let found = find_lines_to_main(&lines, ("servers", server), &endpoints);
            found.into_iter().map(ToString::to_string).collect()
        };
        assert_eq!(find("main-web1", "10.0.0.11:8080"), ["ws/web1", "api/a"]);
        assert_eq!(find("main-web2", "10.0.0.12:8080"), ["ws/web2", "other/x"]);
        assert_eq!(find("main-web3", "10.0.0.13:8080"), [""; 0]);
        assert_eq!(
            find("main-web3", "10.0.0.13:8080 10.0.0.12:8080"),
            ["ws/web2"],
            "another address of the host"
        );
    }

    #[test]
    fn line_follows_the_forward_if_it_checks_the_check_port() {
        let mut checked = line("ws/web1", "10.0.0.11:8080", Some(8888));
        assert!(!ignores_forward(&checked, port(8888)));
        checked.check_port = Some(8080);
        assert!(ignores_forward(&checked, port(8888)));
        checked.check_port = None;
        assert!(ignores_forward(&checked, port(8888)));
        checked.is_in_maintenance = true;
        assert!(!ignores_forward(&checked, port(8888)));
    }
}
