//! Server lines whose addresses HAProxy resolves at run time. What HAProxy does was measured (docs/design/measurements.md#m46).

use std::net::IpAddr;

use super::cfg::ParsedCfg;
use super::keywords::{ServerAddress, ServerLine};
use super::pairs::ServerPair;
use super::report::LintReport;
use crate::model::finding::Severity::{Problem, Warning};

pub(super) fn lint_resolution(cfg: &ParsedCfg, pair: &ServerPair<'_>, report: &mut LintReport<'_>) {
    for server in pair.lines() {
        lint_hold_times(cfg, server, report);
        lint_init_addr(server, report);
    }
    lint_shared_address(pair, report);
}

/// With the default `hold` times, name servers that do not answer take every server out.
fn lint_hold_times(cfg: &ParsedCfg, server: &ServerLine<'_>, report: &mut LintReport<'_>) {
    let Some(resolvers) = server.value("resolvers").and_then(|name| cfg.find("resolvers", name)) else {
        return;
    };
    let held = |status: &&str| resolvers.find_all(&["hold", status]).next().is_none();
    let missing: Vec<&str> = ["timeout", "refused", "other"].into_iter().filter(held).collect();
    if !missing.is_empty() {
        let lines =
            missing.iter().map(|status| format!("`hold {status} 24h`")).collect::<Vec<_>>().join(", ");
        report.add(
            Warning,
            "haproxy-resolvers-hold",
            resolvers.number,
            format!(
                "resolvers `{}` forget addresses while the name servers do not answer: after 45 s every server was out, and users \
                 got 503",
                resolvers.name
            ),
            format!("add {lines}"),
        );
    }
}

/// The name of a line that is resolved at run time.
fn read_resolved_name<'a>(server: &ServerLine<'a>) -> Option<&'a str> {
    match server.address() {
        ServerAddress::Name(name) if server.value("resolvers").is_some() => Some(name),
        _ => None,
    }
}

/// Without `init-addr`, a line with `resolvers` starts in MAINT. With one that ends in neither `none` nor an address, HAProxy does
/// not start.
fn lint_init_addr(server: &ServerLine<'_>, report: &mut LintReport<'_>) {
    let (Some(name), Some(methods)) = (read_resolved_name(server), server.value("init-addr")) else { return };
    let is_address = |method: &str| method.parse::<IpAddr>().is_ok();
    if !methods.split(',').any(|method| method == "none" || is_address(method)) {
        report.add(
            Warning,
            "haproxy-init-addr",
            server.number,
            format!(
                "with `init-addr {methods}` HAProxy does not start while `{name}` has no address: an empty slot or a name server that \
                 is down makes every start and reload fail"
            ),
            "write `init-addr none`",
        );
    }
}

/// HAProxy gives an address to one server of a backend, unless the line allows more.
fn lint_shared_address(pair: &ServerPair<'_>, report: &mut LintReport<'_>) {
    let Some(backup) = pair.backup else { return };
    let Some(name) = read_resolved_name(pair.main).filter(|name| read_resolved_name(backup) == Some(name))
    else {
        return;
    };
    if let Some(line) = pair.lines().find(|server| forbids_shared_address(server)) {
        report.add(
            Problem,
            "haproxy-shared-address",
            line.number,
            format!(
                "`{}` and `{}` have the address of `{name}`, and HAProxy gives an address to one server of a backend only: the other \
                 one stays in `MAINT (resolution)`",
                pair.main.name, backup.name
            ),
            "write `resolve-opts allow-dup-ip` on both lines",
        );
    }
}

/// The last of the two options counts.
fn forbids_shared_address(server: &ServerLine<'_>) -> bool {
    let mut options = server.value("resolve-opts").unwrap_or_default().split(',');
    let last = options.rfind(|option| option.ends_with("-dup-ip"));
    server.is_known("resolve-opts") && last != Some("allow-dup-ip")
}
