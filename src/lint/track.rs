//! `track` that HAProxy refuses at start (measured with 2.6.12).

use super::cfg::Section;
use super::keywords::{ServerLine, read_servers};
use super::report::LintReport;
use super::site::Site;
use crate::model::finding::Severity::Problem;

pub(super) fn lint_tracks(site: &Site<'_>, report: &mut LintReport<'_>) {
    for section in site.cfg.proxies() {
        for server in read_servers(site.cfg, section) {
            lint_track(site, section, &server, report);
        }
    }
}

fn lint_track<'a>(
    site: &Site<'a>,
    section: &'a Section,
    server: &ServerLine<'a>,
    report: &mut LintReport<'_>,
) {
    let Some(name) = server.value("track") else { return };
    let (reason, fix) = if server.has_flag("check") {
        ("has `check` and `track`".to_owned(), "remove `track`, or `check` here and in `default-server`")
    } else {
        let Some((_, tracked)) = site.find_tracked(section, name) else { return };
        let has_check = ["check", "agent-check", "track"].iter().any(|keyword| tracked.has_flag(keyword));
        if has_check || tracked.is_open {
            return;
        }
        (format!("tracks `{name}`, which has no `check`"), "add `check` to the tracked line")
    };
    report.add(
        Problem,
        "haproxy-track",
        server.number,
        format!("HAProxy does not start with this: `{}` {reason}", server.name),
        fix,
    );
}
