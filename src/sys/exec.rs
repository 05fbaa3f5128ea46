//! The only place that starts programs.
//!
//! A short run has a bound in time and its own process group, so that a Ctrl-C at the terminal reaches switchman and
//! never a half-done child. A service outlives the call and is ended by its pid.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Child;

use crate::model::shell::join_words;

mod detached;

pub use detached::{DEFAULT_PATH, OWN_EXE};

/// The text of a private key: no program needs it, because switchman puts it into a file.
const SSH_KEY_VARIABLE: &str = "SWITCHMAN_SSH_KEY";

/// A program with its arguments. Displayed as a line for a shell.
#[derive(Debug, Clone)]
pub struct Program {
    path: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
}

/// Why a program gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("`{program}` is not installed")]
    Missing { program: String },
    #[error("cannot run `{program}`: {source}")]
    NotRun { program: String, source: std::io::Error },
    #[error("`{program}` did not end within {}", crate::model::duration::format(*.waited))]
    TimedOut { program: String, waited: Duration },
}

/// The status and outputs of a program that ended; texts are read as UTF-8, other bytes replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status, or 128 + the signal that ended it.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { path: program.as_ref().to_owned(), args: Vec::new(), env: Vec::new(), dir: None }
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Runs to the end with `input` on stdin; killed when `bound` has passed.
    pub async fn run(&self, input: &[u8], bound: Duration) -> Result<Output, ExecError> {
        let mut command = self.build_command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| self.to_exec_error(source))?;
        let stdin = child.stdin.take();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A program that ends without reading its input reports why on stderr: that is the error to show.
                let _ = stdin.write_all(input).await;
            }
        };
        let ended = async { tokio::join!(feed, child.wait_with_output()).1 };
        let began = std::time::Instant::now();
        let ended = tokio::time::timeout(bound, ended).await;
        log::debug!("{self}: {:.1} ms", began.elapsed().as_secs_f64() * 1000.0);
        match ended {
            Ok(Ok(output)) => Ok(Output {
                status: to_exit_status(output.status),
                stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            }),
            Ok(Err(source)) => Err(self.to_exec_error(source)),
            Err(_) => Err(ExecError::TimedOut { program: self.to_string(), waited: bound }),
        }
    }

    /// Starts a program that outlives this call, stdin closed, both outputs to `log`. It lives on when the handle is
    /// dropped: the caller that starts a service records its pid and ends it.
    pub fn start(&self, log: std::fs::File) -> Result<Child, ExecError> {
        let both = log.try_clone().map_err(|source| self.to_exec_error(source))?;
        let mut command = self.build_command();
        command.stdin(Stdio::null()).stdout(log).stderr(both);
        command.spawn().map_err(|source| self.to_exec_error(source))
    }

    /// Starts a program whose outputs are read as they come, with this file as its input, in a session of its own: one that
    /// reads a password from the terminal is refused there, where in a mere group of its own it would be stopped for ever
    /// (tty(4), SIGTTIN). It lives on when the handle is dropped.
    pub fn stream(&self, input: std::fs::File) -> Result<Child, ExecError> {
        self.check_startable()?;
        let mut command = match find("setsid") {
            // Leads no group before, so it becomes the program itself and keeps the pid (setsid(1)).
            Some(setsid) => {
                let program = Self { path: setsid.into(), args: Vec::new(), ..self.clone() };
                program.arg("--").arg(&self.path).args(&self.args).build_command_in_our_group()
            }
            None => self.build_command(),
        };
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map_err(|source| self.to_exec_error(source))
    }

    /// Starts a program to talk with: both ends piped, its complaints too. Killed when the handle is dropped.
    pub fn spawn_piped(&self) -> Result<Child, ExecError> {
        let mut command = self.build_command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().map_err(|source| self.to_exec_error(source))
    }

    /// Starts a program to talk with that ends with its input. It lives on when the handle is dropped.
    pub fn spawn_piped_detached(&self) -> Result<Child, ExecError> {
        let mut command = self.build_command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map_err(|source| self.to_exec_error(source))
    }

    /// Starts a program with its outputs piped that never outlives this process, however it ends, where setpriv(1) can see to
    /// that. It lives on when the handle is dropped.
    pub fn spawn_piped_with_parent(&self) -> Result<Child, ExecError> {
        self.check_startable()?;
        // That of busybox has no such option.
        let setpriv = find("setpriv").filter(|file| {
            file.canonicalize().is_ok_and(|real| real.file_name() == Some(OsStr::new("setpriv")))
        });
        let mut command = match setpriv {
            Some(setpriv) => {
                let program = Self { path: setpriv.into(), args: Vec::new(), ..self.clone() };
                let program = program.args(["--pdeathsig", "TERM", "--"]);
                program.arg(&self.path).args(&self.args).build_command()
            }
            None => self.build_command(),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().map_err(|source| self.to_exec_error(source))
    }

    fn build_command(&self) -> tokio::process::Command {
        let mut command = self.build_command_in_our_group();
        command.process_group(0);
        command
    }

    #[allow(clippy::disallowed_methods, reason = "this is the door")]
    fn build_command_in_our_group(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.path);
        command.args(&self.args).env_remove(SSH_KEY_VARIABLE).envs(self.env.iter().map(|(k, v)| (k, v)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    /// Fails as starting the file would (execvp(3)), for a program that another one starts for us.
    #[allow(clippy::disallowed_methods, reason = "PATH is how programs are found; this is their door")]
    pub fn check_startable(&self) -> Result<(), ExecError> {
        let given = self.env.iter().rfind(|(key, _)| key == "PATH").map(|(_, path)| path.clone());
        let path = given.or_else(|| std::env::var_os("PATH")).unwrap_or_default();
        self.find_in(&path).map(drop).map_err(|source| self.to_exec_error(source))
    }

    fn find_in(&self, path: &OsStr) -> std::io::Result<PathBuf> {
        let file = Path::new(&self.path);
        let places: Vec<PathBuf> = match &self.dir {
            Some(dir) if file.components().count() > 1 => vec![dir.join(file)],
            None if file.components().count() > 1 => vec![file.to_owned()],
            _ => std::env::split_paths(path).map(|dir| dir.join(file)).collect(),
        };
        let mut why = std::io::ErrorKind::NotFound.into();
        for place in places.into_iter().filter(|place| place.is_file()) {
            match nix::unistd::access(&place, nix::unistd::AccessFlags::X_OK) {
                Ok(()) => return Ok(place),
                Err(error) => why = error.into(),
            }
        }
        Err(why)
    }

    fn to_exec_error(&self, source: std::io::Error) -> ExecError {
        match source.kind() {
            std::io::ErrorKind::NotFound => {
                ExecError::Missing { program: self.path.to_string_lossy().into_owned() }
            }
            _ => ExecError::NotRun { program: self.to_string(), source },
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [&self.path].into_iter().chain(&self.args);
        f.write_str(&join_words(words.map(|word| word.to_string_lossy())))
    }
}

/// Finds a program as the shell would, with the administrator's directories added: a plain user's PATH lacks them.
#[allow(clippy::disallowed_methods, reason = "PATH is how programs are found; this is their door")]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(program)).find(|file| file.is_file())
}

pub fn to_exit_status(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn run_passes_stdin_and_returns_output() {
        let cat = Program::new("sh").args(["-c", "cat; echo oops >&2; exit 3"]);
        let output = cat.run(b"hello", Duration::from_secs(5)).await.unwrap();
        assert_eq!(output, Output { status: 3, stdout: "hello".into(), stderr: "oops\n".into() });
    }

    #[tokio::test]
    async fn run_kills_hung_program_at_timeout() {
        let error = Program::new("sleep").arg("60").run(b"", Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.to_string(), "`sleep 60` did not end within 50ms");
    }

    #[tokio::test]
    async fn run_names_missing_program() {
        let error = Program::new("swm-no-such").run(b"", Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.to_string(), "`swm-no-such` is not installed");
    }
}
