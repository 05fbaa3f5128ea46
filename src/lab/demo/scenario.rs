//! The common parts of the demo's acts: progress, waits for answers, and commands whose result is checked.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::lab::error::LabError;
use crate::lab::load::{Load, Snapshot};
use crate::lab::operator::Operator;
use crate::model::duration;
use crate::model::shell::join_words;

/// Limit of every wait until the answers show an effect of the demo.
pub(super) const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// The receiver of the demo's progress.
pub trait ProgressSink: Sync {
    fn report_step(&self, text: &str);
    fn report_counts(&self, snapshot: &Snapshot);
}

/// A command of the demo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandReport {
    pub command: String,
    pub status: i32,
    #[serde(rename = "took_ms", serialize_with = "duration::serialize_ms")]
    pub took: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScenarioReport {
    #[serde(rename = "told")]
    pub commands: Vec<CommandReport>,
    /// The deviations from what should happen.
    pub faults: Vec<String>,
}

pub(super) async fn wait_for_answers(
    load: &Load,
    progress_sink: &dyn ProgressSink,
    condition: &str,
    holds: impl Fn(&Snapshot) -> bool,
) -> Result<(), LabError> {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let snapshot = load.take_snapshot();
        progress_sink.report_counts(&snapshot);
        if holds(&snapshot) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(LabError::TimedOut { condition: condition.to_owned(), waited: WAIT_TIMEOUT });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An act that runs the operator's commands beside the load.
pub(super) struct Scenario<'a> {
    pub operator: &'a Operator,
    pub load: &'a Load,
    pub progress_sink: &'a dyn ProgressSink,
    pub commands: Vec<CommandReport>,
    pub faults: Vec<String>,
}

impl Scenario<'_> {
    /// Runs one of the operator's commands, and shows what it prints.
    pub(super) async fn run(&mut self, args: &[&str]) -> Result<(), LabError> {
        self.run_expecting(args, 0, "").await
    }

    /// Runs a command that should end with this status and print these words: a failure for another reason is a fault.
    pub(super) async fn run_expecting(
        &mut self,
        args: &[&str],
        status: i32,
        words: &str,
    ) -> Result<(), LabError> {
        let shown: Vec<&str> = args.iter().map(|arg| arg.rsplit('/').next().unwrap_or(arg)).collect();
        let command = format!("switchman {}", join_words(shown));
        self.progress_sink.report_step(&format!("operator: {command}"));
        let began = std::time::Instant::now();
        let output = self.operator.run_switchman(args).await?;
        for line in output.stdout.lines() {
            self.progress_sink.report_step(&format!("    {line}"));
        }
        self.progress_sink.report_counts(&self.load.take_snapshot());
        if output.status != status || !output.stderr.contains(words) {
            let mut fault = format!("`{command}` ended with status {}", output.status);
            if output.status == status {
                let _ = write!(fault, " and did not print `{words}`");
            }
            for line in output.stderr.lines() {
                let _ = write!(fault, "\n    {line}");
            }
            self.faults.push(fault);
        }
        self.commands.push(CommandReport { command, status: output.status, took: began.elapsed() });
        Ok(())
    }

    /// Waits until every host answers with a version.
    pub(super) async fn wait_for_main(
        &mut self,
        hosts: &[String],
        version: &str,
        phase: &str,
    ) -> Result<(), LabError> {
        let everywhere = |now: &Snapshot| {
            hosts.iter().all(|host| now.count_answers(phase, host, "main", Some(version)) > 0)
        };
        let condition = format!("an answer of {version} on every host");
        match wait_for_answers(self.load, self.progress_sink, &condition, everywhere).await {
            Ok(()) => Ok(()),
            Err(LabError::TimedOut { condition, .. }) => {
                self.faults.push(format!("{condition} was not seen in `{phase}`"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Checks that, of the requests that began in a phase, none was answered by another version.
    pub(super) fn check_only_version(&mut self, version: &str, phase: &str) {
        let other = self.load.take_snapshot().count_answers_by_others(phase, version);
        if other > 0 {
            self.faults.push(format!(
                "{other} requests that began in `{phase}` were answered by another version than {version}"
            ));
        }
    }
}
