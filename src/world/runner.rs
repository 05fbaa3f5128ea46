//! Who starts, watches and stops the instances of a host.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use super::link::SharedLineSink;
use crate::model::account::Account;
use crate::model::deployment::{InstanceId, InstanceSpec, ProcessState};
use crate::model::name::ServiceName;

/// Why an instance was not started, stopped or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunnerError {
    #[error("`{program}` is not installed")]
    Missing { program: String },
    #[error("there is no user `{user}` on this host")]
    NoUser { user: String },
    #[error("cannot make the account `{user}`: {reason}")]
    NoAccount { user: String, reason: String },
    #[error("this host has no instance {instance}")]
    Unknown { instance: InstanceId },
    #[error("cannot {action} the instance {instance}: {reason}")]
    Failed { action: &'static str, instance: InstanceId, reason: String },
    #[error("cannot write `{path}`: {reason}")]
    WriteFailed { path: PathBuf, reason: String },
    #[error("cannot read `{path}`: {reason}")]
    ReadFailed { path: PathBuf, reason: String },
}

/// How an instance was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopResult {
    /// The instance was not running.
    NotRunning,
    /// The instance exited after TERM.
    Exited,
    /// The instance was killed (KILL) because it still ran when its grace period was over.
    Killed,
}

/// The parts that this same binary plays for the supervisor, each in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupervisorRole {
    /// Starts a keeper and exits, so that the keeper has no parent among our processes.
    Launch,
    /// Keeps one instance.
    Monitor,
    /// Becomes the program of an instance.
    Exec,
}

/// The processes that a runner starts go on when switchman ends, is killed or is replaced by another version of itself.
#[async_trait]
pub trait Runner: Send + Sync {
    /// Whether instances come back at boot without switchman. If they do, switchman does not start them at boot, where
    /// waiting for them might be a circular wait.
    fn restarts_at_boot(&self) -> bool {
        false
    }

    /// Whether the whole machine is shutting down, as far as its service manager reports that.
    async fn is_machine_stopping(&self) -> bool {
        false
    }

    /// The runner's name for people: `systemd`, `supervisor`.
    fn name(&self) -> &'static str;

    /// Whether programs that name no user run as root.
    fn is_root(&self) -> bool;

    /// Returns the user of an instance by its numbers; the own account of the service is made where it is missing. `None`: the
    /// runner cannot start programs as another user than its own, because it is not root.
    async fn prepare_account(
        &self,
        service: &ServiceName,
        user: &str,
    ) -> Result<Option<Account>, RunnerError>;

    /// Records how it is run and starts it; again at boot and whenever it ends by itself (with a growing pause). Idempotent:
    /// one that runs already, by whomever it was started, is adopted and left alone. Returns when it is started, not when it
    /// answers.
    async fn start(&self, spec: &InstanceSpec) -> Result<(), RunnerError>;

    /// TERM to all of its processes, KILL when `grace` is over; then nothing of it is left, not even a process it made into
    /// a daemon, and it is not started again. Idempotent. Forgets how it is run, and keeps its log.
    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<StopResult, RunnerError>;

    /// The state of an instance now.
    async fn state(&self, instance: &InstanceId) -> Result<ProcessState, RunnerError>;

    /// All instances it has a record of, running or not.
    async fn list_instances(&self) -> Result<Vec<InstanceId>, RunnerError>;

    /// The last `tail` lines (`None`: all) of an instance's two outputs, oldest first. With `follow`, also the lines it
    /// writes until the future is dropped or the instance has ended.
    async fn stream_logs(
        &self,
        instance: &InstanceId,
        tail: Option<u32>,
        follow: bool,
        heard: SharedLineSink,
    ) -> Result<(), RunnerError>;

    /// Forgets how an instance is run, and deletes its log too.
    async fn delete_records(&self, instance: &InstanceId) -> Result<(), RunnerError>;
}
