//! Lines that HAProxy refuses by their words: unknown keywords, options, actions, fetches, and values it cannot read.

use super::acl::{Test, parse_condition};
use super::cfg::{ParsedCfg, Section, Statement};
use super::refusals::report_refusal;
use super::report::LintReport;
use super::samples::refuse_sample;
use super::syntax_servers::{lint_bind_line, lint_server_line};
use super::timing::is_haproxy_time;
use super::vocabulary::{is_word, list_words};

/// Words of builds with libraries that Debian's HAProxy does not have.
const OTHER_BUILDS: [&str; 4] = ["51degrees-", "deviceatlas-", "wurfl-", "module-"];

pub(super) fn lint_syntax(cfg: &ParsedCfg, report: &mut LintReport<'_>) {
    for section in cfg.list_sections() {
        lint_header(section, report);
        for line in &section.lines {
            lint_first_word(section, line, report);
            lint_statement(cfg, section, line, report);
            lint_expressions(line, report);
        }
    }
}

fn is_proxy(section: &Section) -> bool {
    ["frontend", "backend", "listen", "defaults"].contains(&section.kind.as_str())
}

/// Whether the text has a part from the environment, which is not known here.
fn is_unknown(text: &str) -> bool {
    text.contains('$')
}

fn lint_header(section: &Section, report: &mut LintReport<'_>) {
    let name = section.name.as_str();
    let is_character = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if section.kind == "global" && !name.is_empty() && !is_unknown(name) {
        return report_refusal(section.number, &format!("`{name}` after `global`"), report);
    }
    if !is_proxy(section) || is_unknown(name) || section.kind == "defaults" {
        return;
    }
    if name.is_empty() {
        report_refusal(section.number, &format!("the {} has no name", section.kind), report);
    } else if let Some(c) = name.chars().find(|c| !is_character(*c)) {
        report_refusal(section.number, &format!("`{c}` is not allowed in the name `{name}`"), report);
    }
}

fn lint_first_word(section: &Section, line: &Statement, report: &mut LintReport<'_>) {
    let kind = if is_proxy(section) { "listen" } else { section.kind.as_str() };
    let is_negated = matches!(line.word(0), Some("no" | "default"));
    let Some(word) = line.word(usize::from(is_negated)).filter(|word| !is_unknown(word)) else { return };
    let is_other_build = OTHER_BUILDS.iter().any(|start| word.starts_with(start));
    if word.starts_with('.') {
        report_refusal(line.number, &format!("`{word}` is no directive"), report);
    } else if is_proxy(section) && is_negated && !["option", "log"].contains(&word) {
        report_refusal(
            line.number,
            &format!("`{}` is only allowed before `option` and `log`", line.words[0]),
            report,
        );
    } else if is_word("section", kind) && !is_word(kind, word) && !is_other_build {
        let reason = format!("no HAProxy from 2.6 to 3.4 knows `{word}` in a `{}` section", section.kind);
        report_refusal(line.number, &reason, report);
    } else if let Some(reason) = find_misplaced(section, word) {
        report_refusal(line.number, &reason, report);
    }
}

/// Keywords of servers in a section without servers, and of clients in one without clients.
fn find_misplaced(section: &Section, word: &str) -> Option<String> {
    let (words, kinds): (&[&str], &[&str]) = match section.kind.as_str() {
        "frontend" => (&["server", "server-template", "use-server", "retry-on"], &["backend", "listen"]),
        "backend" => (&["use_backend", "default_backend"], &["frontend", "listen"]),
        "defaults" => {
            (&["server", "server-template", "bind", "use_backend"], &["backend", "frontend", "listen"])
        }
        _ => return None,
    };
    words
        .contains(&word)
        .then(|| format!("`{word}` belongs to a {}, not to a {}", kinds.join(" or "), section.kind))
}

fn lint_statement(cfg: &ParsedCfg, section: &Section, line: &Statement, report: &mut LintReport<'_>) {
    if section.kind == "global" && line.starts_with(&["stats", "socket"]) {
        return lint_bind_line(line, 2, report);
    }
    if !is_proxy(section) {
        return;
    }
    let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
    let refused = match words.as_slice() {
        ["no" | "default", "option", option, rest @ ..] | ["option", option, rest @ ..] => {
            refuse_option(option, rest)
        }
        ["option"] => Some("`option` has no name".to_owned()),
        ["timeout", rest @ ..] => refuse_timeout(rest),
        ["mode", rest @ ..] => refuse_mode(rest),
        ["cookie", rest @ ..] => refuse_cookie(rest),
        ["server" | "server-template" | "default-server", ..] => {
            return lint_server_line(cfg, section, line, report);
        }
        ["bind", ..] => return lint_bind_line(line, 1, report),
        [first @ ("maxconn" | "retries" | "fullconn" | "default_backend"), rest @ ..] => {
            refuse_count(first, rest, 1)
        }
        [first @ ("disabled" | "enabled"), rest @ ..] => refuse_count(first, rest, 0),
        ["use_backend"] => Some("`use_backend` has no value".to_owned()),
        [first @ ("http-request" | "http-response" | "http-after-response"), rest @ ..] => {
            refuse_action(first, rest)
        }
        ["tcp-request", "inspect-delay", time, ..] if !is_unknown(time) && !is_haproxy_time(time) => {
            Some(format!("`{time}` is no time"))
        }
        ["tcp-request", level @ ("connection" | "session" | "content"), rest @ ..] => {
            refuse_action(&format!("tcp-request {level}"), rest)
        }
        ["tcp-response", "content", rest @ ..] => refuse_action("tcp-response content", rest),
        ["use-server" | "force-persist" | "ignore-persist", ..] if parse_condition(line).is_none() => {
            Some(format!("`{}` needs a condition", words[0]))
        }
        _ => None,
    };
    let refused = refused.or_else(|| refuse_choice(&words)).or_else(|| refuse_special(&words));
    if let Some(reason) = refused.filter(|_| !line.is_open) {
        report_refusal(line.number, &reason, report);
    }
}

fn refuse_option(option: &str, rest: &[&str]) -> Option<String> {
    if is_unknown(option) {
        return None;
    }
    if !is_word("option", option) {
        return Some(format!("no HAProxy from 2.6 to 3.4 knows `option {option}`"));
    }
    let extra = rest.first().filter(|word| is_word("option flag", option) && !is_unknown(word))?;
    Some(format!("`{extra}` after `option {option}`"))
}

/// Lines whose next word is one of a list.
const CHOICES: [(&[&str], &[&str]); 12] = [
    (&["hash-type"], &["consistent", "map-based"]),
    (&["http-reuse"], &["never", "safe", "aggressive", "always"]),
    (&["load-server-state-from-file"], &["global", "local", "none"]),
    (&["redirect"], &["location", "prefix", "scheme"]),
    (&["capture"], &["request", "response", "cookie"]),
    (&["declare"], &["capture"]),
    (&["declare", "capture"], &["request", "response"]),
    (&["tcp-request"], &["connection", "session", "content", "inspect-delay"]),
    (&["tcp-response"], &["content", "inspect-delay"]),
    (&["stick-table", "type"], &["ip", "ipv6", "integer", "string", "binary"]),
    (
        &["http-check"],
        &[
            "comment",
            "connect",
            "disable-on-404",
            "expect",
            "send",
            "send-state",
            "set-var",
            "set-var-fmt",
            "unset-var",
        ],
    ),
    (
        &["stats"],
        &[
            "admin",
            "auth",
            "enable",
            "hide-version",
            "http-request",
            "realm",
            "refresh",
            "scope",
            "show-desc",
            "show-legends",
            "show-modules",
            "show-node",
            "show-version",
            "uri",
        ],
    ),
];

const BALANCES: [&str; 13] = [
    "sticky",
    "roundrobin",
    "static-rr",
    "leastconn",
    "first",
    "source",
    "uri",
    "url_param",
    "hdr",
    "random",
    "rdp-cookie",
    "hash",
    "log-hash",
];

fn refuse_choice(words: &[&str]) -> Option<String> {
    let begins = |start: &&[&str]| words.starts_with(start);
    let (start, known) = CHOICES.iter().rev().find(|(start, _)| begins(start))?;
    let line = start.join(" ");
    match words.get(start.len()) {
        None => Some(format!("`{line}` has no value")),
        Some(word) if is_unknown(word) || known.contains(&word.split('(').next().unwrap_or_default()) => None,
        Some(word) => Some(format!("`{line} {word}`: it is one of {}", known.join(", "))),
    }
}

/// Keywords whose value has its own rules.
fn refuse_special(words: &[&str]) -> Option<String> {
    let needs = |at: usize| words.get(at).is_none().then(|| format!("`{}` is not complete", words.join(" ")));
    match words {
        ["balance", algorithm, ..] if !is_unknown(algorithm) => {
            let name = algorithm.split('(').next().unwrap_or_default();
            let is_known = BALANCES.contains(&name) && (name != "hdr" || algorithm.contains('('));
            (!is_known).then(|| format!("`balance {algorithm}` is no algorithm"))
        }
        ["redirect", ..] | ["stats", "uri" | "auth" | "realm" | "scope" | "refresh", ..] => needs(2),
        ["capture", "cookie", ..] => needs(4),
        ["capture", ..] => needs(5),
        ["stick-table", ..] => (!words.contains(&"size")).then(|| "the stick-table has no `size`".to_owned()),
        ["http-check", "expect", ..] => needs(3),
        ["http-send-name-header", ..] => needs(1),
        ["filter", name, ..] if !is_unknown(name) && !is_word("filter", name) => {
            Some(format!("no HAProxy from 2.6 to 3.4 knows `filter {name}`"))
        }
        ["dispatch", address, ..] if !is_unknown(address) && !address.contains(':') => {
            Some(format!("`{address}` has no port"))
        }
        _ => None,
    }
}

fn refuse_timeout(words: &[&str]) -> Option<String> {
    match words {
        [] => Some("`timeout` has no name".to_owned()),
        [name, ..] if is_unknown(name) => None,
        [name, ..] if !is_word("timeout", name) => {
            Some(format!("no HAProxy from 2.6 to 3.4 knows `timeout {name}`"))
        }
        [name] => Some(format!("`timeout {name}` has no value")),
        [_, time, ..] if is_unknown(time) => None,
        [_, time, ..] if !is_haproxy_time(time) => Some(format!("`{time}` is no time, or above 24.8 days")),
        [name, _, extra, ..] => Some(format!("`{extra}` after the time of `timeout {name}`")),
        _ => None,
    }
}

fn refuse_mode(words: &[&str]) -> Option<String> {
    match words {
        [mode] if is_unknown(mode) => None,
        ["http" | "tcp" | "log" | "spop" | "haterm"] => None,
        _ => Some(format!("`mode {}` is no mode", words.join(" "))),
    }
}

fn refuse_cookie(words: &[&str]) -> Option<String> {
    const FLAGS: [&str; 9] =
        ["rewrite", "insert", "prefix", "indirect", "nocache", "postonly", "preserve", "httponly", "secure"];
    const VALUES: [&str; 4] = ["domain", "maxidle", "maxlife", "attr"];
    let Some((_, mut rest)) = words.split_first() else { return Some("`cookie` has no name".to_owned()) };
    let is_mode = |word: &&&str| ["rewrite", "insert", "prefix"].contains(word);
    if rest.iter().filter(is_mode).count() > 1 {
        return Some("`rewrite`, `insert` and `prefix` exclude each other".to_owned());
    }
    while let Some((word, more)) = rest.split_first() {
        rest = match *word {
            word if FLAGS.contains(&word) || word == "dynamic" => more,
            word if VALUES.contains(&word) && !more.is_empty() => &more[1..],
            word if is_unknown(word) => return None,
            word => return Some(format!("`{word}` is no keyword of `cookie`")),
        };
    }
    None
}

fn refuse_count(first: &str, rest: &[&str], count: usize) -> Option<String> {
    let count_of = |words: &[&str]| words.iter().filter(|word| !is_unknown(word)).count();
    (rest.len() < count || count_of(rest) > count).then(|| match count {
        0 => format!("`{first}` has no value"),
        _ => format!("`{first}` has one value"),
    })
}

fn refuse_action(rules: &str, words: &[&str]) -> Option<String> {
    let Some(word) = words.first() else { return Some(format!("`{rules}` has no action")) };
    let (name, argument) = word.split_once('(').unwrap_or((word, ""));
    let is_numbered = |known: &str| known.ends_with("-sc") && name.starts_with(known);
    let is_known = is_word(rules, name) || list_words(rules).any(is_numbered) || name.starts_with("lua.");
    if !is_known && !is_unknown(word) {
        return Some(format!("no HAProxy from 2.6 to 3.4 knows `{rules} {word}`"));
    }
    match (name, words.get(1)) {
        ("set-header" | "add-header", _) if words.len() < 3 => {
            Some(format!("`{rules} {name}` has two values"))
        }
        ("use-service", Some(service)) if !is_word("service", service) && !service.starts_with("lua.") => {
            Some(format!("no HAProxy from 2.6 to 3.4 knows the service `{service}`"))
        }
        ("set-dst" | "set-dst-port" | "set-src" | "set-src-port", Some(value)) => refuse_sample(value, false),
        ("set-var", value) => {
            const SCOPES: [&str; 6] = ["proc.", "sess.", "txn.", "req.", "res.", "check."];
            let is_scope = SCOPES.iter().any(|scope| argument.starts_with(scope)) || is_unknown(argument);
            if is_scope { refuse_sample(value?, false) } else { Some(format!("`{word}` names no variable")) }
        }
        _ => None,
    }
}

/// ACLs, conditions and `%[...]`: the names of fetches and converters, and braces.
fn lint_expressions(line: &Statement, report: &mut LintReport<'_>) {
    let condition = parse_condition(line);
    if condition.as_ref().is_some_and(|condition| condition.is_unclosed) {
        report_refusal(line.number, "a `{` in the condition has no `}`", report);
    }
    let terms = condition.iter().flat_map(|condition| condition.groups.iter().flatten());
    let mut expressions: Vec<&str> = terms
        .filter_map(|term| match term.test {
            Test::Expression(words) => Some(words.first().map_or("", String::as_str)),
            Test::Named(_) => None,
        })
        .collect();
    if line.word(0) == Some("acl") {
        if line.word(1).is_none_or(|name| name.contains(['/', ','])) {
            report_refusal(line.number, "the ACL has no name that HAProxy allows", report);
        }
        expressions.push(line.word(2).unwrap_or_default());
    }
    for expression in expressions {
        if let Some(reason) = refuse_sample(expression, true) {
            report_refusal(line.number, &reason, report);
        }
    }
    let is_rule = line.word(0).is_some_and(|first| first.starts_with("http-") || first == "use_backend");
    for text in line.words.iter().filter(|word| is_rule && !word.contains("%%")) {
        for part in text.split("%[").skip(1) {
            if let Some(reason) = refuse_sample(part.split(']').next().unwrap_or_default(), false) {
                report_refusal(line.number, &reason, report);
            }
        }
    }
}
