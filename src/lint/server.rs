//! Checks of the server lines of each host.

use super::behaviour::lint_behaviour;
use super::cfg::{ParsedCfg, Section};
use super::effects::lint_effects;
use super::keywords::{ServerLine, ServerPort, read_servers};
use super::pairs::{ServerPair, pair_servers};
use super::protocol::lint_protocol;
use super::reach::JudgedLines;
use super::report::LintReport;
use super::service::JudgedService;
use super::site::{CheckTarget, Site};
use super::timing;
use crate::model::finding::Severity::{Note, Problem, Warning};
use crate::model::fleet::Fleet;
use crate::model::ports::Port;

pub(super) fn lint_servers(
    site: &Site<'_>,
    section: &Section,
    service: &JudgedService<'_>,
    judged: &mut JudgedLines,
    report: &mut LintReport<'_>,
) {
    let JudgedService { fleet, balancer, .. } = *service;
    let before = report.count_problems();
    let all = read_servers(site.cfg, section);
    let pairs = pair_servers(&all, section, fleet, balancer, report);
    for pair in &pairs {
        lint_pair(site, section, pair, fleet, report);
        judged.extend(pair.lines().map(|server| (section.number, server.number)));
    }
    if !service.is_assumed {
        let mains: Vec<&ServerLine<'_>> = pairs.iter().map(|pair| pair.main).collect();
        timing::lint_timing(site.cfg, section, &mains, balancer, report);
    }
    lint_templates(section, report);
    lint_open_lines(&all, report);
    lint_shutdown_sessions(site.cfg, section, report);
    lint_effects(site.cfg, section, &pairs, report);
    if all.iter().filter(|server| server.has_flag("backup")).count() > 1
        && site.cfg.find_setting(section, &["option", "allbackups"]).is_none()
    {
        let is_paired = |server: &ServerLine<'_>| {
            pairs.iter().filter_map(|pair| pair.backup).any(|backup| backup.number == server.number)
        };
        let other = all.iter().find(|server| server.has_flag("backup") && !is_paired(server));
        let fix = match other.filter(|_| !service.is_assumed && !fleet.hosts.is_empty()) {
            Some(other) => format!(
                "move `{name}`, which is no backup vhost of a host, to a backend of its own, then add `option allbackups`: with \
                 the option `{name}` would get a share of the users",
                name = other.name
            ),
            None => "add `option allbackups`".to_owned(),
        };
        report.add(
            Warning,
            "haproxy-one-backup",
            section.number,
            "no `option allbackups`: when every main vhost is out, the first backup takes all users alone",
            fix,
        );
    }
    if report.count_problems() == before {
        lint_behaviour(site, section, &all, &pairs, fleet, report);
    }
}

fn lint_pair(
    site: &Site<'_>,
    section: &Section,
    pair: &ServerPair<'_>,
    fleet: &Fleet,
    report: &mut LintReport<'_>,
) {
    let lines = [(Some(pair.main), fleet.ports.main), (pair.backup, fleet.ports.backup)];
    for (server, port) in lines.into_iter().filter_map(|(server, port)| Some((server?, port))) {
        lint_check_keyword(server, report);
        lint_data_port(server, port, fleet, report);
        lint_address(server, pair, report);
        lint_weight(server, report);
    }
    lint_protocol(pair, report);
    lint_main_check_port(&site.find_check(section, pair.main), pair.main, fleet.ports.check, report);
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
    lint_backup_check_port(&site.find_check(section, backup), backup, fleet.ports.backup, report);
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
    let describe =
        |value: Option<&str>| value.map_or("no cookie".to_owned(), |value| format!("cookie `{value}`"));
    report.add(
        Problem,
        "haproxy-cookies-differ",
        backup.number,
        format!(
            "`{}` has {} and `{}` has {}: users of the host do not find its backup vhost",
            pair.main.name,
            describe(main),
            backup.name,
            describe(other)
        ),
        format!("write `cookie {}` on both lines", pair.host),
    );
}

fn lint_check_keyword(server: &ServerLine<'_>, report: &mut LintReport<'_>) {
    let has_check =
        server.has_flag("check") || server.has_flag("disabled") || server.value("track").is_some();
    if !has_check && !server.is_open {
        let reason = format!("`{}` has no `check`: HAProxy never marks it DOWN", server.name);
        report.add(Problem, "haproxy-no-check", server.number, reason, "add `check`");
    }
    if server.has_flag("agent-check") {
        report.add(
            Note,
            "haproxy-agent-check",
            server.number,
            "an `agent-check` speaks beside the check port, and one that cannot be reached leaves the last state",
            "fine with `switchman agent --agent-check ADDR:PORT`; another agent has to answer `up` when it starts, and `ready` only where \
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

fn lint_main_check_port(
    found: &CheckTarget,
    main: &ServerLine<'_>,
    check: Port,
    report: &mut LintReport<'_>,
) {
    let tracked = main.value("track").map(|tracked| format!("tracks `{tracked}`, which "));
    let reason = match (found, &tracked) {
        (CheckTarget::Port { port, .. }, _) if *port == check.get() => return,
        (CheckTarget::Port { port, .. }, Some(tracked)) => {
            format!("`{}` {tracked}is checked on port {port}", main.name)
        }
        (CheckTarget::Nothing, Some(tracked)) => format!("`{}` {tracked}has no `check`", main.name),
        (CheckTarget::Port { .. }, None) => {
            let port = main.value("port").map_or("its data port".to_owned(), |port| format!("port {port}"));
            format!("HAProxy checks {port}")
        }
        // A line without `check` is reported by itself.
        (CheckTarget::Nothing | CheckTarget::Disabled | CheckTarget::Unknown, _) => return,
    };
    report.add(
        Problem,
        "haproxy-check-port",
        main.number,
        format!("{reason}, not the check port {check}: taking the forward away changes nothing for it"),
        format!("write `check port {check}`"),
    );
}

fn lint_backup_check_port(
    found: &CheckTarget,
    backup: &ServerLine<'_>,
    own: Port,
    report: &mut LintReport<'_>,
) {
    let port = match found {
        CheckTarget::Port { port, .. } if *port != own.get() => *port,
        _ => return,
    };
    if backup.value("port").is_none() && backup.value("track").is_none() {
        // Its data port is wrong, which is reported by itself.
        return;
    }
    report.add(
        Problem,
        "haproxy-backup-check-port",
        backup.number,
        format!("the backup vhost is checked on port {port}: it goes DOWN with something else than itself"),
        format!("write `check port {own}`"),
    );
}

fn lint_data_port(server: &ServerLine<'_>, expected: Port, fleet: &Fleet, report: &mut LintReport<'_>) {
    let port = match server.port() {
        ServerPort::Fixed(port) => port,
        ServerPort::Unknown => return,
        ServerPort::OfClient(_) => {
            return report.add(
                Problem,
                "haproxy-no-port",
                server.number,
                format!(
                    "`{}` has no port of its own: HAProxy connects to the port that the client used, not to {expected}",
                    server.name
                ),
                format!("write port {expected}"),
            );
        }
    };
    if port == fleet.ports.check.get() {
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
    } else if port != expected.get() {
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
    match server.weight() {
        Some(0) => report.add(
            Warning,
            "haproxy-weight-zero",
            server.number,
            format!("`{}` has weight 0: HAProxy calls it UP and sends it no new user", server.name),
            "write `weight 100`",
        ),
        Some(weight @ 1..100) => report.add(
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
            "`server-template` gives all its slots one name and one cookie: HAProxy gives an address to one server of a backend, so \
             main and backup of a host cannot both have it, and its users do not stay on the host",
            "write a main line and a backup line for each slot, with a name in DNS of its own",
        );
    }
}

/// Lines that a list from the environment continues cannot be judged whole.
fn lint_open_lines(all: &[ServerLine<'_>], report: &mut LintReport<'_>) {
    for server in all.iter().filter(|server| server.is_open) {
        report.add(
            Note,
            "haproxy-open-line",
            server.number,
            format!("`{}` takes keywords from a list in the environment of HAProxy: only what is written here is judged", server.name),
            "write the keywords in the file, or set the list with `setenv` in `global`",
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
