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
/// A background process may keep the outputs open after the program has ended; what it says is not waited for.
const AFTERWORDS: Duration = Duration::from_millis(200);
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
    let lines = async { tokio::join!(read_lines(out, heard), read_lines(err, heard)) };
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
    if !all_heard {
        let _ = tokio::time::timeout(AFTERWORDS, lines).await;
    }
    // What the program left running in the background on purpose is not ours to end; after a timeout nothing is on purpose.
    if timed_out {
        group.signal(Signal::SIGKILL);
    }
    group.0 = None;
    Ok(RunEnd { status: status_of(status), timed_out })
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn read_lines(from: Option<impl AsyncRead + Unpin>, heard: &Heard) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; LINE];
    let mut line: Vec<u8> = Vec::new();
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        for byte in &buffer[..length] {
            if *byte == b'\n' || line.len() >= LINE {
                heard(&text(&line));
                line.clear();
            }
            if *byte != b'\n' {
                line.push(*byte);
            }
        }
    }
    if !line.is_empty() {
        heard(&text(&line));
    }
}

/// Without what could move an operator's cursor.
fn text(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim_end().chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;

    fn request(key: &str, script: &str) -> RunRequest {
        RunRequest {
            key: key.to_owned(),
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: BTreeMap::from([("SWITCHMAN_HOST".to_owned(), "web1".to_owned())]),
            dir: Some("/".into()),
            timeout_ms: None,
        }
    }

    async fn run(
        dir: &tempfile::TempDir,
        request: &RunRequest,
    ) -> (Result<RunEnd, CommandError>, Vec<String>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let theirs = lines.clone();
        let heard: Heard = Arc::new(move |line: &str| theirs.lock().unwrap().push(line.to_owned()));
        let commands = LocalCommands { patience: PAUSE * 4, ..LocalCommands::new(dir.path().to_owned()) };
        let end = commands.run(request, heard).await;
        let lines = lines.lock().unwrap().clone();
        (end, lines)
    }

    #[tokio::test]
    async fn lines_of_both_outputs_are_heard_and_the_status_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo \"$SWITCHMAN_HOST in $PWD\"; printf 'half\\033[2J' >&2; cat; exit 3";
        let (end, mut lines) = run(&dir, &request("a", script)).await;
        lines.sort();
        assert_eq!(end, Ok(RunEnd { status: 3, timed_out: false }));
        assert_eq!(lines, ["half [2J", "web1 in /"]);
    }

    #[tokio::test]
    async fn too_long_is_ended_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let slow = RunRequest { timeout_ms: Some(100), ..request("a", "sleep 60 & echo $!; wait") };
        let (end, lines) = run(&dir, &slow).await;
        let end = end.unwrap();
        assert!(end.timed_out && end.status != 0, "{end:?}");
        let child = Pid::from_raw(lines[0].parse().unwrap());
        while nix::sys::signal::kill(child, None).is_ok() {
            tokio::time::sleep(PAUSE).await;
        }
    }

    #[tokio::test]
    async fn a_second_run_waits_for_whatever_the_first_left() {
        let dir = tempfile::tempdir().unwrap();
        // The program has ended; something that has its input open has not.
        let left = "exec 3<&0; sleep 60 <&3 >/dev/null 2>&1 & echo $!";
        let (end, lines) = run(&dir, &request("a", left)).await;
        assert_eq!(end, Ok(RunEnd { status: 0, timed_out: false }));
        let (end, _) = run(&dir, &request("a", "true")).await;
        assert_eq!(end, Err(CommandError::StillRunning { program: "sh".into(), waited: PAUSE * 4 }));
        assert!(run(&dir, &request("b", "true")).await.0.is_ok(), "another key is another run");
        nix::sys::signal::kill(Pid::from_raw(lines[0].parse().unwrap()), Signal::SIGKILL).unwrap();
        assert!(run(&dir, &request("a", "true")).await.0.is_ok());
    }

    #[tokio::test]
    async fn what_cannot_be_run_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = RunRequest { argv: vec!["swm-no-such".into()], ..request("a", "") };
        assert_eq!(run(&dir, &missing).await.0, Err(CommandError::Missing { program: "swm-no-such".into() }));
    }
}
