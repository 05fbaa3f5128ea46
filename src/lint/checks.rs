//! The health check of the backend. Its rules are not merged: a section with `option httpchk` or an `http-check` rule of
//! its own inherits no rule from `defaults`, neither Host nor expected status (measured with 2.6.12,
//! docs/design/measurements.md#m42).

use super::cfg::{ParsedCfg, Section, Statement};
use super::keywords::{ServerLine, read_servers};
use super::report::LintReport;
use crate::model::finding::Severity::{Note, Problem, Warning};
use crate::model::fleet::Fleet;

/// `option` words that each replace the check of another.
const CHECK_OPTIONS: [&str; 10] = [
    "httpchk",
    "tcp-check",
    "external-check",
    "ldap-check",
    "mysql-check",
    "pgsql-check",
    "redis-check",
    "smtpchk",
    "spop-check",
    "ssl-hello-chk",
];

const RULE_WORDS: [&str; 6] = ["connect", "send", "expect", "comment", "set-var", "unset-var"];

fn is_rule(line: &Statement) -> bool {
    line.word(0) == Some("http-check") && line.word(1).is_some_and(|word| RULE_WORDS.contains(&word))
}

fn is_check_option(line: &Statement) -> bool {
    line.word(0) == Some("option") && line.word(1).is_some_and(|word| CHECK_OPTIONS.contains(&word))
}

/// The check as HAProxy puts it together.
struct HttpCheck<'a> {
    option: &'a Statement,
    /// `option` is in the section whose rules count.
    option_is_own: bool,
    rules: Vec<&'a Statement>,
    /// Further up there are rules that do not count.
    has_ignored_rules: bool,
}

impl<'a> HttpCheck<'a> {
    /// `None`: it is no HTTP check.
    fn from_section(cfg: &'a ParsedCfg, section: &'a Section) -> Option<Self> {
        let chain = cfg.inheritance_chain(section);
        let option =
            chain.iter().find_map(|section| section.lines.iter().rev().find(|line| is_check_option(line)))?;
        if option.word(1) != Some("httpchk") {
            return None;
        }
        let decides = |line: &Statement| is_rule(line) || is_check_option(line);
        let at = chain.iter().position(|section| section.lines.iter().any(decides))?;
        Some(Self {
            option,
            option_is_own: chain[at].lines.iter().any(is_check_option),
            rules: chain[at].lines.iter().filter(|line| is_rule(line)).collect(),
            has_ignored_rules: chain[at + 1..].iter().any(|section| section.lines.iter().any(is_rule)),
        })
    }

    fn rules_of_kind(&self, kind: &'static str) -> impl Iterator<Item = &'a Statement> {
        self.rules.iter().copied().filter(move |line| line.word(1) == Some(kind))
    }

    /// The URI that the check requests, with its line.
    fn find_uri(&self) -> Option<(&'a Statement, &'a str)> {
        let sent = self.rules_of_kind("send").find_map(|line| Some((line, line.value("uri")?)));
        let uri = match self.option.words.as_slice() {
            _ if !self.option_is_own => None,
            [_, _, uri] | [_, _, _, uri, ..] => Some((self.option, uri.as_str())),
            _ => None,
        };
        sent.or(uri)
    }

    /// The Host header that the check sends.
    fn find_host(&self) -> Option<&'a str> {
        let sent = self.rules_of_kind("send").find_map(|line| {
            line.words.windows(3).find_map(|words| match words {
                [hdr, name, value] if hdr.starts_with("hdr") && name.eq_ignore_ascii_case("host") => {
                    Some(value.as_str())
                }
                _ => None,
            })
        });
        let in_option = || {
            let headers = self.option.words.iter().flat_map(|word| word.split("\r\n"));
            let mut headers = headers.filter_map(|header| header.split_once(':'));
            headers.find_map(|(name, value)| name.eq_ignore_ascii_case("host").then(|| value.trim()))
        };
        sent.or_else(|| in_option().filter(|_| self.option_is_own))
    }

    /// The one status that the check expects.
    fn find_status(&self) -> Option<u16> {
        self.rules_of_kind("expect").find_map(|line| match line.words.as_slice() {
            [.., not, _, _] if not == "!" => None,
            [.., kind, found] if kind == "status" || kind == "rstatus" => {
                found.trim_matches(['^', '$']).parse().ok()
            }
            _ => None,
        })
    }

    fn describe_ignored_rules(&self) -> &'static str {
        if self.has_ignored_rules {
            " (the `http-check` lines of `defaults` do not count beside its own)"
        } else {
            ""
        }
    }
}

/// The request of a health check, as far as the file has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CheckRequest<'a> {
    pub path: Option<&'a str>,
    pub host: Option<&'a str>,
    pub status: Option<u16>,
}

/// Reads the HTTP check of a backend. `None`: it has no HTTP check.
pub(super) fn read_check_request<'a>(cfg: &'a ParsedCfg, section: &'a Section) -> Option<CheckRequest<'a>> {
    let check = HttpCheck::from_section(cfg, section)?;
    let path = check.find_uri().map(|(_, uri)| uri);
    Some(CheckRequest { path, host: check.find_host(), status: check.find_status() })
}

pub(super) fn lint_checks(cfg: &ParsedCfg, section: &Section, fleet: &Fleet, report: &mut LintReport<'_>) {
    let Some(check) = HttpCheck::from_section(cfg, section) else {
        return report.add(
            Problem,
            "haproxy-no-httpchk",
            section.number,
            "no `option httpchk`: any open port counts as healthy, a crashed application behind it too",
            format!("add `option httpchk` and `{}`", format_send_rule(fleet)),
        );
    };
    if !check.option_is_own && check.rules_of_kind("send").next().is_none() {
        return report.add(
            Problem,
            "haproxy-check-sends-nothing",
            check.rules.first().map_or(section.number, |line| line.number),
            "an `http-check` line of its own makes the backend forget the `option httpchk` it inherits: the check sends nothing, \
             and every server is DOWN with `L7TOUT`",
            format!("add `option httpchk` and `{}` beside it", format_send_rule(fleet)),
        );
    }
    lint_expect(&check, fleet, report);
    lint_host(&check, fleet, report);
    lint_connect(&check, report);
    lint_connect_protocol(&check, &read_servers(cfg, section), report);
    lint_path(&check, fleet, report);
    if let Some(line) = cfg.find_setting(section, &["http-check", "disable-on-404"]) {
        report.add(
            Note,
            "haproxy-disable-on-404",
            line.number,
            "a 404 makes a server NOLB and not DOWN: its cookie users stay, and switchman waits for DOWN",
            "remove `http-check disable-on-404`: the check port does its work",
        );
    }
}

pub(super) fn format_send_rule(fleet: &Fleet) -> String {
    let host = fleet.health.host.as_deref().unwrap_or("your.name");
    format!("http-check send meth GET uri {} ver HTTP/1.1 hdr Host {host}", fleet.health.path)
}

fn lint_expect(check: &HttpCheck<'_>, fleet: &Fleet, report: &mut LintReport<'_>) {
    let status = fleet.health.status.to_string();
    let only = |line: &Statement| match line.words.as_slice() {
        [.., not, _, _] if not == "!" => false,
        [.., kind, found] if kind == "status" => *found == status,
        [.., kind, found] if kind == "rstatus" => found.trim_matches(['^', '$']) == status,
        _ => false,
    };
    if !check.rules_of_kind("expect").any(only) {
        let found = check.rules_of_kind("expect").last();
        let reason = match found {
            Some(_) => format!("the check passes with other answers than {status}"),
            None => "the check accepts every 2xx and 3xx: a redirect to an error page counts as healthy"
                .to_owned(),
        };
        report.add(
            Warning,
            "haproxy-any-2xx-3xx",
            found.unwrap_or(check.option).number,
            reason + check.describe_ignored_rules(),
            format!("add `http-check expect status {status}`"),
        );
    }
}

fn lint_host(check: &HttpCheck<'_>, fleet: &Fleet, report: &mut LintReport<'_>) {
    let in_send = |line: &Statement| {
        line.words.windows(2).any(|pair| pair[0].starts_with("hdr") && pair[1].eq_ignore_ascii_case("host"))
    };
    let in_option = check.option_is_own
        && check.option.words.iter().any(|word| word.to_ascii_lowercase().contains("\r\nhost:"));
    if !in_option && !check.rules_of_kind("send").any(in_send) {
        report.add(
            Warning,
            "haproxy-check-without-host",
            check.rules_of_kind("send").last().unwrap_or(check.option).number,
            format!(
                "the check sends no Host header: a name-based vhost answers with its default site instead of this one{}",
                check.describe_ignored_rules()
            ),
            format!("add `{}`", format_send_rule(fleet)),
        );
    }
}

fn lint_connect(check: &HttpCheck<'_>, report: &mut LintReport<'_>) {
    for line in check.rules_of_kind("connect").filter(|line| line.has_word("port") || line.has_word("addr")) {
        report.add(
            Problem,
            "haproxy-check-connect",
            line.number,
            "`http-check connect` with an address or port beats `check port` of the server lines: main and backup are checked \
             at one place, and taking the forward away changes nothing for HAProxy",
            "remove this line",
        );
    }
}

/// Without `default` a `connect` rule takes nothing from the server line (configuration manual, 4.2).
fn lint_connect_protocol(check: &HttpCheck<'_>, servers: &[ServerLine<'_>], report: &mut LintReport<'_>) {
    for line in check.rules_of_kind("connect").filter(|line| !line.has_word("default")) {
        for (keyword, name) in [("ssl", "TLS"), ("send-proxy", "the PROXY protocol")] {
            let uses = |server: &ServerLine<'_>| match keyword {
                "ssl" => server.has_flag("ssl"),
                _ => server.sends_proxy(),
            };
            let differs = |server: &&ServerLine<'_>| {
                server.has_flag("check") && !server.is_open && uses(server) != line.has_word(keyword)
            };
            let Some(server) = servers.iter().find(differs) else { continue };
            let (check, traffic) = if uses(server) { ("does not use", "does") } else { ("uses", "does not") };
            report.add(
                Problem,
                "haproxy-check-protocol",
                line.number,
                format!(
                    "`http-check connect` {check} {name} and the traffic of `{}` {traffic}: the vhost does not understand one of \
                     them, and is DOWN or answers users with errors",
                    server.name
                ),
                "write `http-check connect default`, which takes TLS and PROXY from the server lines, or remove the line",
            );
        }
    }
}

/// Both should send the same request, or one finds a server healthy that the other does not.
fn lint_path(check: &HttpCheck<'_>, fleet: &Fleet, report: &mut LintReport<'_>) {
    if let Some((line, found)) = check.find_uri().filter(|(_, found)| *found != fleet.health.path) {
        report.add(
            Note,
            "haproxy-health-path",
            line.number,
            format!("HAProxy requests `{found}`, switchman's own probe `{}`", fleet.health.path),
            format!("write `{}`, or `health: {{path: {found}}}` in switchman.yaml", format_send_rule(fleet)),
        );
    }
}
