//! What the backend as a whole must say.

use super::Report;
use super::cfg::{Cfg, Section};
use super::checks;
use super::keywords::servers;
use super::server;
use crate::model::balancer::BalancerSpec;
use crate::model::finding::Severity::{Note, Problem, Warning};
use crate::model::fleet::Fleet;

const COOKIE: &str = "cookie SERVER_ID insert indirect nocache";

pub(super) fn lint(
    cfg: &Cfg,
    section: &Section,
    fleet: &Fleet,
    balancer: &BalancerSpec,
    report: &mut Report<'_>,
) {
    retries(cfg, section, report);
    checks::lint(cfg, section, fleet, report);
    cookie(cfg, section, report);
    timeouts(cfg, section, report);
    state_file(cfg, section, report);
    pooling(cfg, section, report);
    server::lint(cfg, section, fleet, balancer, report);
}

fn retries(cfg: &Cfg, section: &Section, report: &mut Report<'_>) {
    redispatch(cfg, section, report);
    match cfg.setting(section, &["retries"]) {
        Some(line) if line.word(1) == Some("0") => report.add(
            Problem,
            "haproxy-no-retries",
            line.number,
            "`retries 0`: a refused connection becomes a 503 at once, and redispatch never happens",
            "write `retries 3`",
        ),
        Some(_) => {}
        None => report.add(
            Note,
            "haproxy-default-retries",
            section.number,
            "`retries` is not set: HAProxy's default of 3 is enough, but a `retries 0` added to `defaults` would go unseen",
            "add `retries 3`",
        ),
    }
    if let Some(line) = cfg.setting(section, &["retry-on"]) {
        report.add(
            Note,
            "haproxy-retry-on",
            line.number,
            "`retry-on` replays nothing over one buffer (16 kB): it does not cover uploads",
            "keep it if you like, and do not count on it",
        );
    }
}

fn redispatch(cfg: &Cfg, section: &Section, report: &mut Report<'_>) {
    let line = cfg.setting(section, &["option", "redispatch"]);
    match line.map(|line| (line, line.word(2))) {
        None | Some((_, Some("0"))) => report.add(
            Warning,
            "haproxy-no-redispatch",
            line.map_or(section.number, |line| line.number),
            "no `option redispatch`: a refused connection of a cookie user is tried on the same server only, and ends as a 503 \
             after 3 s; a reload counts every server UP until its first check, and with a host in maintenance 16 of 761 requests \
             were 503 (with it none of 2,900)",
            "add `option redispatch 1`",
        ),
        Some((_, Some("1"))) => {}
        Some((line, _)) => report.add(
            Note,
            "haproxy-late-redispatch",
            line.number,
            "another server is tried only after retries on the same one: a cookie user of a refused server waits 2 s, with \
             `option redispatch 1` not at all",
            "write `option redispatch 1`",
        ),
    }
}

fn cookie(cfg: &Cfg, section: &Section, report: &mut Report<'_>) {
    let mode = cfg.setting(section, &["mode"]);
    if mode.and_then(|line| line.word(1)) != Some("http") {
        report.add(
            Problem,
            "haproxy-not-http",
            mode.map_or(section.number, |line| line.number),
            "not `mode http`: HAProxy ignores every cookie, so users of a host do not find its backup vhost",
            "write `mode http`",
        );
    }
    let Some(line) = cfg.setting(section, &["cookie"]) else {
        return report.add(
            Problem,
            "haproxy-no-cookie",
            section.number,
            "no `cookie`: users of a host in maintenance go to other hosts and its backup vhost stays unused",
            format!("add `{COOKIE}`"),
        );
    };
    if !line.has("insert") {
        report.add(
            Warning,
            "haproxy-cookie-not-inserted",
            line.number,
            "HAProxy does not make this cookie itself: users whom the application gives none are moved about at every switch",
            format!("write `{COOKIE}`"),
        );
    } else if !(line.has("indirect") && line.has("nocache")) {
        report.add(
            Warning,
            "haproxy-cookie-cached",
            line.number,
            "an inserted cookie without `indirect nocache` is seen by the application and can be cached for others",
            format!("write `{COOKIE}`"),
        );
    }
}

fn timeouts(cfg: &Cfg, section: &Section, report: &mut Report<'_>) {
    let hung = "a hung server holds its clients for ever";
    for (timeout, value, severity, id, consequence) in [
        ("connect", "5s", Warning, "haproxy-no-timeout", hung),
        ("server", "60s", Warning, "haproxy-no-timeout", hung),
        (
            "tunnel",
            "1h",
            Warning,
            "haproxy-no-tunnel-timeout",
            "websockets end by `timeout server` when they are quiet",
        ),
        (
            "check",
            "1s",
            Note,
            "haproxy-no-check-timeout",
            "a check that hangs takes the whole `inter` before it counts as failed",
        ),
    ] {
        if cfg.setting(section, &["timeout", timeout]).is_none() {
            let reason = format!("no `timeout {timeout}`: {consequence}");
            report.add(severity, id, section.number, reason, format!("add `timeout {timeout} {value}`"));
        }
    }
}

fn state_file(cfg: &Cfg, section: &Section, report: &mut Report<'_>) {
    let Some(global) = cfg.first("global") else { return };
    let has = |word: &str| global.all(&[word]).next().is_some();
    let load = cfg.setting(section, &["load-server-state-from-file"]);
    let loaded = match load.and_then(|line| line.word(1)) {
        Some("global") => has("server-state-file"),
        Some("local") => has("server-state-base"),
        _ => false,
    };
    // Neither file: said once, about `global`.
    if (has("server-state-file") || has("server-state-base")) && !loaded {
        let from = if has("server-state-file") { "global" } else { "local" };
        report.add(
            Warning,
            "haproxy-state-not-loaded",
            load.map_or(section.number, |line| line.number),
            "there is a server state file, but this backend does not load it: a reload counts every server UP until its first check",
            format!("write `load-server-state-from-file {from}`"),
        );
    }
}

/// Only where pooling is set by hand: the default is no fault, and a switch by the forward does not need more.
fn pooling(cfg: &Cfg, section: &Section, report: &mut Report<'_>) {
    let Some(line) = cfg.setting(section, &["http-reuse"]) else { return };
    if line.word(1) == Some("never") {
        report.add(
            Note,
            "haproxy-reuse-never",
            line.number,
            "`http-reuse never` does not keep a keep-alive client from staying on the old process after an in-place change",
            "write `option http-server-close` for that, or nothing: switchman's switch does not need it",
        );
    } else if cfg.setting(section, &["option", "http-server-close"]).is_none()
        && !servers(cfg, section).iter().all(|server| server.value("pool-max-conn") == Some("0"))
    {
        report.add(
            Note,
            "haproxy-pooling",
            line.number,
            "pooled connections outlive a change in place: a lone keep-alive client stayed on the old process 23 of 23 s, and \
             one to a process that ends dies under a request",
            "write `option http-server-close`, or `pool-max-conn 0` on the server lines; or stop the old process only when \
             its server is DOWN in every HAProxy",
        );
    }
}
