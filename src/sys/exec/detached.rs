//! Programs that outlast the process that starts them: the supervisor starts its processes with this module. No runtime is
//! needed.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

use super::{ExecError, Program};

/// This very binary, also when a newer one has replaced the file under its name (proc(5)).
pub const OWN_EXE: &str = "/proc/self/exe";

/// The PATH for programs whose environment has none: the one that systemd.exec(5) gives to its services.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Program {
    /// Returns the file that would be started: in its own directory and with the PATH of its own environment.
    pub fn locate(&self) -> Result<PathBuf, ExecError> {
        let given = self.env.iter().rfind(|(key, _)| key == "PATH").map(|(_, path)| path.clone());
        let path = given.unwrap_or_else(|| DEFAULT_PATH.into());
        self.find_in(&path).map_err(|source| self.to_exec_error(source))
    }

    /// Starts it with no environment but its own, and as a child that [`std::process`] knows.
    pub fn child(&self, input: OwnedFd, outputs: &File) -> io::Result<Child> {
        let (out, err) = (outputs.try_clone()?, outputs.try_clone()?);
        self.plain().stdin(Stdio::from(input)).stdout(out).stderr(err).spawn()
    }

    /// Replaces this process with the program, with an empty standard input; returns only the error of a failure.
    pub fn replace_process(&self) -> io::Error {
        self.plain().stdin(Stdio::null()).exec()
    }

    #[allow(clippy::disallowed_methods, reason = "a part of the door")]
    fn plain(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args).env_clear().envs(self.env.iter().map(|(key, value)| (key, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    /// Starts it with every signal as it is by default (a shell's `&` and nohup(1) leave some ignored, and a program
    /// that is started inherits that: signal(7)), no environment but its own, nothing on standard input. The caller does
    /// not wait for it, since it is about to end.
    pub fn orphan(&self, output: &OwnedFd, errors: &Path) -> io::Result<Pid> {
        let mut files = PosixSpawnFileActions::init()?;
        let null = File::open("/dev/null")?;
        let errors = File::options().append(true).create(true).mode(0o600).open(errors)?;
        for (file, standard) in [(null.as_raw_fd(), 0), (output.as_raw_fd(), 1), (errors.as_raw_fd(), 2)] {
            files.add_dup2(file, standard)?;
        }
        let mut attributes = PosixSpawnAttr::init()?;
        attributes
            .set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
        attributes.set_sigdefault(&SigSet::all())?;
        attributes.set_sigmask(&SigSet::empty())?;
        let argv = std::iter::once(&self.path).chain(&self.args).map(|arg| text(arg));
        let argv = argv.collect::<io::Result<Vec<CString>>>()?;
        let env = self.env.iter().map(|(key, value)| {
            let pair = [key.as_bytes(), b"=", value.as_bytes()].concat();
            text(OsStr::from_bytes(&pair))
        });
        let env = env.collect::<io::Result<Vec<CString>>>()?;
        Ok(posix_spawn(self.path.as_os_str(), &files, &attributes, &argv, &env)?)
    }
}

fn text(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(io::Error::other)
}
