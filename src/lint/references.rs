//! Names in a configuration of what it does not have: HAProxy does not start with them.

use super::acl::{Sample, Test, is_predefined, list_acls, parse_condition};
use super::cfg::{ParsedCfg, Section, Statement};
use super::keywords::read_servers;
use super::refusals::report_refusal;
use super::report::LintReport;

pub(super) fn lint_references(cfg: &ParsedCfg, report: &mut LintReport<'_>) {
    for section in cfg.list_sections() {
        if !["frontend", "backend", "listen", "defaults"].contains(&section.kind.as_str()) {
            continue;
        }
        if let Some(name) = section.defaults_name.as_deref().filter(|name| is_missing(cfg, "defaults", name))
        {
            report_refusal(section.number, &format!("there is no defaults section `{name}`"), report);
        }
        lint_default_backend(cfg, section, report);
        for line in &section.lines {
            lint_line(cfg, section, line, report);
        }
        lint_resolvers(cfg, section, report);
    }
}

/// Whether a name that is written in the file is missing.
fn is_missing(cfg: &ParsedCfg, kind: &str, name: &str) -> bool {
    !name.contains(['$', '%']) && cfg.find(kind, name).is_none()
}

fn find_backend<'a>(cfg: &'a ParsedCfg, name: &str) -> Option<&'a Section> {
    cfg.find("backend", name).or_else(|| cfg.find("listen", name))
}

fn is_missing_backend(cfg: &ParsedCfg, name: &str) -> bool {
    !name.contains(['$', '%']) && find_backend(cfg, name).is_none()
}

/// The last `default_backend` counts, also one of the defaults.
fn lint_default_backend(cfg: &ParsedCfg, section: &Section, report: &mut LintReport<'_>) {
    if !["frontend", "listen"].contains(&section.kind.as_str()) {
        return;
    }
    let Some(line) = cfg.find_setting(section, &["default_backend"]) else { return };
    let Some(name) = line.word(1) else { return };
    if is_missing_backend(cfg, name) {
        report_refusal(line.number, &format!("there is no backend `{name}`"), report);
    } else if let Some(backend) = find_backend(cfg, name) {
        lint_modes(cfg, section, backend, line, report);
    }
}

/// A `mode http` section cannot send to one of another mode.
fn lint_modes(cfg: &ParsedCfg, from: &Section, to: &Section, line: &Statement, report: &mut LintReport<'_>) {
    let find_mode = |section| {
        let line = cfg.find_setting(section, &["mode"]);
        line.and_then(|line| line.word(1)).unwrap_or("tcp").to_owned()
    };
    let (from_mode, to_mode) = (find_mode(from), find_mode(to));
    if from_mode == "http" && to_mode == "tcp" {
        let reason =
            format!("{} `{}` is `mode http`, and {} `{}` is not", from.kind, from.name, to.kind, to.name);
        report_refusal(line.number, &reason, report);
    }
}

fn lint_line(cfg: &ParsedCfg, section: &Section, line: &Statement, report: &mut LintReport<'_>) {
    let is_here = section.kind != "defaults";
    if let Some((what, name)) = find_missing(cfg, section, line).filter(|_| is_here) {
        report_refusal(line.number, &format!("there is no {what} `{name}`"), report);
    }
    if let ("use_backend", Some(backend)) =
        (line.word(0).unwrap_or_default(), line.word(1).and_then(|name| find_backend(cfg, name)))
    {
        lint_modes(cfg, section, backend, line, report);
    }
    let condition = parse_condition(line);
    let terms = condition.iter().flat_map(|condition| condition.groups.iter().flatten());
    let mut expressions: Vec<&str> = Vec::new();
    for term in terms {
        match term.test {
            Test::Named(name) if is_here && !is_predefined(name) && !name.contains('$') => {
                if list_acls(cfg, section, name).is_empty() {
                    report_refusal(line.number, &format!("there is no ACL `{name}`"), report);
                }
            }
            Test::Named(_) => {}
            Test::Expression(words) => expressions.extend(words.first().map(String::as_str)),
        }
    }
    if line.word(0) == Some("acl") {
        expressions.extend(line.word(2));
    }
    for sample in expressions.into_iter().map(Sample::parse).filter(|_| is_here) {
        if let Some((what, name)) = find_missing_argument(cfg, section, &sample) {
            report_refusal(line.number, &format!("there is no {what} `{name}`"), report);
        }
    }
}

/// The kind and name of what a line names and the file does not have.
fn find_missing<'a>(
    cfg: &ParsedCfg,
    section: &'a Section,
    line: &'a Statement,
) -> Option<(&'static str, &'a str)> {
    let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["use_backend", name, ..] => is_missing_backend(cfg, name).then_some(("backend", name)),
        ["use-server", name, ..] => {
            (!name.contains(['$', '%']) && !has_server(cfg, section, name)).then_some(("server", name))
        }
        ["http-request", "cache-use", name, ..] | ["http-response", "cache-store", name, ..] => {
            is_missing(cfg, "cache", name).then_some(("cache", name))
        }
        ["errorfiles", name, ..] => {
            is_missing(cfg, "http-errors", name).then_some(("http-errors section", name))
        }
        ["use-fcgi-app", name, ..] => is_missing(cfg, "fcgi-app", name).then_some(("fcgi-app", name)),
        ["stick-table", ..] => {
            let name = line.value("peers")?;
            is_missing(cfg, "peers", name).then_some(("peers section", name))
        }
        ["stick", "on" | "match" | "store-request" | "store-response", ..] if section.kind != "frontend" => {
            let name = line.value("table").unwrap_or(&section.name);
            (!has_table(cfg, name)).then_some(("stick-table of", name))
        }
        ["http-request" | "http-response" | "tcp-request", ..] => {
            let is_track = words[1..].iter().take(2).any(|word| word.starts_with("track-sc"));
            let name = line.value("table").filter(|_| is_track)?;
            (!has_table(cfg, name)).then_some(("stick-table of", name))
        }
        ["server" | "server-template", ..] => {
            let tracked = line.value("track")?;
            let (proxy, server) = match tracked.split_once('/') {
                Some((proxy, server)) => (find_backend(cfg, proxy), server),
                None => (Some(section), tracked),
            };
            let is_found = tracked.contains('$') || proxy.is_some_and(|proxy| has_server(cfg, proxy, server));
            (!is_found).then_some(("server", tracked))
        }
        _ => None,
    }
}

fn has_server(cfg: &ParsedCfg, section: &Section, name: &str) -> bool {
    read_servers(cfg, section).iter().any(|server| server.name == name || server.name.contains('$'))
}

/// Whether a proxy or a `peers` section has a table of this name.
fn has_table(cfg: &ParsedCfg, name: &str) -> bool {
    if name.contains('$') {
        return true;
    }
    let is_table = |line: &Statement, words: &[&str]| line.starts_with(words);
    if let Some((peers, table)) = name.split_once('/') {
        let section = cfg.find("peers", peers);
        return section
            .is_some_and(|section| section.lines.iter().any(|line| is_table(line, &["table", table])));
    }
    let mut proxies = cfg.proxies().filter(|section| section.name == name);
    proxies.any(|section| section.lines.iter().any(|line| is_table(line, &["stick-table"])))
}

/// Fetches whose argument is a backend.
const OF_BACKEND: [&str; 7] =
    ["nbsrv", "connslots", "avg_queue", "queue", "be_conn", "be_conn_free", "be_sess_rate"];

/// Fetches whose argument is a server.
const OF_SERVER: [&str; 8] = [
    "srv_is_up",
    "srv_conn",
    "srv_conn_free",
    "srv_queue",
    "srv_sess_rate",
    "srv_weight",
    "srv_iweight",
    "srv_uweight",
];

fn find_missing_argument<'a>(
    cfg: &ParsedCfg,
    section: &'a Section,
    sample: &Sample<'a>,
) -> Option<(&'static str, &'a str)> {
    let name = sample.arguments.split(',').next().unwrap_or_default();
    if name.contains('$') {
        return None;
    }
    let has_backend = section.kind != "frontend";
    if OF_BACKEND.contains(&sample.fetch) {
        let is_found = if name.is_empty() { has_backend } else { find_backend(cfg, name).is_some() };
        return (!is_found).then_some(("backend", if name.is_empty() { &section.name } else { name }));
    }
    if OF_SERVER.contains(&sample.fetch) {
        let (proxy, server) = match name.split_once('/') {
            Some((proxy, server)) => (find_backend(cfg, proxy), server),
            None => (Some(section), name),
        };
        let is_found = proxy.is_some_and(|proxy| has_server(cfg, proxy, server));
        return (!is_found).then_some(("server", name));
    }
    let is_list = ["http_auth", "http_auth_group"].contains(&sample.fetch);
    (is_list && is_missing(cfg, "userlist", name)).then_some(("userlist", name))
}

/// HAProxy makes `resolvers default` itself.
fn lint_resolvers(cfg: &ParsedCfg, section: &Section, report: &mut LintReport<'_>) {
    for server in read_servers(cfg, section) {
        let Some(name) = server.value("resolvers").filter(|name| *name != "default") else { continue };
        if is_missing(cfg, "resolvers", name) {
            report_refusal(server.number, &format!("there is no resolvers section `{name}`"), report);
        }
    }
}
