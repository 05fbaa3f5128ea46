//! The two server lines of each host.

use std::net::IpAddr;

use super::cfg::{ParsedCfg, Section};
use super::keywords::{ServerLine, read_servers};
use super::report::LintReport;
use super::timing;
use crate::model::balancer::{BalancerSpec, ServerNames};
use crate::model::finding::Severity::{Note, Problem, Warning};
use crate::model::fleet::Fleet;
use crate::model::ports::Port;

/// The lines of one host; its address where switchman.yaml has it.
struct ServerPair<'a> {
    host: String,
    address: Option<IpAddr>,
    main: &'a ServerLine<'a>,
    backup: Option<&'a ServerLine<'a>>,
}

pub(super) fn lint_servers(
    cfg: &ParsedCfg,
    section: &Section,
    fleet: &Fleet,
    balancer: &BalancerSpec,
    report: &mut LintReport<'_>,
) {
    let all = read_servers(cfg, section);
    let pairs = if fleet.hosts.is_empty() {
        pair_unlisted_hosts(&all, section, balancer, report)
    } else {
        pair_listed_hosts(&all, section, fleet, balancer, report)
    };
    for pair in &pairs {
        lint_pair(pair, fleet, report);
    }
    let mains: Vec<&ServerLine<'_>> = pairs.iter().map(|pair| pair.main).collect();
    timing::lint_timing(cfg, section, &mains, balancer, report);
    lint_templates(section, report);
    lint_shutdown_sessions(cfg, section, report);
    if all.iter().filter(|server| server.has_flag("backup")).count() > 1
        && cfg.find_setting(section, &["option", "allbackups"]).is_none()
    {
        report.add(
            Warning,
            "haproxy-one-backup",
            section.number,
            "no `option allbackups`: when every main vhost is out, the first backup takes all users alone",
            "add `option allbackups`",
        );
    }
}

fn find_server<'a>(all: &'a [ServerLine<'a>], name: &str) -> Option<&'a ServerLine<'a>> {
    all.iter().find(|server| server.name == name)
}

/// The hosts of switchman.yaml; other lines of the backend are not checked.
fn pair_listed_hosts<'a>(
    all: &'a [ServerLine<'a>],
    section: &Section,
    fleet: &Fleet,
    balancer: &BalancerSpec,
    report: &mut LintReport<'_>,
) -> Vec<ServerPair<'a>> {
    let mut pairs = Vec::new();
    for host in &fleet.hosts {
        let (main, backup) =
            (balancer.servers.main_server_name(&host.name), balancer.servers.backup_server_name(&host.name));
        let address = host.address.map_or("ADDRESS".to_owned(), |address| match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        });
        if find_server(all, &main).is_none() {
            let (check, port) = (fleet.ports.check, fleet.ports.main);
            let fix = format!("server {main} {address}:{port} check port {check} cookie {}", host.name);
            report_missing(&main, section.number, &fix, report);
        }
        if find_server(all, &backup).is_none() {
            let port = fleet.ports.backup;
            let fix =
                format!("server {backup} {address}:{port} check port {port} cookie {} backup", host.name);
            report_missing(&backup, section.number, &fix, report);
        }
        if let Some(main) = find_server(all, &main) {
            let host = (host.name.to_string(), host.address);
            pairs.push(ServerPair { host: host.0, address: host.1, main, backup: find_server(all, &backup) });
        }
    }
    pairs
}

/// Without `hosts:` every line that is no backup is some host's main.
fn pair_unlisted_hosts<'a>(
    all: &'a [ServerLine<'a>],
    section: &Section,
    balancer: &BalancerSpec,
    report: &mut LintReport<'_>,
) -> Vec<ServerPair<'a>> {
    let ServerNames { main, backup } = &balancer.servers;
    let mut pairs = Vec::new();
    for server in all.iter().filter(|server| !server.has_flag("backup")) {
        // A backup that lost its keyword is reported beside its main.
        let of_main = extract_host(server.name, backup).map(|host| main.replace("{host}", host));
        if of_main.is_some_and(|main| find_server(all, &main).is_some()) {
            continue;
        }
        let Some(host) = extract_host(server.name, main) else {
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
            let fix = format!("server {other} ADDRESS:PORT check port PORT cookie {host} backup");
            report_missing(&other, section.number, &fix, report);
        }
        let found = find_server(all, &other);
        pairs.push(ServerPair { host: host.to_owned(), address: None, main: server, backup: found });
    }
    if pairs.is_empty() {
        report_missing(
            main,
            section.number,
            "server main-NAME ADDRESS:8080 check port 8888 cookie NAME",
            report,
        );
    }
    pairs
}

/// The host in a server's name, by the pattern of such names.
fn extract_host<'a>(name: &'a str, pattern: &str) -> Option<&'a str> {
    let (before, after) = pattern.split_once("{host}")?;
    name.strip_prefix(before)?.strip_suffix(after).filter(|host| !host.is_empty())
}

fn report_missing(name: &str, line: usize, fix: &str, report: &mut LintReport<'_>) {
    report.add(
        Problem,
        "haproxy-no-server",
        line,
        format!("the backend has no server `{name}`"),
        format!("add `{fix}`, or set the names of the lines in `load_balancers[].servers`"),
    );
}

fn lint_pair(pair: &ServerPair<'_>, fleet: &Fleet, report: &mut LintReport<'_>) {
    let lines = [(Some(pair.main), fleet.ports.main), (pair.backup, fleet.ports.backup)];
    for (server, port) in lines.into_iter().filter_map(|(server, port)| Some((server?, port))) {
        lint_check_keyword(server, report);
        lint_data_port(server, port, fleet, report);
        lint_address(server, pair, report);
        lint_weight(server, report);
    }
    lint_main_check_port(pair.main, fleet.ports.check, report);
    if pair.main.has_flag("backup") {
        report.add(
            Problem,
            "haproxy-main-is-backup",
            pair.main.number,
            format!(
                "`{}` is declared `backup`: it gets users only when every other main vhost is out",
                pair.main.name
            ),
            "remove `backup`",
        );
    }
    let Some(backup) = pair.backup else { return };
    lint_backup_check_port(backup, fleet.ports.backup, report);
    if !backup.has_flag("backup") {
        report.add(
            Problem,
            "haproxy-backup-not-backup",
            backup.number,
            format!("`{}` is not declared `backup`: it takes users while main is in service", backup.name),
            "add `backup` to the line",
        );
    }
    lint_cookies(pair, backup, report);
}

fn lint_cookies(pair: &ServerPair<'_>, backup: &ServerLine<'_>, report: &mut LintReport<'_>) {
    let (main, other) = (pair.main.value("cookie"), backup.value("cookie"));
    if !pair.main.is_known("cookie") || !backup.is_known("cookie") || (main.is_some() && main == other) {
        return;
    }
    let tell =
        |value: Option<&str>| value.map_or("no cookie".to_owned(), |value| format!("cookie `{value}`"));
    report.add(
        Problem,
        "haproxy-cookies-differ",
        backup.number,
        format!(
            "`{}` has {} and `{}` has {}: users of the host do not find its backup vhost",
            pair.main.name,
            tell(main),
            backup.name,
            tell(other)
        ),
        format!("write `cookie {}` on both lines", pair.host),
    );
}

fn lint_check_keyword(server: &ServerLine<'_>, report: &mut LintReport<'_>) {
    if !server.has_flag("check") {
        let reason = format!("`{}` has no `check`: HAProxy never marks it DOWN", server.name);
        report.add(Problem, "haproxy-no-check", server.number, reason, "add `check`");
    }
    if server.has_flag("agent-check") {
        report.add(
            Note,
            "haproxy-agent-check",
            server.number,
            "an `agent-check` speaks beside the check port, and one that cannot be reached leaves the last state",
            "fine with `switchman agent --agent-check`; another agent has to answer `up` when it starts, and `ready` only where \
             it also sends `drain`: `ready` undoes a MAINT that HAProxy's own operator set",
        );
    }
    if let Some(at) = server.value("addr") {
        report.add(
            Problem,
            "haproxy-check-elsewhere",
            server.number,
            format!(
                "`{}` is checked at {at} and not where its traffic goes: a check must reach the real vhost",
                server.name
            ),
            format!("remove `addr {at}`"),
        );
    }
}

fn lint_main_check_port(main: &ServerLine<'_>, check: Port, report: &mut LintReport<'_>) {
    if !main.is_known("port") || main.value("port") == Some(check.to_string().as_str()) {
        return;
    }
    let found = main.value("port").map_or("its data port".to_owned(), |port| format!("port {port}"));
    report.add(
        Problem,
        "haproxy-check-port",
        main.number,
        format!("HAProxy checks {found}, not the check port {check}: taking the forward away changes nothing for it"),
        format!("write `check port {check}`"),
    );
}

fn lint_backup_check_port(backup: &ServerLine<'_>, own: Port, report: &mut LintReport<'_>) {
    let Some(port) = backup.value("port").filter(|port| *port != own.to_string()) else { return };
    report.add(
        Problem,
        "haproxy-backup-check-port",
        backup.number,
        format!("the backup vhost is checked on port {port}: it goes DOWN with something else than itself"),
        format!("write `check port {own}`"),
    );
}

fn lint_data_port(server: &ServerLine<'_>, expected: Port, fleet: &Fleet, report: &mut LintReport<'_>) {
    let Some(port) = server.port() else { return };
    if port == fleet.ports.check.to_string() {
        // The figures: docs/design/measurements.md#m2.
        report.add(
            Problem,
            "haproxy-data-on-check-port",
            server.number,
            format!(
                "traffic goes to the check port {port}: taking the forward away cuts it before HAProxy has noticed (34 responses \
                 5xx and 16,427 retries in 12 s)"
            ),
            format!("write port {expected}"),
        );
    } else if port != expected.to_string() {
        report.add(
            Problem,
            "haproxy-data-port",
            server.number,
            format!("traffic goes to port {port}, the configuration has {expected}"),
            format!("write port {expected}, or change `ports` in switchman.yaml"),
        );
    }
}

fn lint_address(server: &ServerLine<'_>, pair: &ServerPair<'_>, report: &mut LintReport<'_>) {
    let Some(found) = server.ip_address() else { return };
    if let Some(expected) = pair.address.filter(|expected| *expected != found) {
        report.add(
            Problem,
            "haproxy-address",
            server.number,
            format!("the address is {found}, switchman.yaml has {expected} for `{}`", pair.host),
            format!("write {expected} here, or `address: {found}` in switchman.yaml"),
        );
    }
    if found.is_ipv6() {
        report.add(
            Note,
            "haproxy-ipv6",
            server.number,
            "an IPv6 address passes IPv4 rules by: the host needs the IPv6 rule too",
            "`switchman check` on the host looks for it",
        );
    }
}

fn lint_weight(server: &ServerLine<'_>, report: &mut LintReport<'_>) {
    if !server.is_known("weight") {
        return;
    }
    match server.value("weight").map_or(Some(1), |weight| weight.parse::<u32>().ok()) {
        Some(0) => report.add(
            Warning,
            "haproxy-weight-zero",
            server.number,
            format!("`{}` has weight 0: HAProxy calls it UP and sends it no new user", server.name),
            "write `weight 100`",
        ),
        Some(weight) if weight < 100 => report.add(
            Note,
            "haproxy-small-weight",
            server.number,
            format!("relative weights truncate: of weight {weight} a small share becomes 0 (half of 1 did)"),
            "write `default-server weight 100`",
        ),
        _ => {}
    }
}

fn lint_templates(section: &Section, report: &mut LintReport<'_>) {
    for line in section.find_all(&["server-template"]) {
        report.add(
            Note,
            "haproxy-server-template",
            line.number,
            "`server-template` numbers its servers: switchman does not know which of them is which host, and this lint reads none",
            "write a `server` line for each vhost",
        );
    }
}

fn lint_shutdown_sessions(cfg: &ParsedCfg, section: &Section, report: &mut LintReport<'_>) {
    for line in cfg.inheritance_chain(section).into_iter().flat_map(|section| &section.lines) {
        if line.value("on-marked-down") == Some("shutdown-sessions") {
            report.add(
                Problem,
                "haproxy-shutdown-sessions",
                line.number,
                "`on-marked-down shutdown-sessions` turns every request that is running at the switch into a 502",
                "remove `on-marked-down shutdown-sessions`",
            );
        }
    }
}
