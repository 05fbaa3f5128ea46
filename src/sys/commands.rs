//! `world::commands` with real processes.
//!
//! A run is guarded by a lock on an empty file that is the program's own standard input: the kernel holds the lock while
//! any process of the run has it open, so a program that outlived a killed switchman is found even if its pid is unknown by
//! now.

use std::fmt::Display;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::exec::{ExecError, Program, to_exit_status};
use super::lines::read_lines;
use super::sqlite::{DbError, make_dir};
use crate::model::api::{RunOutcome, RunRequest};
use crate::world::commands::{CommandError, CommandRunner};
use crate::world::link::SharedLineSink;

const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time from TERM to KILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs programs; their locks lie in one directory.
#[derive(Debug)]
pub struct LocalCommands {
    dir: PathBuf,
    /// How long an earlier run of the same key is waited for.
    lock_timeout: Duration,
    abandoned_runs: Arc<AbandonedRuns>,
}

impl LocalCommands {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, lock_timeout: LOCK_TIMEOUT, abandoned_runs: Arc::default() }
    }

    fn lock_path(&self, request: &RunRequest) -> PathBuf {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        self.dir.join(format!("{}.lock", request.key.chars().map(plain).collect::<String>()))
    }

    /// Removes the lock file of a run that has no process left: a fleet makes a thousand of them a day.
    fn remove_unused_lock(&self, request: &RunRequest) {
        let path = self.lock_path(request);
        if let Ok(file) = File::options().read(true).write(true).open(&path)
            && file.try_lock().is_ok()
            && is_at(&file, &path)
        {
            let _ = std::fs::remove_file(&path);
        }
    }

    async fn acquire_lock(&self, request: &RunRequest) -> Result<File, CommandError> {
        let program = request.argv.first().cloned().unwrap_or_default();
        let not_run = |reason: String| CommandError::StartFailed { program: program.clone(), reason };
        make_dir(&self.dir).map_err(|error| match error {
            DbError::Open { path, reason } => not_run(format!("cannot make `{}`: {reason}", path.display())),
            other => not_run(format!("{other:?}")),
        })?;
        let path = self.lock_path(request);
        let deadline = Instant::now() + self.lock_timeout;
        loop {
            let file = open_lock_file(&path)
                .map_err(|error| not_run(format!("cannot open `{}`: {error}", path.display())))?;
            match file.try_lock() {
                // A run that has just ended takes its file away, and with it the lock that this would be.
                Ok(()) if is_at(&file, &path) => return Ok(file),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(CommandError::StillRunning { program, waited: self.lock_timeout });
                }
                Err(TryLockError::Error(error)) => return Err(not_run(error.to_string())),
            }
        }
    }
}

fn open_lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Whether the open file is still the one of this name.
fn is_at(file: &File, path: &Path) -> bool {
    let of = |metadata: io::Result<Metadata>| metadata.map(|file| (file.dev(), file.ino())).ok();
    of(file.metadata()).is_some_and(|open| of(path.metadata()) == Some(open))
}

#[async_trait]
impl CommandRunner for LocalCommands {
    async fn run(&self, request: &RunRequest, heard: SharedLineSink) -> Result<RunOutcome, CommandError> {
        let Some((name, args)) = request.argv.split_first() else {
            return Err(CommandError::StartFailed {
                program: String::new(),
                reason: "no program is named".to_owned(),
            });
        };
        let lock = self.acquire_lock(request).await?;
        let mut program = Program::new(name).args(args);
        for (key, value) in &request.env {
            program = program.env(key, value);
        }
        if let Some(dir) = &request.dir {
            program = program.dir(dir);
        }
        let not_run = |reason: &dyn Display| CommandError::StartFailed {
            program: name.clone(),
            reason: reason.to_string(),
        };
        let started = program.stream(lock).inspect_err(|_| self.remove_unused_lock(request));
        let child = started.map_err(|error| match error {
            ExecError::Missing { program } => CommandError::Missing { program },
            ExecError::NotRun { source, .. } => not_run(&source),
            other @ ExecError::TimedOut { .. } => not_run(&other),
        })?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let group = ProcessGroup(Pid::from_raw(pid.ok_or_else(|| not_run(&"it has no pid"))?));
        self.abandoned_runs.running_count.send_modify(|running| *running += 1);
        let mut running = RunningProgram { child, group, abandoned_runs: self.abandoned_runs.clone() };
        let ended = wait_with_lines(&mut running.child, group, request.timeout_ms, &heard).await;
        self.remove_unused_lock(request);
        ended.map_err(|error| not_run(&error))
    }

    fn check_startable(&self, program: &str) -> Result<(), CommandError> {
        Program::new(program).check_startable().map_err(|error| match error {
            ExecError::Missing { program } => CommandError::Missing { program },
            other => CommandError::StartFailed {
                program: program.to_owned(),
                reason: match other {
                    ExecError::NotRun { source, .. } => source.to_string(),
                    other => other.to_string(),
                },
            },
        })
    }

    async fn wait_for_all(&self) {
        // A caller that is just going away gives up when its task is dropped, which may be a moment later.
        let _ = self.abandoned_runs.running_count.subscribe().wait_for(|running| *running == 0).await;
        let endings = std::mem::take(&mut *self.abandoned_runs.lock());
        for ending in endings {
            // One that panicked has killed what it had.
            let _ = ending.await;
        }
    }
}

/// A running program; dropping this ends the program.
struct RunningProgram {
    child: Child,
    group: ProcessGroup,
    abandoned_runs: Arc<AbandonedRuns>,
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        // One that was waited for to its end has no pid any more; what it left in the background is not ours to end.
        if self.child.id().is_some() {
            self.group.terminate();
            self.abandoned_runs.push(KillTask(self.group));
        }
        self.abandoned_runs.running_count.send_modify(|running| *running -= 1);
    }
}

/// All that a program started and did not send away.
#[derive(Debug, Clone, Copy)]
struct ProcessGroup(Pid);

impl ProcessGroup {
    fn signal(self, signal: Signal) {
        // One that has ended already is what is wanted.
        let _ = killpg(self.0, signal);
    }

    fn is_alive(self) -> bool {
        killpg(self.0, None).is_ok()
    }

    /// TERM, once: a second one would end what tidies up after the first.
    fn terminate(self) {
        self.signal(Signal::SIGTERM);
        // A stopped process receives TERM only once it continues.
        self.signal(Signal::SIGCONT);
    }

    /// Sends KILL to the processes that are left `KILL_TIMEOUT` after TERM.
    async fn kill_after_timeout(self) {
        let deadline = Instant::now() + KILL_TIMEOUT;
        while self.is_alive() && Instant::now() < deadline {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        if self.is_alive() {
            self.signal(Signal::SIGKILL);
        }
    }
}

/// Programs whose callers went away, on their way to their end.
#[derive(Debug, Default)]
struct AbandonedRuns {
    kill_tasks: Mutex<Vec<JoinHandle<()>>>,
    /// How many programs are on their way, given up or not.
    running_count: watch::Sender<usize>,
}

impl AbandonedRuns {
    fn lock(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.kill_tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, ending: KillTask) {
        // Without a runtime no task can wait: the drop ends the program.
        let Ok(runtime) = Handle::try_current() else { return };
        let mut all = self.lock();
        all.retain(|ending| !ending.is_finished());
        all.push(runtime.spawn(ending.run()));
    }
}

/// When switchman itself ends first, there is no more time to give.
struct KillTask(ProcessGroup);

impl KillTask {
    async fn run(self) {
        self.0.kill_after_timeout().await;
    }
}

impl Drop for KillTask {
    fn drop(&mut self) {
        if self.0.is_alive() {
            self.0.signal(Signal::SIGKILL);
        }
    }
}

async fn wait_with_lines(
    child: &mut Child,
    group: ProcessGroup,
    timeout: Option<u64>,
    heard: &SharedLineSink,
) -> io::Result<RunOutcome> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (end, ended) = watch::channel(false);
    let lines = async { tokio::join!(read_lines(out, heard, ended.clone()), read_lines(err, heard, ended)) };
    let ends = async {
        let waited = tokio::select! {
            status = child.wait() => (status, false),
            // What it left running in the background on purpose is not ours to end; after a timeout nothing is on purpose.
            () = wait_for_timeout(timeout) => {
                group.terminate();
                (tokio::join!(child.wait(), group.kill_after_timeout()).0, true)
            }
        };
        end.send_replace(true);
        waited
    };
    let ((status, timed_out), _) = tokio::join!(ends, lines);
    Ok(RunOutcome { status: to_exit_status(status?), timed_out })
}

async fn wait_for_timeout(after_ms: Option<u64>) {
    match after_ms {
        Some(after) => tokio::time::sleep(Duration::from_millis(after)).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
