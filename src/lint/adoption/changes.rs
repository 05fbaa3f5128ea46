//! The lines that haproxy.cfg lacks, beside those that are there.

use super::backend_hosts::{AdoptedBackend, AdoptedHost};
use super::outcome::LineChange;
use crate::lint::backend::COOKIE_LINE;
use crate::lint::cfg::{ParsedCfg, Statement};
use crate::lint::checks::{format_send_rule, read_check_request};
use crate::lint::keywords::{ServerLine, is_flag};
use crate::lint::site::{CheckTarget, Site};
use crate::lint::source::{CfgFile, HaproxyCfg, LineMap};
use crate::model::fleet::Fleet;

/// The lines of all files, for changes of them.
pub(super) struct ChangeList<'a> {
    map: &'a LineMap,
    lines: Vec<&'a str>,
    changes: Vec<LineChange>,
}

impl<'a> ChangeList<'a> {
    pub(super) fn new(source: &'a HaproxyCfg, map: &'a LineMap) -> Self {
        let lines = source.files.iter().flat_map(|file| file.text.lines()).collect();
        Self { map, lines, changes: vec![] }
    }

    fn read_line(&self, number: usize) -> &'a str {
        number.checked_sub(1).and_then(|at| self.lines.get(at)).copied().unwrap_or_default()
    }

    /// Adds lines after a line, or after what replaces it.
    pub(super) fn add_after(&mut self, number: usize, new: Vec<String>) {
        if new.is_empty() {
            return;
        }
        match self.changes.iter_mut().find(|change| change.number == number) {
            Some(change) => change.new.extend(new),
            None => self.push(number, false, new),
        }
    }

    fn replace(&mut self, number: usize, new: String) {
        match self.changes.iter_mut().find(|change| change.number == number) {
            Some(change) => {
                change.is_replaced = true;
                change.new.insert(0, new);
            }
            None => self.push(number, true, vec![new]),
        }
    }

    fn push(&mut self, number: usize, is_replaced: bool, new: Vec<String>) {
        let (place, line) = (self.map.describe(number), self.read_line(number).to_owned());
        self.changes.push(LineChange { place, line, is_replaced, new, number });
    }

    /// Returns the changes in the order of the lines, and the files with them.
    pub(super) fn apply(mut self, source: &HaproxyCfg) -> (Vec<LineChange>, HaproxyCfg) {
        self.changes.sort_by_key(|change| change.number);
        let mut number = 0;
        let mut files = Vec::new();
        for file in &source.files {
            let mut text = String::new();
            for line in file.text.lines() {
                number += 1;
                let change = self.changes.iter().find(|change| change.number == number);
                if change.is_none_or(|change| !change.is_replaced) {
                    text.extend([line, "\n"]);
                }
                text.extend(change.into_iter().flat_map(|change| &change.new).flat_map(|new| [new, "\n"]));
            }
            files.push(CfgFile { text, ..file.clone() });
        }
        (self.changes, HaproxyCfg { files, addresses: source.addresses.clone() })
    }
}

/// Proposes the server lines and settings that a backend lacks. `fleet` is the fleet as it is for its service.
pub(super) fn propose_backend<'a>(
    site: &Site<'a>,
    backend: &AdoptedBackend<'a>,
    fleet: &Fleet,
    is_first: bool,
    list: &mut ChangeList<'_>,
) {
    let section = backend.section;
    list.add_after(section.number, list_missing_settings(site.cfg, backend, fleet, is_first));
    for host in &backend.hosts {
        let find = |number: usize| section.lines.iter().find(|line| line.number == number);
        let checks = |server: &ServerLine<'a>, port: u16| {
            matches!(site.find_check(section, server), CheckTarget::Port { port: found, .. } if found == port)
                && server.value("addr").is_none()
        };
        let has_cookie = |server: &ServerLine<'a>| {
            server.value("cookie") == Some(host.cookie.as_str()) || !server.is_known("cookie")
        };
        let (check, own) = (fleet.ports.check.get(), fleet.ports.backup.get());
        let lines = [(Some(&host.main), check), (host.backup.as_ref(), own)];
        for (server, port) in lines.into_iter().filter_map(|(server, port)| Some((server?, port))) {
            let is_right = checks(server, port) && has_cookie(server);
            if let Some(line) = find(server.number).filter(|_| !is_right) {
                let new = edit_line(list.read_line(server.number), line, server, port, &host.cookie);
                list.replace(server.number, new);
            }
        }
        if let (None, Some(line)) = (&host.backup, find(host.main.number)) {
            let name = backend.names.backup_server_name(&host.name);
            let new = render_backup_line(list.read_line(line.number), line, host, &name, own);
            list.add_after(host.main.number, vec![new]);
        }
    }
}

/// Settings that are in force nowhere. Settings with other values are for the lint.
fn list_missing_settings(
    cfg: &ParsedCfg,
    backend: &AdoptedBackend<'_>,
    fleet: &Fleet,
    is_first: bool,
) -> Vec<String> {
    let section = backend.section;
    let has = |words: &[&str]| cfg.find_setting(section, words).is_some();
    let mut new = Vec::new();
    if cfg.find_setting(section, &["mode"]).and_then(|line| line.word(1)) != Some("http") {
        // Nothing of it has an effect there: the lint reports the mode.
        return new;
    }
    if !has(&["cookie"]) {
        let service = fleet.service.as_str().to_ascii_uppercase().replace(['-', '.'], "_");
        // Services on one domain would overwrite each other's cookie.
        new.push(if is_first {
            COOKIE_LINE.to_owned()
        } else {
            COOKIE_LINE.replacen("SERVER_ID", &format!("{service}_SERVER"), 1)
        });
    }
    if read_check_request(cfg, section).is_none() {
        new.push("option httpchk".to_owned());
        new.push(format_send_rule(fleet));
        new.push(format!("http-check expect status {}", fleet.health.status));
    }
    for (words, line) in [
        (&["retries"][..], "retries 3"),
        (&["option", "redispatch"], "option redispatch 1"),
        (&["option", "allbackups"], "option allbackups"),
    ] {
        // Every backup line would get a share of the users, those of other machines too.
        let is_harmful = line == "option allbackups" && !backend.other_backups.is_empty();
        if !has(words) && !is_harmful {
            new.push(line.to_owned());
        }
    }
    new.into_iter().map(|line| format!("    {line}")).collect()
}

/// A keyword of a server line with its value.
type Keyword<'a> = (&'a str, Option<&'a str>);

fn split_keywords(words: &[String]) -> Vec<Keyword<'_>> {
    let mut words = words.iter().map(String::as_str);
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        found.push((word, if is_flag(word) { None } else { words.next() }));
    }
    found
}

fn join_keywords(keywords: &[Keyword<'_>]) -> String {
    keywords.iter().fold(String::new(), |text, (key, value)| {
        text + " " + key + &value.map(|value| format!(" {value}")).unwrap_or_default()
    })
}

/// The parts of a line as it is written: its indent, its words and its comment. `None`: it has quotes, escapes or variables,
/// so that its words are not its text.
fn split_plain<'a>(raw: &'a str, line: &Statement) -> Option<(&'a str, &'a str)> {
    let (indent, code, comment) = split_comment(raw);
    let is_plain = code.split_whitespace().eq(line.words.iter().map(String::as_str));
    is_plain.then_some((indent, comment))
}

fn split_comment(raw: &str) -> (&str, &str, &str) {
    let indent = &raw[..raw.len() - raw.trim_start().len()];
    let end = raw.find('#').unwrap_or(raw.len());
    (indent, raw[indent.len().min(end)..end].trim_end(), &raw[end..])
}

/// Changes the port of the check and the cookie of a line, and leaves everything else.
fn edit_line(raw: &str, line: &Statement, server: &ServerLine<'_>, port: u16, cookie: &str) -> String {
    let port = port.to_string();
    let Some((indent, comment)) = split_plain(raw, line).filter(|_| line.words.len() > 2) else {
        // The last of two equal keywords counts. A `#` can be part of a quoted word.
        let cookie = if server.value("cookie").is_none() && server.is_known("cookie") {
            format!(" cookie {cookie}")
        } else {
            String::new()
        };
        return format!("{} check port {port}{cookie}", raw.trim_end());
    };
    let mut keywords = split_keywords(&line.words[3..]);
    keywords.retain(|(key, _)| !["port", "addr", "track", "no-check"].contains(key));
    match keywords.iter().position(|(key, _)| *key == "check") {
        Some(at) => keywords.insert(at + 1, ("port", Some(&port))),
        None => keywords.splice(0..0, [("check", None), ("port", Some(port.as_str()))]).for_each(drop),
    }
    match keywords.iter_mut().find(|(key, _)| *key == "cookie") {
        Some((_, value)) => *value = Some(cookie),
        None => keywords.push(("cookie", Some(cookie))),
    }
    let text = format!("{indent}{}{}", line.words[..3].join(" "), join_keywords(&keywords));
    if comment.is_empty() { text } else { format!("{text} {comment}") }
}

/// The line of a backup vhost, with the keywords of the main line that do not belong to its check.
fn render_backup_line(raw: &str, line: &Statement, host: &AdoptedHost<'_>, name: &str, port: u16) -> String {
    const OWN: [&str; 9] =
        ["check", "no-check", "port", "addr", "track", "cookie", "disabled", "agent-check", "id"];
    let indent = split_comment(raw).0;
    let text = host.main.endpoint_text();
    let address = text.rsplit_once(':').map_or(text, |(address, _)| address);
    let kept = match split_plain(raw, line) {
        Some(_) if line.words.len() > 3 => {
            let mut keywords = split_keywords(&line.words[3..]);
            keywords.retain(|(key, _)| !OWN.contains(key) && !key.starts_with("agent-"));
            join_keywords(&keywords)
        }
        _ => String::new(),
    };
    let endpoint = format!("{address}:{port}");
    let endpoint = if endpoint.contains('$') { format!("\"{endpoint}\"") } else { endpoint };
    format!("{indent}server {name} {endpoint} check port {port}{kept} cookie {} backup", host.cookie)
}
