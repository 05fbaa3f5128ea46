//! The only printer: results to stdout in one piece, everything else to stderr as it happens.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anstream::{AutoStream, ColorChoice};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize;
use serde::Serialize;

use crate::error::{ExitStatus, Failure};
use crate::model::history::HistoryEntry;
use crate::model::name::{HostName, ServiceName};
use crate::model::port_forward::Switch;
use crate::ops::fleet::forward::{SwitchReport, SwitchResults};
use crate::ops::host::restore::RestoreReport;
use crate::ops::init::InitReport;
use crate::plan::roll::progress::RollProgress;
use crate::world::lock::LockNote;

pub use compare::format_html_page;
pub use promote::PromotionView;
use roll::RollFollower;
pub use roll::RollView;

mod compare;
mod deployments;
mod events;
mod findings;
mod lab;
mod promote;
mod roll;
mod status;
mod table;

/// Version of the JSON that `--output json` prints: raised when a field changes its meaning or goes away.
const SCHEMA_VERSION: u32 = 1;

/// The output of a command.
#[derive(Debug)]
pub struct Renderer {
    is_json: bool,
    color: ColorChoice,
    buffer: Mutex<String>,
    /// Shows the current wait, on a terminal only.
    spinner: ProgressBar,
    follower: Mutex<Option<RollFollower>>,
    /// The flag that the next command line about this service needs: ` --service NAME` if this one was given it, else empty.
    service_flag: String,
}

#[derive(Serialize)]
struct Document<'a, T: Serialize> {
    schema: u32,
    kind: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

impl Renderer {
    pub fn new(is_json: bool, no_color: bool, service: Option<&ServiceName>) -> Self {
        let color = if no_color { ColorChoice::Never } else { ColorChoice::Auto };
        let spinner =
            if io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            spinner.set_style(style);
        }
        let service_flag = service.map(|name| format!(" --service {name}")).unwrap_or_default();
        Self { is_json, color, buffer: Mutex::default(), spinner, follower: Mutex::default(), service_flag }
    }

    /// Adds an unformatted text, such as a manual page.
    pub fn text(&self, text: &str) {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
    }

    pub fn print_switch(&self, switched: &SwitchReport) {
        if self.is_json {
            return self.print_json("switched", switched);
        }
        self.text(&events::format_switch(switched));
    }

    pub fn print_restore(&self, restored: &RestoreReport) {
        if self.is_json {
            return self.print_json("restored", restored);
        }
        self.text(&events::format_restore(restored));
    }

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
            tables.push(events::format_lock_notes(lock));
        }
        // An operator machine has rolls and no switches.
        if !rows.is_empty() || tables.is_empty() {
            tables.push(events::format_history(rows));
        }
        self.text(&tables.join("\n"));
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
        let of = each.len();
        let mut failed = Vec::new();
        for (_, switched) in each {
            match switched {
                Ok(switched) if !self.is_json => self.text(&events::format_switch(&switched)),
                Ok(_) => {}
                Err(error) => failed.push(error),
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(Failure::SwitchedPartially { switch, done: of - failed.len(), of, failed })
    }

    fn lock_follower(&self) -> MutexGuard<'_, Option<RollFollower>> {
        self.follower.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn print_init(&self, written: &InitReport) {
        if self.is_json {
            return self.print_json("initialised", written);
        }
        self.text(&events::format_init(written));
    }

    /// Prints a question on stdout; the operator types the answer after it.
    pub fn prompt(&self, question: &str) -> Result<(), Failure> {
        self.text(question);
        self.flush()
    }

    /// Prints a line to stderr.
    pub fn print_remark(&self, line: &str) {
        self.write_stderr_line(line);
    }

    /// Writes the collected results to stdout. A reader that closed the pipe (`| head`) is no failure.
    pub fn flush(&self) -> Result<(), Failure> {
        let text = std::mem::take(&mut *self.buffer.lock().unwrap_or_else(PoisonError::into_inner));
        self.spinner.finish_and_clear();
        let mut stdout = AutoStream::new(io::stdout(), self.color);
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::Other { what: "write to stdout".into(), why: error.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Prints the collected results, the error and its hint; returns the exit code.
    pub fn print_failure(&self, failure: &Failure) -> ExitStatus {
        // The given failure is the one to report, not a second one of stdout.
        let _ = self.flush();
        self.write_stderr_line(&format!("{} {failure}", "error:".red().bold()));
        if let Some(hint) = failure.hint() {
            self.write_stderr_line(&format!(" {} {hint}", "next:".bold()));
        }
        failure.code()
    }

    /// Writes a line to stderr, above the spinner if there is one.
    fn write_stderr_line(&self, line: &str) {
        let write = || {
            // Without stderr there is no channel left for an error.
            let _ = writeln!(AutoStream::new(io::stderr(), self.color), "{line}");
        };
        match &*self.lock_follower() {
            Some(RollFollower::Live(board)) => board.bars.suspend(write),
            _ => self.spinner.suspend(write),
        }
    }

    fn print_json<T: Serialize>(&self, kind: &str, body: &T) {
        match serde_json::to_string_pretty(&Document { schema: SCHEMA_VERSION, kind, body }) {
            Ok(text) => self.text(&format!("{text}\n")),
            Err(error) => self.write_stderr_line(&format!("cannot write JSON: {error}")),
        }
    }
}
