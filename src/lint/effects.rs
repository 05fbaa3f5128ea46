//! Settings that change which server a user reaches, or whether a server is DOWN, beside the forward.

use super::cfg::{ParsedCfg, Section, Statement};
use super::keywords::ServerLine;
use super::pairs::ServerPair;
use super::report::LintReport;
use super::resolution::lint_resolution;
use crate::model::finding::Severity::{Note, Problem, Warning};

pub(super) fn lint_effects(
    cfg: &ParsedCfg,
    section: &Section,
    pairs: &[ServerPair<'_>],
    report: &mut LintReport<'_>,
) {
    lint_disabled(cfg, section, report);
    lint_persist(cfg, section, report);
    lint_stick(section, pairs, report);
    lint_use_server(section, pairs, report);
    lint_lost_cookie(cfg, section, report);
    lint_cookie_order(pairs, report);
    lint_shared_cookies(pairs, report);
    for pair in pairs {
        lint_main(pair.main, report);
        for server in pair.lines() {
            lint_line(server, report);
        }
        lint_resolution(cfg, pair, report);
    }
    if let Some(line) = cfg.find_setting(section, &["option", "prefer-last-server"]) {
        report.add(
            Note,
            "haproxy-prefer-last-server",
            line.number,
            "`option prefer-last-server` keeps a client without a cookie on the backup vhost while its connection lasts, also \
             when main is UP again",
            "remove it: the cookie does its work",
        );
    }
}

/// The condition of a rule, where it is the same for every request.
pub(super) fn decide_condition(line: &Statement) -> Option<bool> {
    let at = line.words.iter().position(|word| word == "if" || word == "unless");
    let Some(at) = at else { return Some(true) };
    let verdict = match line.words[at + 1..].iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["TRUE"] | ["{", "always_true", "}"] => true,
        ["FALSE"] | ["{", "always_false", "}"] => false,
        _ => return None,
    };
    Some(verdict == (line.words[at] == "if"))
}

fn lint_disabled(cfg: &ParsedCfg, section: &Section, report: &mut LintReport<'_>) {
    let lines = cfg.inheritance_chain(section).into_iter();
    let decides = |line: &&Statement| matches!(line.word(0), Some("disabled" | "enabled"));
    let mut found = lines.filter_map(|section| section.lines.iter().rev().find(decides));
    if let Some(line) = found.next().filter(|line| line.word(0) == Some("disabled")) {
        let reason =
            format!("the backend `{}` is `disabled`: HAProxy answers its users with 503", section.name);
        report.add(Problem, "haproxy-backend-disabled", line.number, reason, "remove `disabled`");
    }
    if let Some(line) = section.find_all(&["be-unpublished"]).next() {
        let reason = format!(
            "the backend `{}` is `be-unpublished`: rules pass over it until it is published",
            section.name
        );
        report.add(Problem, "haproxy-backend-disabled", line.number, reason, "remove `be-unpublished`");
    }
}

fn lint_persist(cfg: &ParsedCfg, section: &Section, report: &mut LintReport<'_>) {
    if let Some(line) = cfg.find_setting(section, &["option", "persist"]) {
        report.add(
            Problem,
            "haproxy-persist",
            line.number,
            "`option persist` keeps users with a cookie on a server that is DOWN: they stay on the main vhost in maintenance",
            "remove `option persist`",
        );
    }
    for line in section.find_all(&["force-persist"]) {
        let Some(severity) = rate_rule(line) else { continue };
        report.add(
            severity,
            "haproxy-force-persist",
            line.number,
            "`force-persist` keeps the users it matches on a server that is DOWN: they stay on the main vhost in maintenance, and \
             it never drains",
            "remove it, or match the addresses of operators only",
        );
    }
    for line in section.find_all(&["ignore-persist"]) {
        let Some(severity) = rate_rule(line) else { continue };
        report.add(
            severity,
            "haproxy-ignore-persist",
            line.number,
            "`ignore-persist` takes no notice of the cookie: the requests it matches do not find the backup vhost of their host",
            "remove it, or match only requests that any host can answer",
        );
    }
}

/// A rule for every request is a problem, one with a condition may be meant so; `None` for one that never matches.
fn rate_rule(line: &Statement) -> Option<crate::model::finding::Severity> {
    match decide_condition(line) {
        Some(true) => Some(Problem),
        Some(false) => None,
        None => Some(Warning),
    }
}

/// A user whom a stick table sends gets no cookie (docs/design/measurements.md#m75), and a table
/// remembers the backup that a user had.
fn lint_stick(section: &Section, pairs: &[ServerPair<'_>], report: &mut LintReport<'_>) {
    let is_stored = pairs.iter().flat_map(ServerPair::lines).any(|server| !server.has_flag("non-stick"));
    let stores = section
        .find_all(&["stick"])
        .any(|line| matches!(line.word(1), Some("on" | "store-request" | "store-response")));
    let matches = section.find_all(&["stick"]).find(|line| matches!(line.word(1), Some("on" | "match")));
    let Some(line) = matches.filter(|_| is_stored && stores) else { return };
    let Some(severity) = rate_rule(line) else { return };
    report.add(
        severity,
        "haproxy-stick-table",
        line.number,
        "a user whom the stick table sends to a server gets no cookie, and does not find the backup vhost of that host; and the \
         table sends users to the backup vhost that it remembers, also when main is UP again",
        "remove the `stick` rules: the cookie does their work",
    );
}

fn lint_use_server(section: &Section, pairs: &[ServerPair<'_>], report: &mut LintReport<'_>) {
    for line in section.find_all(&["use-server"]) {
        let Some(name) = line.word(1) else { continue };
        let is_backup = pairs.iter().any(|pair| pair.backup.is_some_and(|backup| backup.name == name));
        let is_main = pairs.iter().any(|pair| pair.main.name == name);
        let Some(severity) = rate_rule(line).filter(|_| is_backup || is_main || name.contains('%')) else {
            continue;
        };
        // The rule passes over a server that is DOWN, so one to main ends with its maintenance.
        let (severity, what) = match (is_backup, severity) {
            (true, severity) => (severity, "the backup vhost also while main is UP"),
            (false, Problem) => (Problem, "one host, regardless of their cookie"),
            (false, _) => (Note, "a host, regardless of their cookie"),
        };
        report.add(
            severity,
            "haproxy-use-server",
            line.number,
            format!("`use-server {name}` beats the cookie: the requests it matches go to {what}"),
            "remove it, or match only requests of testers",
        );
    }
}

/// Rules that remove the cookie before HAProxy reads it, or after HAProxy has set it.
fn lint_lost_cookie(cfg: &ParsedCfg, section: &Section, report: &mut LintReport<'_>) {
    let cookie = cfg.find_setting(section, &["cookie"]).and_then(|line| line.word(1));
    let in_front = cfg.proxies().filter(|proxy| proxy.kind == "frontend");
    let rules = std::iter::once(section).chain(in_front).flat_map(|section| &section.lines);
    let (removes, replaces) = (["del-header", "set-header"], ["replace-header", "replace-value"]);
    for line in rules {
        let [first, action, header, ..] = line.words.as_slice() else { continue };
        let is = |rule: &str, name: &str| first == rule && header.eq_ignore_ascii_case(name);
        if !is("http-request", "cookie") && !is("http-after-response", "set-cookie") {
            continue;
        }
        let severity = match rate_rule(line) {
            Some(severity) if removes.contains(&action.as_str()) => severity,
            Some(_) if replaces.contains(&action.as_str()) => Warning,
            _ => continue,
        };
        report.add(
            severity,
            "haproxy-cookie-lost",
            line.number,
            format!(
                "`{first} {action} {header}` changes the header in which HAProxy keeps the cookie{}: users are moved about, and do \
                 not find the backup vhost of their host",
                cookie.map(|name| format!(" `{name}`")).unwrap_or_default()
            ),
            "remove the rule, or change only the cookies of the application",
        );
    }
}

/// HAProxy takes the first line with the cookie that is not DOWN.
fn lint_cookie_order(pairs: &[ServerPair<'_>], report: &mut LintReport<'_>) {
    for pair in pairs {
        let Some(backup) = pair.backup else { continue };
        let cookie = pair.main.value("cookie");
        if cookie.is_some() && cookie == backup.value("cookie") && backup.number < pair.main.number {
            report.add(
                Problem,
                "haproxy-backup-first",
                backup.number,
                format!(
                    "`{}` is above `{}` with the same cookie: HAProxy takes the first line that is not DOWN, so users with the \
                     cookie stay on the backup vhost for ever",
                    backup.name, pair.main.name
                ),
                format!("write the line of `{}` first", pair.main.name),
            );
        }
    }
}

fn lint_shared_cookies(pairs: &[ServerPair<'_>], report: &mut LintReport<'_>) {
    for (at, pair) in pairs.iter().enumerate() {
        for server in pair.lines() {
            let Some(cookie) = server.value("cookie") else { continue };
            let mut others = pairs[..at].iter().flat_map(ServerPair::lines);
            if let Some(other) = others.find(|other| other.value("cookie") == Some(cookie)) {
                report.add(
                    Problem,
                    "haproxy-cookie-shared",
                    server.number,
                    format!(
                        "`{}` has the cookie `{cookie}` of `{}`, another host: users of both go to the line that comes first",
                        server.name, other.name
                    ),
                    format!("write `cookie {}` on both lines of `{}`", pair.host, pair.host),
                );
            }
        }
    }
}

fn lint_main(main: &ServerLine<'_>, report: &mut LintReport<'_>) {
    if main.value("on-marked-up") == Some("shutdown-backup-sessions") {
        report.add(
            Problem,
            "haproxy-shutdown-backup-sessions",
            main.number,
            format!(
                "`on-marked-up shutdown-backup-sessions` on `{}` cuts every request that runs on a backup vhost when main comes back",
                main.name
            ),
            "remove `on-marked-up shutdown-backup-sessions`",
        );
    }
    if let Some(time) = main.value("slowstart") {
        report.add(
            Warning,
            "haproxy-slowstart",
            main.number,
            format!(
                "with `slowstart {time}` the weight of `{}` is back only {time} after UP: a roll that goes on at UP leaves fewer \
                 users on this host than the floor of capacity counts",
                main.name
            ),
            format!("remove `slowstart`, or let a roll pause for {time} between batches"),
        );
    }
    if let Some(state @ ("down" | "fully-down")) = main.value("init-state") {
        report.add(
            Warning,
            "haproxy-init-state",
            main.number,
            format!(
                "with `init-state {state}` `{}` starts DOWN after each reload and after each `set server ... state ready`, until its \
                 check has passed: closing its idle connections by MAINT takes it out of service for that time",
                main.name
            ),
            "remove `init-state`, or write `init-state up`",
        );
    }
}

/// Settings that count on main and backup lines alike.
fn lint_line(server: &ServerLine<'_>, report: &mut LintReport<'_>) {
    if server.has_flag("disabled") {
        report.add(
            Problem,
            "haproxy-disabled",
            server.number,
            format!("`{}` is `disabled`: it starts in MAINT, and no check brings it UP", server.name),
            "remove `disabled`",
        );
    }
    if let Some(name) = server.value("healthcheck") {
        report.add(
            Warning,
            "haproxy-healthcheck",
            server.number,
            format!(
                "`{}` is checked by the section `healthcheck {name}` and not by the lines of the backend, which were judged",
                server.name
            ),
            "remove `healthcheck`, and write its check into the backend",
        );
    }
    if let Some(mode) = server.value("observe") {
        report.add(
            Warning,
            "haproxy-observe",
            server.number,
            format!(
                "`observe {mode}` counts errors of users as failed checks: `{}` goes DOWN by them also while its check passes",
                server.name
            ),
            "remove `observe`: the check port does its work",
        );
    }
    if let Some(prefix) = server.value("redir") {
        report.add(
            Problem,
            "haproxy-redir",
            server.number,
            format!(
                "`redir {prefix}` redirects GET and HEAD of `{}` to another site: no vhost answers them",
                server.name
            ),
            "remove `redir`",
        );
    }
    if let Some(limit) = server.value("maxqueue").filter(|limit| *limit != "0") {
        report.add(
            Note,
            "haproxy-maxqueue",
            server.number,
            format!("with `maxqueue {limit}` users with the cookie of `{}` go to other hosts when its queue is full", server.name),
            "leave it out if users have to stay on their host",
        );
    }
}
