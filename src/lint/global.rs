//! Checks outside the backend: who may read and change HAProxy, and what a reload keeps.

use super::cfg::{ParsedCfg, Section, Statement};
use super::report::LintReport;
use crate::model::balancer::StatsEndpoint;
use crate::model::finding::Severity::{Problem, Warning};
use crate::model::fleet::Fleet;

const SOCKET_FIX: &str = "add `stats socket /run/haproxy/admin.sock mode 600 level admin`";

/// A socket for operators alone, who reach it through ssh.
const SSH_SOCKET: &str = "/run/haproxy/switchman.sock";

pub(super) fn lint_global(cfg: &ParsedCfg, fleet: &Fleet, report: &mut LintReport<'_>) {
    lint_stats_page(cfg, report);
    let Some(global) = cfg.find_first("global") else {
        return report.add(
            Warning,
            "haproxy-no-stats-socket",
            0,
            "there is no `global` section, so no stats socket: switchman cannot read what HAProxy sees",
            SOCKET_FIX,
        );
    };
    let sockets: Vec<&Statement> = global.find_all(&["stats", "socket"]).collect();
    if sockets.is_empty() {
        let reason = "there is no stats socket: switchman cannot read what HAProxy sees";
        report.add(Warning, "haproxy-no-stats-socket", global.number, reason, SOCKET_FIX);
    }
    for socket in sockets {
        lint_stats_socket(socket, fleet, report);
    }
    if !["server-state-file", "server-state-base"]
        .iter()
        .any(|word| global.find_all(&[word]).next().is_some())
    {
        report.add(
            Warning,
            "haproxy-no-state-file",
            global.number,
            "no `server-state-file`: a reload counts every server UP until its first check, and forgets weights and drain",
            "add `server-state-file /var/lib/haproxy/servers.state`, and save `show servers state` there before each reload",
        );
    }
}

fn lint_stats_socket(line: &Statement, fleet: &Fleet, report: &mut LintReport<'_>) {
    let address = line.word(2).unwrap_or("");
    let admin = line.value("level") == Some("admin");
    let local = ["/", "unix@", "abns@", "fd@", "sockpair@"].iter().any(|start| address.starts_with(start));
    if local {
        let mode = line.value("mode").and_then(|mode| u32::from_str_radix(mode, 8).ok());
        // Without a mode it is the umask's: usually open to the group.
        if admin && mode.is_none_or(|mode| mode & 0o177 != 0) && !address.starts_with("fd@") {
            let found = line.value("mode").map_or("no mode".to_owned(), |mode| format!("mode {mode}"));
            report.add(
                Warning,
                "haproxy-socket-open",
                line.number,
                format!("the admin socket has {found}: others than its owner can change every server"),
                format!("write `stats socket {address} mode 600 level admin`"),
            );
        }
    } else if admin && !is_loopback(address) {
        report.add(
            Problem,
            "haproxy-socket-remote-admin",
            line.number,
            format!("`{address}` lets every client that reaches it change every server: it has no password"),
            format!(
                "write `stats socket {address} level user`, which is enough for reading. For flips and `canary --via haproxy` add \
                 `stats socket {SSH_SOCKET} user USER mode 600 level admin`, where USER is the operators' user on this machine, and \
                 write `haproxy: ssh://USER@{}{SSH_SOCKET}` for the balancer in switchman.yaml of the operator machine",
                find_balancer_name(fleet, address)
            ),
        );
    }
}

/// Returns the balancer that is read at this address, or the first one.
fn find_balancer_name(fleet: &Fleet, address: &str) -> String {
    let is_here = |endpoint: &StatsEndpoint| match endpoint {
        StatsEndpoint::Tcp { port, .. } => address.ends_with(&format!(":{port}")),
        _ => false,
    };
    let here = fleet.balancers.iter().find(|spec| spec.stats_endpoint.as_ref().is_some_and(is_here));
    here.or(fleet.balancers.first()).map_or_else(|| "BALANCER".to_owned(), |spec| spec.name.to_string())
}

/// The page with `stats admin` is a remote control for every server.
fn lint_stats_page(cfg: &ParsedCfg, report: &mut LintReport<'_>) {
    for proxy in cfg.proxies() {
        // With any other condition we do not know whom it lets in.
        let open =
            |line: &&Statement| line.words[2..] == ["if", "TRUE"] || line.words[2..] == ["unless", "FALSE"];
        let Some(admin) = proxy.find_all(&["stats", "admin"]).find(open) else { continue };
        let asks = cfg.find_setting(proxy, &["stats", "auth"]).is_some()
            || cfg.find_setting(proxy, &["stats", "http-request", "auth"]).is_some();
        if !asks && !is_only_on_loopback(proxy) {
            report.add(
                Problem,
                "haproxy-stats-admin",
                admin.number,
                "every client that can open the statistics page can put any server into maintenance: it requires no password",
                "remove `stats admin`, or add `stats auth USER:PASSWORD`, or write `bind 127.0.0.1:8404`",
            );
        }
    }
}

fn is_only_on_loopback(proxy: &Section) -> bool {
    let mut binds = proxy.find_all(&["bind"]).filter_map(|line| line.word(1)).peekable();
    binds.peek().is_some() && binds.all(|all| all.split(',').all(is_loopback))
}

fn is_loopback(address: &str) -> bool {
    let address = address.trim_start_matches("ipv4@").trim_start_matches("ipv6@");
    ["127.", "localhost:", "::1:", "[::1]:", "/", "unix@", "abns@"].iter().any(|own| address.starts_with(own))
}
