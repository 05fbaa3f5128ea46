//! The result of a switch, and of `restore`.

use std::fmt::Write as _;

use serde::Serialize;

use super::renderer::Renderer;
use crate::error::Failure;
use crate::model::duration::format;
use crate::model::forward::ServiceRecord;
use crate::model::name::HostName;
use crate::model::port_forward::Switch;
use crate::ops::fleet::balancer_wait::WaitOutcome;
use crate::ops::fleet::drain::format_unread;
use crate::ops::fleet::forward::{SwitchProof, SwitchReport, SwitchResults};
use crate::ops::host::restore::RestoreReport;

impl Renderer {
    pub fn print_switch(&self, switched: &SwitchReport) {
        self.print("switched", switched, || format_switch(switched));
    }

    /// Prints the result of each host. Returns an error unless every host is switched.
    pub fn print_switches(&self, switch: Switch, each: SwitchResults) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct SwitchesDocument<'a> {
            hosts: Vec<HostOutcome<'a>>,
        }
        #[derive(Serialize)]
        struct HostOutcome<'a> {
            host: &'a HostName,
            switched: Option<&'a SwitchReport>,
            error: Option<String>,
        }
        if self.is_json {
            let outcomes = each.iter().map(|(host, switched)| HostOutcome {
                host,
                switched: switched.as_ref().ok(),
                error: switched.as_ref().err().map(ToString::to_string),
            });
            self.print_json("switched-many", &SwitchesDocument { hosts: outcomes.collect() });
        }
        let total = each.len();
        let mut failed = Vec::new();
        for (_, switched) in each {
            match switched {
                Ok(switched) if !self.is_json => self.print_text(&format_switch(&switched)),
                Ok(_) => {}
                Err(error) => failed.push(error),
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(Failure::SwitchedPartially { switch, done: total - failed.len(), of: total, failed })
    }

    pub fn print_restore(&self, restored: &RestoreReport) {
        self.print("restored", restored, || format_restore(restored));
    }
}

fn format_switch(switched: &SwitchReport) -> String {
    let host = &switched.host.name;
    let already = if switched.changed { "" } else { "already " };
    let mut text = match switched.switch {
        Switch::On => format!("{host}: {already}in service, forward on"),
        Switch::Off => format!("{host}: {already}in maintenance, forward off"),
    };
    // What a balancer reports is printed below, and is the stronger proof.
    match (&switched.proof, &switched.packet) {
        (SwitchProof::Balancer, _) => {}
        (_, Some(packet)) => {
            let _ = write!(text, "; {packet}");
        }
        (_, None) => text.push_str("; not verified by a packet"),
    }
    for observed in &switched.observed {
        let _ = match &observed.outcome {
            WaitOutcome::Reported { status } => write!(text, "; {} reports {status}", observed.balancer),
            WaitOutcome::TimeElapsed => {
                write!(text, "; waited {} for {}", format(observed.elapsed), observed.balancer)
            }
        };
    }
    if let Some(after) = switched.drained_after {
        let _ = write!(text, "; drained after {}", format(after));
        if !switched.drain_unread.is_empty() {
            let _ = write!(text, " ({})", format_unread(&switched.drain_unread));
        }
    }
    if let Some(left) = switched.not_drained {
        let _ = write!(text, "; not drained, {left} still in flight, which the next step may cut");
    }
    text + "\n"
}

fn format_restore(restored: &RestoreReport) -> String {
    if restored.recorded.is_empty() {
        return "nothing is recorded on this host: no forward is managed here yet\n".to_owned();
    }
    let verb = if restored.transactions.is_empty() { "already as recorded" } else { "put back as recorded" };
    let line = |record: &ServiceRecord| {
        let forward = &record.forward;
        format!(
            "{}: forward {} ({} -> {}), {verb}\n",
            forward.service, record.switch, forward.check, forward.target
        )
    };
    restored.recorded.iter().map(line).collect()
}
