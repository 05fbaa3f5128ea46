//! `world::runner` without systemd: one small keeper process for each instance, in the manner of runit's runsv or a
//! containerd shim. This file is the callers' side; [`place`] describes the files between them and the keeper.
//!
//! Three parts are played by this same binary, as `switchman supervise DIR`: `launch` starts the keeper and ends, which
//! makes it a child of no caller; `keep` is the keeper; `become` is the program-to-be.
//!
//! Nothing starts keepers at boot: the owner of the instances calls `start` again then, as after the death of a keeper.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use super::exec::{OWN_EXE, Program};
use crate::model::deployment::{InstanceId, InstanceSpec, ProcessState};
use crate::world::link::SharedLineSink;
use crate::world::runner::{Runner, RunnerError, StopResult, SupervisorRole};

mod cgroup;
mod child;
mod instance_dir;
mod launch;
mod log;
mod monitor;
mod process;
mod restart_backoff;
mod tail;

pub use instance_dir::Tuning;
use instance_dir::{InstanceDir, SavedSpec, StartReport, StopOutcome, StopRequest};

/// How often a lock or a state is looked at while it is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Bound on the start of a keeper and its program, where nothing is left of an earlier run.
const LAUNCH_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a keeper may die in the middle of a stop before that is an error.
const MAX_STOP_ATTEMPTS: u32 = 3;

/// Plays one part of a keeper's life; the error is for the keeper's log.
pub fn supervise(dir: &Path, part: SupervisorRole) -> Result<(), String> {
    match part {
        SupervisorRole::Launch => launch::launch(dir),
        SupervisorRole::Monitor => monitor::keep(dir),
        SupervisorRole::Exec => child::become_program(dir),
    }
}

#[derive(Debug, Clone)]
pub struct Supervisor {
    dir: PathBuf,
    program: PathBuf,
    tuning: Tuning,
}

impl Supervisor {
    /// `state_dir` is switchman's own.
    pub fn new(state_dir: &Path) -> Self {
        let dir = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
        Self { dir: dir.join("instances"), program: OWN_EXE.into(), tuning: Tuning::default() }
    }

    /// Sets another program, for callers that are not switchman, as tests are, and other limits.
    #[must_use]
    pub fn with_program(self, program: impl Into<PathBuf>, tuning: Tuning) -> Self {
        Self { program: program.into(), tuning, ..self }
    }

    fn instance_dir(&self, instance: &InstanceId) -> InstanceDir {
        InstanceDir::new(self.dir.join(instance.to_string()))
    }

    /// Returns the directory of an instance that this host has.
    fn existing_dir(&self, instance: &InstanceId) -> Result<InstanceDir, RunnerError> {
        let place = self.instance_dir(instance);
        let unknown = || RunnerError::Unknown { instance: instance.clone() };
        place.dir().is_dir().then_some(place).ok_or_else(unknown)
    }

    /// Processes left by an earlier run get their grace before the start.
    async fn launch(&self, place: &InstanceDir, grace: Duration) -> Result<(), StartReport> {
        let failed = |reason: String| StartReport::Failed { why: reason };
        let program = Program::new(&self.program).args(["supervise", "--role", "launch"]).arg(place.dir());
        let output =
            program.run(b"", LAUNCH_TIMEOUT + grace).await.map_err(|error| failed(error.to_string()))?;
        match serde_json::from_str(&output.stdout) {
            Ok(StartReport::Started) => Ok(()),
            Ok(report) => Err(report),
            Err(_) => Err(failed(format!("cannot start its keeper: {}", output.stderr.trim()))),
        }
    }

    async fn start_instance(&self, place: &InstanceDir, spec: &InstanceSpec) -> Result<(), StartError> {
        place.create().map_err(|error| StartError::NotWritten(place.dir().to_owned(), error))?;
        let _turn = acquire_turn(place).await?;
        if place.stop()?.is_some() {
            // The caller that was stopping it has died.
            self.stop_instance(place, Duration::ZERO).await?;
        }
        while place.has_monitor()? && place.state()?.is_stopping {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let known = place.read_spec()?;
        match &known {
            Some(kept) if kept.spec != *spec => {
                return Err(io::Error::other("it is there already, and is run in another way").into());
            }
            Some(_) if place.has_monitor()? => return Ok(()),
            Some(_) => {}
            None => {
                let kept = SavedSpec { spec: spec.clone(), tuning: self.tuning.clone() };
                let written = place.keep(&kept);
                written.map_err(|error| StartError::NotWritten(place.file_path("spec.json"), error))?;
            }
        }
        let launched = self.launch(place, spec.grace).await;
        if launched.is_err() && known.is_none() {
            // Also where it is unknown whether it was started: the wait timed out.
            self.stop_instance(place, Duration::ZERO).await?;
        }
        launched.map_err(StartError::Report)
    }

    /// Stops through the keeper that is there, or one that is started for it.
    async fn stop_instance(&self, place: &InstanceDir, grace: Duration) -> io::Result<StopResult> {
        for _ in 0..MAX_STOP_ATTEMPTS {
            place.write_stop(StopRequest { grace })?;
            place.wake();
            if !place.has_monitor()?
                && let Err(report) = self.launch(place, Duration::ZERO).await
            {
                return Err(io::Error::other(format!("{report:?}")));
            }
            wait_until_monitor_exits(place).await?;
            if let Some(how) = place.state()?.ended {
                place.remove_spec()?;
                return Ok(match how {
                    StopOutcome::Already => StopResult::NotRunning,
                    StopOutcome::Gracefully => StopResult::Exited,
                    StopOutcome::Killed => StopResult::Killed,
                });
            }
        }
        Err(io::Error::other("its keeper died on every attempt"))
    }
}

/// Admits one caller at a time; the lock of a caller that died is free.
async fn acquire_turn(place: &InstanceDir) -> io::Result<File> {
    loop {
        if let Some(turn) = place.lock("turn.lock")? {
            return Ok(turn);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        place.create()?;
    }
}

async fn wait_until_monitor_exits(place: &InstanceDir) -> io::Result<()> {
    while place.has_monitor()? {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// Why it was not started.
enum StartError {
    Report(StartReport),
    NotWritten(PathBuf, io::Error),
    Failed(io::Error),
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

fn to_runner_error(what: &'static str, instance: &InstanceId) -> impl Fn(io::Error) -> RunnerError {
    move |reason| RunnerError::Failed { action: what, instance: instance.clone(), reason: reason.to_string() }
}

#[async_trait]
impl Runner for Supervisor {
    fn name(&self) -> &'static str {
        "supervisor"
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<(), RunnerError> {
        let because =
            |reason: String| RunnerError::Failed { action: "start", instance: spec.id.clone(), reason };
        self.start_instance(&self.instance_dir(&spec.id), spec).await.map_err(|reason| match reason {
            StartError::Report(StartReport::Missing { program }) => RunnerError::Missing { program },
            StartError::Report(StartReport::NoUser { user }) => RunnerError::NoUser { user },
            StartError::Report(StartReport::Failed { why: reason }) => because(reason),
            StartError::Report(StartReport::Started) => because("it was started".to_owned()),
            StartError::NotWritten(path, reason) => {
                RunnerError::WriteFailed { path, reason: reason.to_string() }
            }
            StartError::Failed(reason) => because(reason.to_string()),
        })
    }

    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<StopResult, RunnerError> {
        let Ok(place) = self.existing_dir(instance) else { return Ok(StopResult::NotRunning) };
        let stopped = async {
            let _turn = acquire_turn(&place).await?;
            // Forgotten last: where it is not there, nothing of it is.
            if place.read_spec()?.is_none() && !place.has_monitor()? {
                place.remove_spec()?;
                return Ok(StopResult::NotRunning);
            }
            self.stop_instance(&place, grace).await
        };
        stopped.await.map_err(to_runner_error("stop", instance))
    }

    async fn state(&self, instance: &InstanceId) -> Result<ProcessState, RunnerError> {
        let place = self.existing_dir(instance)?;
        let failed = to_runner_error("read the state of", instance);
        let kept = place.has_monitor().map_err(&failed)?;
        let state = place.state().map_err(&failed)?;
        Ok(match state.process {
            ProcessState::Stopped { .. } => state.process,
            process if kept || state.main.as_ref().is_some_and(process::ProcessId::is_alive) => process,
            // Its keeper was ended by force, or the machine was.
            process => ProcessState::Stopped {
                since: None,
                last_exit: match process {
                    ProcessState::Waiting { last_exit: last, .. } => last,
                    _ => "exit status unknown".to_owned(),
                },
            },
        })
    }

    async fn list_instances(&self) -> Result<Vec<InstanceId>, RunnerError> {
        let cannot =
            |error: io::Error| RunnerError::ReadFailed { path: self.dir.clone(), reason: error.to_string() };
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(cannot)?,
        };
        let mut known = Vec::new();
        for entry in entries {
            let path = entry.map_err(cannot)?.path();
            let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            known.extend(id.filter(|_| path.join("spec.json").exists()));
        }
        known.sort();
        Ok(known)
    }

    async fn stream_logs(
        &self,
        instance: &InstanceId,
        tail: Option<u32>,
        follow: bool,
        heard: SharedLineSink,
    ) -> Result<(), RunnerError> {
        let place = self.existing_dir(instance)?;
        let gone = || !place.file_path("spec.json").exists();
        tail::read(&place, tail, follow, gone, &heard)
            .await
            .map_err(to_runner_error("read the log of", instance))
    }

    async fn delete_records(&self, instance: &InstanceId) -> Result<(), RunnerError> {
        let Ok(place) = self.existing_dir(instance) else { return Ok(()) };
        let forgotten = async {
            let _turn = acquire_turn(&place).await?;
            if place.read_spec()?.is_some() || place.has_monitor()? {
                return Err(io::Error::other("it is not stopped"));
            }
            instance_dir::ignore_not_found(fs::remove_dir_all(place.dir()))
        };
        forgotten.await.map_err(to_runner_error("forget", instance))
    }
}

/// Reads a text as `/proc/PID/stat`: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub fn fuzz_process_stat(text: &str) {
    process::fuzz_stat(text);
}
