//! The protocol of the traffic against that of the check: with `port` on the line, a check takes over neither TLS nor PROXY.

use super::keywords::ServerLine;
use super::pairs::ServerPair;
use super::report::LintReport;
use crate::model::finding::Severity::{Problem, Warning};

pub(super) fn lint_protocol(pair: &ServerPair<'_>, report: &mut LintReport<'_>) {
    for server in pair.lines().filter(|server| !server.is_open) {
        let tls = (server.has_flag("ssl"), checks_tls(server), "TLS", "ssl", "check-ssl");
        let proxy = (
            server.sends_proxy(),
            checks_proxy(server),
            "the PROXY protocol",
            "send-proxy",
            "check-send-proxy",
        );
        for (traffic, check, name, keyword, check_keyword) in [tls, proxy] {
            lint_difference(server, traffic, check, (name, keyword, check_keyword), report);
        }
        lint_http2(server, report);
    }
}

/// The check takes over `proto`, unless `check-proto` says otherwise.
fn lint_http2(server: &ServerLine<'_>, report: &mut LintReport<'_>) {
    let traffic = server.value("proto") == Some("h2");
    let check = server.value("check-proto").map_or(traffic, |proto| proto == "h2");
    if server.is_known("proto") && server.is_known("check-proto") {
        lint_difference(server, traffic, check, ("HTTP/2", "proto h2", "check-proto h2"), report);
    }
}

fn follows_traffic(server: &ServerLine<'_>) -> bool {
    server.value("port").is_none() && server.value("addr").is_none()
}

fn checks_tls(server: &ServerLine<'_>) -> bool {
    server.has_flag("check-ssl")
        || (follows_traffic(server) && server.has_flag("ssl") && !server.has_flag("no-check-ssl"))
}

fn checks_proxy(server: &ServerLine<'_>) -> bool {
    server.has_flag("check-send-proxy") || (follows_traffic(server) && server.sends_proxy())
}

fn lint_difference(
    server: &ServerLine<'_>,
    traffic: bool,
    check: bool,
    (name, keyword, check_keyword): (&str, &str, &str),
    report: &mut LintReport<'_>,
) {
    let is_checked = server.has_flag("check");
    match (traffic, check) {
        (true, false) if is_checked => report.add(
            Problem,
            "haproxy-check-protocol",
            server.number,
            format!(
                "`{}` uses {name} for traffic and not for the check on `port`: the vhost does not understand one of them, and is \
                 DOWN or answers users with errors",
                server.name
            ),
            format!("add `{check_keyword}`, or remove `{keyword}`"),
        ),
        (false, true) if is_checked => report.add(
            Problem,
            "haproxy-check-protocol",
            server.number,
            format!(
                "`{}` uses {name} for the check and not for traffic: the vhost does not understand one of them, and is DOWN or \
                 answers users with errors",
                server.name
            ),
            format!("remove `{check_keyword}`, or add `{keyword}`"),
        ),
        (true, _) => report_other_protocol(server, &format!("{name} (`{keyword}`)"), report),
        (false, _) => {}
    }
}

fn report_other_protocol(server: &ServerLine<'_>, name: &str, report: &mut LintReport<'_>) {
    report.add(
        Warning,
        "haproxy-other-protocol",
        server.number,
        format!(
            "`{}` uses {name}: switchman's own probe and its proxy for canaries and mirrors send plain HTTP/1.1, so they find the \
             vhost unhealthy if it accepts nothing else",
            server.name
        ),
        "let the vhost accept plain HTTP/1.1 on these ports",
    );
}
