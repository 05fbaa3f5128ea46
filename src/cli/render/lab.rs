//! The lab: its progress, its report.

use std::fmt::Write as _;
use std::path::Path;

use owo_colors::OwoColorize;
use serde::Serialize;

use super::{Render, table};
use crate::lab::demo::{Audience, DemoReport};
use crate::lab::load::Snapshot;
use crate::lab::namespaces::Place;
use crate::model::duration::show;
use crate::model::name::HostName;

impl Audience for Render {
    fn step(&self, text: &str) {
        self.note(text);
    }

    fn count(&self, snapshot: &Snapshot) {
        self.spin(format!("{} requests answered, {} failed", snapshot.succeeded, snapshot.failed));
    }
}

impl Render {
    pub fn lab_up(&self, name: &HostName, dir: &Path) {
        let dir = dir.display();
        self.text(&format!(
            "the lab is up; its files are in {dir}\n\
             a request:   ip netns exec swm-{name}-client curl -i http://10.77.0.2/\n\
             HAProxy:     ip netns exec swm-{name}-client curl 'http://10.77.0.2:8404/stats;csv'\n\
             a switch:    ip netns exec swm-{name}-web1 switchman --config {dir}/web1/switchman.yaml \
             --state-dir {dir}/web1/state --local enable-forward --host web1\n\
             a roll:      ip netns exec swm-{name}-client switchman --config {dir}/operator/switchman.yaml enable-forward --all\n\
             \x20            ip netns exec swm-{name}-client switchman --config {dir}/operator/switchman.yaml roll --remote -- \
             sh -c 'sh {dir}/$SWITCHMAN_HOST/replace-main.sh 2.0.0'\n\
             remove it:   switchman lab down --name {name}\n"
        ));
    }

    pub fn lab_status(&self, name: &HostName, places: &[Place]) {
        #[derive(Serialize)]
        struct Lab<'a> {
            name: &'a HostName,
            places: &'a [Place],
        }
        if self.json {
            return self.document("lab", &Lab { name, places });
        }
        if places.is_empty() {
            return self.text(&format!("no lab `{name}` is up\n"));
        }
        let forward = |place: &Place| match place.forward {
            Some(true) => "on",
            Some(false) => "off",
            None => "",
        };
        let row = |place: &Place| {
            vec![place.namespace.clone(), forward(place).to_owned(), place.processes.join(" ")]
        };
        self.text(&table::table(&["NAMESPACE", "FORWARD", "PROCESSES"], places.iter().map(row).collect()));
    }

    pub fn demo(&self, report: &DemoReport) {
        if self.json {
            return self.document("demo", report);
        }
        self.text(&demo(report));
    }
}

fn demo(report: &DemoReport) -> String {
    let kinds = report.load.kinds.iter().map(|kind| {
        let numbers = [
            kind.requests.to_string(),
            kind.failed.to_string(),
            show(kind.median),
            show(kind.longest),
            show(kind.longest_gap),
        ];
        std::iter::once(kind.kind.as_str().to_owned()).chain(numbers).collect()
    });
    let header = ["CLIENTS", "REQUESTS", "FAILED", "MEDIAN", "LONGEST WAIT", "LONGEST GAP"];
    let mut text = table::table(&header, kinds.collect());
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
    text.push_str(&table::table(&["WHILE", "HOST", "VHOST", "VERSION", "ANSWERS"], answers.collect()));
    text.push('\n');
    let hosts = report.hosts.iter().map(|host| {
        vec![host.host.clone(), show(host.down_after), show(host.drained_after), show(host.up_after)]
    });
    text.push_str(&table::table(&["HOST", "DOWN AFTER", "THEN DRAINED AFTER", "UP AFTER"], hosts.collect()));
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
        show(roll.took)
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
    let _ = writeln!(text, "{verdict}: {} requests, {} failed", report.load.requests(), report.load.failed());
    text
}
