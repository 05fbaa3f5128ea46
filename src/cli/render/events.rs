//! Events, line by line, and the result of a switch.

use std::fmt::Write as _;
use std::time::Duration;

use indicatif::ProgressBar;
use owo_colors::OwoColorize;

use super::{Renderer, table};
use crate::model::duration::format;
use crate::model::forward::Switch;
use crate::model::history::HistoryEntry;
use crate::ops::fleet::balancer_wait::WaitOutcome;
use crate::ops::fleet::forward::SwitchReport;
use crate::ops::host::restore::RestoreReport;
use crate::ops::init::InitReport;
use crate::world::lock::LockNote;
use crate::world::reporter::{Event, Reporter};

impl Reporter for Renderer {
    fn report(&self, event: &Event) {
        if self.follow_event(event) {
            return;
        }
        if let Event::Committed { transactions, .. } = event {
            for transaction in transactions {
                log::info!("committed:\n{transaction}");
            }
        }
        self.write_stderr_line(&format_event(event));
        match event {
            Event::Observed { balancer, server, detail, .. } => {
                self.show_spinner(format!("waiting for {balancer}: {server} is {detail}"));
            }
            Event::WaitingForTimeout { balancer, timeout: bound, .. } => {
                self.show_spinner(format!(
                    "waiting {} for {balancer}, whose state cannot be read",
                    format(*bound)
                ));
            }
            Event::Draining { in_flight, .. } => {
                self.show_spinner(format!("draining: {in_flight} in flight"));
            }
            _ => {}
        }
    }
}

impl Renderer {
    pub(super) fn show_spinner(&self, message: String) {
        let spinner: &ProgressBar = &self.spinner;
        spinner.set_message(message);
        spinner.enable_steady_tick(Duration::from_millis(120));
    }
}

pub(super) fn format_event(event: &Event) -> String {
    match event {
        Event::Committed { host, switch, elapsed: took, .. } => {
            format!("{host}: forward {switch} ({})", format(*took))
        }
        Event::Unchanged { host, switch } => format!("{host}: forward already {switch}"),
        Event::Overridden { refusal } => format!("{} overridden by --force: {refusal}", "warning:".yellow()),
        Event::Healthy { host, .. } => format!("{host}: main vhost healthy"),
        Event::Observed { balancer, server, detail, after, .. } => {
            format!("{balancer}: {server} is {detail} (after {})", format(*after))
        }
        Event::WaitingForTimeout { balancer, timeout: bound, .. } => format!(
            "{balancer}: state cannot be read (no `haproxy:` in the configuration); waiting {}, the limit of its check settings",
            format(*bound)
        ),
        Event::Draining { host, in_flight, busy_sockets, after } => format!(
            "{host}: draining, {in_flight} in flight on HAProxy, {busy_sockets} busy connections on the host (after {})",
            format(*after)
        ),
        Event::Drained { host, after } => format!("{host}: drained (after {})", format(*after)),
        Event::Warning { text } => format!("{} {text}", "warning:".yellow()),
        Event::Roll { event, .. } => crate::cli::render::roll::format_roll_event(event),
        Event::DeploymentProgress { host: Some(host), text } => format!("{host}: {text}"),
        Event::DeploymentProgress { host: None, text } => text.clone(),
    }
}

pub(super) fn format_switch(switched: &SwitchReport) -> String {
    let host = &switched.host.name;
    let already = if switched.changed { "" } else { "already " };
    let mut text = match switched.switch {
        Switch::On => format!("{host}: {already}in service, forward on"),
        Switch::Off => format!("{host}: {already}in maintenance, forward off"),
    };
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
    }
    if let Some(left) = switched.not_drained {
        let _ = write!(text, "; not drained, {left} still in flight, which the next step may cut");
    }
    text + "\n"
}

pub(super) fn format_init(written: &InitReport) -> String {
    let dir = written.dir.display();
    let mut text: String = written.files.iter().map(|file| format!("{dir}/{}\n", file.display())).collect();
    let _ = write!(
        text,
        "next: put in your addresses, then look for mistakes with\n  cd {dir} && switchman check --haproxy-cfg haproxy.cfg\n"
    );
    text
}

pub(super) fn format_restore(restored: &RestoreReport) -> String {
    if restored.recorded.is_empty() {
        return "nothing is recorded on this host: no forward is managed here yet\n".to_owned();
    }
    let verb = if restored.transactions.is_empty() { "already as recorded" } else { "put back as recorded" };
    let line = |record: &crate::model::forward::ServiceRecord| {
        let forward = &record.forward;
        format!(
            "{}: forward {} ({} -> {}), {verb}\n",
            forward.service, record.switch, forward.check, forward.target
        )
    };
    restored.recorded.iter().map(line).collect()
}

pub(super) fn format_history(rows: &[HistoryEntry]) -> String {
    let row = |entry: &HistoryEntry| {
        let at = entry.at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        let cells = [
            &at,
            &entry.actor.user,
            entry.service.as_str(),
            &entry.action,
            entry.phase.as_str(),
            &entry.detail,
        ];
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    };
    table::format_table(&["AT", "WHO", "SERVICE", "WHAT", "RESULT", "DETAIL"], rows.iter().map(row).collect())
}

pub(super) fn format_lock_notes(notes: &[LockNote]) -> String {
    let row = |note: &LockNote| {
        let at = note.at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        vec![at, note.user.clone(), note.text.clone()]
    };
    table::format_table(&["AT", "WHO", "LOCK"], notes.iter().map(row).collect())
}
