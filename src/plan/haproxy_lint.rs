//! Reads haproxy.cfg for the traps that lose requests (facts.md has the measurement behind each).

use crate::model::balancer::BalancerSpec;
use crate::model::finding::{Finding, Severity};
use crate::model::fleet::Fleet;

mod backend;
mod cfg;
mod server;

use cfg::{Cfg, Line, Section};

/// Everything found in one file for one service; `file` is only for the findings' subjects. Empty means nothing to say.
pub fn lint(file: &str, text: &str, fleet: &Fleet, balancer: &BalancerSpec) -> Vec<Finding> {
    let cfg = Cfg::parse(text);
    let mut report = Report { file, findings: Vec::new() };
    global(&cfg, &mut report);
    match cfg.find("backend", &balancer.backend).or_else(|| cfg.find("listen", &balancer.backend)) {
        Some(section) => backend::lint(&cfg, section, fleet, balancer, &mut report),
        None => report.add(
            Severity::Problem,
            "haproxy-no-backend",
            0,
            format!("there is no backend `{}`", balancer.backend),
            "name the backend of this service in `load_balancers[].backend`",
        ),
    }
    report.findings
}

/// Collects findings; line 0 is the file as a whole.
struct Report<'a> {
    file: &'a str,
    findings: Vec<Finding>,
}

impl Report<'_> {
    fn add(
        &mut self,
        severity: Severity,
        id: &'static str,
        line: usize,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let subject = if line == 0 { self.file.to_owned() } else { format!("{}:{line}", self.file) };
        self.findings.push(Finding { severity, id, subject, reason: reason.into(), fix: fix.into() });
    }
}

fn global(cfg: &Cfg, report: &mut Report<'_>) {
    let Some(global) = cfg.first("global") else {
        return report.add(
            Severity::Warning,
            "haproxy-no-stats-socket",
            0,
            "there is no `global` section, so no stats socket: switchman cannot read what HAProxy sees",
            "add `stats socket /run/haproxy/admin.sock mode 600 level admin`",
        );
    };
    let sockets: Vec<&Line> = global.lines.iter().filter(|line| line.starts(&["stats", "socket"])).collect();
    if sockets.is_empty() {
        report.add(
            Severity::Warning,
            "haproxy-no-stats-socket",
            global.number,
            "there is no stats socket: switchman cannot read what HAProxy sees",
            "add `stats socket /run/haproxy/admin.sock mode 600 level admin`",
        );
    }
    for socket in sockets {
        stats_socket(socket, report);
    }
    if !global.lines.iter().any(|line| line.starts(&["server-state-file"])) {
        report.add(
            Severity::Warning,
            "haproxy-no-state-file",
            global.number,
            "no `server-state-file`: a reload counts every server UP until its first check, and forgets weights and drain",
            "add `server-state-file /var/lib/haproxy/servers.state`, and save `show servers state` there before each reload",
        );
    }
}

fn stats_socket(line: &Line, report: &mut Report<'_>) {
    let address = line.word(2).unwrap_or("");
    let admin = line.value("level") == Some("admin");
    let path = address.strip_prefix("unix@").unwrap_or(address).starts_with('/');
    if path {
        let mode = line.value("mode").and_then(|mode| u32::from_str_radix(mode, 8).ok());
        // Without a mode it is the umask's: usually open to the group.
        if admin && mode.is_none_or(|mode| mode & 0o177 != 0) {
            let found = line.value("mode").map_or("no mode".to_owned(), |mode| format!("mode {mode}"));
            report.add(
                Severity::Warning,
                "haproxy-socket-open",
                line.number,
                format!("the admin socket has {found}: others than its owner can change every server"),
                "write `mode 600`",
            );
        }
    } else if admin
        && !["127.", "ipv4@127.", "localhost", "::1", "[::1]", "ipv6@::1", "ipv6@[::1]"]
            .iter()
            .any(|own| address.starts_with(own))
    {
        report.add(
            Severity::Problem,
            "haproxy-socket-remote-admin",
            line.number,
            format!("`{address}` lets anybody who reaches it change every server: it has no password"),
            "write `level user`: reading is all switchman needs",
        );
    }
}

/// A setting of a section, or of the defaults it inherits from.
fn setting<'a>(cfg: &'a Cfg, section: &'a Section, words: &[&str]) -> Option<&'a Line> {
    let own = section.last(words);
    own.or_else(|| cfg.defaults_of(section).and_then(|defaults| defaults.last(words)))
}

#[cfg(test)]
mod tests;
