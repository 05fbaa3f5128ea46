//! The lab's services: started with a log, stopped by pid.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::Instant;

use crate::sys::exec::{ExecError, Program};

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("cannot run a program of the lab: {0}")]
    Exec(#[from] ExecError),
    #[error("cannot write the log `{path}`: {source}")]
    Log { path: PathBuf, source: std::io::Error },
    #[error("cannot start {name}: it ended at once: {log}")]
    EndedEarly { name: String, log: String },
    #[error("cannot stop {name}: it did not end within {}", crate::model::duration::format(WAIT_TIMEOUT))]
    StopTimedOut { name: String },
    #[error(
        "cannot start the lab: timed out waiting for {condition} after {}",
        crate::model::duration::format(WAIT_TIMEOUT)
    )]
    TimedOut { condition: String },
}

/// A service of the lab.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(name: &str, program: &Program, log: &Path) -> Result<Self, ProcessError> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.map_err(|source| ProcessError::Log { path: log.to_owned(), source })?;
        Ok(Self { name: name.to_owned(), child: program.start(file)?, log: log.to_owned() })
    }

    pub fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
    }

    /// Waits until a condition holds, as long as the process lives.
    pub async fn wait_until(
        &self,
        condition: &str,
        holds: impl AsyncFn() -> bool,
    ) -> Result<(), ProcessError> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while !holds().await {
            if self.pid().is_none_or(has_ended) {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                return Err(ProcessError::EndedEarly { name: self.name.clone(), log: log.trim().to_owned() });
            }
            if Instant::now() > deadline {
                return Err(ProcessError::TimedOut { condition: condition.to_owned() });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Ends the process with a signal of the caller's choice, and waits for that.
    pub async fn stop(mut self, signal: Signal) -> Result<(), ProcessError> {
        if let Some(pid) = self.pid() {
            // One that has ended already is what is wanted.
            let _ = kill(pid, signal);
        }
        match tokio::time::timeout(WAIT_TIMEOUT, self.child.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ProcessError::StopTimedOut { name: self.name }),
        }
    }
}

/// A zombie waits only for us; /proc/PID/stat, third field (proc(5)).
fn has_ended(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}
