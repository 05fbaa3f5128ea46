//! A roll: lines as it goes, a live table on a terminal, JSON lines for programs, and how it ended.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use owo_colors::OwoColorize;
use serde::Serialize;

use super::{Render, SCHEMA, table};
use crate::error::Failure;
use crate::model::duration::show;
use crate::model::journal::{HostEnd, RollResult};
use crate::model::lock::{Life, LockView, Purpose};
use crate::model::name::{BalancerName, HostName};
use crate::model::roll::{RollId, Step};
use crate::ops::fleet::roll::RollReport;
use crate::plan::roll::RollPlan;
use crate::plan::roll::progress::{HostStanding, Reached, Standing};
use crate::world::reporter::{Event, RollEvent};

/// Letters of a command in a table.
const MOST: usize = 40;

/// The last roll and the lock, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RollView {
    pub standing: Option<Standing>,
    pub lock: Option<LockView>,
}

/// Who follows a roll.
#[derive(Debug)]
pub(super) enum Follower {
    /// One line of JSON an event, to stdout; of which roll is known from its first event on.
    Json(Option<RollId>),
    /// One line a host that is out, redrawn in place.
    Live(Board),
}

/// The live table.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) bars: MultiProgress,
    rows: BTreeMap<HostName, Line>,
}

/// One host that is out.
#[derive(Debug)]
struct Line {
    bar: ProgressBar,
    step: Option<Step>,
    at_most: Option<Duration>,
    says: BTreeMap<BalancerName, String>,
    in_flight: Option<u64>,
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

/// What is heard on the way, beside the roll's own events.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Beside<'a> {
    Heard { host: &'a HostName, balancer: &'a BalancerName, server: &'a str, says: &'a str },
    Draining { host: &'a HostName, in_flight: u64, busy_sockets: u64 },
    Warning { text: &'a str },
}

impl Render {
    /// From now on events are those of a roll.
    pub fn follow_roll(&self) {
        let follower = if self.json {
            Follower::Json(None)
        } else if std::io::stderr().is_terminal() {
            Follower::Live(Board { bars: MultiProgress::new(), rows: BTreeMap::new() })
        } else {
            return;
        };
        *self.follower() = Some(follower);
    }

    /// Whether the event needs no line of its own.
    pub(super) fn follow(&self, event: &Event) -> bool {
        let mut follower = self.follower();
        match &mut *follower {
            None => false,
            Some(Follower::Json(known)) => {
                if let Event::Roll { roll, .. } = event {
                    known.get_or_insert_with(|| roll.clone());
                }
                let roll = known.clone();
                drop(follower);
                self.event_line(roll.as_ref(), event);
                true
            }
            Some(Follower::Live(board)) => board.take(event),
        }
    }

    fn event_line(&self, roll: Option<&RollId>, event: &Event) {
        let text = match event {
            Event::Roll { event, .. } => json("roll-event", roll, event),
            Event::Heard { host, balancer, server, detail, .. } => {
                json("roll-event", roll, Beside::Heard { host, balancer, server, says: detail })
            }
            Event::Draining { host, in_flight, busy_sockets, .. } => {
                let (in_flight, busy_sockets) = (*in_flight, *busy_sockets);
                json("roll-event", roll, Beside::Draining { host, in_flight, busy_sockets })
            }
            Event::Warning { text } => json("roll-event", roll, Beside::Warning { text }),
            _ => return,
        };
        self.text(&text);
        // A reader that went away does not stop a roll.
        let _ = self.flush();
    }

    pub fn plan(&self, plan: &RollPlan) {
        if self.json {
            return self.document("plan", plan);
        }
        self.text(&plan.to_string());
    }

    pub fn roll_status(&self, view: &RollView) {
        if self.json {
            return self.document("roll-status", view);
        }
        self.text(&standing(view, &self.flag));
    }

    pub fn past_roll(&self, roll: &Standing) {
        if self.json {
            return self.document("roll", roll);
        }
        self.text(&report(roll, &self.flag));
    }

    pub fn lock(&self, lock: Option<&LockView>) {
        #[derive(Serialize)]
        struct Lock<'a> {
            lock: Option<&'a LockView>,
        }
        if self.json {
            return self.document("lock", &Lock { lock });
        }
        self.text(&lock.map_or_else(|| "nobody holds the fleet\n".to_owned(), held));
    }

    /// How it ended; anything but "everything done" is a failure.
    pub fn rolled(&self, rolled: &RollReport) -> Result<(), Failure> {
        if let Some(Follower::Live(board)) = self.follower().take() {
            let _ = board.bars.clear();
        }
        if self.json {
            self.text(&json("roll", None, rolled));
        } else {
            self.text(&report(&rolled.standing, &self.flag));
        }
        for undelivered in &rolled.undelivered {
            self.remark(&format!("{} {undelivered}", "warning:".yellow()));
        }
        if rolled.is_whole() {
            return Ok(());
        }
        let standing = &rolled.standing;
        let (done, of) = (standing.done(), standing.hosts.len());
        let why = match (standing.result, &standing.stopped) {
            (Some(RollResult::AbortedInPart), _) => "not every host could be put back".to_owned(),
            (_, Some(why)) => why.clone(),
            (_, None) => format!("{} failed", standing.failures()),
        };
        Err(Failure::NotRolled {
            roll: standing.roll.clone(),
            done,
            of,
            why,
            finished: standing.is_finished(),
            flag: self.flag.clone(),
        })
    }
}

fn json<T: Serialize>(kind: &str, roll: Option<&RollId>, event: T) -> String {
    match serde_json::to_string(&EventLine { schema: SCHEMA, kind, roll, event }) {
        Ok(line) => line + "\n",
        Err(error) => format!("{{\"schema\":{SCHEMA},\"kind\":\"error\",\"why\":\"{error}\"}}\n"),
    }
}

impl Board {
    fn take(&mut self, event: &Event) -> bool {
        match event {
            Event::Heard { host, balancer, detail, .. } => {
                let Some(line) = self.rows.get_mut(host) else { return false };
                line.says.insert(balancer.clone(), detail.clone());
                line.show(host);
                true
            }
            Event::Draining { host, in_flight, busy_sockets, .. } => {
                let Some(line) = self.rows.get_mut(host) else { return false };
                line.in_flight = Some((*in_flight).max(*busy_sockets));
                line.show(host);
                true
            }
            Event::Drained { .. } | Event::Committed { .. } | Event::AlreadySo { .. } => true,
            Event::Roll { event, .. } => self.roll(event),
            _ => false,
        }
    }

    fn roll(&mut self, event: &RollEvent) -> bool {
        match event {
            RollEvent::StepBegan { host, step, at_most } => {
                let bars = &self.bars;
                let line = self.rows.entry(host.clone()).or_insert_with(|| Line::new(bars));
                (line.step, line.at_most) = (Some(*step), *at_most);
                line.bar.reset_elapsed();
                line.show(host);
                true
            }
            RollEvent::StepDone { .. } => true,
            RollEvent::HostDone { host, .. } | RollEvent::Settled { host, .. } => {
                if let Some(line) = self.rows.remove(host) {
                    line.bar.finish_and_clear();
                }
                false
            }
            _ => false,
        }
    }
}

impl Line {
    fn new(bars: &MultiProgress) -> Self {
        let bar = bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed:>4} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, step: None, at_most: None, says: BTreeMap::new(), in_flight: None }
    }

    fn show(&self, host: &HostName) {
        let step = self.step.map_or("", Step::as_str);
        self.bar.set_prefix(format!("{host:<16} {step:<12}"));
        let mut text = self.at_most.map(|at_most| format!("of {:<6} ", show(at_most))).unwrap_or_default();
        for (balancer, says) in &self.says {
            let _ = write!(text, " {balancer}: {says} ");
        }
        if let Some(in_flight) = self.in_flight.filter(|_| self.step == Some(Step::Drained)) {
            let _ = write!(text, " {in_flight} in flight");
        }
        self.bar.set_message(text);
    }
}

/// One event as a line.
pub(super) fn line(event: &RollEvent) -> String {
    let names = |hosts: &[HostName]| hosts.iter().map(HostName::as_str).collect::<Vec<_>>().join(", ");
    match event {
        RollEvent::Began { hosts, resumed: false } => format!("roll over {}", names(hosts)),
        RollEvent::Began { hosts, resumed: true } => format!("roll over {} goes on", names(hosts)),
        RollEvent::Batch { number, of, hosts } => format!("batch {number} of {of}: {}", names(hosts)),
        RollEvent::StepBegan { host, step, .. } => format!("{host}: {step}"),
        RollEvent::StepDone { host, step, detail } if detail.is_empty() => format!("{host}: {step} done"),
        RollEvent::StepDone { host, step, detail } => format!("{host}: {step} done, {detail}"),
        RollEvent::StepFailed { host, step, why } => format!("{host}: {} at {step}: {why}", "failed".red()),
        RollEvent::Output { host: Some(host), line } => format!("{host} | {line}"),
        RollEvent::Output { host: None, line } => format!("| {line}"),
        RollEvent::Settled { host, end, detail } => {
            let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
            format!("{host}: {}{detail}", end_words(*end))
        }
        RollEvent::HostDone { host, took } => format!("{host}: {} after {}", "done".green(), show(*took)),
        RollEvent::Waiting { why } => format!("the next batch waits: {why}"),
        RollEvent::Aborting { hosts } if hosts.is_empty() => "aborting: no host is out".to_owned(),
        RollEvent::Aborting { hosts } => format!("aborting: putting back {}", names(hosts)),
        RollEvent::Ended { result: Some(_), why } => format!("roll ended: {why}"),
        RollEvent::Ended { result: None, why } => format!("roll stopped: {why}"),
    }
}

fn end_words(end: HostEnd) -> &'static str {
    match end {
        HostEnd::Returned => "put back into service",
        HostEnd::LeftOut => "left out of service, its users are on its backup vhost",
        HostEnd::NotUp => "forward on, but not UP everywhere",
        HostEnd::Unreachable => "not reached, left as it was told last",
    }
}

/// Where a roll stands, and who holds the fleet. `flag`: what the next command line has besides.
pub(super) fn standing(view: &RollView, flag: &str) -> String {
    let mut text = match &view.standing {
        None => "no roll yet\n".to_owned(),
        Some(standing) => report(standing, flag),
    };
    if let Some(lock) = &view.lock {
        let _ = write!(text, "lock: {}", held(lock));
    }
    if let Some(standing) = view.standing.as_ref().filter(|standing| !standing.is_finished()) {
        let runs = view.lock.as_ref().is_some_and(|lock| lock.life != Life::Gone);
        let next = match (runs, &standing.stopped) {
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

pub(super) fn held(lock: &LockView) -> String {
    let life = match (&lock.holder.purpose, lock.life) {
        (Purpose::Person { .. }, _) => "until it is released",
        (_, Life::Alive) => "alive",
        (_, Life::Gone) => "its process is gone: the next roll, --resume or --abort takes over",
        (_, Life::Elsewhere) => "on another machine: its heartbeat tells",
    };
    format!("held by {} ({life})\n", lock.holder)
}

fn report(standing: &Standing, flag: &str) -> String {
    let mut text = String::new();
    let spec = &standing.spec;
    let took = duration(standing.began_at, standing.changed_at);
    let state = match (standing.result, &standing.stopped) {
        (Some(result), _) => json_word(&result),
        (None, Some(why)) => format!("stopped: {why}"),
        (None, None) => "not finished".to_owned(),
    };
    let _ = writeln!(
        text,
        "{} by {} at {:.0}: {}: {state}, {} of {} hosts done, {took}",
        standing.roll.bold(),
        standing.actor.user,
        standing.began_at,
        spec.command.join(" "),
        standing.done(),
        standing.hosts.len(),
    );
    let unfinished = !standing.is_finished();
    let rows = standing.hosts.iter().map(|host| host_row(host, unfinished, flag)).collect();
    text.push_str(&table::table(&["HOST", "STATE", "STEP", "TOOK", "DETAIL", "NEXT"], rows));
    text
}

fn host_row(host: &HostStanding, unfinished: bool, flag: &str) -> Vec<String> {
    let state = match (host.reached, host.end) {
        (Reached::Done, _) => "done".to_owned(),
        (Reached::Waiting, _) => "waiting".to_owned(),
        (Reached::Failed, Some(end)) => format!("failed, {}", json_word(&end)),
        (_, Some(end)) => json_word(&end),
        (Reached::Failed, None) => "failed".to_owned(),
        (Reached::Began | Reached::StepDone, None) if host.may_be_out() => "out".to_owned(),
        (Reached::Began | Reached::StepDone, None) => "begun".to_owned(),
    };
    let step = host.step.map_or("", Step::as_str).to_owned();
    let took = match (host.began_at, host.changed_at) {
        (Some(began), Some(changed)) => duration(began, changed),
        _ => String::new(),
    };
    vec![host.host.to_string(), state, step, took, host.detail.clone(), next(host, unfinished, flag)]
}

/// The command to type for a host that did not get through.
fn next(host: &HostStanding, unfinished: bool, flag: &str) -> String {
    match host.end {
        Some(HostEnd::LeftOut) if unfinished => {
            format!("mend its main vhost, then: switchman roll{flag} --resume")
        }
        Some(HostEnd::LeftOut) => {
            format!("mend its main vhost, then: switchman enable-forward{flag} --host {}", host.host)
        }
        Some(HostEnd::NotUp | HostEnd::Unreachable) => format!("switchman status{flag} --host {}", host.host),
        _ => String::new(),
    }
}

pub(super) fn json_word(value: &impl Serialize) -> String {
    let text = serde_json::to_value(value).unwrap_or_default();
    text.as_str().unwrap_or_default().replace('-', " ")
}

fn duration(from: jiff::Timestamp, to: jiff::Timestamp) -> String {
    show(Duration::try_from(to.duration_since(from)).unwrap_or_default())
}

/// As much as fits a line of a table; `history --roll` has the whole of it.
fn short(text: &str) -> String {
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Past rolls, one line each.
pub(super) fn past(rolls: &[Standing]) -> String {
    let row = |roll: &Standing| {
        let result = match (roll.result, &roll.stopped) {
            (Some(result), _) => json_word(&result),
            (None, Some(_)) => "stopped".to_owned(),
            (None, None) => "not finished".to_owned(),
        };
        vec![
            roll.roll.to_string(),
            roll.actor.user.clone(),
            short(&roll.spec.command.join(" ")),
            result,
            format!("{} of {}", roll.done(), roll.hosts.len()),
            duration(roll.began_at, roll.changed_at),
        ]
    };
    table::table(&["ROLL", "WHO", "COMMAND", "RESULT", "DONE", "TOOK"], rolls.iter().map(row).collect())
}
