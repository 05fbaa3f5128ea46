//! Checks of the backend as a whole.

use super::cfg::{ParsedCfg, Section};
use super::checks;
use super::keywords::read_servers;
use super::reach::JudgedLines;
use super::report::LintReport;
use super::server;
use super::service::JudgedService;
use super::site::Site;
use crate::model::finding::Severity::{Note, Problem, Warning};

pub(super) const COOKIE_LINE: &str = "cookie SERVER_ID insert indirect nocache";

pub(super) fn lint_backend(
    site: &Site<'_>,
    section: &Section,
    service: &JudgedService<'_>,
    judged: &mut JudgedLines,
    report: &mut LintReport<'_>,
) {
    let cfg = site.cfg;
    lint_retries(cfg, section, report);
    checks::lint_checks(cfg, section, service.fleet, report);
    lint_cookie(cfg, section, report);
    lint_timeouts(cfg, section, report);
    lint_state_file(cfg, section, report);
    lint_pooling(cfg, section, report);
    server::lint_servers(site, section, service, judged, report);
}

fn lint_retries(cfg: &ParsedCfg, section: &Section, report: &mut LintReport<'_>) {
    lint_redispatch(cfg, section, report);
    match cfg.find_setting(section, &["retries"]) {
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
    if let Some(line) = cfg.find_setting(section, &["retry-on"]) {
        report.add(
            Note,
            "haproxy-retry-on",
            line.number,
            "`retry-on` replays nothing over one buffer (16 kB): it does not cover uploads",
            "keep it if you like, and do not count on it",
        );
    }
}

fn lint_redispatch(cfg: &ParsedCfg, section: &Section, report: &mut LintReport<'_>) {
    let line = cfg.find_setting(section, &["option", "redispatch"]);
    match line.map(|line| (line, line.word(2))) {
        // The figures: docs/design/measurements.md#m38.
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

fn lint_cookie(cfg: &ParsedCfg, section: &Section, report: &mut LintReport<'_>) {
    let mode = cfg.find_setting(section, &["mode"]);
    if mode.and_then(|line| line.word(1)) != Some("http") {
        report.add(
            Problem,
            "haproxy-not-http",
            mode.map_or(section.number, |line| line.number),
            "not `mode http`: HAProxy ignores every cookie, so users of a host do not find its backup vhost",
            "write `mode http`",
        );
    }
    let Some(line) = cfg.find_setting(section, &["cookie"]) else {
        return report.add(
            Problem,
            "haproxy-no-cookie",
            section.number,
            "no `cookie`: users of a host in maintenance go to other hosts and its backup vhost stays unused",
            format!("add `{COOKIE_LINE}`"),
        );
    };
    if line.has_word("postonly") {
        report.add(
            Warning,
            "haproxy-cookie-not-inserted",
            line.number,
            "with `postonly` only users who send a POST get the cookie: the others are moved about at every switch",
            format!("write `{COOKIE_LINE}`"),
        );
    } else if !line.has_word("insert") {
        report.add(
            Warning,
            "haproxy-cookie-not-inserted",
            line.number,
            "HAProxy does not make this cookie itself: users whom the application gives none are moved about at every switch",
            format!("write `{COOKIE_LINE}`"),
        );
    } else if !(line.has_word("indirect") && line.has_word("nocache")) {
        report.add(
            Warning,
            "haproxy-cookie-cached",
            line.number,
            "an inserted cookie without `indirect nocache` is seen by the application and can be cached for others",
            format!("write `{COOKIE_LINE}`"),
        );
    }
}

fn lint_timeouts(cfg: &ParsedCfg, section: &Section, report: &mut LintReport<'_>) {
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
        if cfg.find_setting(section, &["timeout", timeout]).is_none() {
            let reason = format!("no `timeout {timeout}`: {consequence}");
            report.add(severity, id, section.number, reason, format!("add `timeout {timeout} {value}`"));
        }
    }
}

fn lint_state_file(cfg: &ParsedCfg, section: &Section, report: &mut LintReport<'_>) {
    let Some(global) = cfg.find_first("global") else { return };
    let has = |word: &str| global.find_all(&[word]).next().is_some();
    let load = cfg.find_setting(section, &["load-server-state-from-file"]);
    let loaded = match load.and_then(|line| line.word(1)) {
        Some("global") => has("server-state-file"),
        Some("local") => has("server-state-base"),
        _ => false,
    };
    // Neither file: reported once, about `global`.
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
fn lint_pooling(cfg: &ParsedCfg, section: &Section, report: &mut LintReport<'_>) {
    let Some(line) = cfg.find_setting(section, &["http-reuse"]) else { return };
    if line.word(1) == Some("never") {
        report.add(
            Note,
            "haproxy-reuse-never",
            line.number,
            "`http-reuse never` does not keep a keep-alive client from staying on the old process after an in-place change",
            "write `option http-server-close` for that, or nothing: switchman's switch does not need it",
        );
    } else if cfg.find_setting(section, &["option", "http-server-close"]).is_none()
        && !read_servers(cfg, section).iter().all(|server| server.value("pool-max-conn") == Some("0"))
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
