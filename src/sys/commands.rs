//! `world::commands` with real processes.
//!
//! A run is guarded by a lock on an empty file that is the program's own standard input: the kernel holds the lock while
//! any process of the run has it open, so a program that outlived a killed switchman is seen, whatever its pid is by now.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::Instant;

use super::exec::{ExecError, Program, status_of};
use super::sqlite::make_dir;
use crate::model::api::{RunEnd, RunRequest};
use crate::world::commands::{CommandError, Commands};
use crate::world::link::Heard;

const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);
/// From TERM to KILL.
const GRACE: Duration = Duration::from_secs(5);
/// A background process may keep the outputs open after the program has ended; what it says is not waited for. The
/// program's own last words are in the pipe by then, of which this many bytes is all there is (pipe(7), the capacity).
const AFTERWORDS: Duration = Duration::from_millis(200);
const PIPE: usize = 64 * 1024;
/// A longer line is handed on in pieces.
const LINE: usize = 8 * 1024;

/// Runs programs; their locks lie in one directory.
#[derive(Debug)]
pub struct LocalCommands {
    dir: PathBuf,
    /// How long an earlier run of the same key is waited for.
    patience: Duration,
}

impl LocalCommands {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, patience: PATIENCE }
    }

    async fn lock(&self, request: &RunRequest) -> Result<File, CommandError> {
        let program = request.argv.first().cloned().unwrap_or_default();
        let not_run = |why: String| CommandError::NotRun { program: program.clone(), why };
        make_dir(&self.dir).map_err(|error| not_run(format!("{error:?}")))?;
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let path = self.dir.join(format!("{}.lock", request.key.chars().map(plain).collect::<String>()));
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = opened.map_err(|error| not_run(format!("cannot open `{}`: {error}", path.display())))?;
        let deadline = Instant::now() + self.patience;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(CommandError::StillRunning { program, waited: self.patience });
                }
                Err(TryLockError::Error(error)) => return Err(not_run(error.to_string())),
            }
        }
    }
}

#[async_trait]
impl Commands for LocalCommands {
    async fn run(&self, request: &RunRequest, heard: Heard) -> Result<RunEnd, CommandError> {
        let Some((name, args)) = request.argv.split_first() else {
            return Err(CommandError::NotRun {
                program: String::new(),
                why: "no program is named".to_owned(),
            });
        };
        let lock = self.lock(request).await?;
        let mut program = Program::new(name).args(args);
        for (key, value) in &request.env {
            program = program.env(key, value);
        }
        if let Some(dir) = &request.dir {
            program = program.dir(dir);
        }
        let child = program.stream(lock).map_err(|error| match error {
            ExecError::Missing { program } => CommandError::Missing { program },
            other => CommandError::NotRun { program: name.clone(), why: other.to_string() },
        })?;
        let timeout = request.timeout_ms.map(Duration::from_millis);
        attend(child, timeout, &heard)
            .await
            .map_err(|error| CommandError::NotRun { program: name.clone(), why: error.to_string() })
    }
}

/// Ends the program's process group when the wait for it is given up.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // One that has ended already is what is wanted.
            let _ = killpg(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
    }
}

async fn attend(mut child: Child, timeout: Option<Duration>, heard: &Heard) -> std::io::Result<RunEnd> {
    let mut group = Group(child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (end, ended) = watch::channel(false);
    let lines = async { tokio::join!(read_lines(out, heard, ended.clone()), read_lines(err, heard, ended)) };
    tokio::pin!(lines);
    let mut all_heard = false;
    let mut timed_out = false;
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            _ = &mut lines, if !all_heard => all_heard = true,
            () = until(deadline), if !timed_out => {
                timed_out = true;
                group.signal(Signal::SIGTERM);
            }
            () = until(deadline.map(|deadline| deadline + GRACE)), if timed_out => {
                group.signal(Signal::SIGKILL);
            }
        }
    };
    // What the program left running in the background on purpose is not ours to end; after a timeout nothing is on purpose.
    if timed_out {
        group.signal(Signal::SIGKILL);
    }
    group.0 = None;
    end.send_replace(true);
    if !all_heard {
        lines.await;
    }
    Ok(RunEnd { status: status_of(status), timed_out })
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Up to the end of the bytes; or, once the program has ended, to the end of what it left in the pipe.
async fn read_lines(from: Option<impl AsyncRead + Unpin>, heard: &Heard, mut ended: watch::Receiver<bool>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; LINE];
    let mut line: Vec<u8> = Vec::new();
    let mut left = PIPE;
    while left > 0 {
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = silence(&mut ended) => break,
        };
        let length = match read {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        if *ended.borrow() {
            left = left.saturating_sub(length);
        }
        for byte in &buffer[..length] {
            if *byte == b'\n' || line.len() >= LINE {
                heard.hear(&text(&line)).await;
                line.clear();
            }
            if *byte != b'\n' {
                line.push(*byte);
            }
        }
    }
    if !line.is_empty() {
        heard.hear(&text(&line)).await;
    }
}

/// After the end of the program.
async fn silence(ended: &mut watch::Receiver<bool>) {
    if ended.wait_for(|ended| *ended).await.is_ok() {
        tokio::time::sleep(AFTERWORDS).await;
    }
}

/// Without what could move an operator's cursor.
fn text(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim_end().chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
