//! The result of `init`.

use std::fmt::Write as _;
use std::path::Path;

use owo_colors::OwoColorize;
use serde::Serialize;

use super::findings::format_findings;
use super::renderer::Renderer;
use crate::lint::{Adoption, LineChange};
use crate::model::finding::{Finding, Severity};
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::ops::init::InitReport;
use crate::plan::init_steps::SetupStep;

#[derive(Serialize)]
struct InitDocument<'a> {
    #[serde(flatten)]
    written: &'a InitReport,
    steps: &'a [SetupStep],
}

#[derive(Serialize)]
struct AdoptionDocument<'a> {
    #[serde(flatten)]
    written: &'a InitReport,
    changes: &'a [LineChange],
    notes: &'a [String],
    /// Problems and warnings that the changed file still has.
    remaining: &'a [Finding],
    steps: &'a [SetupStep],
}

#[derive(Serialize)]
struct AddedHostsDocument<'a> {
    file: &'a Path,
    hosts: &'a [Host],
    server_lines: Vec<&'a String>,
    steps: &'a [SetupStep],
}

impl Renderer {
    pub fn print_init(&self, written: &InitReport, steps: &[SetupStep]) {
        let document = InitDocument { written, steps };
        self.print("initialised", &document, || format_files(written) + &format_steps(steps));
    }

    pub fn print_adoption(
        &self,
        written: &InitReport,
        adoption: &Adoption,
        remaining: &[Finding],
        steps: &[SetupStep],
    ) {
        let Adoption { fleet, changes, notes, .. } = adoption;
        let document = AdoptionDocument { written, changes, notes, remaining, steps };
        self.print("initialised", &document, || {
            let mut text = format_files(written);
            text.push_str(&format_fleet(fleet));
            if !notes.is_empty() {
                text.push_str("\nnot in the files, or left out:\n");
                text.extend(notes.iter().map(|note| format!("  - {note}\n")));
            }
            let has_problems = remaining.iter().any(|finding| finding.severity == Severity::Problem);
            text.push_str(&format_changes(changes, has_problems));
            if !remaining.is_empty() {
                text.push_str(describe_remaining(!changes.is_empty()));
                text.push_str(&format_findings(remaining));
            }
            text + "\n" + &format_steps(steps)
        });
    }

    pub fn print_added_hosts(
        &self,
        file: &Path,
        hosts: &[Host],
        lines: &[(String, Vec<String>)],
        has_other_transport: bool,
        steps: &[SetupStep],
    ) {
        let server_lines = lines.iter().flat_map(|(_, lines)| lines).collect();
        let document = AddedHostsDocument { file, hosts, server_lines, steps };
        self.print("hosts-added", &document, || {
            let mut text = String::new();
            for host in hosts {
                let _ = writeln!(text, "{}: added `{}`", file.display(), host.name);
            }
            if has_other_transport {
                let _ = writeln!(
                    text,
                    "other hosts have `ssh` or `agent`: add it to the new entry if ssh does not reach the host by its name"
                );
            }
            if lines.is_empty() {
                text.push_str("\nswitchman.yaml has no `load_balancers`, so that no lines can be printed: add a main line and a backup line for each new host to haproxy.cfg, like those of the other hosts\n");
                return text + "\n" + &format_steps(steps);
            }
            text.push_str("\nhaproxy.cfg needs these lines. Add the keywords of your other lines, and choose another cookie value if a line has it already:\n");
            for (place, lines) in lines {
                let _ = writeln!(text, "  {place}\n{}", lines.iter().map(|line| format!("  {line}\n")).collect::<String>().trim_end());
            }
            text + "\n" + &format_steps(steps)
        });
    }
}

fn format_files(written: &InitReport) -> String {
    let dir = written.dir.display();
    written.files.iter().map(|file| format!("{dir}/{}\n", file.display())).collect()
}

fn format_fleet(fleet: &Fleet) -> String {
    let mut text = String::from("\nread from the files:\n");
    for service in fleet.service_names().filter_map(|name| fleet.for_service(name)) {
        let backends: Vec<String> =
            service.balancers.iter().map(|balancer| format!("`{}`", balancer.backend)).collect();
        let ports = service.ports;
        let _ = writeln!(
            text,
            "  service {}: backend {}, ports check {}, main {}, backup {}, health check {}",
            service.service,
            backends.join(", "),
            ports.check,
            ports.main,
            ports.backup,
            service.health.path
        );
    }
    for host in &fleet.hosts {
        let address = host.address.map(|address| address.to_string()).unwrap_or_default();
        let _ = writeln!(text, "  host {}: {address}", host.name);
    }
    for balancer in &fleet.balancers {
        let state = balancer
            .stats_endpoint
            .as_ref()
            .map_or("not read".to_owned(), |endpoint| format!("read at {endpoint}"));
        let _ = writeln!(text, "  load balancer {}: state {state}", balancer.name);
    }
    text
}

/// The line before the findings: they are no part of the listed lines.
const fn describe_remaining(has_changes: bool) -> &'static str {
    if has_changes {
        "\n`switchman check` reports with these lines added. The findings are no part of the list above: repair them in the same \
         reload, or later. Their line numbers are those of the file with the lines added:\n"
    } else {
        "\n`switchman check` reports:\n"
    }
}

/// As a diff, without the lines around.
fn format_changes(changes: &[LineChange], has_problems: bool) -> String {
    if changes.is_empty() && has_problems {
        return "\nno line is to be added, but the files have the problems below\n".to_owned();
    }
    if changes.is_empty() {
        return "\nthe files have every server line that switchman needs\n".to_owned();
    }
    let mut text = String::from("\nthe files lack these lines (line numbers as the files are now):\n");
    for change in changes {
        let _ = writeln!(text, "  {}", change.place.bold());
        let mark = if change.is_replaced { "-" } else { " " };
        let _ = writeln!(text, "  {mark}{}", change.line);
        text.extend(change.new.iter().map(|line| format!("  +{line}\n")));
    }
    text
}

fn format_steps(steps: &[SetupStep]) -> String {
    let mut text = String::from("next, in this order:\n");
    for (number, step) in (1..).zip(steps) {
        let _ = writeln!(text, "{number}. on {}: {}", step.machine.bold(), step.action);
        text.extend(step.commands.iter().map(|command| format!("     {command}\n")));
    }
    text
}
