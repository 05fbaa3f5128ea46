//! Words of `server`, `default-server`, `server-template` and `bind` lines that HAProxy refuses.

use super::cfg::{ParsedCfg, Section, Statement};
use super::keywords::{ServerAddress, ServerPort, parse_leading_number, read_servers};
use super::refusals::report_refusal;
use super::report::LintReport;
use super::samples::refuse_sample;
use super::timing::parse_haproxy_time;
use super::vocabulary::is_word;

/// Keywords whose value is one of a list.
const CHOICES: [(&str, &[&str]); 10] = [
    ("log-proto", &["legacy", "octet-count"]),
    ("observe", &["none", "layer4", "layer7"]),
    ("on-error", &["fastinter", "fail-check", "sudden-death", "mark-down"]),
    ("on-marked-down", &["shutdown-sessions"]),
    ("on-marked-up", &["shutdown-backup-sessions"]),
    ("init-state", &["none", "up", "down", "fully-up", "fully-down"]),
    ("proto", &["h1", "h2", "fcgi", "quic", "spop", "qmux", "none"]),
    ("check-proto", &["h1", "h2", "fcgi", "quic", "spop", "qmux", "none"]),
    ("verify", &["none", "required"]),
    ("ws", &["auto", "h1", "h2"]),
];

/// Keywords of a time, and whether 0 is refused.
const TIMES: [(&str, bool); 6] = [
    ("inter", true),
    ("fastinter", true),
    ("downinter", true),
    ("agent-inter", true),
    ("slowstart", false),
    ("pool-purge-delay", false),
];

const POSITIVE_NUMBERS: [&str; 5] = ["fall", "rise", "error-limit", "id", "tcp-ut"];

pub(super) fn lint_server_line(
    cfg: &ParsedCfg,
    section: &Section,
    line: &Statement,
    report: &mut LintReport<'_>,
) {
    let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
    let refused = match words.as_slice() {
        ["default-server", keywords @ ..] => refuse_keywords(keywords),
        ["server", name, address, keywords @ ..] => {
            refuse_name(name).or_else(|| refuse_address(address)).or_else(|| refuse_keywords(keywords))
        }
        ["server-template", prefix, range, address, keywords @ ..] => refuse_name(prefix)
            .or_else(|| refuse_range(range))
            .or_else(|| refuse_address(address))
            .or_else(|| refuse_keywords(keywords)),
        _ => Some(format!("`{}` has no name and address", words.first().unwrap_or(&""))),
    };
    let refused = refused.or_else(|| refuse_check(cfg, section, line));
    if let Some(reason) = refused.filter(|_| !line.is_open) {
        report_refusal(line.number, &reason, report);
    }
}

fn is_unknown(text: &str) -> bool {
    text.contains('$')
}

fn refuse_name(name: &str) -> Option<String> {
    let is_character = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    let found = name.chars().find(|c| !is_character(*c)).filter(|_| !is_unknown(name))?;
    Some(format!("`{found}` is not allowed in the name `{name}`"))
}

fn refuse_range(range: &str) -> Option<String> {
    let numbers: Option<Vec<u32>> = range.split('-').map(|number| number.parse().ok()).collect();
    let is_range = match numbers.as_deref() {
        Some([last]) => *last > 0,
        Some([first, last]) => first <= last,
        _ => is_unknown(range),
    };
    (!is_range).then(|| format!("`{range}` is no range"))
}

/// Prefixes of addresses that are no network address with a port.
const OTHER_FAMILIES: [&str; 8] = ["/", "unix@", "uxst@", "abns@", "abnsz@", "fd@", "sockpair@", "rhttp@"];

fn refuse_address(address: &str) -> Option<String> {
    if is_unknown(address) || OTHER_FAMILIES.iter().any(|start| address.starts_with(start)) {
        return None;
    }
    let port = address.rsplit_once(':').map_or("", |(_, port)| port);
    let is_port =
        port.is_empty() || port.ends_with(']') || port.parse::<i32>().is_ok_and(|port| port.abs() <= 65535);
    (!is_port).then(|| format!("`{port}` is no port"))
}

fn refuse_keywords(mut words: &[&str]) -> Option<String> {
    let mut before = "";
    while let Some((word, rest)) = words.split_first() {
        if is_unknown(word) {
            return None;
        }
        // The type of `set-proxy-v2-tlv-fmt(TYPE)` is a part of its word, and its format follows.
        let has_type = word.starts_with("set-proxy-v2-tlv-fmt(");
        let is_flag = is_word("server flag", word);
        // `source ADDRESS usesrc ADDRESS` or `source ADDRESS interface NAME`.
        let is_of_source = ["usesrc", "interface"].contains(word);
        let is_value =
            if is_of_source { before == "source" } else { has_type || is_word("server value", word) };
        before = word;
        words = match rest.split_first() {
            _ if !is_flag && !is_value => {
                return Some(format!("no HAProxy from 2.6 to 3.4 knows `{word}` on a server line"));
            }
            // In one version a flag, in another with a value: see what follows.
            _ if is_flag && !is_value => rest,
            None | Some((&"", _)) => return Some(format!("`{word}` has no value")),
            Some((value, rest)) => {
                if let Some(reason) = refuse_value(word, value).filter(|_| !is_unknown(value)) {
                    return Some(reason);
                }
                rest
            }
        };
    }
    None
}

fn refuse_value(keyword: &str, value: &str) -> Option<String> {
    let is_of = |(name, _): &&(&str, _)| *name == keyword;
    if let Some((_, values)) = CHOICES.iter().find(|(name, _)| *name == keyword) {
        return (!values.contains(&value))
            .then(|| format!("`{keyword} {value}`: it is one of {}", values.join(", ")));
    }
    if let Some((_, is_positive)) = TIMES.iter().find(is_of) {
        let time = parse_haproxy_time(value);
        let is_refused = time.is_none_or(|time| *is_positive && time.as_millis() == 0);
        return is_refused.then(|| format!("`{keyword} {value}`: it is no time that HAProxy takes"));
    }
    if keyword == "sni" {
        return refuse_sample(value, false);
    }
    let number = parse_leading_number(value);
    if POSITIVE_NUMBERS.contains(&keyword) && !(1..=i64::from(i32::MAX)).contains(&number) {
        return Some(format!("`{keyword} {value}`: it has to be above 0"));
    }
    (keyword == "weight" && !(0..=256).contains(&number))
        .then(|| format!("`weight {value}`: it is from 0 to 256"))
}

/// A check without a port, and TLS without a way to verify, of the servers of one line.
fn refuse_check(cfg: &ParsedCfg, section: &Section, line: &Statement) -> Option<String> {
    let servers = read_servers(cfg, section);
    let server = servers.iter().find(|server| server.number == line.number && !server.is_open)?;
    let has_connect = cfg
        .inheritance_chain(section)
        .into_iter()
        .flat_map(|section| &section.lines)
        .any(|line| line.word(1) == Some("connect") && line.has_word("port"));
    let is_checked = server.has_flag("check") && !has_connect && server.is_known("port");
    let has_no_port = server.check_port().is_none() && matches!(server.port(), ServerPort::OfClient(_));
    if is_checked && has_no_port && server.address() != ServerAddress::OfClient {
        return Some(format!("`{}` has a check and no port for it", server.name));
    }
    let uses_tls = server.has_flag("ssl") || server.has_flag("check-ssl");
    let is_trusted =
        server.has_flag("ca-file") || !server.is_known("verify") || server.value("verify") == Some("none");
    let trusts_all = cfg.find_first("global").is_some_and(|global| {
        global.find_all(&["ssl-server-verify"]).any(|line| line.word(1) == Some("none"))
    });
    (uses_tls && !is_trusted && !trusts_all)
        .then(|| format!("`{}` uses TLS with neither `ca-file` nor `verify none`", server.name))
}

/// A `bind` line, or a `stats socket`, whose address is the word at `at`.
pub(super) fn lint_bind_line(line: &Statement, at: usize, report: &mut LintReport<'_>) {
    let Some(addresses) = line.word(at) else {
        return report_refusal(
            line.number,
            &format!("`{}` has no address", line.words[..at].join(" ")),
            report,
        );
    };
    let is_socket = at > 1;
    let mut refused = addresses.split(',').find_map(|address| refuse_bind_address(address, is_socket));
    let mut words = &line.words[at + 1..];
    while let Some((word, rest)) =
        words.split_first().filter(|(word, _)| refused.is_none() && !is_unknown(word))
    {
        let (is_flag, is_value) = (is_word("bind flag", word), is_word("bind value", word));
        words = match rest {
            _ if !is_flag && !is_value => {
                refused = Some(format!("no HAProxy from 2.6 to 3.4 knows `{word}` on a `bind` line"));
                rest
            }
            _ if is_flag && !is_value => rest,
            [] => {
                refused = Some(format!("`{word}` has no value"));
                rest
            }
            [_, rest @ ..] => rest,
        };
    }
    if let Some(reason) = refused.filter(|_| !line.is_open) {
        report_refusal(line.number, &reason, report);
    }
}

fn refuse_bind_address(address: &str, is_socket: bool) -> Option<String> {
    if is_unknown(address) || OTHER_FAMILIES.iter().any(|start| address.starts_with(start)) {
        return None;
    }
    // The path of a socket can be relative.
    let Some((_, ports)) = address.rsplit_once(':') else {
        return (!is_socket).then(|| format!("`{address}` has no port"));
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    (!ports.split('-').all(is_port)).then(|| format!("`{ports}` is no port"))
}
