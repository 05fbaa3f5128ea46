//! A roll: its plan, its events, its progress and its result.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use owo_colors::OwoColorize;
use serde::Serialize;

use super::live_table::{LiveTable, RollFollower};
use super::renderer::{Renderer, SCHEMA_VERSION};
use super::table;
use super::time_format::TimeFormat;
use crate::error::Failure;
use crate::model::duration::format;
use crate::model::journal::{HostOutcome, RollResult};
use crate::model::journal_record::SharedOutput;
use crate::model::lock::{Holder, Liveness, LockPurpose, LockView};
use crate::model::name::{BalancerName, HostName};
use crate::model::plural::Count;
use crate::model::roll::{RollId, Work};
use crate::model::terminal_text::clean_line;
use crate::ops::fleet::roll::{RollError, RollReport};
use crate::plan::roll::RollPlan;
use crate::plan::roll::progress::{HostProgress, RollProgress, StepState};
use crate::world::reporter::{Event, RollEvent};

/// Maximum length of a command in a table, in characters.
const MAX_COMMAND_CHARS: usize = 40;

/// A snapshot of the last roll and the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RollView {
    pub progress: Option<RollProgress>,
    pub lock: Option<LockView>,
}

#[derive(Serialize)]
struct EventLine<'a, T: Serialize> {
    schema: u32,
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    roll: Option<&'a RollId>,
    #[serde(flatten)]
    event: T,
}

#[derive(Serialize)]
struct NoUnfinishedRoll {
    /// The result of the last roll; `None` if there never was one.
    result: Option<RollResult>,
}

/// An event that other operations report during a roll, beside the roll's own events.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum AuxiliaryEvent<'a> {
    Observed { host: &'a HostName, balancer: &'a BalancerName, server: &'a str, state: &'a str },
    Draining { host: &'a HostName, in_flight: u64, busy_sockets: u64 },
    Warning { text: &'a str },
    Overridden { refusal: &'a str },
    WaitingForLock { lock: &'a LockView, at_most_ms: u64 },
}

impl Renderer {
    /// Renders all later events as those of a roll.
    pub fn follow_roll(&self) {
        let follower = if self.is_json {
            RollFollower::Json(None)
        } else if std::io::stderr().is_terminal() {
            RollFollower::Live(LiveTable::new())
        } else {
            return;
        };
        *self.lock_follower() = Some(follower);
    }

    /// Whether the event needs no line of its own.
    pub(super) fn follow_event(&self, event: &Event) -> bool {
        let mut follower = self.lock_follower();
        match &mut *follower {
            None => false,
            Some(RollFollower::Json(known)) => {
                if let Event::Roll { roll, .. } = event {
                    known.get_or_insert_with(|| roll.clone());
                }
                let roll = known.clone();
                drop(follower);
                self.print_event_line(roll.as_ref(), event);
                true
            }
            Some(RollFollower::Live(board)) => board.handle_event(event),
        }
    }

    fn print_event_line(&self, roll: Option<&RollId>, event: &Event) {
        let format_line = |event| format_event_line("roll-event", roll, event);
        let text = match event {
            Event::Roll { event, .. } => format_event_line("roll-event", roll, event),
            Event::Observed { host, balancer, server, detail, .. } => {
                format_line(AuxiliaryEvent::Observed { host, balancer, server, state: detail })
            }
            Event::Draining { host, in_flight, busy_sockets, .. } => {
                let (in_flight, busy_sockets) = (*in_flight, *busy_sockets);
                format_line(AuxiliaryEvent::Draining { host, in_flight, busy_sockets })
            }
            Event::Warning { text } => format_line(AuxiliaryEvent::Warning { text }),
            Event::Overridden { refusal } => format_line(AuxiliaryEvent::Overridden { refusal }),
            Event::WaitingForLock { lock, timeout } => {
                let at_most_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                format_line(AuxiliaryEvent::WaitingForLock { lock, at_most_ms })
            }
            _ => return,
        };
        self.print_text(&text);
        // A reader that closed the pipe does not stop a roll.
        let _ = self.flush();
    }

    pub fn print_plan(&self, plan: &RollPlan) {
        self.print("plan", plan, || plan.to_string());
    }

    pub fn print_roll_status(&self, view: &RollView) {
        self.print("roll-status", view, || format_roll_status(view, &self.service_flag, self.time_format));
    }

    /// Prints the last lines of failed commands that the journal has, for people.
    pub fn print_shared_outputs(&self, outputs: &[SharedOutput]) {
        const SHOWN_LINES: usize = 20;
        if self.is_json {
            return;
        }
        for SharedOutput { at, host, lines } in outputs {
            let of = host.as_ref().map_or("hooks of the roll", HostName::as_str);
            let mut text = format!("output of {of} until {}:\n", self.time_format.format(*at));
            for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
                let clean: String = line.chars().filter(|c| !c.is_control() || *c == '\t').collect();
                let _ = writeln!(text, "  {clean}");
            }
            self.print_text(&text);
        }
    }

    pub fn print_past_roll(&self, roll: &RollProgress) {
        self.print("roll", roll, || format_roll(roll, &self.service_flag, self.time_format));
    }

    pub fn print_lock(&self, lock: Option<&LockView>) {
        self.print("lock", &BTreeMap::from([("lock", lock)]), || {
            lock.map_or_else(
                || "the fleet is not locked\n".to_owned(),
                |lock| format_lock(lock, self.time_format),
            )
        });
    }

    /// Prints that `--resume` or `--abort` had nothing to do, and returns that.
    pub fn print_no_unfinished_roll(&self, found: &RollError) -> String {
        let last = match found {
            RollError::Finished { roll, at, result, .. } => Some((roll, at, result)),
            _ => None,
        };
        let text = match last {
            Some((roll, at, result)) => {
                let at = self.time_format.format(*at);
                format!("no roll is unfinished: {roll} ended at {at} with the result `{result}`")
            }
            None => "no roll is unfinished: the journal has none".to_owned(),
        };
        if self.is_json {
            let body = NoUnfinishedRoll { result: last.map(|(_, _, result)| *result) };
            self.print_text(&format_event_line("no-unfinished-roll", last.map(|last| last.0), body));
        } else {
            self.print_text(&format!("{text}\n"));
        }
        text
    }

    pub fn print_acquired_lock(&self, holder: &Holder) {
        self.print_remark(&format!(
            "the fleet is locked by {}",
            holder.describe(|since| self.time_format.format(since))
        ));
    }

    pub fn print_released_lock(&self, holder: &Holder) {
        self.print_remark(&format!("released: {}", holder.describe(|since| self.time_format.format(since))));
    }

    /// Prints the result of a roll; anything but "everything done" is a failure.
    pub fn print_roll_result(&self, rolled: &RollReport) -> Result<(), Failure> {
        if let Some(RollFollower::Live(board)) = self.lock_follower().take() {
            let _ = board.bars.clear();
        }
        if self.is_json {
            self.print_text(&format_event_line("roll", None, rolled));
        } else {
            self.print_text(&format_roll(&rolled.progress, &self.service_flag, self.time_format));
        }
        for undelivered in &rolled.undelivered {
            self.print_remark(&format!("{} {undelivered}", "warning:".yellow()));
        }
        if rolled.is_complete() {
            return Ok(());
        }
        let progress = &rolled.progress;
        let (done, total) = (progress.count_done(), progress.hosts.len());
        let reason = match (progress.result, &progress.stop_reason) {
            (Some(RollResult::PartiallyAborted), _) => "not every host could be put back".to_owned(),
            (_, Some(reason)) => reason.clone(),
            (_, None) => format!("{} failed", progress.count_failures()),
        };
        Err(Failure::RollIncomplete {
            roll: progress.roll.clone(),
            done,
            of: total,
            reason,
            finished: progress.is_finished(),
            service_flag: self.service_flag.clone(),
        })
    }
}

fn format_event_line<T: Serialize>(kind: &str, roll: Option<&RollId>, event: T) -> String {
    match serde_json::to_string(&EventLine { schema: SCHEMA_VERSION, kind, roll, event }) {
        Ok(line) => line + "\n",
        Err(error) => format!("{{\"schema\":{SCHEMA_VERSION},\"kind\":\"error\",\"reason\":\"{error}\"}}\n"),
    }
}

/// Formats an event as a line.
pub(super) fn format_roll_event(event: &RollEvent) -> String {
    let names = |hosts: &[HostName]| hosts.iter().map(HostName::as_str).collect::<Vec<_>>().join(", ");
    match event {
        RollEvent::Began { hosts, is_resumed: false } => format!("roll over {}", names(hosts)),
        RollEvent::Began { hosts, is_resumed: true } => format!("roll over {} goes on", names(hosts)),
        RollEvent::Batch { number, of, hosts } => format!("batch {number} of {of}: {}", names(hosts)),
        RollEvent::StepBegan { host, description, .. } => format!("{host}: {description}"),
        RollEvent::StepDone { host, description, detail, .. } if detail.is_empty() => {
            format!("{host}: {description}")
        }
        RollEvent::StepDone { host, description, detail, .. } => format!("{host}: {description} ({detail})"),
        RollEvent::StepFailed { host, step, reason } => {
            format!("{host}: {} at {step}: {reason}", "failed".red())
        }
        RollEvent::Output { host: Some(host), line } => format!("{host} | {line}"),
        RollEvent::Output { host: None, line } => format!("| {line}"),
        RollEvent::Settled { host, end, detail } => {
            let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
            format!("{host}: {}{detail}", describe_host_end(*end))
        }
        RollEvent::HostDone { host, elapsed: took } => {
            format!("{host}: {} after {}", "done".green(), format(*took))
        }
        RollEvent::Waiting { reason } => format!("the next batch waits: {reason}"),
        RollEvent::Aborting { hosts } if hosts.is_empty() => "aborting: no host is out".to_owned(),
        RollEvent::Aborting { hosts } => format!("aborting: putting back {}", names(hosts)),
        RollEvent::Ended { result: Some(_), reason } => format!("roll ended: {reason}"),
        RollEvent::Ended { result: None, reason } => format!("roll stopped: {reason}"),
    }
}

fn describe_host_end(end: HostOutcome) -> &'static str {
    match end {
        HostOutcome::Restored => "put back into service",
        HostOutcome::LeftInMaintenance => "left out of service, its users are on its backup vhost",
        HostOutcome::TakenOver => "taken over by another operation, which keeps it out of service",
        HostOutcome::NotUp => "forward on, but not UP everywhere",
        HostOutcome::Unreachable => "not reached, left in its last set state",
    }
}

/// The progress of a roll, and the holder of the fleet lock. `flag`: the ` --service NAME` that the next command line needs.
pub(super) fn format_roll_status(view: &RollView, flag: &str, time: TimeFormat) -> String {
    let mut text = match &view.progress {
        None => "no roll yet\n".to_owned(),
        Some(progress) => format_roll(progress, flag, time),
    };
    if let Some(lock) = &view.lock {
        let _ = write!(text, "lock: {}", format_lock(lock, time));
    }
    if let Some(progress) = view.progress.as_ref().filter(|progress| !progress.is_finished()) {
        let runs = view.lock.as_ref().is_some_and(|lock| lock.liveness != Liveness::Dead);
        let next = match (runs, &progress.stop_reason) {
            (true, None) => "it is running".to_owned(),
            (_, stopped) => {
                let was = if stopped.is_some() { "stopped" } else { "cut off (killed, or power lost)" };
                format!(
                    "it was {was}: `switchman roll{flag} --resume` goes on, `switchman roll{flag} --abort` puts back every host it took out"
                )
            }
        };
        let _ = writeln!(text, "next: {next}");
    }
    text
}

pub(super) fn format_lock(lock: &LockView, time: TimeFormat) -> String {
    let life = match (&lock.holder.purpose, lock.liveness) {
        (LockPurpose::Operator { .. }, _) => "until it is released",
        (_, Liveness::Live) => "alive",
        (_, Liveness::Dead) => "its process has ended: the next roll, --resume or --abort takes over",
        (_, Liveness::Remote) => "on another machine: see its heartbeat",
    };
    format!("held by {} ({life})\n", lock.holder.describe(|since| time.format(since)))
}

fn format_roll(progress: &RollProgress, flag: &str, time: TimeFormat) -> String {
    let mut text = String::new();
    let spec = &progress.spec;
    let took = format_duration_between(progress.began_at, progress.changed_at);
    let state = match (progress.result, &progress.stop_reason) {
        (Some(result), _) => to_json_word(&result),
        (None, Some(reason)) => format!("stopped: {reason}"),
        (None, None) => "not finished".to_owned(),
    };
    let _ = writeln!(
        text,
        "{} by {} at {}: {}: {}, {} of {} done, {took}",
        progress.roll.bold(),
        clean_line(&progress.actor.user),
        time.format(progress.began_at),
        clean_line(&spec.format_command()),
        clean_line(&state),
        progress.count_done(),
        Count(progress.hosts.len(), "host"),
    );
    for refusal in &progress.overridden {
        let _ = writeln!(text, "overridden by --force: {}", clean_line(refusal));
    }
    let unfinished = !progress.is_finished();
    let row = |host| format_host_row(host, &spec.work, unfinished, flag);
    let rows = progress.hosts.iter().map(row).collect();
    text.push_str(&table::format_table(&["HOST", "STATE", "STEP", "TOOK", "DETAIL", "NEXT"], rows));
    text
}

pub(super) fn format_host_row(host: &HostProgress, work: &Work, unfinished: bool, flag: &str) -> Vec<String> {
    let state = match (host.state, host.end) {
        (StepState::Done, _) => "done".to_owned(),
        (StepState::Waiting, _) => "waiting".to_owned(),
        (StepState::Failed, Some(end)) => format!("failed, {}", to_json_word(&end)),
        (_, Some(end)) => to_json_word(&end),
        (StepState::Failed, None) => "failed".to_owned(),
        (StepState::Began | StepState::StepDone, None) if host.may_be_out() => "out".to_owned(),
        (StepState::Began | StepState::StepDone, None) => "begun".to_owned(),
    };
    let step = match (host.step, host.state) {
        (None, _) => "",
        (Some(step), StepState::Began) => step.describe_begun(work),
        (Some(step), StepState::StepDone | StepState::Done) => step.describe_done(work),
        (Some(step), StepState::Failed | StepState::Waiting) => step.as_str(),
    };
    let step = step.to_owned();
    let took = match (host.began_at, host.changed_at) {
        (Some(began), Some(changed)) => format_duration_between(began, changed),
        _ => String::new(),
    };
    vec![
        host.host.to_string(),
        state,
        step,
        took,
        host.detail.clone(),
        suggest_next_command(host, unfinished, flag),
    ]
}

/// Returns the next command for a host that failed or was left out.
fn suggest_next_command(host: &HostProgress, unfinished: bool, flag: &str) -> String {
    match host.end {
        Some(HostOutcome::LeftInMaintenance) if unfinished => {
            format!("repair its main vhost, then: switchman roll{flag} --resume")
        }
        Some(HostOutcome::LeftInMaintenance) => {
            format!("repair its main vhost, then: switchman enable-forward{flag} --host {}", host.host)
        }
        Some(HostOutcome::TakenOver) => {
            let status = format!("switchman status{flag} --host {} shows its owner", host.host);
            let resume = if unfinished {
                format!("; when it is back: switchman roll{flag} --resume")
            } else {
                String::new()
            };
            format!("{status}{resume}")
        }
        Some(HostOutcome::NotUp | HostOutcome::Unreachable) => {
            format!("switchman status{flag} --host {}", host.host)
        }
        _ => String::new(),
    }
}

pub(super) fn to_json_word(value: &impl Serialize) -> String {
    let text = serde_json::to_value(value).unwrap_or_default();
    text.as_str().unwrap_or_default().replace('-', " ")
}

fn format_duration_between(from: jiff::Timestamp, to: jiff::Timestamp) -> String {
    format(Duration::try_from(to.duration_since(from)).unwrap_or_default())
}

/// Truncates a command to fit a line of a table; `history --roll` shows all of it.
fn truncate_command(text: &str) -> String {
    match text.char_indices().nth(MAX_COMMAND_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Formats past rolls, one line each.
pub(super) fn format_past_rolls(rolls: &[RollProgress]) -> String {
    let row = |roll: &RollProgress| {
        let result = match (roll.result, &roll.stop_reason) {
            (Some(result), _) => to_json_word(&result),
            (None, Some(_)) => "stopped".to_owned(),
            (None, None) => "not finished".to_owned(),
        };
        vec![
            roll.roll.to_string(),
            roll.actor.user.clone(),
            truncate_command(&roll.spec.format_command()),
            result,
            format!("{} of {}", roll.count_done(), roll.hosts.len()),
            format_duration_between(roll.began_at, roll.changed_at),
        ]
    };
    table::format_table(
        &["ROLL", "WHO", "COMMAND", "RESULT", "DONE", "TOOK"],
        rolls.iter().map(row).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example;
    use crate::plan::roll::progress::build_progress;

    /// Another operator's text in a shared journal forges neither a line nor a colour.
    #[test]
    fn texts_of_a_journal_stay_in_their_line() {
        let entries = example::make_roll_entries(&["web1"], 1_000, vec![]);
        let mut progress = build_progress(&entries).unwrap();
        progress.actor.user = "ann\u{1b}[32m".to_owned();
        progress.overridden = vec!["min_up\nnext: run evil".to_owned()];
        progress.stop_reason = Some("cut\nweb1  done".to_owned());
        let text = format_roll(&progress, "", TimeFormat::default());
        assert!(
            text.contains("by ann\\u{1b}[32m at ") && text.contains("stopped: cut web1  done,"),
            "{text}"
        );
        assert!(text.contains("overridden by --force: min_up next: run evil\n"), "{text}");
    }
}
