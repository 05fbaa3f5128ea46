//! The printer that every kind of output uses.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize;
use serde::Serialize;

use super::live_table::RollFollower;
use super::time_format::TimeFormat;
use crate::error::{ExitStatus, Failure};
use crate::model::name::ServiceName;
use crate::model::terminal_text::{clean_json, clean_line, clean_styled};

/// Version of the JSON that `--output json` prints: raised when a field changes its meaning or goes away.
pub(super) const SCHEMA_VERSION: u32 = 2;

/// The output of a command.
#[derive(Debug)]
pub struct Renderer {
    pub(super) is_json: bool,
    pub(super) time_format: TimeFormat,
    color: ColorChoice,
    buffer: Mutex<String>,
    /// Shows the current wait, on a terminal only.
    spinner: ProgressBar,
    follower: Mutex<Option<RollFollower>>,
    /// The flag that the next command line about this service needs: ` --service NAME` if this one was given it, else empty.
    pub(super) service_flag: String,
}

#[derive(Serialize)]
struct Document<'a, T: Serialize> {
    schema: u32,
    kind: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

impl Renderer {
    pub fn new(
        is_json: bool,
        no_color: bool,
        time_format: TimeFormat,
        service: Option<&ServiceName>,
    ) -> Self {
        let color = if no_color { ColorChoice::Never } else { ColorChoice::Auto };
        let spinner =
            if io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            spinner.set_style(style);
        }
        let service_flag = service.map(|name| format!(" --service {name}")).unwrap_or_default();
        Self {
            is_json,
            time_format,
            color,
            buffer: Mutex::default(),
            spinner,
            follower: Mutex::default(),
            service_flag,
        }
    }

    /// Adds an unformatted text, such as a manual page.
    pub fn print_text(&self, text: &str) {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
    }

    pub(super) fn lock_follower(&self) -> MutexGuard<'_, Option<RollFollower>> {
        self.follower.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints a question on stdout; the operator types the answer after it.
    pub fn prompt(&self, question: &str) -> Result<(), Failure> {
        self.print_text(question);
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
        let text = if self.is_json { clean_json(&text) } else { clean_styled(&text) };
        let mut stdout = AutoStream::new(io::stdout(), self.color);
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output { source }),
            _ => Ok(()),
        }
    }

    /// Prints the collected results, the error and its hint; returns the exit code.
    pub fn print_failure(&self, failure: &Failure) -> ExitStatus {
        // The given failure is the one to report, not a second one of stdout.
        let _ = self.flush();
        self.write_stderr_line(&format!("{} {failure}", "error:".red().bold()));
        self.write_stderr_line(&format!(" {} {}", "next:".bold(), failure.hint()));
        failure.code()
    }

    /// Writes a line to stderr, above the spinner if there is one.
    pub(super) fn write_stderr_line(&self, line: &str) {
        let line = clean_styled(line);
        let write = || {
            // Without stderr there is no channel left for an error.
            let _ = writeln!(AutoStream::new(io::stderr(), self.color), "{line}");
        };
        match &*self.lock_follower() {
            Some(RollFollower::Live(board)) => board.bars.suspend(write),
            _ => self.spinner.suspend(write),
        }
    }

    pub(super) fn show_spinner(&self, message: &str) {
        self.spinner.set_message(clean_line(message).into_owned());
        self.spinner.enable_steady_tick(Duration::from_millis(120));
    }

    /// Prints a result as JSON, or as text for people.
    pub(super) fn print<T: Serialize>(&self, kind: &str, body: &T, format: impl FnOnce() -> String) {
        if self.is_json {
            return self.print_json(kind, body);
        }
        self.print_text(&format());
    }

    pub(super) fn print_json<T: Serialize>(&self, kind: &str, body: &T) {
        match serde_json::to_string_pretty(&Document { schema: SCHEMA_VERSION, kind, body }) {
            Ok(text) => self.print_text(&format!("{text}\n")),
            Err(error) => self.write_stderr_line(&format!("cannot write JSON: {error}")),
        }
    }
}
