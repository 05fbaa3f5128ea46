//! Versions, as the systems that switchman follows print them (parity.md D4 to D19, R14, R15, R25).

use std::fmt::Write as _;

use jiff::tz::TimeZone;
use serde::Serialize;

use super::Render;
use crate::model::deployment::{Access, Process, Runs};
use crate::model::history::Entry;
use crate::model::name::HostName;
use crate::ops::fleet::deployments::{
    AssignReport, DeployReport, HostKilled, HostSplit, Listing, Row, ServerWeight, Shared,
};

impl Render {
    /// A line of the result.
    pub fn sentence(&self, line: &str) {
        if !self.json {
            self.text(&format!("{line}\n"));
        }
    }

    pub fn active_host(&self, address: &str) {
        let bare = address.contains(':');
        self.sentence(&if bare {
            format!("Active host: http://[{address}]")
        } else {
            format!("Active host: http://{address}")
        });
    }

    /// For a list that is shown again and again.
    pub fn home(&self) {
        if !self.json {
            self.text("\x1b[H\x1b[J");
        }
    }

    pub fn listing(&self, listing: &Listing, wide: bool) {
        if self.json {
            return self.document("versions", listing);
        }
        self.text(&if wide { wide_table(&listing.rows) } else { table(&listing.rows) });
    }

    pub fn planned(&self, report: &DeployReport) {
        if self.json {
            self.document("deploy", report);
        }
    }

    pub fn deployed(&self, report: &DeployReport, listing: &Listing) {
        if self.json {
            return self.document("deploy", report);
        }
        self.text(&table(&listing.rows));
    }

    pub fn assigned(&self, report: &AssignReport, listing: &Listing) {
        if self.json {
            return self.document("assign", report);
        }
        self.text(&table(&listing.rows));
    }

    pub fn split(&self, hosts: &[HostSplit], listing: &Listing) {
        #[derive(Serialize)]
        struct Done<'a> {
            hosts: &'a [HostSplit],
        }
        if self.json {
            return self.document("split", &Done { hosts });
        }
        self.text(&wide_table(&listing.rows));
    }

    pub fn weights(&self, done: &Shared, is_share: bool) {
        if self.json {
            return self.document("weights", done);
        }
        let cells = |one: &ServerWeight| {
            let [balancer, host] = [one.balancer.to_string(), one.host.to_string()];
            vec![balancer, host, one.server.clone(), one.weight.to_string()]
        };
        let rows: Vec<Vec<String>> = done.servers.iter().map(cells).collect();
        self.text(&ruled(&["BALANCER", "HOST", "SERVER", "WEIGHT"], &rows));
        if is_share {
            self.text(&format!("{} of new users, as near as weights come\n", done.share));
        }
    }

    pub fn killed(&self, killed: &[HostKilled]) {
        #[derive(Serialize)]
        struct Killed<'a> {
            killed: &'a [HostKilled],
        }
        if self.json {
            self.document("kill", &Killed { killed });
        }
    }

    pub fn described(&self, listing: &Listing) {
        if self.json {
            return self.document("versions", listing);
        }
        for row in &listing.rows {
            self.text(&description(row));
        }
    }

    /// What each host has recorded.
    pub fn histories(&self, hosts: &[(HostName, Vec<Entry>)]) {
        #[derive(Serialize)]
        struct Histories<'a> {
            hosts: Vec<OfHost<'a>>,
        }
        #[derive(Serialize)]
        struct OfHost<'a> {
            host: &'a HostName,
            history: &'a [Entry],
        }
        if self.json {
            let hosts = hosts.iter().map(|(host, history)| OfHost { host, history }).collect();
            return self.document("histories", &Histories { hosts });
        }
        for (host, rows) in hosts {
            self.text(&format!("{host}\n{}\n", crate::cli::render::events::history(rows)));
        }
    }

    /// One line of a log, at once.
    pub fn log_line(&self, host: Option<&HostName>, line: &str) {
        let text = match host {
            Some(host) => format!("{host} | {line}\n"),
            None => format!("{line}\n"),
        };
        self.text(&text);
        // A reader that went away is seen by the next write.
        let _ = self.flush();
    }
}

/// D5: under a dashed rule.
fn table(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let star = if row.main == Some(true) { "*" } else { "" };
        let half = if row.main.is_none() { "(*)" } else { star };
        vec![
            half.to_owned(),
            row.service.to_string(),
            row.version.to_string(),
            state(row).to_owned(),
            running(row),
        ]
    };
    ruled(&["MAIN", "NAME", "VERSION", "STATUS", "RUNNING"], &rows.iter().map(cells).collect::<Vec<_>>())
}

fn wide_table(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let star = match row.main {
            Some(true) => "*",
            Some(false) => "",
            None => "(*)",
        };
        let role = match row.main {
            Some(false) if row.hosts.iter().any(|(_, view)| view.backup) => "shadow, backup",
            Some(false) => "shadow",
            _ => "main",
        };
        let role = [role.to_owned()].into_iter().chain(row.gets.clone()).collect::<Vec<_>>().join(", ");
        let access = if row.access == Access::Public { "🌎" } else { "🔒" };
        let mut ports: Vec<String> =
            row.hosts.iter().map(|(_, view)| view.deployment.instance.port.to_string()).collect();
        ports.dedup();
        let hosts: Vec<&str> = row.hosts.iter().map(|(host, _)| host.as_str()).collect();
        vec![
            star.to_owned(),
            format!("{access} {}", row.service),
            row.version.to_string(),
            format!("{:?}", row.status),
            running(row),
            row.revision.to_string(),
            role,
            active(row),
            ports.join(","),
            hosts.join(","),
            row.id.to_string(),
        ]
    };
    let header =
        ["MAIN", "NAME", "VERSION", "STATUS", "RUNNING", "REVISION", "ROLE", "ACTIVE", "PORT", "HOSTS", "ID"];
    ruled(&header, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// Columns under a dashed rule, one blank apart.
fn ruled(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([header[at].len() + 2]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> =
            cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        let _ = writeln!(text, "{}", padded.join(" ").trim_end());
    };
    line(&mut header.iter().copied());
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(&mut rule.iter().map(String::as_str));
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Requests at work; `?`: a host could not tell.
fn active(row: &Row) -> String {
    row.active.map_or_else(|| "?".to_owned(), |active| active.to_string())
}

/// The raw state, over all hosts: the worst one.
fn state(row: &Row) -> &'static str {
    let rank = |process: &Result<Process, String>| match process {
        Err(_) => (3, "unknown"),
        Ok(Process::Stopped { .. }) => (2, "exited"),
        Ok(Process::Waiting { .. }) => (1, "restarting"),
        Ok(Process::Running { .. } | Process::External) => (0, "running"),
    };
    row.hosts.iter().map(|(_, view)| rank(&view.process)).max().map_or("unknown", |(_, word)| word)
}

/// D6 and D27.
fn running(row: &Row) -> String {
    let all = row.hosts.len();
    let up =
        row.hosts.iter().filter(|(_, view)| view.process.as_ref().is_ok_and(Process::is_running)).count();
    let since = |process: &Result<Process, String>| match process {
        Ok(Process::Running { since, .. } | Process::Waiting { since, .. }) => Some(*since),
        Ok(Process::Stopped { since, .. }) => *since,
        Ok(Process::External) | Err(_) => None,
    };
    let created = row.hosts.iter().map(|(_, view)| view.deployment.created_at).min();
    let since = row.hosts.iter().filter_map(|(_, view)| since(&view.process)).min().or(created);
    let since = since.map(|at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string());
    let since = since.unwrap_or_default();
    match up {
        0 => format!("Stopped (since {since})"),
        up if up < all => format!("Running on {up} of {all} hosts (since {since})"),
        _ => format!("Running (since {since})"),
    }
}

fn description(row: &Row) -> String {
    let mut text = format!("{} {}\n", row.service, row.version);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    line("ID", row.id.as_str());
    line("Revision", &row.revision.to_string());
    line("Role", if row.main == Some(false) { "shadow" } else { "main" });
    for gets in &row.gets {
        line("Gets", gets);
    }
    line("Access", if row.access == Access::Public { "public" } else { "private" });
    line("Status", &format!("{:?}", row.status));
    line("Invocations", &active(row));
    for (host, view) in &row.hosts {
        let deployment = &view.deployment;
        let _ = writeln!(text, "  {host}");
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "    {name:<10} {value}");
        };
        line("Endpoint", &format!("http://{}/", deployment.endpoint(&deployment.instance)));
        line("Created at", &deployment.created_at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
        line("Runs", &runs(&deployment.instance.how.runs));
        line("Build", &deployment.instance.build.to_string());
        line("Health", &format!("{} -> {}", deployment.health.path, deployment.health.status));
        if let Some(digest) = &deployment.instance.digest {
            line("Digest", crate::ops::fleet::deployments::short(digest));
        }
        if let Err(why) = &view.process {
            line("Process", why);
        }
        if let Ok(process) = &view.process {
            line("Process", &process_text(process));
        }
        if view.backup {
            line("Backup", "the backup vhost's port leads to it");
        }
    }
    text
}

fn runs(runs: &Runs) -> String {
    match runs {
        Runs::Command { argv } => argv.join(" "),
        Runs::Vhost { server } => format!("{server:?} serves the release").to_lowercase(),
        Runs::External { uri } => format!("{uri}, by somebody else"),
    }
}

fn process_text(process: &Process) -> String {
    match process {
        Process::Running { pid, restarts, .. } => format!("pid {pid}, restarted {restarts} times"),
        Process::Waiting { restarts, last, .. } => format!("ended with {last}, restarted {restarts} times"),
        Process::Stopped { last, .. } if last.is_empty() => "stopped".to_owned(),
        Process::Stopped { last, .. } => format!("stopped: {last}"),
        Process::External => "somebody else's".to_owned(),
    }
}
