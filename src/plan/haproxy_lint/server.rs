//! The two server lines of each host.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::cfg::{Cfg, Line, Section};
use super::{Report, setting};
use crate::model::balancer::{BalancerSpec, CheckTiming};
use crate::model::duration::{parse, show};
use crate::model::finding::Severity::{Note, Problem, Warning};
use crate::model::fleet::Fleet;
use crate::model::forward::Switch;
use crate::model::host::Host;
use crate::model::ports::Port;
use crate::plan::switch::bound;

/// A server line with the `default-server` lines that stand before it.
struct Server<'a> {
    line: &'a Line,
    defaults: Vec<&'a Line>,
}

impl Server<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        let own = self.line.words.get(3..).and_then(|words| words.iter().position(|word| word == key));
        let own = own.and_then(|at| self.line.word(at + 4));
        own.or_else(|| self.defaults.iter().rev().find_map(|line| line.value(key)))
    }

    fn has(&self, word: &str) -> bool {
        self.line.words.iter().skip(3).any(|own| own == word)
            || self.defaults.iter().any(|line| line.has(word))
    }

    fn port(&self) -> Option<&str> {
        self.line.word(2)?.rsplit_once(':').map(|(_, port)| port)
    }

    fn address(&self) -> Option<IpAddr> {
        let text = self.line.word(2)?;
        let text = text.trim_start_matches("ipv4@").trim_start_matches("ipv6@");
        text.parse::<SocketAddr>()
            .map(|address| address.ip())
            .ok()
            .or_else(|| text.rsplit_once(':')?.0.parse().ok())
    }
}

pub(super) fn lint(
    cfg: &Cfg,
    section: &Section,
    fleet: &Fleet,
    balancer: &BalancerSpec,
    report: &mut Report<'_>,
) {
    let find = |name: &str| {
        let line = section.all(&["server"]).find(|line| line.word(1) == Some(name))?;
        let inherited = cfg.defaults_of(section).into_iter().flat_map(|defaults| defaults.lines.iter());
        let before = section.lines.iter().filter(|other| other.number < line.number);
        let defaults = inherited.chain(before).filter(|other| other.starts(&["default-server"])).collect();
        Some(Server { line, defaults })
    };
    for host in &fleet.hosts {
        let (main, backup) = (balancer.servers.main_of(&host.name), balancer.servers.backup_of(&host.name));
        match (find(&main), find(&backup)) {
            (Some(main), Some(backup)) => pair(&main, &backup, host, fleet, report),
            (main_line, backup_line) => {
                let missing = [(main_line.is_none(), main), (backup_line.is_none(), backup)];
                for (_, name) in missing.into_iter().filter(|(missing, _)| *missing) {
                    report.add(
                        Problem,
                        "haproxy-no-server",
                        section.number,
                        format!("the backend has no server `{name}`"),
                        "add it, or say how the lines are called with `load_balancers[].servers`",
                    );
                }
            }
        }
    }
    if let Some(first) = fleet.hosts.first().and_then(|host| find(&balancer.servers.main_of(&host.name))) {
        timing(cfg, section, &first, balancer, report);
    }
    for line in
        section.lines.iter().chain(cfg.defaults_of(section).into_iter().flat_map(|defaults| &defaults.lines))
    {
        if line.value("on-marked-down") == Some("shutdown-sessions") {
            report.add(
                Problem,
                "haproxy-shutdown-sessions",
                line.number,
                "`on-marked-down shutdown-sessions` turns every request that is running at the switch into a 502",
                "remove it",
            );
        }
    }
    allbackups(cfg, section, report);
}

fn pair(main: &Server<'_>, backup: &Server<'_>, host: &Host, fleet: &Fleet, report: &mut Report<'_>) {
    check_port(main, backup, fleet, report);
    for (server, port) in [(main, fleet.ports.main), (backup, fleet.ports.backup)] {
        data_port(server, port, fleet, report);
        address(server, host, report);
        weight(server, report);
    }
    let (main_name, backup_name) = (main.line.word(1).unwrap_or(""), backup.line.word(1).unwrap_or(""));
    if !backup.line.has("backup") {
        report.add(
            Problem,
            "haproxy-backup-not-backup",
            backup.line.number,
            format!("`{backup_name}` is not declared `backup`: it takes users while main is in service"),
            "add `backup` to the line",
        );
    }
    if main.line.has("backup") {
        report.add(
            Problem,
            "haproxy-main-is-backup",
            main.line.number,
            format!("`{main_name}` is declared `backup`"),
            "remove `backup`",
        );
    }
    match (main.value("cookie"), backup.value("cookie")) {
        (Some(one), Some(other)) if one == other => {}
        (one, other) => report.add(
            Problem,
            "haproxy-cookies-differ",
            backup.line.number,
            format!(
                "`{main_name}` has {} and `{backup_name}` has {}: users of the host do not find its backup vhost",
                cookie(one),
                cookie(other)
            ),
            format!("write `cookie {}` on both lines", host.name),
        ),
    }
}

fn cookie(value: Option<&str>) -> String {
    value.map_or("no cookie".to_owned(), |value| format!("cookie `{value}`"))
}

fn check_port(main: &Server<'_>, backup: &Server<'_>, fleet: &Fleet, report: &mut Report<'_>) {
    let check = fleet.ports.check.to_string();
    for server in [main, backup] {
        if !server.has("check") {
            let name = server.line.word(1).unwrap_or("");
            let reason = format!("`{name}` has no `check`: HAProxy never marks it DOWN");
            report.add(Problem, "haproxy-no-check", server.line.number, reason, "add `check`");
        }
        if server.has("agent-check") {
            let reason = "an `agent-check` that cannot be reached leaves the last state";
            report.add(Note, "haproxy-agent-check", server.line.number, reason, "know it");
        }
    }
    if main.value("port") != Some(check.as_str()) {
        let found = main.value("port").map_or("its data port".to_owned(), |port| format!("port {port}"));
        report.add(
            Problem,
            "haproxy-check-port",
            main.line.number,
            format!("HAProxy checks {found}, not the check port {check}: taking the forward away changes nothing for it"),
            format!("write `check port {check}`"),
        );
    }
    let own = fleet.ports.backup.to_string();
    if backup.value("port").is_some_and(|port| port != own) {
        report.add(
            Problem,
            "haproxy-backup-check-port",
            backup.line.number,
            format!(
                "the backup vhost is checked on port {}: it goes DOWN with something else than itself",
                backup.value("port").unwrap_or("")
            ),
            format!("write `check port {own}`"),
        );
    }
}

fn data_port(server: &Server<'_>, expected: Port, fleet: &Fleet, report: &mut Report<'_>) {
    let Some(port) = server.port() else { return };
    if port == fleet.ports.check.to_string() {
        report.add(
            Problem,
            "haproxy-data-on-check-port",
            server.line.number,
            format!("traffic goes to the check port {port}: taking the forward away cuts it before HAProxy has noticed"),
            format!("write port {expected}"),
        );
    } else if port != expected.to_string() {
        report.add(
            Problem,
            "haproxy-data-port",
            server.line.number,
            format!("traffic goes to port {port}, the configuration says {expected}"),
            format!("write port {expected}, or change `ports` in switchman.yaml"),
        );
    }
}

fn address(server: &Server<'_>, host: &Host, report: &mut Report<'_>) {
    let (Some(found), Some(expected)) = (server.address(), host.address) else { return };
    if found != expected {
        report.add(
            Problem,
            "haproxy-address",
            server.line.number,
            format!("the address is {found}, switchman.yaml says {expected} for `{}`", host.name),
            "make them the same",
        );
    }
    if found.is_ipv6() {
        report.add(
            Note,
            "haproxy-ipv6",
            server.line.number,
            "an IPv6 address passes IPv4 rules by: the host needs the IPv6 rule too",
            "`switchman check` on the host looks for it",
        );
    }
}

fn weight(server: &Server<'_>, report: &mut Report<'_>) {
    let weight = server.value("weight").map_or(Some(1), |weight| weight.parse::<u32>().ok());
    if weight.is_some_and(|weight| weight < 10) {
        report.add(
            Note,
            "haproxy-small-weight",
            server.line.number,
            "with a weight this small relative weights truncate: half of 1 silently becomes 0",
            "add `weight 100` to `default-server`",
        );
    }
}

/// What the lines say against what switchman.yaml says, and how long a switch takes by it.
fn timing(
    cfg: &Cfg,
    section: &Section,
    server: &Server<'_>,
    balancer: &BalancerSpec,
    report: &mut Report<'_>,
) {
    let time = |key: &str| server.value(key).and_then(haproxy_time);
    let number = |key: &str| server.value(key).and_then(|text| text.parse::<u32>().ok());
    let default = CheckTiming::default();
    let found = CheckTiming {
        inter: time("inter").unwrap_or(default.inter),
        fastinter: time("fastinter"),
        fall: number("fall").unwrap_or(default.fall),
        rise: number("rise").unwrap_or(default.rise),
        timeout: setting(cfg, section, &["timeout", "check"]).and_then(|line| haproxy_time(line.word(2)?)),
    };
    let (off, configured) = (bound(&found, Switch::Off), bound(&balancer.check, Switch::Off));
    if off != configured {
        report.add(
            Warning,
            "haproxy-timing-differs",
            server.line.number,
            format!(
                "by these lines DOWN takes up to {}, by `load_balancers[].check` in switchman.yaml up to {}",
                show(off),
                show(configured)
            ),
            "write the same inter, fastinter, fall, rise and timeout in both",
        );
    }
    if off > Duration::from_secs(10) {
        report.add(
            Note,
            "haproxy-slow-checks",
            server.line.number,
            format!("a switch takes up to {} to be seen", show(off)),
            "`inter 1s fastinter 200ms` makes that about a second",
        );
    }
}

/// `500`, `500ms`, `2s`, `1m`: without a unit, milliseconds (configuration manual, 2.5).
fn haproxy_time(text: &str) -> Option<Duration> {
    text.parse().map(Duration::from_millis).ok().or_else(|| parse(text).ok())
}

fn allbackups(cfg: &Cfg, section: &Section, report: &mut Report<'_>) {
    let backups = section.all(&["server"]).filter(|line| line.has("backup")).count();
    if backups > 1 && setting(cfg, section, &["option", "allbackups"]).is_none() {
        report.add(
            Warning,
            "haproxy-one-backup",
            section.number,
            "no `option allbackups`: when every main vhost is out, the first backup takes all users alone",
            "add `option allbackups`",
        );
    }
}
