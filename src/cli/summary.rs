//! `--summary`: a file with the result of a command in Markdown, written at every end of it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;

use super::failure::fail_file;
use super::render::{Renderer, RollSummary};
use crate::error::Failure;
use crate::model::name::HostName;
use crate::plan::roll::progress::RollProgress;
use crate::world::reporter::{Event, Reporter, RollEvent};

/// Lines of output that are kept for each host.
const MAX_LINES: usize = 20;
/// Characters of such a line.
const MAX_LINE_CHARS: usize = 500;

#[derive(Debug, Args)]
pub struct SummaryArgs {
    /// Append the result in Markdown to this file, such as $GITHUB_STEP_SUMMARY
    #[arg(long, value_name = "FILE", value_parser = parse_file, conflicts_with_all = ["status", "dry_run"])]
    summary: Option<PathBuf>,
}

fn parse_file(text: &str) -> Result<PathBuf, String> {
    if text == "-" {
        return Err("a summary goes to a file; the result is on stdout already".to_owned());
    }
    Ok(text.into())
}

impl SummaryArgs {
    /// Opens the file, so that one that cannot be written ends the command before it touches a host.
    pub(super) fn open(
        &self,
        renderer: &Arc<Renderer>,
        forced_stop: Failure,
    ) -> Result<Option<Summary>, Failure> {
        let Some(path) = &self.summary else { return Ok(None) };
        let opened = File::options().append(true).create(true).open(path);
        let file = opened.map_err(fail_file("write", path))?;
        Ok(Some(Summary {
            path: path.clone(),
            file,
            renderer: renderer.clone(),
            outputs: Arc::default(),
            progress: Mutex::default(),
            forced_stop: Some(forced_stop),
        }))
    }
}

/// The last lines of each host.
type OutputTails = BTreeMap<HostName, VecDeque<String>>;

/// A summary that is not written yet. Dropped, it reports the second signal, which ends a command at once.
pub(super) struct Summary {
    path: PathBuf,
    file: File,
    renderer: Arc<Renderer>,
    outputs: Arc<Mutex<OutputTails>>,
    progress: Mutex<Option<RollProgress>>,
    /// `None` once it is written.
    forced_stop: Option<Failure>,
}

impl Summary {
    /// A reporter that passes every event on and keeps the last lines of output.
    pub(super) fn record_outputs(&self, reporter: Arc<dyn Reporter>) -> Arc<dyn Reporter> {
        Arc::new(OutputRecorder { reporter, outputs: self.outputs.clone() })
    }

    pub(super) fn note_progress(&self, progress: &RollProgress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress.clone());
    }

    /// Writes the end of the command. `remark`: the outcome where no roll was touched.
    pub(super) fn write(mut self, failure: Option<&Failure>, remark: &str) {
        self.forced_stop = None;
        self.append(failure, remark);
    }

    fn append(&self, failure: Option<&Failure>, remark: &str) {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let outputs = outputs.into_iter().map(|(host, lines)| (host, lines.into())).collect();
        let summary = RollSummary { progress: progress.as_ref(), outputs: &outputs, failure, remark };
        let text = self.renderer.format_roll_summary(&summary);
        // What the file has already may end without an end of line.
        let is_empty = self.file.metadata().is_ok_and(|file| file.len() == 0);
        let text = if is_empty { text } else { format!("\n{text}") };
        if let Err(error) = (&self.file).write_all(text.as_bytes()) {
            // The result of the roll stays the result of the command.
            let path = self.path.display();
            self.renderer.print_remark(&format!("warning: cannot write the summary `{path}`: {error}"));
        }
    }
}

impl Drop for Summary {
    fn drop(&mut self) {
        if let Some(failure) = self.forced_stop.take() {
            self.append(Some(&failure), "");
        }
    }
}

struct OutputRecorder {
    reporter: Arc<dyn Reporter>,
    outputs: Arc<Mutex<OutputTails>>,
}

impl Reporter for OutputRecorder {
    fn report(&self, event: &Event) {
        if let Event::Roll { event: RollEvent::Output { host: Some(host), line }, .. } = event {
            let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
            let lines = outputs.entry(host.clone()).or_default();
            if lines.len() == MAX_LINES {
                lines.pop_front();
            }
            lines.push_back(line.chars().take(MAX_LINE_CHARS).collect());
        }
        self.reporter.report(event);
    }
}
