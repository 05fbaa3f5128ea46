//! The only printer: results to stdout in one piece, everything else to stderr as it happens.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anstream::{AutoStream, ColorChoice};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize;
use serde::Serialize;

use crate::error::{Code, Failure};
use crate::model::forward::Switch;
use crate::model::history::Entry;
use crate::model::name::{HostName, ServiceName};
use crate::ops::fleet::forward::{Each, Switched};
use crate::ops::host::restore::Restored;
use crate::ops::init::Initialised;
use crate::plan::roll::progress::Standing;
use crate::world::lock::LockNote;

pub use compare::html;
pub use promote::RolloutView;
use roll::Follower;
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
const SCHEMA: u32 = 1;

/// One command's output.
#[derive(Debug)]
pub struct Render {
    json: bool,
    color: ColorChoice,
    out: Mutex<String>,
    /// Says what is being waited for, on a terminal only.
    spinner: ProgressBar,
    follower: Mutex<Option<Follower>>,
    /// What the next command line about this service has besides: ` --service NAME` where this one was given it.
    flag: String,
}

#[derive(Serialize)]
struct Document<'a, T: Serialize> {
    schema: u32,
    kind: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

impl Render {
    pub fn new(json: bool, no_color: bool, service: Option<&ServiceName>) -> Self {
        let color = if no_color { ColorChoice::Never } else { ColorChoice::Auto };
        let spinner =
            if io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            spinner.set_style(style);
        }
        let flag = service.map(|name| format!(" --service {name}")).unwrap_or_default();
        Self { json, color, out: Mutex::default(), spinner, follower: Mutex::default(), flag }
    }

    /// A text as it is, such as a manual page.
    pub fn text(&self, text: &str) {
        self.out.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
    }

    pub fn switched(&self, switched: &Switched) {
        if self.json {
            return self.document("switched", switched);
        }
        self.text(&events::switched(switched));
    }

    pub fn restored(&self, restored: &Restored) {
        if self.json {
            return self.document("restored", restored);
        }
        self.text(&events::restored(restored));
    }

    pub fn history(&self, rows: &[Entry], rolls: &[Standing], lock: &[LockNote]) {
        #[derive(Serialize)]
        struct History<'a> {
            #[serde(rename = "history")]
            rows: &'a [Entry],
            rolls: &'a [Standing],
            lock: &'a [LockNote],
        }
        if self.json {
            return self.document("history", &History { rows, rolls, lock });
        }
        let mut tables = Vec::new();
        if !rolls.is_empty() {
            tables.push(roll::past(rolls));
        }
        if !lock.is_empty() {
            tables.push(events::lock_notes(lock));
        }
        // On an operator's machine there are rolls and no switches.
        if !rows.is_empty() || tables.is_empty() {
            tables.push(events::history(rows));
        }
        self.text(&tables.join("\n"));
    }

    /// Several hosts: what came of each. An error unless every one is switched.
    pub fn switched_many(&self, switch: Switch, each: Each) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct Many<'a> {
            hosts: Vec<Outcome<'a>>,
        }
        #[derive(Serialize)]
        struct Outcome<'a> {
            host: &'a HostName,
            switched: Option<&'a Switched>,
            error: Option<String>,
        }
        if self.json {
            let outcomes = each.iter().map(|(host, switched)| Outcome {
                host,
                switched: switched.as_ref().ok(),
                error: switched.as_ref().err().map(ToString::to_string),
            });
            self.document("switched-many", &Many { hosts: outcomes.collect() });
        }
        let of = each.len();
        let mut failed = Vec::new();
        for (_, switched) in each {
            match switched {
                Ok(switched) if !self.json => self.text(&events::switched(&switched)),
                Ok(_) => {}
                Err(error) => failed.push(error),
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(Failure::NotAll { switch, done: of - failed.len(), of, failed })
    }

    fn follower(&self) -> MutexGuard<'_, Option<Follower>> {
        self.follower.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn initialised(&self, written: &Initialised) {
        if self.json {
            return self.document("initialised", written);
        }
        self.text(&events::initialised(written));
    }

    /// A question on stdout; the answer is typed behind it.
    pub fn prompt(&self, question: &str) -> Result<(), Failure> {
        self.text(question);
        self.flush()
    }

    /// A line to stderr.
    pub fn remark(&self, line: &str) {
        self.note(line);
    }

    /// Writes what was collected to stdout. A reader that went away (`| head`) is no failure.
    pub fn flush(&self) -> Result<(), Failure> {
        let text = std::mem::take(&mut *self.out.lock().unwrap_or_else(PoisonError::into_inner));
        self.spinner.finish_and_clear();
        let mut stdout = AutoStream::new(io::stdout(), self.color);
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::Other { what: "write to stdout".into(), why: error.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Prints what was collected, the error and its hint; gives back the exit code.
    pub fn failure(&self, failure: &Failure) -> Code {
        // The failure at hand is the one to report, not a second one of stdout.
        let _ = self.flush();
        self.note(&format!("{} {failure}", "error:".red().bold()));
        if let Some(hint) = failure.hint() {
            self.note(&format!(" {} {hint}", "next:".bold()));
        }
        failure.code()
    }

    /// One line to stderr, above the spinner where there is one.
    fn note(&self, line: &str) {
        let write = || {
            // With stderr gone there is nobody to tell.
            let _ = writeln!(AutoStream::new(io::stderr(), self.color), "{line}");
        };
        match &*self.follower() {
            Some(Follower::Live(board)) => board.bars.suspend(write),
            _ => self.spinner.suspend(write),
        }
    }

    fn document<T: Serialize>(&self, kind: &str, body: &T) {
        match serde_json::to_string_pretty(&Document { schema: SCHEMA, kind, body }) {
            Ok(text) => self.text(&format!("{text}\n")),
            Err(error) => self.note(&format!("cannot write JSON: {error}")),
        }
    }
}
