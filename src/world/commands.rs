//! Running the operator's own programs: the command of a roll, hooks.

use std::time::Duration;

use async_trait::async_trait;

use super::link::SharedLineSink;
use crate::model::api::{RunOutcome, RunRequest};

/// Why a program was not run to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("`{program}` is not installed")]
    Missing { program: String },
    #[error("cannot run `{program}`: {reason}")]
    StartFailed { program: String, reason: String },
    /// An earlier run with the same key has processes left.
    #[error("a process of an earlier run has not ended, after waiting {}", crate::model::duration::format(*.waited))]
    StillRunning { program: String, waited: Duration },
}

/// Whether the program is named by a path, and not searched for.
pub fn is_path(program: &str) -> bool {
    program.contains('/')
}

#[async_trait]
pub trait CommandRunner: Send + Sync {
    /// Runs to the end. Dropping the future ends the program and all it started in its process group: TERM, after a while
    /// KILL.
    async fn run(&self, request: &RunRequest, heard: SharedLineSink) -> Result<RunOutcome, CommandError>;

    /// Fails if this program certainly cannot be started.
    fn check_startable(&self, _program: &str) -> Result<(), CommandError> {
        Ok(())
    }

    /// Returns when no run is left, and everything that was given up has ended.
    async fn wait_for_all(&self) {}
}
