//! The only printer: results to stdout in one piece, everything else to stderr as it happens.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use anstream::{AutoStream, ColorChoice};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize;
use serde::Serialize;

use crate::error::{Code, Failure};
use crate::model::history::Entry;
use crate::ops::forward::Switched;
use crate::ops::init::Initialised;
use crate::ops::restore::Restored;

mod events;
mod findings;
mod lab;
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
}

#[derive(Serialize)]
struct Document<'a, T: Serialize> {
    schema: u32,
    kind: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

impl Render {
    pub fn new(json: bool, no_color: bool) -> Self {
        let color = if no_color { ColorChoice::Never } else { ColorChoice::Auto };
        let spinner =
            if io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            spinner.set_style(style);
        }
        Self { json, color, out: Mutex::default(), spinner }
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

    pub fn history(&self, rows: &[Entry]) {
        #[derive(Serialize)]
        struct History<'a> {
            history: &'a [Entry],
        }
        if self.json {
            return self.document("history", &History { history: rows });
        }
        self.text(&events::history(rows));
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
        self.spinner.suspend(|| {
            // With stderr gone there is nobody to tell.
            let _ = writeln!(AutoStream::new(io::stderr(), self.color), "{line}");
        });
    }

    fn document<T: Serialize>(&self, kind: &str, body: &T) {
        match serde_json::to_string_pretty(&Document { schema: SCHEMA, kind, body }) {
            Ok(text) => self.text(&format!("{text}\n")),
            Err(error) => self.note(&format!("cannot write JSON: {error}")),
        }
    }
}
