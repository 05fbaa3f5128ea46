//! A host with a main vhost and nothing in front of it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// switchman with all of its files in a directory.
pub fn build_command(dir: &Path) -> Command {
    #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchman"));
    command.arg("--config").arg(dir.join("switchman.yaml"));
    command.arg("--state-dir").arg(dir.join("state")).arg("--releases-dir").arg(dir.join("releases"));
    command.env("XTABLES_LOCKFILE", dir.join("xtables.lock"));
    command
}

/// An agent that serves the host of a directory. Ended with the value.
pub struct HostAgent(Child);

impl HostAgent {
    /// Waits until the agent answers at its socket. `command` is [`build_command`] with the flags of the host.
    pub fn start(mut command: Command, socket: &Path) -> Self {
        command.args(["agent", "--socket"]).arg(socket);
        let agent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let agent = Self(agent);
        let began = Instant::now();
        while UnixStream::connect(socket).is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "the agent does not serve");
            std::thread::yield_now();
        }
        agent
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for HostAgent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A host whose operator types commands on it. Dropping the value ends every version, also of a test that failed.
pub struct LocalOperator {
    dir: tempfile::TempDir,
}

impl LocalOperator {
    /// The directory has `switchman.yaml`, and `code` with an answer to the health check.
    pub fn new(dir: tempfile::TempDir) -> Self {
        std::fs::create_dir(dir.path().join("code")).unwrap();
        std::fs::write(dir.path().join("code/health"), "ok").unwrap();
        Self { dir }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn run(&self, args: &[&str]) -> Output {
        let mut switchman = build_command(self.dir());
        switchman.args(["--local", "--yes"]).args(args).current_dir(self.dir());
        switchman.stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that succeeds and returns its output.
    pub fn stdout(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn deploy(&self, version: &str) {
        let program = "exec python3 -m http.server $PORT";
        self.stdout(&["deploy", "shop", version, "code", "--", "sh", "-c", program]);
    }
}

impl Drop for LocalOperator {
    fn drop(&mut self) {
        self.run(&["kill", "--all", "--force"]);
    }
}

/// Makes a directory that all users may enter: programs of releases in it do not run as root.
pub fn make_open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

/// Inside a namespace: writes the configuration into a new directory. The main vhost answers 200 to everything.
pub fn make_single_host() -> tempfile::TempDir {
    let dir = make_open_dir();
    let yaml = "service: shop\nroll: {min_up: 0}\nhealth: {interval: 10ms}\n";
    std::fs::write(dir.path().join("switchman.yaml"), yaml).unwrap();
    let main = TcpListener::bind("127.0.0.1:8080").unwrap();
    std::thread::spawn(move || answer_every_request(&main));
    dir
}

/// Answers 200 to everything, for as long as the process lives.
pub fn answer_every_request(listener: &TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
}
