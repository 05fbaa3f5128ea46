//! The whole file: every server line that reaches a port of a host, in whichever section, and whether it follows the forward.

use super::cfg::{ParsedCfg, Section};
use super::keywords::{ServerAddress, ServerLine, read_servers};
use super::report::LintReport;
use super::site::{CheckTarget, Destination, Site, Target};
use crate::model::finding::Severity::{Note, Problem, Warning};

/// The main lines that a backend of switchman.yaml judges itself, as (section, server).
pub(super) type JudgedLines = std::collections::BTreeSet<(usize, usize)>;

pub(super) fn lint_reach(
    site: &Site<'_>,
    targets: &[Target],
    judged: &JudgedLines,
    report: &mut LintReport<'_>,
) {
    for section in site.cfg.proxies() {
        lint_dispatch(section, targets, report);
        let servers = read_servers(site.cfg, section);
        let mut has_followers = false;
        for server in servers.iter().filter(|server| !judged.contains(&(section.number, server.number))) {
            has_followers |= lint_server(site, section, server, targets, report);
        }
        let is_judged = judged.iter().any(|(number, _)| *number == section.number);
        if has_followers && !is_judged {
            lint_without_alternative(site, section, &servers, targets, report);
            lint_persistence(site.cfg, section, report);
        }
    }
}

/// Returns whether the line reaches a main port and follows its forward.
fn lint_server<'a>(
    site: &Site<'a>,
    section: &'a Section,
    server: &ServerLine<'a>,
    targets: &[Target],
    report: &mut LintReport<'_>,
) -> bool {
    let destination = site.find_destination(section, server);
    let ports = &destination.ports;
    let reached = |target: &&Target| destination.addresses.contains(&target.address);
    let check = site.find_check(section, server);
    let mut follows = false;
    for target in targets.iter().filter(reached) {
        if ports.contains(&target.ports.check.get()) {
            report_check_port(section, server, target, report);
        }
        if !ports.contains(&target.ports.main.get()) {
            if destination.has_open_port && !check.follows_forward(target) && check != CheckTarget::Disabled {
                report_open_port(section, server, target, report);
            }
            continue;
        }
        follows |= check.follows_forward(target);
        if !check.follows_forward(target) && check != CheckTarget::Disabled {
            report_unchecked(section, server, target, &check, report);
        }
    }
    if destination.addresses.is_empty() && check != CheckTarget::Disabled {
        lint_unresolved(section, server, &destination, &check, targets, report);
    }
    follows
}

fn describe_check(check: &CheckTarget, server: &ServerLine<'_>) -> String {
    match (check, server.value("track")) {
        (CheckTarget::Nothing, None) => "has no `check`".to_owned(),
        (CheckTarget::Nothing, Some(tracked)) => format!("tracks `{tracked}`, which has no `check`"),
        (CheckTarget::Port { port, .. }, None) => format!("is checked on port {port}"),
        (CheckTarget::Port { port, .. }, Some(tracked)) => {
            format!("tracks `{tracked}`, which is checked on port {port}")
        }
        (CheckTarget::Disabled | CheckTarget::Unknown, _) => {
            "has a check that cannot be read here".to_owned()
        }
    }
}

fn report_unchecked(
    section: &Section,
    server: &ServerLine<'_>,
    target: &Target,
    check: &CheckTarget,
    report: &mut LintReport<'_>,
) {
    let Target { host, ports, .. } = target;
    let what = describe_check(check, server);
    // A check that comes from the environment may be right.
    let severity = if *check == CheckTarget::Unknown { Warning } else { Problem };
    report.add(
        severity,
        "haproxy-unchecked-line",
        server.number,
        format!(
            "`{}` in {} `{}` reaches the main port {} of `{host}` and {what}, not on the check port {}: in maintenance its users \
             are still sent there and get 503 when the vhost stops, and the host never drains",
            server.name, section.kind, section.name, ports.main, ports.check
        ),
        format!(
            "write `check port {}` on the line, with the check of the service; or send it to the backend of the service",
            ports.check
        ),
    );
}

fn report_check_port(
    section: &Section,
    server: &ServerLine<'_>,
    target: &Target,
    report: &mut LintReport<'_>,
) {
    report.add(
        Problem,
        "haproxy-line-on-check-port",
        server.number,
        format!(
            "`{}` in {} `{}` sends traffic to the check port {} of `{}`: removing the forward cuts it before HAProxy has noticed",
            server.name, section.kind, section.name, target.ports.check, target.host
        ),
        format!("write port {} and `check port {}`", target.ports.main, target.ports.check),
    );
}

fn report_open_port(
    section: &Section,
    server: &ServerLine<'_>,
    target: &Target,
    report: &mut LintReport<'_>,
) {
    report.add(
        Warning,
        "haproxy-port-unknown",
        server.number,
        format!(
            "`{}` in {} `{}` reaches `{}` at a port that is not in the file, which can be its main port {}, and is not checked on \
             the check port {}",
            server.name, section.kind, section.name, target.host, target.ports.main, target.ports.check
        ),
        format!("write the port, or `check port {}` on the line", target.ports.check),
    );
}

/// A name that has no address here, or an address that only a client knows.
fn lint_unresolved(
    section: &Section,
    server: &ServerLine<'_>,
    destination: &Destination,
    check: &CheckTarget,
    targets: &[Target],
    report: &mut LintReport<'_>,
) {
    let could_reach = |target: &&Target| {
        let is_main = destination.ports.contains(&target.ports.main.get()) || destination.has_open_port;
        is_main && !check.follows_forward(target)
    };
    let what = match server.address() {
        ServerAddress::Name(name) => {
            format!("the name `{name}` has no address in the hosts file of this machine")
        }
        ServerAddress::Unknown => {
            format!("`{}` comes from the environment of HAProxy", server.endpoint_text())
        }
        ServerAddress::OfClient => {
            "without an address HAProxy connects to the address that the client used, or to what `set-dst` computes"
                .to_owned()
        }
        ServerAddress::Ip(_) | ServerAddress::Local => return,
    };
    if let Some(target) = targets.iter().find(could_reach) {
        report.add(
            Warning,
            "haproxy-address-unknown",
            server.number,
            format!(
                "`{}` in {} `{}` could reach a main port and is not checked on the check port {}: {what}",
                server.name, section.kind, section.name, target.ports.check
            ),
            format!("write the address, or `check port {}` if it is one of the hosts", target.ports.check),
        );
    }
}

/// A backend of other servers, from which a host in maintenance takes the last one.
fn lint_without_alternative<'a>(
    site: &Site<'a>,
    section: &'a Section,
    servers: &[ServerLine<'a>],
    targets: &[Target],
    report: &mut LintReport<'_>,
) {
    let checks: Vec<CheckTarget> = servers.iter().map(|server| site.find_check(section, server)).collect();
    for (at, target) in targets.iter().enumerate() {
        // A host is tried once for each service.
        if targets[..at].iter().any(|other| other.address == target.address && other.ports == target.ports) {
            continue;
        }
        let is_out = |check: &CheckTarget| check.follows_forward(target) || *check == CheckTarget::Disabled;
        let follower = checks.iter().position(|check| check.follows_forward(target));
        let Some(server) = follower.and_then(|at| servers.get(at)) else { continue };
        if checks.iter().all(is_out) {
            report.add(
                Problem,
                "haproxy-no-alternative",
                server.number,
                format!(
                    "{} `{}` has no server but the main vhost of `{}`: while that host is in maintenance, its users get 503",
                    section.kind, section.name, target.host
                ),
                format!(
                    "add the other hosts, or the backup vhost: `server backup-{} {}:{} check backup`",
                    target.host, target.address, target.ports.backup
                ),
            );
        }
    }
}

/// Persistence on a DOWN server keeps users of any backend on a vhost in maintenance.
fn lint_persistence(cfg: &ParsedCfg, section: &Section, report: &mut LintReport<'_>) {
    let Some(line) = cfg.find_setting(section, &["option", "persist"]) else { return };
    let holds = [&["cookie"][..], &["stick"], &["appsession"], &["persist"]];
    if holds.iter().any(|words| cfg.find_setting(section, words).is_some()) {
        report.add(
            Problem,
            "haproxy-persist",
            line.number,
            format!(
                "`option persist` keeps users of {} `{}` on a server that is DOWN: they stay on the main vhost in maintenance",
                section.kind, section.name
            ),
            "remove `option persist`",
        );
    }
}

/// `dispatch` sends traffic to an address without any check.
fn lint_dispatch(section: &Section, targets: &[Target], report: &mut LintReport<'_>) {
    for line in section.find_all(&["dispatch"]) {
        let Some(Ok(address)) = line.word(1).map(str::parse::<std::net::SocketAddr>) else { continue };
        for target in targets.iter().filter(|target| target.address == address.ip()) {
            if target.ports.main.get() == address.port() || target.ports.check.get() == address.port() {
                report.add(
                    Problem,
                    "haproxy-dispatch",
                    line.number,
                    format!(
                        "`dispatch` in {} `{}` sends traffic to `{}` without any check: it does not stop in maintenance",
                        section.kind, section.name, target.host
                    ),
                    format!(
                        "write `server main-{} {}:{} check port {}`",
                        target.host, target.address, target.ports.main, target.ports.check
                    ),
                );
            }
        }
    }
    if section.find_all(&["option", "transparent"]).next().is_some() && !targets.is_empty() {
        report.add(
            Note,
            "haproxy-transparent",
            section.number,
            format!(
                "`option transparent` in {} `{}` sends users to the address that they connected to: that is not checked",
                section.kind, section.name
            ),
            "look that it is no host of switchman",
        );
    }
}
