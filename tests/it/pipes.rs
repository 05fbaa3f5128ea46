//! The pipes to a host, with the real program at the other end: agents on unix sockets and over TLS, and a real sshd. Each
//! test has a network namespace of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::unistd::Pid;
use switchman::model::api::{RunEnd, RunRequest};
use switchman::model::host::{Reach, Route};
use switchman::sys::link::connect;
use switchman::world::link::{Heard, HostLink};

use crate::testing::in_namespace;

const SWITCHMAN: &str = env!("CARGO_BIN_EXE_switchman");

/// A directory, and the programs that are ended with it.
struct Place {
    dir: tempfile::TempDir,
    children: Vec<Child>,
}

impl Drop for Place {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), children: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Lives as long as the place. Its words are in `NAME.log`.
    fn start(&mut self, name: &str, program: &str, args: &[&str]) -> Pid {
        let log = std::fs::File::create(self.path(&format!("{name}.log"))).unwrap();
        let mut command = command(program);
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        self.children.push(child);
        pid
    }

    /// An agent on `agent.sock`, with more flags.
    async fn agent(&mut self, more: &[&str]) -> Pid {
        let (socket, state) = (self.text("agent.sock"), self.text("state"));
        let agent = ["--state-dir", &state, "agent", "--socket", &socket];
        let pid = self.start("agent", SWITCHMAN, &[&agent[..], more].concat());
        until(async || tokio::net::UnixStream::connect(&socket).await.is_ok()).await;
        pid
    }

    fn over_socket(&self) -> Arc<dyn HostLink> {
        let route = Route::Socket(self.path("agent.sock"));
        connect(&"web1".parse().unwrap(), &route, &Reach::default())
    }
}

fn command(program: &str) -> Command {
    #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
    Command::new(program)
}

/// Waits for a condition, never for a time: the bound only ends a test that would hang.
async fn until(condition: impl AsyncFn() -> bool) {
    let waited = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect("it never came true");
}

fn sh(script: &str) -> RunRequest {
    RunRequest {
        key: "test".to_owned(),
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        dir: None,
        timeout_ms: None,
    }
}

/// Keeps what it hears.
fn listener() -> (Heard, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let theirs = lines.clone();
    (Arc::new(move |line: &str| theirs.lock().unwrap().push(line.to_owned())), lines)
}

#[test]
fn every_line_of_a_command_arrives() {
    in_namespace(|| async {
        let mut place = Place::new();
        place.agent(&[]).await;
        let (heard, lines) = listener();
        let end = place.over_socket().run(&sh("seq 1 50000"), heard).await;
        assert_eq!(end, Ok(RunEnd { status: 0, timed_out: false }));
        let lines = lines.lock().unwrap();
        assert_eq!((lines.len(), lines.last().map(String::as_str)), (50000, Some("50000")));
    });
}
