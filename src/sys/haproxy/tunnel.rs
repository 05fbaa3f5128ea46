//! A stats socket on another machine: one ssh forwards it to a socket of this machine, for as long as the balancer is used.
//!
//! OpenSSH forwards unix sockets by itself (ssh_config(5), LocalForward), so the balancer needs nothing but sshd. The socket
//! of this machine is in a private directory until it is open; then it has no name any more, and so nothing is left of it
//! after this process, however it ends.

use std::fs::{File, OpenOptions, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::ReadError;
use crate::model::balancer::SshSocket;
use crate::model::shell::quote_word;
use crate::model::ssh::{SshAttempt, SshFailure};
use crate::sys::exec::{ExecError, to_exit_status};
use crate::sys::ssh::stderr::SshStderr;
use crate::sys::ssh::{build_forward_program, build_remote_program};

/// The name of the private directory of a local socket: with the pid of its command, and a part that is random.
const DIR_PREFIX: &str = "swm-ssh-";
/// Limit of the start of ssh: with a jump host and a slow login it is a few seconds.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// Limit of the command that finds out why the socket cannot be reached.
const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(10);
/// The time in which the same failure is reported again, without another ssh: HAProxy is read several times a second.
const FAILURE_AGE: Duration = Duration::from_secs(5);
/// The interval between two looks for the socket of ssh.
const SOCKET_INTERVAL: Duration = Duration::from_millis(10);
/// The time from the bind of a socket to its listen, with room for a busy machine.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct SshTunnel {
    socket: SshSocket,
    open: Mutex<Option<OpenTunnel>>,
    /// Why the last start of ssh failed.
    start_failure: RecentFailure,
    /// Why the socket could not be reached through ssh.
    diagnosis: RecentFailure,
}

/// A failure that is reported again for a while.
#[derive(Default)]
struct RecentFailure(Mutex<Option<(Instant, String)>>);

impl RecentFailure {
    async fn find(&self) -> Option<String> {
        let last = self.0.lock().await;
        last.as_ref().filter(|(at, _)| at.elapsed() < FAILURE_AGE).map(|(_, text)| text.clone())
    }

    async fn store(&self, text: String) -> String {
        *self.0.lock().await = Some((Instant::now(), text.clone()));
        text
    }
}

/// An ssh that forwards.
struct OpenTunnel {
    ssh: SshProcess,
    /// The socket of this machine, by its inode (open(2), `O_PATH`).
    local: File,
}

/// Ended when dropped.
struct SshProcess {
    child: Child,
    stderr: SshStderr,
}

impl Drop for SshProcess {
    fn drop(&mut self) {
        // TERM and not KILL, so that ssh ends its own children: a ProxyCommand, a jump host. One that was waited for has no id.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
    }
}

impl SshTunnel {
    pub(super) fn new(socket: SshSocket) -> Self {
        Self {
            socket,
            open: Mutex::default(),
            start_failure: RecentFailure::default(),
            diagnosis: RecentFailure::default(),
        }
    }

    /// Starts ssh unless it runs. The caller's timeout of a read does not count here.
    pub(super) async fn ensure_open(&self) -> Result<(), ReadError> {
        let mut open = self.open.lock().await;
        if open.as_mut().is_some_and(|open| matches!(open.ssh.child.try_wait(), Ok(None))) {
            return Ok(());
        }
        *open = None;
        if let Some(known) = self.start_failure.find().await {
            return Err(ReadError::NoConnection(known));
        }
        match self.start().await {
            Ok(started) => *open = Some(started),
            Err(reason) => return Err(ReadError::NoConnection(self.start_failure.store(reason).await)),
        }
        Ok(())
    }

    /// Connects to HAProxy. What is refused at the other end is an error of the first write or read.
    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        let path = {
            let open = self.open.lock().await;
            let open = open.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
            PathBuf::from(format!("/proc/self/fd/{}", open.local.as_raw_fd()))
        };
        let deadline = Instant::now() + LISTEN_TIMEOUT;
        loop {
            match UnixStream::connect(&path).await {
                Err(error)
                    if error.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < deadline =>
                {
                    tokio::time::sleep(SOCKET_INTERVAL).await;
                }
                connected => return connected,
            }
        }
    }

    /// Explains why a connection through ssh failed: sshd does not send a reason.
    pub(super) async fn explain(&self, reason: String) -> String {
        let ended = {
            let mut open = self.open.lock().await;
            match open.as_mut() {
                Some(open) => match open.ssh.child.try_wait() {
                    Ok(Some(_)) => Some(open.ssh.stderr.wait_for_text().await),
                    _ => None,
                },
                None => None,
            }
        };
        if let Some(words) = ended {
            return format!("ssh ended: {}", choose(&words, &reason));
        }
        if let Some(known) = self.diagnosis.find().await {
            return known;
        }
        let found = self.diagnose().await;
        self.diagnosis.store(found.unwrap_or(reason)).await
    }

    fn options(&self) -> Vec<String> {
        let port = self.socket.port.map(|port| ["-p".to_owned(), port.to_string()]);
        port.into_iter().flatten().chain(self.socket.options.iter().cloned()).collect()
    }

    fn describe_failure(&self, failure: SshFailure, words: &str) -> String {
        let attempt = SshAttempt {
            destination: self.socket.destination.clone(),
            options: self.options(),
            remote: vec!["true".to_owned()],
            failure,
        };
        format!("{words}; {}", attempt.advice())
    }

    async fn start(&self) -> Result<OpenTunnel, String> {
        let to_text = |error: io::Error| format!("cannot make a socket for ssh: {error}");
        let parent = choose_parent_dir();
        remove_stale_dirs(&parent);
        let dir = tempfile::Builder::new()
            .prefix(&format!("{DIR_PREFIX}{}-", std::process::id()))
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .map_err(to_text)?;
        let path = dir.path().join("s");
        let forward = format!("{}:{}", path.display(), self.socket.path.display());
        let program = build_forward_program(&self.socket.destination, &self.options(), &forward);
        let mut child = program.spawn_piped_with_parent().map_err(|error| match error {
            ExecError::Missing { .. } => self.describe_failure(SshFailure::NoSsh, &error.to_string()),
            error => error.to_string(),
        })?;
        let stderr = child.stderr.take().ok_or("ssh has no standard error")?;
        let stderr = SshStderr::start_reading(stderr).map_err(to_text)?;
        let ssh = SshProcess { child, stderr };
        let opened = tokio::time::timeout(OPEN_TIMEOUT, wait_for_socket(ssh, &path)).await;
        match opened {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(StartFailure::Ended { status, words })) => Err(self.describe_failure(
                SshFailure::classify(Some(status), &words),
                &format!("ssh reports: {}", choose(&words, "no output")),
            )),
            Ok(Err(StartFailure::NoSocket(error))) => Err(to_text(error)),
            Err(_) => {
                let waited = crate::model::duration::format(OPEN_TIMEOUT);
                Err(self.describe_failure(SshFailure::Other, &format!("ssh is not connected after {waited}")))
            }
        }
    }

    /// Looks at the socket from the other machine; `None` if that is not possible there.
    async fn diagnose(&self) -> Option<String> {
        let path = &self.socket.path;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let script = format!(
            "p={}; d={}; if test -S $p; then test -r $p && test -w $p && exit 40; exit 41; fi; test -e $p && exit 42; \
             test -x $d || exit 43; exit 44",
            quote_word(&path.display().to_string()),
            quote_word(&parent.display().to_string()),
        );
        let words = ["sh".to_owned(), "-c".to_owned(), script];
        let program = build_remote_program(&self.socket.destination, &self.options(), &words);
        let output = program.run(b"", DIAGNOSIS_TIMEOUT).await.ok()?;
        let (machine, path, parent) = (&self.socket.destination, path.display(), parent.display());
        let found = match output.status {
            40 => format!(
                "`{path}` is there, and sshd does not connect to it; start HAProxy there, and let sshd forward it: \
                 `AllowStreamLocalForwarding yes` in sshd_config, no `restrict` or `no-port-forwarding` at the key"
            ),
            41 => format!(
                "the user of `ssh {machine}` may not write to `{path}`; give the socket to that user in haproxy.cfg: `stats socket \
                 {path} user USER mode 600 level admin`"
            ),
            42 => {
                format!("`{path}` is no socket; correct the path to that of a `stats socket` in haproxy.cfg")
            }
            43 => format!(
                "`{parent}` is not there, or closed to the user of `ssh {machine}`; give the `stats socket` a path in a directory \
                 that this user may enter"
            ),
            44 => format!(
                "`{path}` is not there; start HAProxy there, or correct the path to that of its `stats socket`"
            ),
            _ => return None,
        };
        Some(found)
    }
}

enum StartFailure {
    Ended { status: i32, words: String },
    NoSocket(io::Error),
}

/// Waits until ssh has logged in, which is when it makes its socket.
async fn wait_for_socket(mut ssh: SshProcess, path: &Path) -> Result<OpenTunnel, StartFailure> {
    while !path.exists() {
        tokio::select! {
            ended = ssh.child.wait() => {
                let status = ended.map_or(-1, to_exit_status);
                return Err(StartFailure::Ended { status, words: ssh.stderr.wait_for_text().await });
            }
            () = tokio::time::sleep(SOCKET_INTERVAL) => {}
        }
    }
    let flags = nix::libc::O_PATH | nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC;
    let local = OpenOptions::new().read(true).custom_flags(flags).open(path);
    ssh.stderr.clear();
    Ok(OpenTunnel { local: local.map_err(StartFailure::NoSocket)?, ssh })
}

/// Chooses a directory for the socket, whose path has at most 107 bytes (unix(7)) and no character that ssh expands.
fn choose_parent_dir() -> PathBuf {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let usual = std::env::temp_dir();
    let fits = usual.to_str().is_some_and(|dir| dir.len() <= 80 && dir.chars().all(is_plain));
    if fits { usual } else { PathBuf::from("/tmp") }
}

/// Removes the directories that killed commands left, each with a socket at most. Those of other users stay.
fn remove_stale_dirs(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(DIR_PREFIX));
        let Some((pid, _)) = rest.and_then(|rest| rest.split_once('-')) else { continue };
        // That of a zombie is empty (proc_pid_cmdline(5)).
        let runs =
            |pid: &str| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
        if pid.parse::<u32>().is_ok() && !runs(pid) {
            let _ = std::fs::remove_file(entry.path().join("s"));
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

fn choose<'a>(words: &'a str, otherwise: &'a str) -> &'a str {
    if words.is_empty() { otherwise } else { words }
}
