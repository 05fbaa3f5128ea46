//! The health check of the backend. Its rules are not merged: a section with `option httpchk` or an `http-check` rule of
//! its own inherits no rule from `defaults`, neither Host nor expected status (measured with 2.6.12).

use super::Report;
use super::cfg::{Cfg, Line, Section};
use crate::model::finding::Severity::{Note, Problem, Warning};
use crate::model::fleet::Fleet;

/// `option` words that each replace the check of another.
const TYPES: [&str; 10] = [
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

const RULES: [&str; 6] = ["connect", "send", "expect", "comment", "set-var", "unset-var"];

fn is_rule(line: &Line) -> bool {
    line.word(0) == Some("http-check") && line.word(1).is_some_and(|word| RULES.contains(&word))
}

fn is_type(line: &Line) -> bool {
    line.word(0) == Some("option") && line.word(1).is_some_and(|word| TYPES.contains(&word))
}

/// The check as HAProxy puts it together.
struct Check<'a> {
    option: &'a Line,
    /// `option` stands in the section whose rules count.
    option_is_own: bool,
    rules: Vec<&'a Line>,
    /// Further up there are rules that do not count.
    dropped: bool,
}

impl<'a> Check<'a> {
    /// `None`: it is no HTTP check.
    fn of(cfg: &'a Cfg, section: &'a Section) -> Option<Self> {
        let chain = cfg.chain(section);
        let option =
            chain.iter().find_map(|section| section.lines.iter().rev().find(|line| is_type(line)))?;
        if option.word(1) != Some("httpchk") {
            return None;
        }
        let decides = |line: &Line| is_rule(line) || is_type(line);
        let at = chain.iter().position(|section| section.lines.iter().any(decides))?;
        Some(Self {
            option,
            option_is_own: chain[at].lines.iter().any(is_type),
            rules: chain[at].lines.iter().filter(|line| is_rule(line)).collect(),
            dropped: chain[at + 1..].iter().any(|section| section.lines.iter().any(is_rule)),
        })
    }

    fn rules(&self, kind: &'static str) -> impl Iterator<Item = &'a Line> {
        self.rules.iter().copied().filter(move |line| line.word(1) == Some(kind))
    }

    fn why_dropped(&self) -> &'static str {
        if self.dropped { " (the `http-check` lines of `defaults` do not count beside its own)" } else { "" }
    }
}

pub(super) fn lint(cfg: &Cfg, section: &Section, fleet: &Fleet, report: &mut Report<'_>) {
    let Some(check) = Check::of(cfg, section) else {
        return report.add(
            Problem,
            "haproxy-no-httpchk",
            section.number,
            "no `option httpchk`: any open port counts as healthy, a crashed application behind it too",
            format!("add `option httpchk` and `{}`", send(fleet)),
        );
    };
    if !check.option_is_own && check.rules("send").next().is_none() {
        return report.add(
            Problem,
            "haproxy-check-sends-nothing",
            check.rules.first().map_or(section.number, |line| line.number),
            "an `http-check` line of its own makes the backend forget the `option httpchk` it inherits: the check sends nothing, \
             and every server is DOWN with `L7TOUT`",
            format!("add `option httpchk` and `{}` beside it", send(fleet)),
        );
    }
    expect(&check, fleet, report);
    host(&check, fleet, report);
    connect(&check, report);
    path(&check, fleet, report);
    if let Some(line) = cfg.setting(section, &["http-check", "disable-on-404"]) {
        report.add(
            Note,
            "haproxy-disable-on-404",
            line.number,
            "a 404 makes a server NOLB and not DOWN: its cookie users stay, and switchman waits for DOWN",
            "remove `http-check disable-on-404`: the check port does its work",
        );
    }
}

fn send(fleet: &Fleet) -> String {
    let host = fleet.health.host.as_deref().unwrap_or("your.name");
    format!("http-check send meth GET uri {} ver HTTP/1.1 hdr Host {host}", fleet.health.path)
}

fn expect(check: &Check<'_>, fleet: &Fleet, report: &mut Report<'_>) {
    let status = fleet.health.status.to_string();
    let only = |line: &Line| match line.words.as_slice() {
        [.., not, _, _] if not == "!" => false,
        [.., kind, found] if kind == "status" => *found == status,
        [.., kind, found] if kind == "rstatus" => found.trim_matches(['^', '$']) == status,
        _ => false,
    };
    if !check.rules("expect").any(only) {
        let found = check.rules("expect").last();
        let reason = match found {
            Some(_) => format!("the check passes with other answers than {status}"),
            None => "the check accepts every 2xx and 3xx: a redirect to an error page counts as healthy"
                .to_owned(),
        };
        report.add(
            Warning,
            "haproxy-any-2xx-3xx",
            found.unwrap_or(check.option).number,
            reason + check.why_dropped(),
            format!("add `http-check expect status {status}`"),
        );
    }
}

fn host(check: &Check<'_>, fleet: &Fleet, report: &mut Report<'_>) {
    let in_send = |line: &Line| {
        line.words.windows(2).any(|pair| pair[0].starts_with("hdr") && pair[1].eq_ignore_ascii_case("host"))
    };
    let in_option = check.option_is_own
        && check.option.words.iter().any(|word| word.to_ascii_lowercase().contains("\r\nhost:"));
    if !in_option && !check.rules("send").any(in_send) {
        report.add(
            Warning,
            "haproxy-check-without-host",
            check.rules("send").last().unwrap_or(check.option).number,
            format!(
                "the check sends no Host header: a name-based vhost answers with its default site instead of this one{}",
                check.why_dropped()
            ),
            format!("add `{}`", send(fleet)),
        );
    }
}

fn connect(check: &Check<'_>, report: &mut Report<'_>) {
    for line in check.rules("connect").filter(|line| line.has("port") || line.has("addr")) {
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

/// Both should ask the same question, or one finds healthy what the other does not.
fn path(check: &Check<'_>, fleet: &Fleet, report: &mut Report<'_>) {
    let sent = check.rules("send").find_map(|line| Some((line, line.value("uri")?)));
    let uri = match check.option.words.as_slice() {
        _ if !check.option_is_own => None,
        [_, _, uri] | [_, _, _, uri, ..] => Some((check.option, uri.as_str())),
        _ => None,
    };
    if let Some((line, found)) = sent.or(uri).filter(|(_, found)| *found != fleet.health.path) {
        report.add(
            Note,
            "haproxy-health-path",
            line.number,
            format!("HAProxy asks for `{found}`, switchman's own probe for `{}`", fleet.health.path),
            format!("write `{}`, or `health: {{path: {found}}}` in switchman.yaml", send(fleet)),
        );
    }
}
