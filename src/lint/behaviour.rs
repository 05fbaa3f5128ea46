//! The server that HAProxy selects for a user, computed from the lines as HAProxy 2.6 does it, and compared with what
//! switchman promises: a net under the checks of single settings.

use super::cfg::Section;
use super::keywords::{ServerLine, ServerPort};
use super::pairs::ServerPair;
use super::report::LintReport;
use super::site::{CheckTarget, Site, Target};
use crate::model::finding::Severity::Problem;
use crate::model::fleet::Fleet;

struct Backend<'a> {
    servers: &'a [ServerLine<'a>],
    checks: Vec<CheckTarget>,
    keeps_down: bool,
    uses_cookies: bool,
    uses_all_backups: bool,
}

impl<'a> Backend<'a> {
    fn new(site: &Site<'a>, section: &'a Section, servers: &'a [ServerLine<'a>]) -> Self {
        let setting = |words: &[&str]| site.cfg.find_setting(section, words);
        let is_http = setting(&["mode"]).and_then(|line| line.word(1)) == Some("http");
        Self {
            servers,
            checks: servers.iter().map(|server| site.find_check(section, server)).collect(),
            keeps_down: setting(&["option", "persist"]).is_some(),
            uses_cookies: is_http && setting(&["cookie"]).is_some(),
            uses_all_backups: setting(&["option", "allbackups"]).is_some(),
        }
    }

    /// Servers that are not DOWN while these hosts are in maintenance.
    fn list_up(&self, out: &[&Target]) -> impl Iterator<Item = &'a ServerLine<'a>> {
        let is_up = |check: &CheckTarget| {
            *check != CheckTarget::Disabled && !out.iter().any(|target| check.follows_forward(target))
        };
        self.servers.iter().zip(&self.checks).filter(move |(_, check)| is_up(check)).map(|(server, _)| server)
    }

    /// Servers that a user can be sent to: with a cookie one, the first in the order of the lines; else those that share
    /// new users.
    fn select(&self, cookie: Option<&str>, out: &[&Target]) -> Vec<&'a ServerLine<'a>> {
        let matches = |server: &&ServerLine<'_>| cookie.is_some() && server.value("cookie") == cookie;
        let stuck =
            if self.keeps_down { self.servers.iter().find(matches) } else { self.list_up(out).find(matches) };
        if let Some(server) = stuck.filter(|_| self.uses_cookies) {
            return vec![server];
        }
        let weighs = |server: &&ServerLine<'_>| server.weight() != Some(0);
        let (backups, mains): (Vec<_>, Vec<_>) =
            self.list_up(out).filter(weighs).partition(|server| server.has_flag("backup"));
        let is_single = !self.uses_all_backups && mains.is_empty();
        let usable = if mains.is_empty() { backups } else { mains };
        usable.into_iter().take(if is_single { 1 } else { usize::MAX }).collect()
    }
}

/// Reports users who reach another server than they should, if no check of a single setting has found the reason.
pub(super) fn lint_behaviour<'a>(
    site: &Site<'a>,
    section: &'a Section,
    servers: &'a [ServerLine<'a>],
    pairs: &[ServerPair<'a>],
    fleet: &Fleet,
    report: &mut LintReport<'_>,
) {
    let is_known =
        |server: &ServerLine<'_>| server.is_known("cookie") && server.port() != ServerPort::Unknown;
    if !servers.iter().all(is_known) {
        return;
    }
    let backend = Backend::new(site, section, servers);
    let is_unclear = |check: &CheckTarget| match check {
        CheckTarget::Port { addresses, .. } => addresses.is_empty(),
        check => *check == CheckTarget::Unknown,
    };
    if backend.checks.iter().any(is_unclear) {
        return;
    }
    for pair in pairs {
        let (Some(address), Some(backup)) = (pair.address, pair.backup) else { continue };
        let target = Target { host: pair.host.clone(), address, ports: fleet.ports };
        let cookie = pair.main.value("cookie");
        let phases =
            [(&[][..], pair.main, "with main in service"), (&[&target], backup, "with main in maintenance")];
        for (out, expected, phase) in phases {
            let found = backend.select(cookie, out);
            if found.iter().any(|server| server.name != expected.name) {
                report_wrong_server(section, &pair.host, expected, &found, phase, report);
            }
        }
        for out in [&[][..], &[&target]] {
            let found = backend.select(None, out);
            let is_backup = |server: &&ServerLine<'_>| server.has_flag("backup");
            if found.iter().any(is_backup) && pairs.len() > 1 {
                report_new_users_on_backup(section, &found, report);
            }
        }
    }
}

fn list_names(servers: &[&ServerLine<'_>]) -> String {
    servers.iter().map(|server| format!("`{}`", server.name)).collect::<Vec<_>>().join(", ")
}

fn report_wrong_server(
    section: &Section,
    host: &str,
    expected: &ServerLine<'_>,
    found: &[&ServerLine<'_>],
    phase: &str,
    report: &mut LintReport<'_>,
) {
    report.add(
        Problem,
        "haproxy-wrong-server",
        section.number,
        format!(
            "by the lines of `{}`, a user with the cookie of `{host}` goes to {} {phase}, not to `{}`",
            section.name,
            list_names(found),
            expected.name
        ),
        "compare the order, the cookies and the checks of the server lines",
    );
}

fn report_new_users_on_backup(section: &Section, found: &[&ServerLine<'_>], report: &mut LintReport<'_>) {
    report.add(
        Problem,
        "haproxy-new-users-on-backup",
        section.number,
        format!(
            "by the lines of `{}`, new users go to {} while a main vhost is UP",
            section.name,
            list_names(found)
        ),
        "give the main lines a weight and a check on the check port",
    );
}
