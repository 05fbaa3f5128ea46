//! A host with a main vhost and nothing in front of it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

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
        let dir = self.dir();
        #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
        let mut switchman = Command::new(env!("CARGO_BIN_EXE_switchman"));
        switchman.arg("--config").arg(dir.join("switchman.yaml")).arg("--local").arg("--yes");
        switchman.arg("--state-dir").arg(dir.join("state")).arg("--releases-dir").arg(dir.join("releases"));
        switchman.env("XTABLES_LOCKFILE", dir.join("xtables.lock")).current_dir(dir).args(args);
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

/// Inside a namespace: writes the configuration into a new directory. The main vhost answers 200 to everything.
pub fn make_single_host() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let yaml = "service: shop\nroll: {min_up: 0}\nhealth: {interval: 10ms}\n";
    std::fs::write(dir.path().join("switchman.yaml"), yaml).unwrap();
    let main = TcpListener::bind("127.0.0.1:8080").unwrap();
    std::thread::spawn(move || {
        for stream in main.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    dir
}
