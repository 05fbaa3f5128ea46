//! Past changes, rolls and uses of the fleet lock.

use serde::Serialize;

use super::renderer::Renderer;
use super::time_format::TimeFormat;
use super::{roll, table};
use crate::model::history::{HistoryEntry, Phase};
use crate::model::lock::LockNote;
use crate::model::name::HostName;
use crate::plan::roll::progress::RollProgress;

impl Renderer {
    pub fn print_history(&self, rows: &[HistoryEntry], rolls: &[RollProgress], lock: &[LockNote]) {
        #[derive(Serialize)]
        struct HistoryDocument<'a> {
            #[serde(rename = "history")]
            rows: &'a [HistoryEntry],
            rolls: &'a [RollProgress],
            lock: &'a [LockNote],
        }
        if self.is_json {
            return self.print_json("history", &HistoryDocument { rows, rolls, lock });
        }
        let mut tables = Vec::new();
        if !rolls.is_empty() {
            tables.push(roll::format_past_rolls(rolls));
        }
        if !lock.is_empty() {
            tables.push(format_lock_notes(lock, self.time_format));
        }
        // An operator machine has rolls and no switches.
        if !rows.is_empty() || tables.is_empty() {
            tables.push(format_history(rows, self.time_format));
        }
        self.print_text(&tables.join("\n"));
    }

    /// Prints the changes that each host has recorded.
    pub fn print_histories(&self, hosts: &[(HostName, Vec<HistoryEntry>)]) {
        #[derive(Serialize)]
        struct HistoriesDocument<'a> {
            hosts: Vec<HostHistory<'a>>,
        }
        #[derive(Serialize)]
        struct HostHistory<'a> {
            host: &'a HostName,
            history: &'a [HistoryEntry],
        }
        if self.is_json {
            let hosts = hosts.iter().map(|(host, history)| HostHistory { host, history }).collect();
            return self.print_json("histories", &HistoriesDocument { hosts });
        }
        for (host, rows) in hosts {
            self.print_text(&format!("{host}\n{}\n", format_history(rows, self.time_format)));
        }
    }
}

fn format_history(rows: &[HistoryEntry], time: TimeFormat) -> String {
    let row = |entry: &HistoryEntry| {
        vec![
            time.format(entry.at),
            entry.actor.name(),
            entry.caller.as_ref().map(ToString::to_string).unwrap_or_default(),
            entry.service.to_string(),
            entry.action.clone(),
            entry.phase.as_str().to_owned(),
            describe_entry(entry),
        ]
    };
    table::format_table(
        &["AT", "WHO", "CALLER", "SERVICE", "WHAT", "RESULT", "DETAIL"],
        rows.iter().map(row).collect(),
    )
}

/// The detail, and where a change begins, its roll or the reason that was given by hand.
fn describe_entry(entry: &HistoryEntry) -> String {
    let cause = match &entry.actor.roll {
        _ if entry.phase != Phase::Began => None,
        Some(roll) => Some(format!("roll {roll}")),
        // A takeover has its reason in the detail.
        None if entry.actor.purpose.is_empty() || entry.detail.contains(&entry.actor.purpose) => None,
        None => Some(format!("reason: {}", entry.actor.purpose)),
    };
    let parts: Vec<String> =
        [Some(entry.detail.clone()), cause].into_iter().flatten().filter(|part| !part.is_empty()).collect();
    parts.join("; ")
}

fn format_lock_notes(notes: &[LockNote], time: TimeFormat) -> String {
    let row = |note: &LockNote| vec![time.format(note.at), note.user.clone(), note.text.clone()];
    table::format_table(&["AT", "WHO", "LOCK"], notes.iter().map(row).collect())
}
