//! The lab: its progress, its report.

use std::fmt::Write as _;
use std::path::Path;

use owo_colors::OwoColorize;
use serde::Serialize;

use super::renderer::Renderer;
use super::table;
use crate::lab::demo::{DemoReport, ProgressSink};
use crate::lab::load::Snapshot;
use crate::lab::namespaces::NamespaceStatus;
use crate::model::duration::format;
use crate::model::name::HostName;
use crate::model::plural::Count;
use crate::model::shell::quote_word;

impl ProgressSink for Renderer {
    fn report_step(&self, text: &str) {
        self.write_stderr_line(text);
    }

    fn report_counts(&self, snapshot: &Snapshot) {
        self.show_spinner(&format!(
            "{} answered, {} failed",
            Count(snapshot.succeeded, "request"),
            snapshot.failed
        ));
    }
}

impl Renderer {
    /// Prints lines that can be pasted as they are.
    pub fn print_lab_up(&self, name: &HostName, dir: &Path, switchman: &Path) {
        let switchman = quote_word(&switchman.display().to_string());
        let dir = dir.display();
        let operator = format!(
            "ip netns exec swm-{name}-client {switchman} --config {dir}/operator/switchman.yaml --state-dir {dir}/operator/state"
        );
        self.print_text(&format!(
            "the lab is up; its files are in {dir}\n\
             a request:   ip netns exec swm-{name}-client curl -i http://10.77.0.2/\n\
             HAProxy:     ip netns exec swm-{name}-client curl 'http://10.77.0.2:8404/stats;csv'\n\
             a switch:    ip netns exec swm-{name}-web1 {switchman} --config {dir}/web1/switchman.yaml \
             --state-dir {dir}/web1/state --releases-dir {dir}/web1/releases --local enable-forward\n\
             a roll:      {operator} enable-forward --all\n\
             \x20            {operator} roll --remote -- sh -c 'sh {dir}/$SWITCHMAN_HOST/replace-main.sh 2.0.0'\n\
             remove it:   {switchman} lab down --name {name}\n"
        ));
    }

    pub fn print_lab_status(&self, name: &HostName, namespaces: &[NamespaceStatus]) {
        #[derive(Serialize)]
        struct Lab<'a> {
            name: &'a HostName,
            namespaces: &'a [NamespaceStatus],
        }
        if self.is_json {
            return self.print_json("lab", &Lab { name, namespaces });
        }
        if namespaces.is_empty() {
            return self.print_text(&format!("no lab `{name}` is up\n"));
        }
        let forward = |namespace: &NamespaceStatus| match namespace.forward {
            Some(true) => "on",
            Some(false) => "off",
            None => "",
        };
        let row = |namespace: &NamespaceStatus| {
            vec![namespace.namespace.clone(), forward(namespace).to_owned(), namespace.processes.join(" ")]
        };
        self.print_text(&table::format_table(
            &["NAMESPACE", "FORWARD", "PROCESSES"],
            namespaces.iter().map(row).collect(),
        ));
    }

    pub fn print_demo(&self, report: &DemoReport) {
        self.print("demo", report, || format_demo(report));
    }
}

fn format_demo(report: &DemoReport) -> String {
    let kinds = report.load.kinds.iter().map(|kind| {
        let numbers = [
            kind.requests.to_string(),
            kind.failed.to_string(),
            format(kind.median),
            format(kind.longest),
            format(kind.longest_gap),
        ];
        std::iter::once(kind.kind.as_str().to_owned()).chain(numbers).collect()
    });
    let header = ["CLIENTS", "REQUESTS", "FAILED", "MEDIAN", "LONGEST WAIT", "LONGEST GAP"];
    let mut text = table::format_table(&header, kinds.collect());
    text.push('\n');
    let answers = report.load.answers.iter().map(|(phase, answer, count)| {
        vec![
            phase.clone(),
            answer.host.clone(),
            answer.vhost.clone(),
            answer.version.clone(),
            count.to_string(),
        ]
    });
    text.push_str(&table::format_table(&["WHILE", "HOST", "VHOST", "VERSION", "ANSWERS"], answers.collect()));
    text.push('\n');
    let hosts = report.hosts.iter().map(|host| {
        vec![host.host.clone(), format(host.down_after), format(host.drained_after), format(host.up_after)]
    });
    text.push_str(&table::format_table(
        &["HOST", "DOWN AFTER", "THEN DRAINED AFTER", "UP AFTER"],
        hosts.collect(),
    ));
    text.push('\n');
    let roll = &report.roll;
    let _ = writeln!(
        text,
        "roll: failed on {} and put it back ({}), exit {}; resumed, exit {}; newest version on {}; {} in all\n",
        roll.failed_host,
        roll.left,
        roll.stopped_with,
        roll.resumed_with,
        roll.answered_by_new.join(", "),
        format(roll.took)
    );
    for (failed, count) in &report.load.failures {
        let _ = writeln!(
            text,
            "{} {count} x {} ({}): {}",
            "failed".red(),
            failed.kind.as_str(),
            failed.phase,
            failed.reason
        );
    }
    for clue in &report.clues {
        let _ = writeln!(text, "noted  {clue}");
    }
    let verdict = if report.faults.is_empty() {
        "ok".green().bold().to_string()
    } else {
        "NOT ok".red().bold().to_string()
    };
    let _ = writeln!(
        text,
        "{verdict}: {}, {} failed",
        Count(report.load.total_requests(), "request"),
        report.load.total_failed()
    );
    text
}
