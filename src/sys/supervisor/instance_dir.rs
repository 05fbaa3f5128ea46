//! The directory of one instance: the files between keeper and callers, each with one writer at a time.
//!
//! | file | is |
//! |---|---|
//! | `spec.json` | how it is run; there from start to stop |
//! | `state.json` | the state that the keeper reports; stays |
//! | `stop.json` | it is to be stopped: written by a caller, obeyed by the keeper, this one or the next |
//! | `keeper.lock` | held by the keeper for its life: the proof that there is one, and never a second |
//! | `turn.lock` | held by a caller while it starts, stops or forgets |
//! | `control` | a FIFO: any byte wakes the keeper |
//! | `out` | a FIFO: both outputs of the program, read by the keeper |
//! | `log`, `log.1`, ... | what came out of it, newest first |
//! | `keeper.log` | the keeper's own complaints |

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::process::ProcessId;
use crate::model::deployment::{InstanceSpec, ProcessState};
use crate::model::duration;

/// The bounds of a keeper; the defaults are what production has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// Largest log file, bytes.
    pub log_bytes: u64,
    /// Log files that are kept, the current one among them.
    pub log_files: u32,
    /// Pause before the first restart; each one after it is twice as long.
    #[serde(with = "duration::ms")]
    #[serde(alias = "first_pause")]
    pub initial_backoff: Duration,
    #[serde(with = "duration::ms")]
    #[serde(alias = "longest_pause")]
    pub max_backoff: Duration,
    /// A run of at least this length ran well: its next restart is a first one again.
    #[serde(with = "duration::ms")]
    #[serde(alias = "well_after")]
    pub stable_after: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            // As Daeploy's instances had it (seed row D37, docs/design/seed-systems.md#mvi-and-daeploy).
            log_bytes: 100_000_000,
            log_files: 3,
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
            stable_after: Duration::from_secs(10),
        }
    }
}

/// `spec.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSpec {
    pub spec: InstanceSpec,
    pub tuning: Tuning,
}

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorState {
    pub process: ProcessState,
    /// The program's first process.
    pub main: Option<ProcessId>,
    /// Set while the program is being ended; this keeper will not start it again.
    #[serde(alias = "stopping")]
    pub is_stopping: bool,
    /// Set at the end of a stop.
    pub ended: Option<StopOutcome>,
}

impl Default for MonitorState {
    fn default() -> Self {
        let process = ProcessState::Stopped { since: None, last_exit: String::new() };
        Self { process, main: None, is_stopping: false, ended: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopOutcome {
    Already,
    Gracefully,
    Killed,
}

/// `stop.json`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct StopRequest {
    #[serde(with = "duration::ms")]
    pub grace: Duration,
}

/// The report that a keeper sends once, when it is clear whether it runs the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartReport {
    Started,
    Missing { program: String },
    NoUser { user: String },
    Failed { why: String },
}

#[derive(Debug, Clone)]
pub struct InstanceDir {
    dir: PathBuf,
}

impl InstanceDir {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn file_path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Created for root alone: the environment of an instance holds secrets.
    pub fn create(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)
    }

    /// `None` where there is none. One that was cut short by a crash of the machine is one that cannot be read.
    pub fn read_spec(&self) -> io::Result<Option<SavedSpec>> {
        self.read("spec.json")
    }

    pub fn keep(&self, kept: &SavedSpec) -> io::Result<()> {
        self.write("spec.json", kept, true)
    }

    pub fn state(&self) -> io::Result<MonitorState> {
        Ok(self.read("state.json")?.unwrap_or_default())
    }

    /// Not synced to the disk: no process that it names outlives a crash of the host.
    pub fn write_state(&self, state: &MonitorState) -> io::Result<()> {
        self.write("state.json", state, false)
    }

    pub fn stop(&self) -> io::Result<Option<StopRequest>> {
        self.read("stop.json")
    }

    pub fn write_stop(&self, stop: StopRequest) -> io::Result<()> {
        self.write("stop.json", &stop, true)
    }

    /// How it is run is forgotten first: what is half-forgotten is not started again.
    pub fn remove_spec(&self) -> io::Result<()> {
        ignore_not_found(fs::remove_file(self.file_path("spec.json")))?;
        ignore_not_found(fs::remove_file(self.file_path("stop.json")))
    }

    /// Whether a keeper is there.
    pub fn has_monitor(&self) -> io::Result<bool> {
        match File::open(self.file_path("keeper.lock")) {
            Ok(file) => match file.try_lock_shared() {
                Ok(()) => Ok(false),
                Err(TryLockError::WouldBlock) => Ok(true),
                Err(TryLockError::Error(error)) => Err(error),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns `None` where another process has the lock. Held until the file is dropped, or its holder has died.
    pub fn lock(&self, name: &str) -> io::Result<Option<File>> {
        let path = self.file_path(name);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        match file.try_lock() {
            // One that was taken away with its directory while it was opened guards nothing.
            Ok(()) => Ok(is_at(&file, &path).then_some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// A FIFO, open both ways: it has a reader and a writer for as long as the file is open, and no process that uses it
    /// sees its end or is killed by SIGPIPE (fifo(7)).
    pub fn open_fifo(&self, name: &str) -> io::Result<File> {
        let path = self.file_path(name);
        match nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits();
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
    }

    /// A keeper that is not there, or not there yet, reads `stop.json` when it comes.
    pub fn wake(&self) {
        let flags = OFlag::O_NONBLOCK.bits();
        let control = OpenOptions::new().write(true).custom_flags(flags).open(self.file_path("control"));
        if let Ok(mut control) = control {
            // A FIFO that is full of such bytes wakes as well.
            let _ = control.write(b"!");
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let path = self.file_path(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| io::Error::other(format!("`{}` is damaged: {error}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write<T: Serialize>(&self, name: &str, value: &T, sync: bool) -> io::Result<()> {
        let beside = self.file_path(&format!("{name}.new"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        if sync {
            file.sync_data()?;
        }
        fs::rename(beside, self.file_path(name))
    }
}

/// Whether the open file is still the one of this name.
fn is_at(file: &File, path: &Path) -> bool {
    let of = |metadata: io::Result<fs::Metadata>| metadata.map(|file| (file.dev(), file.ino())).ok();
    of(file.metadata()).is_some_and(|open| of(path.metadata()) == Some(open))
}

/// Accepts a file that is not there any more: that is the wanted state.
pub fn ignore_not_found(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of instances that 0.1.0 started are read after an upgrade.
    #[test]
    fn files_with_the_names_of_0_1_0_are_read() {
        let tuning =
            r#"{"log_bytes":5,"log_files":2,"first_pause":100,"longest_pause":30000,"well_after":10000}"#;
        let read: Tuning = serde_json::from_str(tuning).unwrap();
        assert_eq!(read, Tuning { log_bytes: 5, log_files: 2, ..Tuning::default() });
        let state = r#"{"process":{"state":"stopped","since":null,"last":"status 7"},
            "main":{"pid":7,"born":11,"boot":"b"},"stopping":true,"ended":"Killed"}"#;
        let read: MonitorState = serde_json::from_str(state).unwrap();
        assert_eq!(read.process, ProcessState::Stopped { since: None, last_exit: "status 7".into() });
        assert!(read.is_stopping && read.main.is_some() && read.ended == Some(StopOutcome::Killed));
    }
}
