//! Versions, as the systems that switchman follows print them (seed rows D4 to D19, R14, R15, R25, docs/design/seed-systems.md).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::renderer::Renderer;
use super::time_format::TimeFormat;
use crate::model::api::deployments::{DeploymentView, InstanceView};
use crate::model::deployment::{Access, Deployment, ProcessState, Workload};
use crate::model::name::HostName;
use crate::model::observation::ObservationError;
use crate::model::plural::Count;
use crate::model::shell::join_words;
use crate::model::terminal_text::clean_line;
use crate::ops::fleet::deployments::{
    AppliedWeights, AssignReport, DeployReport, FleetDeployment, HostSplit, KilledDeployment, Listing,
    ServerWeight,
};

impl Renderer {
    /// Prints a line of the result.
    pub fn print_line(&self, line: &str) {
        if !self.is_json {
            self.print_text(&format!("{line}\n"));
        }
    }

    pub fn print_active_host(&self, address: &str) {
        let bare = address.contains(':');
        self.print_line(&if bare {
            format!("Active host: http://[{address}]")
        } else {
            format!("Active host: http://{address}")
        });
    }

    /// Clears the screen for a list that is refreshed.
    pub fn clear_screen(&self) {
        if !self.is_json {
            self.print_text("\x1b[H\x1b[J");
        }
    }

    pub fn print_listing(&self, listing: &Listing, wide: bool) {
        self.print("versions", listing, || {
            let time = self.time_format;
            if wide { format_wide_listing(&listing.rows, time) } else { format_listing(&listing.rows, time) }
        });
    }

    pub fn print_deploy_plan(&self, report: &DeployReport) {
        if self.is_json {
            self.print_json("deploy", report);
        }
    }

    pub fn print_deploy(&self, report: &DeployReport, listing: &Listing) {
        self.print("deploy", report, || format_listing(&listing.rows, self.time_format));
    }

    pub fn print_assign(&self, report: &AssignReport, listing: &Listing) {
        self.print("assign", report, || format_listing(&listing.rows, self.time_format));
    }

    pub fn print_split(&self, hosts: &[HostSplit], listing: &Listing) {
        self.print("split", &BTreeMap::from([("hosts", hosts)]), || {
            format_wide_listing(&listing.rows, self.time_format)
        });
    }

    pub fn print_weights(&self, done: &AppliedWeights, is_share: bool) {
        self.print("weights", done, || {
            let cells = |one: &ServerWeight| {
                let [balancer, host] = [one.balancer.to_string(), one.host.to_string()];
                vec![balancer, host, one.server.clone(), one.weight.to_string()]
            };
            let rows: Vec<Vec<String>> = done.servers.iter().map(cells).collect();
            let mut text = format_ruled_table(&["BALANCER", "HOST", "SERVER", "WEIGHT"], &rows);
            if is_share {
                let _ = writeln!(text, "{} of new users, as near as weights come", done.share);
            }
            text
        });
    }

    pub fn print_kill(&self, killed: &[KilledDeployment]) {
        if self.is_json {
            self.print_json("kill", &BTreeMap::from([("killed", killed)]));
        }
    }

    pub fn print_description(&self, listing: &Listing) {
        self.print("versions", listing, || format_descriptions(&listing.rows, self.time_format));
    }

    /// Prints a line of a log at once.
    pub fn print_log_line(&self, host: Option<&HostName>, line: &str) {
        let text = match host {
            Some(host) => format!("{host} | {line}\n"),
            None => format!("{line}\n"),
        };
        self.print_text(&text);
        // The next write reports a reader that closed the pipe.
        let _ = self.flush();
    }
}

/// Columns under a dashed rule: seed row D5 (docs/design/seed-systems.md#mvi-and-daeploy).
fn format_listing(rows: &[FleetDeployment], time: TimeFormat) -> String {
    let cells = |row: &FleetDeployment| {
        let star = if row.main == Some(true) { "*" } else { "" };
        let half = if row.main.is_none() { "(*)" } else { star };
        vec![
            half.to_owned(),
            row.service.to_string(),
            row.version.to_string(),
            find_worst_state(row).to_owned(),
            format_running(row, time),
        ]
    };
    format_ruled_table(
        &["MAIN", "NAME", "VERSION", "STATUS", "RUNNING"],
        &rows.iter().map(cells).collect::<Vec<_>>(),
    )
}

fn format_wide_listing(rows: &[FleetDeployment], time: TimeFormat) -> String {
    let cells = |row: &FleetDeployment| {
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
        let out = format_maintenance(row);
        let private = format_private(row);
        let role = [role.to_owned()].into_iter().chain(row.traffic.clone()).chain(out).chain(private);
        let role = role.collect::<Vec<_>>().join(", ");
        let created = row.hosts.iter().map(|(_, view)| view.deployment.created_at).min();
        let is_public = row.access == Access::Public || !row.private_on.is_empty();
        let access = if is_public { "🌎" } else { "🔒" };
        let instances = row.hosts.iter().flat_map(|(_, view)| view.deployment.active_instances());
        let mut ports: Vec<String> = instances.map(|instance| instance.port.to_string()).collect();
        ports.dedup();
        let hosts: Vec<&str> = row.hosts.iter().map(|(host, _)| host.as_str()).collect();
        vec![
            star.to_owned(),
            format!("{access} {}", row.service),
            row.version.to_string(),
            row.status.to_string(),
            format_running(row, time),
            row.revision.to_string(),
            role,
            format_active(row),
            ports.join(","),
            hosts.join(","),
            format_type(row).to_owned(),
            created.map(|at| time.format(at)).unwrap_or_default(),
            // Last, where scripts look for it.
            row.id.to_string(),
        ]
    };
    let header = [
        "MAIN", "NAME", "VERSION", "STATUS", "RUNNING", "REVISION", "ROLE", "ACTIVE", "PORT", "HOSTS",
        "TYPE", "CREATED", "ID",
    ];
    // Seed row R15 (docs/design/seed-systems.md#restate): by status, the newest first.
    let mut rows: Vec<&FleetDeployment> = rows.iter().collect();
    rows.sort_by_key(|row| (&row.service, &row.status, Reverse(row.revision)));
    format_ruled_table(&header, &rows.into_iter().map(cells).collect::<Vec<_>>())
}

/// What runs for a version (seed row R14, docs/design/seed-systems.md#restate).
fn format_type(row: &FleetDeployment) -> &'static str {
    let first = row.hosts.first().map(|(_, view)| &view.deployment.instance.how.workload);
    match first {
        Some(Workload::Command { .. }) => "process",
        Some(Workload::Vhost { .. }) => "static",
        Some(Workload::External { .. }) => "external",
        None => "",
    }
}

/// The hosts in maintenance, where the version has anything that a maintenance stops.
fn format_maintenance(row: &FleetDeployment) -> Option<String> {
    let has_traffic = row.main != Some(false) || !row.traffic.is_empty();
    let hosts: Vec<&str> = row.maintenance.iter().map(HostName::as_str).collect();
    (has_traffic && !hosts.is_empty()).then(|| format!("in maintenance on {}", hosts.join(",")))
}

/// The hosts where the service is private, if it is public on others.
fn format_private(row: &FleetDeployment) -> Option<String> {
    let hosts: Vec<&str> = row.private_on.iter().map(HostName::as_str).collect();
    (!hosts.is_empty()).then(|| format!("private on {}", hosts.join(",")))
}

/// Columns under a dashed rule, one blank apart.
fn format_ruled_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let clean = |row: &Vec<String>| row.iter().map(|cell| clean_line(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(clean).collect();
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([header[at].len() + 2]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let pad = |(cell, width): (&str, &usize)| format!("{cell:<width$}", width = *width);
        let padded: Vec<String> = cells.zip(&widths).map(pad).collect();
        let _ = writeln!(text, "{}", padded.join(" ").trim_end());
    };
    line(&mut header.iter().copied());
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(&mut rule.iter().map(String::as_str));
    for row in &rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Requests in flight; `?`: a host did not report them.
fn format_active(row: &FleetDeployment) -> String {
    row.active.map_or_else(|| "?".to_owned(), |active| active.to_string())
}

/// Returns the worst process state over all hosts.
fn find_worst_state(row: &FleetDeployment) -> &'static str {
    let rank = |process: &Result<ProcessState, ObservationError>| match process {
        Err(_) => (3, "unknown"),
        Ok(ProcessState::Stopped { .. }) => (2, "exited"),
        Ok(ProcessState::Waiting { .. }) => (1, "restarting"),
        Ok(ProcessState::Running { .. } | ProcessState::External) => (0, "running"),
    };
    row.hosts.iter().map(|(_, view)| rank(&view.process)).max().map_or("unknown", |(_, word)| word)
}

/// Counts the instances that run and get connections, and all, of a version that has several on a host.
fn count_instances(row: &FleetDeployment) -> Option<(usize, usize)> {
    let is_serving =
        |one: &InstanceView| one.healthy && one.process.as_ref().is_ok_and(ProcessState::is_running);
    let count = |view: &DeploymentView| match &view.instances[..] {
        [] => (usize::from(view.process.as_ref().is_ok_and(ProcessState::is_running)), 1),
        all => (all.iter().filter(|one| is_serving(one)).count(), all.len()),
    };
    let has_several = row.hosts.iter().any(|(_, view)| !view.instances.is_empty());
    let counts = row.hosts.iter().map(|(_, view)| count(view));
    has_several.then(|| counts.fold((0, 0), |(up, all), one| (up + one.0, all + one.1)))
}

/// Seed rows D6 and D27 (docs/design/seed-systems.md#mvi-and-daeploy).
fn format_running(row: &FleetDeployment, time: TimeFormat) -> String {
    let all = row.hosts.len();
    let up = row
        .hosts
        .iter()
        .filter(|(_, view)| view.process.as_ref().is_ok_and(ProcessState::is_running))
        .count();
    let since = |process: &Result<ProcessState, ObservationError>| match process {
        Ok(ProcessState::Running { since, .. } | ProcessState::Waiting { since, .. }) => Some(*since),
        Ok(ProcessState::Stopped { since, .. }) => *since,
        Ok(ProcessState::External) | Err(_) => None,
    };
    let created = row.hosts.iter().map(|(_, view)| view.deployment.created_at).min();
    let since = row.hosts.iter().filter_map(|(_, view)| since(&view.process)).min().or(created);
    let since = since.map(|at| time.format_since(at)).unwrap_or_default();
    match (count_instances(row), up) {
        (Some((up, all)), _) if 0 < up && up < all => {
            return format!("Running, {up} of {} healthy (since {since})", Count(all, "instance"));
        }
        (Some((1.., all)), _) => return format!("Running, {} (since {since})", Count(all, "instance")),
        _ => {}
    }
    match up {
        0 => format!("Stopped (since {since})"),
        up if up < all => format!("Running on {up} of {} (since {since})", Count(all, "host")),
        _ => format!("Running (since {since})"),
    }
}

/// The latest revision first, older ones after it (seed row R25, docs/design/seed-systems.md#restate).
fn format_descriptions(rows: &[FleetDeployment], time: TimeFormat) -> String {
    let mut rows: Vec<&FleetDeployment> = rows.iter().collect();
    rows.sort_by_key(|row| (&row.service, Reverse(row.revision)));
    rows.into_iter().map(|row| format_description(row, time)).collect()
}

fn format_description(row: &FleetDeployment, time: TimeFormat) -> String {
    let mut text = format!("{} {}\n", row.service, row.version);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<10} {}", clean_line(value));
    };
    line("ID", row.id.as_str());
    let latest = if row.is_latest { " [Latest]" } else { "" };
    line("Revision", &format!("{}{latest}", row.revision));
    line("Role", if row.main == Some(false) { "shadow" } else { "main" });
    for gets in &row.traffic {
        line("Gets", gets);
    }
    let access = if row.access == Access::Public { "public" } else { "private" };
    line(
        "Access",
        &format_private(row).map_or_else(|| access.to_owned(), |hosts| format!("public, {hosts}")),
    );
    line("Status", &row.status.to_string());
    if let Some(hosts) = format_maintenance(row) {
        line("Forward", &hosts);
    }
    line("Invocations", &format_active(row));
    for (host, view) in &row.hosts {
        let deployment = &view.deployment;
        let _ = writeln!(text, "  {host}");
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "    {name:<10} {}", clean_line(value));
        };
        line("Endpoint", &format!("http://{}/", deployment.endpoint(&deployment.instance)));
        line("Created at", &time.format(deployment.created_at));
        for (name, value) in &deployment.metadata {
            line("Metadata", &format!("{name}={value}"));
        }
        line("Runs", &format_runs(&deployment.instance.how.workload));
        if let Some(user) = format_user(deployment) {
            line("User", &user);
        }
        line("Build", &deployment.instance.build.to_string());
        line("Health", &format!("{} -> {}", deployment.health.path, deployment.health.status));
        if let Some(digest) = &deployment.instance.digest {
            line("Digest", digest.shorten());
        }
        match &view.process {
            _ if !view.instances.is_empty() => {}
            Err(reason) => line("Process", &reason.to_string()),
            Ok(process) => line("Process", &format_process(process)),
        }
        for one in &view.instances {
            line("Instance", &format_instance(one));
        }
        if view.backup {
            line("Backup", "the backup vhost's port forwards to it");
        }
    }
    text
}

/// Formats one of several instances: `2 on port 20001: pid 7, restarted 0 times`.
fn format_instance(one: &InstanceView) -> String {
    let process = one.process.as_ref().map_or_else(ToString::to_string, format_process);
    let health = if one.healthy { "" } else { ", unhealthy: gets no new connections" };
    format!("{} on port {}, build {}: {process}{health}", one.number, one.port, one.build)
}

/// Formats the user of a program and the exceptions from its sandbox: `switchman-shop, allowed: devices`.
fn format_user(deployment: &Deployment) -> Option<String> {
    let how = &deployment.instance.how;
    if !matches!(how.workload, Workload::Command { .. }) {
        return None;
    }
    let user = how.find_user(&deployment.service);
    let mut text = user.unwrap_or_else(|| "that of the host's switchman, without a sandbox".to_owned());
    let allowed: Vec<String> =
        how.sandbox.iter().flat_map(|sandbox| &sandbox.allow).map(ToString::to_string).collect();
    if !allowed.is_empty() {
        text = format!("{text}, allowed: {}", allowed.join(", "));
    }
    Some(text)
}

fn format_runs(runs: &Workload) -> String {
    match runs {
        Workload::Command { argv } => join_words(argv),
        Workload::Vhost { server } => format!("{server:?} serves the release").to_lowercase(),
        Workload::External { uri } => format!("{uri}, not managed by switchman"),
    }
}

fn format_process(process: &ProcessState) -> String {
    match process {
        ProcessState::Running { pid, restarts, .. } => {
            format!("pid {pid}, restarted {}", Count(restarts, "time"))
        }
        ProcessState::Waiting { restarts, last_exit: last, .. } => {
            format!("ended with {last}, restarted {}", Count(restarts, "time"))
        }
        ProcessState::Stopped { last_exit: last, .. } if last.is_empty() => "stopped".to_owned(),
        ProcessState::Stopped { last_exit: last, .. } => format!("stopped: {last}"),
        ProcessState::External => "not managed by switchman".to_owned(),
    }
}

#[cfg(test)]
mod tests;
