//! What the backend as a whole must say.

use super::cfg::{Cfg, Section};
use super::{Report, server, setting};
use crate::model::balancer::BalancerSpec;
use crate::model::finding::Severity::{Note, Problem, Warning};
use crate::model::fleet::Fleet;

pub(super) fn lint(
    cfg: &Cfg,
    section: &Section,
    fleet: &Fleet,
    balancer: &BalancerSpec,
    report: &mut Report<'_>,
) {
    retries(cfg, section, report);
    health_check(cfg, section, fleet, report);
    cookie(cfg, section, report);
    timeouts(cfg, section, report);
    state_file(cfg, section, report);
    pooling(cfg, section, report);
    server::lint(cfg, section, fleet, balancer, report);
}

fn retries(cfg: &Cfg, section: &Section, report: &mut Report<'_>) {
    match setting(cfg, section, &["option", "redispatch"]) {
        None => report.add(
            Warning,
            "haproxy-no-redispatch",
            section.number,
            "no `option redispatch`: a refused connection is tried again on the same server only; after a reload with a host in \
             maintenance 16 of 761 requests were 503, with it none of 2,900",
            "add `option redispatch 1`",
        ),
        Some(line) if line.word(2).is_some_and(|interval| interval != "1") => report.add(
            Note,
            "haproxy-late-redispatch",
            line.number,
            "another server is tried only after some retries on the same one",
            "write `option redispatch 1`",
        ),
        Some(_) => {}
    }
    if let Some(line) = setting(cfg, section, &["retries"]).filter(|line| line.word(1) == Some("0")) {
        report.add(
            Problem,
            "haproxy-no-retries",
            line.number,
            "`retries 0`: a refused connection becomes a 503 at once, and redispatch never happens",
            "write `retries 3`",
        );
    }
    if let Some(line) = setting(cfg, section, &["retry-on"]) {
        report.add(
            Note,
            "haproxy-retry-on",
            line.number,
            "`retry-on` replays nothing over one buffer (16 kB): it does not cover uploads",
            "keep it if you like, and do not count on it",
        );
    }
}

fn health_check(cfg: &Cfg, section: &Section, fleet: &Fleet, report: &mut Report<'_>) {
    let Some(check) = setting(cfg, section, &["option", "httpchk"]) else {
        return report.add(
            Problem,
            "haproxy-no-httpchk",
            section.number,
            "no `option httpchk`: any open port counts as healthy, a crashed application behind it too",
            format!("add `option httpchk` and `http-check send meth GET uri {}`", fleet.health.path),
        );
    };
    let expects = setting(cfg, section, &["http-check", "expect"]);
    if expects
        .is_none_or(|line| !line.has("status") || line.words.last().is_none_or(|status| status != "200"))
    {
        report.add(
            Warning,
            "haproxy-any-2xx-3xx",
            expects.map_or(check.number, |line| line.number),
            "the check accepts every 2xx and 3xx: a redirect to an error page counts as healthy",
            "add `http-check expect status 200`",
        );
    }
    let send = setting(cfg, section, &["http-check", "send"]);
    let names_host =
        |line: &super::Line| line.words.iter().any(|word| word.to_ascii_lowercase().contains("host"));
    if !names_host(check) && !send.is_some_and(names_host) {
        report.add(
            Warning,
            "haproxy-check-without-host",
            check.number,
            "the check sends no Host header: a name-based vhost answers with its default site instead of this one",
            format!(
                "add `http-check send meth GET uri {} ver HTTP/1.1 hdr Host {}`",
                fleet.health.path,
                fleet.health.host.as_deref().unwrap_or("your.name")
            ),
        );
    }
    if let Some(line) = setting(cfg, section, &["http-check", "disable-on-404"]) {
        report.add(
            Note,
            "haproxy-disable-on-404",
            line.number,
            "a 404 makes a server NOLB and not DOWN: its cookie users stay, and switchman waits for DOWN",
            "leave it out, the check port does its work",
        );
    }
}

fn cookie(cfg: &Cfg, section: &Section, report: &mut Report<'_>) {
    let Some(line) = setting(cfg, section, &["cookie"]) else {
        return report.add(
            Problem,
            "haproxy-no-cookie",
            section.number,
            "no `cookie`: without one, users of a host in maintenance go to other hosts and its backup vhost stays unused",
            "add `cookie SERVER_ID insert indirect nocache`",
        );
    };
    if line.has("insert") && !(line.has("indirect") && line.has("nocache")) {
        report.add(
            Warning,
            "haproxy-cookie-cached",
            line.number,
            "an inserted cookie without `indirect nocache` is seen by the application and can be cached for others",
            "write `cookie SERVER_ID insert indirect nocache`",
        );
    }
}

fn timeouts(cfg: &Cfg, section: &Section, report: &mut Report<'_>) {
    if setting(cfg, section, &["timeout", "tunnel"]).is_none() {
        report.add(
            Warning,
            "haproxy-no-tunnel-timeout",
            section.number,
            "no `timeout tunnel`: websockets end by `timeout server` when they are quiet",
            "add `timeout tunnel 1h`",
        );
    }
    for timeout in ["connect", "server"] {
        if setting(cfg, section, &["timeout", timeout]).is_none() {
            report.add(
                Warning,
                "haproxy-no-timeout",
                section.number,
                format!("no `timeout {timeout}`: a hung server holds its clients for ever"),
                format!("add `timeout {timeout} {}`", if timeout == "connect" { "5s" } else { "60s" }),
            );
        }
    }
    if setting(cfg, section, &["timeout", "check"]).is_none() {
        report.add(
            Note,
            "haproxy-no-check-timeout",
            section.number,
            "no `timeout check`: a check that hangs takes the whole `inter` before it counts as failed",
            "add `timeout check 1s`",
        );
    }
}

fn state_file(cfg: &Cfg, section: &Section, report: &mut Report<'_>) {
    let has_file = cfg.first("global").is_some_and(|global| global.last(&["server-state-file"]).is_some());
    if has_file && setting(cfg, section, &["load-server-state-from-file"]).is_none() {
        report.add(
            Warning,
            "haproxy-state-not-loaded",
            section.number,
            "there is a `server-state-file`, but this backend does not load it",
            "add `load-server-state-from-file global`",
        );
    }
}

fn pooling(cfg: &Cfg, section: &Section, report: &mut Report<'_>) {
    if let Some(line) = setting(cfg, section, &["http-reuse"]).filter(|line| line.word(1) == Some("never")) {
        report.add(
            Note,
            "haproxy-reuse-never",
            line.number,
            "`http-reuse never` does not keep a keep-alive client from staying on the old process after an in-place change",
            "use `option http-server-close` for that, or nothing: switchman's switch does not need it",
        );
    }
}
