//! The pipes to a host, with the real program at the other end: agents on unix sockets and over TLS, and a real sshd. Each
//! test has a network namespace of its own.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use switchman::model::api::{RunOutcome, RunRequest};
use switchman::model::failure::ErrorCode;
use switchman::model::host::{ConnectConfig, Transport};
use switchman::model::ports::Port;
use switchman::sys::link::connect;
use switchman::world::link::{HostLink, LinkError, SharedLineSink};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::testing::run_in_namespace;

mod audit;
mod balancer;
mod half_open;
mod journal;
mod ssh;
mod tls;
mod upload;

const SWITCHMAN: &str = env!("CARGO_BIN_EXE_switchman");

/// A directory, and the programs that are ended with it.
pub struct Place {
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
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), children: Vec::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        // Some are tokens.
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        self.path(name)
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

    /// Ends the programs with all that they have started: sshd serves a connection in processes of its own.
    pub fn kill_all(&mut self) {
        for child in &mut self.children {
            let mut pids = vec![child.id()];
            let mut next = 0;
            while let Some(pid) = pids.get(next) {
                let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
                let children = children.unwrap_or_default();
                pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
                next += 1;
            }
            for pid in pids {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
            let _ = child.wait();
        }
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
        let way = Transport::Socket(self.path("agent.sock"));
        connect(&"web1".parse().unwrap(), &way, &ConnectConfig::default())
    }
}

fn command(program: &str) -> Command {
    #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
    Command::new(program)
}

/// Only ends a test that would hang.
const BOUND: Duration = Duration::from_secs(30);

/// Waits for a condition, never for a time.
async fn until(condition: impl AsyncFn() -> bool) {
    let waited = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(BOUND, waited).await.expect("it never came true");
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

async fn refusal(link: &dyn HostLink) -> String {
    match link.greet().await {
        Err(error @ (LinkError::Unreachable { .. } | LinkError::VersionMismatch { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// A line sink that keeps the lines it receives.
fn listener() -> (SharedLineSink, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let theirs = lines.clone();
    (Arc::new(move |line: &str| theirs.lock().unwrap().push(line.to_owned())), lines)
}

#[test]
fn every_output_line_of_a_command_arrives() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.agent(&[]).await;
        let (heard, lines) = listener();
        let end = place.over_socket().run(&sh("seq 1 50000"), heard).await;
        assert_eq!(end, Ok(RunOutcome { status: 0, timed_out: false }));
        let lines = lines.lock().unwrap();
        assert_eq!((lines.len(), lines.last().map(String::as_str)), (50000, Some("50000")));
    });
}

/// A program and one in its background, both ignoring TERM; they print their pids.
const DEAF: &str = "trap '' TERM; sleep 60 & echo $!; echo $$; wait";

fn gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

/// Runs [`DEAF`] over the link until both are up, then `cut` is what happens to it.
async fn cut_off(link: &dyn HostLink, cut: impl AsyncFnOnce()) -> Vec<String> {
    let (heard, lines) = listener();
    let deaf = sh(DEAF);
    let both = until(async || lines.lock().unwrap().len() == 2);
    tokio::select! {
        ended = link.run(&deaf, heard) => panic!("{ended:?}"),
        () = both => {}
    }
    cut().await;
    lines.lock().unwrap().clone()
}

async fn all_gone(pids: &[String]) {
    until(async || pids.iter().all(|pid| gone(pid))).await;
}

#[test]
fn command_ends_when_caller_disconnects() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.agent(&[]).await;
        let pids = cut_off(&*place.over_socket(), async || {}).await;
        all_gone(&pids).await;
        assert!(place.over_socket().greet().await.is_ok(), "the agent lives on");
    });
}

/// `agent --stdio`, spoken to by hand.
struct OnStdio {
    child: tokio::process::Child,
    /// Apart from the child, whose `wait` would close it.
    stdin: Option<tokio::process::ChildStdin>,
    lines: tokio::io::Lines<tokio::io::BufReader<tokio::process::ChildStdout>>,
}

impl OnStdio {
    async fn new(place: &Place) -> Self {
        Self::with(place, &[]).await
    }

    /// With flags that come before the command.
    async fn with(place: &Place, flags: &[&str]) -> Self {
        let mut agent = tokio::process::Command::from(command(SWITCHMAN));
        agent.args(flags).args(["--state-dir", &place.text("state"), "agent", "--stdio", "--socket"]);
        agent.arg(place.path("agent.sock")).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = agent.spawn().unwrap();
        let lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut agent = Self { stdin: child.stdin.take(), child, lines };
        let greeting = agent.lines.next_line().await.unwrap().unwrap();
        assert!(greeting.starts_with("switchman agent api=2..2 version="), "{greeting}");
        agent
    }

    async fn ask(&mut self, head: &str, body: &str) {
        let length = body.len();
        let text = format!("{head} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}");
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).await.unwrap();
    }

    async fn ends(&mut self) {
        let ended = tokio::time::timeout(BOUND, self.child.wait()).await.expect("it did not end");
        assert!(ended.unwrap().success());
    }

    /// The next line that holds the text.
    async fn line(&mut self, text: &str) -> String {
        loop {
            let line = self.lines.next_line().await.unwrap().expect("the agent ended");
            if line.contains(text) {
                return line;
            }
        }
    }
}

async fn stdin_ends_while_a_command_runs(place: &Place) {
    let mut agent = OnStdio::new(place).await;
    agent.ask("POST /v1/run", &serde_json::to_string(&sh(DEAF)).unwrap()).await;
    let pid = |line: String| line.chars().filter(char::is_ascii_digit).collect::<String>();
    let pids = [pid(agent.line("\"line\"").await), pid(agent.line("\"line\"").await)];
    drop(agent.stdin.take());
    agent.ends().await;
    all_gone(&pids).await;
}

#[test]
fn stdio_agent_and_its_command_end_with_input() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        stdin_ends_while_a_command_runs(&place).await;
        place.agent(&[]).await;
        stdin_ends_while_a_command_runs(&place).await;
    });
}

/// ssh must see the end, or the client waits for an answer that never comes.
#[test]
fn stdio_agent_ends_with_the_agent_that_took_over() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let pid = place.agent(&[]).await;
        let mut agent = OnStdio::new(&place).await;
        agent.ask("GET /v1", "").await;
        agent.line("HTTP/1.1 200").await;
        kill(pid, Signal::SIGKILL).unwrap();
        agent.ends().await;
    });
}

#[test]
fn stdio_agent_ends_on_term() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        for handed_over in [false, true] {
            if handed_over {
                place.agent(&[]).await;
            }
            let mut agent = OnStdio::new(&place).await;
            agent.ask("GET /v1", "").await;
            agent.line("HTTP/1.1 200").await;
            let pid = Pid::from_raw(i32::try_from(agent.child.id().unwrap()).unwrap());
            kill(pid, Signal::SIGTERM).unwrap();
            agent.ends().await;
        }
    });
}

/// Status and body of the answer to one request, as it is written on the wire.
async fn raw(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> (u16, serde_json::Value) {
    // One that is refused may be answered, and the stream closed, before all of it is written.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
}

#[test]
fn malformed_requests_are_answered_in_json() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.agent(&[]).await;
        let long = "x".repeat(2 * 1024 * 1024);
        let broken = "{\"argv\": [\n\"x\",,";
        let forward = "/v1/services/shop/forward";
        let no_argv = "{\"key\":\"x\",\"env\":{}}";
        let cases = [
            ("GET", "/", "", 404, "there is no such route"),
            ("GET", "/v2", "", 404, "there is no such route"),
            ("POST", "/v1", "", 405, "this route has no such method"),
            ("DELETE", forward, "", 405, "this route has no such method"),
            (
                "PUT",
                forward,
                "",
                400,
                "the body is not understood: EOF while parsing a value at line 1 column 0",
            ),
            ("POST", "/v1/run", broken, 400, "the body is not understood: expected value at line 2 column 5"),
            ("POST", "/v1/run", no_argv, 400, "missing field `argv` at line 1 column 20"),
            ("POST", "/v1/probe", &long, 413, "the body has more than 1048576 bytes"),
            ("GET", "/v1/services/shop/pulse", "", 400, "missing field `port`"),
            ("GET", "/v1/services/shop/pulse?port=0", "", 400, "`port=0` names no port"),
            ("GET", "/v1/services/shop/pulse?port=70000", "", 400, "number too large"),
            ("GET", "/v1/services/a%2Fb/pulse?port=80", "", 400, "`a/b` is not a name"),
            ("GET", "/v1/services/%FF/pulse?port=80", "", 400, "Invalid UTF-8"),
            ("GET", "/v1/history?limit=-1", "", 400, "invalid digit"),
        ];
        for (method, path, body, status, text) in cases {
            let stream = tokio::net::UnixStream::connect(place.path("agent.sock")).await.unwrap();
            let length = body.len();
            let head = "host: x\r\nconnection: close";
            let request =
                format!("{method} {path} HTTP/1.1\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}");
            let (found, error) = raw(stream, &request).await;
            let message = error["message"].as_str().unwrap();
            assert!(found == status && message.contains(text), "{method} {path}: {found} {error}");
            assert_eq!(error["code"], if status == 404 { "not-found" } else { "bad-request" });
        }
    });
}

/// Rows: R32.
#[test]
fn agent_replaces_socket_of_dead_agent_only() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let first = place.agent(&[]).await;
        let socket = place.path("agent.sock");
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let state = place.text("state");
        let start = |socket: &str| {
            let output =
                command(SWITCHMAN).args(["--state-dir", &state, "agent", "--socket", socket]).output();
            let output = output.unwrap();
            assert_eq!(output.status.code(), Some(1));
            String::from_utf8(output.stderr).unwrap()
        };
        let taken = start(&place.text("agent.sock"));
        assert!(taken.contains("cannot serve: another agent serves `"), "{taken}");
        place.over_socket().greet().await.unwrap();
        kill(first, Signal::SIGKILL).unwrap();
        until(async || tokio::net::UnixStream::connect(&socket).await.is_err()).await;
        assert!(socket.exists());
        let second = place.agent(&[]).await;
        place.over_socket().greet().await.unwrap();
        kill(second, Signal::SIGTERM).unwrap();
        until(async || !socket.exists()).await;
        // A typing error overwrites no file.
        let file = place.write("precious", "text");
        let refused = start(&file.display().to_string());
        assert!(refused.contains("precious`: it is no socket"), "{refused}");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "text");
    });
}

/// A socket that moved bytes since an operator's last reading is busy, also if others have read in between.
#[test]
fn two_watchers_have_samples_of_their_own() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.agent(&[]).await;
        let main = tokio::net::TcpListener::bind("127.0.0.1:8080").await.unwrap();
        let (client, server) = tokio::join!(TcpStream::connect("127.0.0.1:8080"), main.accept());
        let (mut client, mut server) = (client.unwrap(), server.unwrap().0);
        let mut said = [0];
        client.write_all(b"?").await.unwrap();
        server.read_exact(&mut said).await.unwrap();
        let (one, other) = (place.over_socket(), place.over_socket());
        let busy = async |link: &dyn HostLink| {
            let pulse =
                link.fetch_activity(&"shop".parse().unwrap(), Port::new(8080).unwrap()).await.unwrap();
            pulse.sockets.unwrap().busy
        };
        for link in [&one, &other] {
            server.write_all(b".").await.unwrap();
            client.read_exact(&mut said).await.unwrap();
            until(async || busy(&**link).await == 0).await;
        }
        server.write_all(b".").await.unwrap();
        client.read_exact(&mut said).await.unwrap();
        assert_eq!((busy(&*other).await, busy(&*one).await), (1, 1));
    });
}
