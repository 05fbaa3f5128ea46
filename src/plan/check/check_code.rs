//! The likely reasons for the result of HAProxy's health check of a vhost that should pass it.

use crate::model::balancer::ServerView;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::ports::Port;

/// Returns the likely reasons for the code of a failed check (management guide, 9.1, field `check_status`).
pub fn explain_failed_check(server: &ServerView, port: Port) -> String {
    let (code, status) = server.last_check.split_once('/').unwrap_or((&server.last_check, ""));
    let reasons = match (code, status) {
        _ if server.status.contains("agent") => "an `agent-check` reports it, not the health check",
        ("L4CON", _) => {
            return format!(
                "its check is refused: probably no process listens, the line has not `check port {port}`, or a rule refuses the \
                 balancer's address or interface"
            );
        }
        ("L4TOUT", _) => {
            "its check gets no answer: probably a filter drops it, on the host or before it, or the address on the line is not \
             the host's"
        }
        ("L6TOUT" | "L6RSP", _) => {
            "its check gets no TLS session: probably the line has `ssl` or `check-ssl`, and the vhost has no TLS on this port"
        }
        ("L7TOUT", _) => {
            "its check connects and gets no response: probably it sends no request (`option httpchk`), one side expects TLS or the \
             PROXY protocol and the other does not, or the page is slower than `timeout check`"
        }
        ("L7RSP", _) => {
            "its check gets a response that is not HTTP: probably the vhost expects TLS or the PROXY protocol and the line has \
             neither, or the other way round, or another program listens"
        }
        ("L7STS", _) => explain_status(status),
        ("L7OKC", _) => {
            "its check gets a 404, which `http-check disable-on-404` takes for a stop of the vhost"
        }
        ("SOCKERR", _) => {
            "HAProxy cannot open a socket for its check: probably its limit of open files, or `source` on the line"
        }
        ("PROCERR" | "PROCTOUT", _) => "the program of its `external-check` fails on the balancer",
        ("L4OK" | "L6OK" | "L7OK" | "PROCOK", _) => {
            "its last check passed, so something else keeps it out: `rise` not reached yet, a `track`, or `observe` on the line"
        }
        ("" | "UNK" | "INI", _) => {
            "no check of it has ended: probably HAProxy has just been started, or the line has `track`"
        }
        _ => "HAProxy's management guide, 9.1, explains the code",
    };
    reasons.to_owned()
}

/// Returns the likely reasons for an answer with another status than `http-check expect` has.
fn explain_status(status: &str) -> &'static str {
    match status {
        "400" => {
            "its check is a bad request for the vhost: probably plain HTTP for a port with TLS, `send-proxy` for a vhost without \
             the PROXY protocol, or no Host header"
        }
        "401" | "403" => {
            "its check is not allowed: probably the path needs a login, the vhost refuses the balancer's address, or a wrong Host \
             header finds another site"
        }
        "404" | "421" => {
            "its check does not find the page: probably it has a wrong path, or a wrong or no Host header, so that another site \
             answers"
        }
        status if status.starts_with('3') => {
            "its check is redirected: probably a wrong or no Host header, or the vhost redirects plain HTTP to HTTPS"
        }
        status if status.starts_with('5') => {
            "the vhost fails for its check: probably another request than switchman's own (path, Host header), or another site \
             answers"
        }
        _ => "its check gets another answer than `http-check expect`: probably a wrong path or Host header",
    }
}

/// Returns the command that shows on the balancer what its check gets.
pub fn format_check_command(fleet: &Fleet, host: &Host, port: Port) -> String {
    let address = match host.address {
        Some(address) => std::net::SocketAddr::new(address, port.get()).to_string(),
        None => format!("{}:{port}", host.name),
    };
    let header = fleet.health.host.as_ref().map(|name| format!("-H 'Host: {name}' ")).unwrap_or_default();
    format!("`curl -v {header}http://{address}{}`", fleet.health.path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::balancer::ServerState;
    use crate::model::example::{self, make_server, port};

    fn explain(last_check: &str, status: &str) -> String {
        let server = make_server("main-web1", ServerState::Down);
        let server = ServerView { last_check: last_check.into(), status: status.into(), ..server };
        explain_failed_check(&server, port(8888))
    }

    #[test]
    fn every_code_of_a_failed_check_has_its_reasons() {
        for (code, expected) in [
            ("L4CON", "`check port 8888`"),
            ("L4TOUT", "a filter drops it"),
            ("L6RSP", "no TLS"),
            ("L7TOUT", "sends no request"),
            ("L7RSP", "PROXY protocol"),
            ("L7STS/301", "redirected"),
            ("L7STS/400", "port with TLS"),
            ("L7STS/403", "needs a login"),
            ("L7STS/404", "Host header"),
            ("L7STS/502", "another request"),
            ("L7STS/204", "`http-check expect`"),
            ("L7OKC/404", "`http-check disable-on-404`"),
            ("SOCKERR", "open files"),
            ("PROCERR/1", "`external-check`"),
            ("L7OK/200", "something else keeps it out"),
            ("", "no check of it has ended"),
            ("L9NEW", "9.1"),
        ] {
            let reasons = explain(code, "DOWN");
            assert!(reasons.contains(expected), "{code}: {reasons}");
        }
        assert!(explain("L7OK/200", "DOWN (agent)").contains("`agent-check`"));
    }

    #[test]
    fn check_command_is_the_request_of_the_health_check() {
        let mut fleet = example::fleet();
        fleet.health.host = Some("shop.example".into());
        let host = example::host("web1", "fd00::1");
        assert_eq!(
            format_check_command(&fleet, &host, port(8888)),
            format!("`curl -v -H 'Host: shop.example' http://[fd00::1]:8888{}`", fleet.health.path)
        );
        let unnamed = Host { address: None, ..host };
        fleet.health.host = None;
        assert!(format_check_command(&fleet, &unnamed, port(80)).starts_with("`curl -v http://web1:80/"));
    }
}
