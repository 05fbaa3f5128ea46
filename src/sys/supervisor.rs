//! `world::runner` without systemd: one small keeper process for each instance, in the manner of runit's runsv or a
//! containerd shim. This file is the callers' side; [`place`] says what lies between them and the keeper.
//!
//! Three parts are played by this same binary, as `switchman supervise DIR`: `launch` starts the keeper and ends, which
//! makes it nobody's child; `keep` is the keeper; `become` is the program-to-be.
//!
//! Nothing starts keepers at boot: whoever knows the instances calls `start` again then, as after the death of a keeper.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use super::exec::{OURSELVES, Program};
use crate::model::deployment::{InstanceId, InstanceSpec, Process};
use crate::world::link::Heard;
use crate::world::runner::{Ended, Part, Runner, RunnerError};

mod cgroup;
mod child;
mod instance_dir;
mod launch;
mod log;
mod monitor;
mod process;
mod restarts;
mod tail;

pub use instance_dir::Tuning;
use instance_dir::{HowEnded, Kept, Place, Report, Stop};

/// How often a lock or a state is looked at while it is waited for.
const PAUSE: Duration = Duration::from_millis(20);
/// Bound on the start of a keeper and its program, where nothing is left of an earlier run.
const LAUNCH: Duration = Duration::from_mins(1);
/// How often a keeper may die in the middle of a stop before that is an error.
const TRIES: u32 = 3;

/// Plays one part of a keeper's life; the error is for the keeper's log.
pub fn supervise(dir: &Path, part: Part) -> Result<(), String> {
    match part {
        Part::Launch => launch::launch(dir),
        Part::Keep => monitor::keep(dir),
        Part::Become => child::become_program(dir),
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
        Self { dir: dir.join("instances"), program: OURSELVES.into(), tuning: Tuning::default() }
    }

    /// For callers that are another program, as tests are, and for other bounds.
    #[must_use]
    pub fn with(self, program: impl Into<PathBuf>, tuning: Tuning) -> Self {
        Self { program: program.into(), tuning, ..self }
    }

    fn place(&self, instance: &InstanceId) -> Place {
        Place::new(self.dir.join(instance.to_string()))
    }

    /// What is left of an earlier run gets its grace before the start.
    async fn launch(&self, place: &Place, grace: Duration) -> Result<(), Report> {
        let failed = |why: String| Report::Failed { why };
        let program = Program::new(&self.program).args(["supervise", "--part", "launch"]).arg(place.dir());
        let output = program.run(b"", LAUNCH + grace).await.map_err(|error| failed(error.to_string()))?;
        match serde_json::from_str(&output.stdout) {
            Ok(Report::Started) => Ok(()),
            Ok(report) => Err(report),
            Err(_) => Err(failed(format!("its keeper did not begin: {}", output.stderr.trim()))),
        }
    }

    async fn begin(&self, place: &Place, spec: &InstanceSpec) -> Result<(), Start> {
        place.make().map_err(|error| Start::NotWritten(place.dir().to_owned(), error))?;
        let _turn = turn(place).await?;
        if place.stop()?.is_some() {
            // Whoever was stopping it is gone.
            self.end(place, Duration::ZERO).await?;
        }
        while place.has_keeper()? && place.state()?.stopping {
            tokio::time::sleep(PAUSE).await;
        }
        let known = place.kept()?;
        match &known {
            Some(kept) if kept.spec != *spec => {
                return Err(io::Error::other("it is there already, and is run in another way").into());
            }
            Some(_) if place.has_keeper()? => return Ok(()),
            Some(_) => {}
            None => {
                let kept = Kept { spec: spec.clone(), tuning: self.tuning.clone() };
                let written = place.keep(&kept);
                written.map_err(|error| Start::NotWritten(place.file("spec.json"), error))?;
            }
        }
        let launched = self.launch(place, spec.grace).await;
        if launched.is_err() && known.is_none() {
            // Also where nobody knows whether it was started: it was waited for too long.
            self.end(place, Duration::ZERO).await?;
        }
        launched.map_err(Start::Report)
    }

    /// By the keeper that is there, or one that comes for it.
    async fn end(&self, place: &Place, grace: Duration) -> io::Result<Ended> {
        for _ in 0..TRIES {
            place.put_stop(Stop { grace })?;
            place.wake();
            if !place.has_keeper()?
                && let Err(report) = self.launch(place, Duration::ZERO).await
            {
                return Err(io::Error::other(format!("{report:?}")));
            }
            no_keeper(place).await?;
            if let Some(how) = place.state()?.ended {
                place.unkeep()?;
                return Ok(match how {
                    HowEnded::Already => Ended::Already,
                    HowEnded::Gracefully => Ended::Gracefully,
                    HowEnded::Killed => Ended::Killed,
                });
            }
        }
        Err(io::Error::other("its keeper dies again and again"))
    }
}

/// One caller at a time; a caller that is gone has it no more.
async fn turn(place: &Place) -> io::Result<File> {
    loop {
        if let Some(turn) = place.lock("turn.lock")? {
            return Ok(turn);
        }
        tokio::time::sleep(PAUSE).await;
        place.make()?;
    }
}

async fn no_keeper(place: &Place) -> io::Result<()> {
    while place.has_keeper()? {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Why it was not started.
enum Start {
    Report(Report),
    NotWritten(PathBuf, io::Error),
    Failed(io::Error),
}

impl From<io::Error> for Start {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

fn failed(what: &'static str, instance: &InstanceId) -> impl Fn(io::Error) -> RunnerError {
    move |why| RunnerError::Failed { what, instance: instance.clone(), why: why.to_string() }
}

#[async_trait]
impl Runner for Supervisor {
    fn name(&self) -> &'static str {
        "supervisor"
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<(), RunnerError> {
        let because = |why: String| RunnerError::Failed { what: "start", instance: spec.id.clone(), why };
        self.begin(&self.place(&spec.id), spec).await.map_err(|why| match why {
            Start::Report(Report::Missing { program }) => RunnerError::Missing { program },
            Start::Report(Report::NoUser { user }) => RunnerError::NoUser { user },
            Start::Report(Report::Failed { why }) => because(why),
            Start::Report(Report::Started) => because("it was started".to_owned()),
            Start::NotWritten(path, why) => RunnerError::NotWritten { path, why: why.to_string() },
            Start::Failed(why) => because(why.to_string()),
        })
    }

    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<Ended, RunnerError> {
        let place = self.place(instance);
        if !place.dir().is_dir() {
            return Ok(Ended::Already);
        }
        let stopped = async {
            let _turn = turn(&place).await?;
            // Forgotten last: where it is not there, nothing of it is.
            if place.kept()?.is_none() && !place.has_keeper()? {
                place.unkeep()?;
                return Ok(Ended::Already);
            }
            self.end(&place, grace).await
        };
        stopped.await.map_err(failed("stop", instance))
    }

    async fn state(&self, instance: &InstanceId) -> Result<Process, RunnerError> {
        let place = self.place(instance);
        if !place.dir().is_dir() {
            return Err(RunnerError::Unknown { instance: instance.clone() });
        }
        let failed = failed("read the state of", instance);
        let kept = place.has_keeper().map_err(&failed)?;
        let state = place.state().map_err(&failed)?;
        Ok(match state.process {
            Process::Stopped { .. } => state.process,
            process if kept || state.main.as_ref().is_some_and(process::Alive::is_there) => process,
            // Its keeper was ended by force, or the machine was.
            process => Process::Stopped {
                since: None,
                last: match process {
                    Process::Waiting { last, .. } => last,
                    _ => "nobody knows how".to_owned(),
                },
            },
        })
    }

    async fn known(&self) -> Result<Vec<InstanceId>, RunnerError> {
        let cannot =
            |error: io::Error| RunnerError::NotRead { path: self.dir.clone(), why: error.to_string() };
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

    async fn logs(
        &self,
        instance: &InstanceId,
        tail: Option<u32>,
        follow: bool,
        heard: Heard,
    ) -> Result<(), RunnerError> {
        let place = self.place(instance);
        if !place.dir().is_dir() {
            return Err(RunnerError::Unknown { instance: instance.clone() });
        }
        let gone = || !place.file("spec.json").exists();
        tail::read(&place, tail, follow, gone, &heard).await.map_err(failed("read the log of", instance))
    }

    async fn forget(&self, instance: &InstanceId) -> Result<(), RunnerError> {
        let place = self.place(instance);
        if !place.dir().is_dir() {
            return Ok(());
        }
        let forgotten = async {
            let _turn = turn(&place).await?;
            if place.kept()?.is_some() || place.has_keeper()? {
                return Err(io::Error::other("it is not stopped"));
            }
            instance_dir::gone(fs::remove_dir_all(place.dir()))
        };
        forgotten.await.map_err(failed("forget", instance))
    }
}
