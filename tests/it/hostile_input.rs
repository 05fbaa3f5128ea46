//! Hostile names and programs: each ends with an error of its own, within its bounds, and leaves nothing.
//! The host has no load balancers. Each test has a network namespace and directories of its own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::single_host::{HostAgent, build_command};
use crate::testing::run_in_namespace;

struct Host {
    dir: tempfile::TempDir,
    agent: Option<HostAgent>,
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.agent.take());
        // Of a test that failed.
        for pid in self.processes() {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

const YAML: &str = "service: shop
ports: {check: 8888, main: 8080, backup: 8081}
roll: {min_up: 0}
health: {path: /health, interval: 50ms, timeout: 500ms, rise: 3}
versions: {health_timeout: 3s, watch: 0s}
";

/// In the release; an argument of a program has one line.
const ANSWERS_500: &str = "
import http.server, os
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
http.server.HTTPServer(('', int(os.environ['PORT'])), H).serve_forever()
";
const ONCE: &str = "
import http.server, os, time
server = http.server.HTTPServer(('', int(os.environ['PORT'])), http.server.SimpleHTTPRequestHandler)
server.handle_request()
server.server_close()
time.sleep(600)
";

impl Host {
    fn new() -> Self {
        let dir = crate::single_host::make_open_dir();
        std::fs::write(dir.path().join("switchman.yaml"), YAML).unwrap();
        std::fs::create_dir(dir.path().join("code")).unwrap();
        for (name, text) in [("health", "ok"), ("500.py", ANSWERS_500), ("once.py", ONCE)] {
            std::fs::write(dir.path().join("code").join(name), text).unwrap();
        }
        Self { dir, agent: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = build_command(self.dir.path());
        command.args(["--local", "--yes"]).args(args);
        command.current_dir(self.path("code")).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Starts the agent and returns its socket.
    fn serve(&mut self) -> PathBuf {
        let socket = self.path("agent.sock");
        self.agent = Some(HostAgent::start(self.command(&[]), &socket));
        socket
    }

    fn deploy(&self, program: &[&str]) -> Output {
        let code = self.path("code").display().to_string();
        self.run(&[&["deploy", "--grace", "500ms", "shop", "1.0.0", &code, "--"], program].concat())
    }

    /// The processes that were started for this host: its release is in its environment, or its directory is named.
    fn processes(&self) -> Vec<i32> {
        let needle = self.dir.path().display().to_string();
        let holds = |file: PathBuf| {
            let bytes = std::fs::read(file).unwrap_or_default();
            bytes.windows(needle.len()).any(|part| part == needle.as_bytes())
        };
        let pids = std::fs::read_dir("/proc").unwrap();
        let pids = pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
        let agent = self.agent.as_ref().map(HostAgent::pid);
        pids.filter(|pid| Some(*pid) != agent)
            .filter(|pid| {
                ["environ", "cmdline"].iter().any(|file| holds(format!("/proc/{pid}/{file}").into()))
            })
            .collect()
    }

    fn rules() -> String {
        #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
        let saved = Command::new("iptables-save").args(["-t", "nat"]).output().unwrap();
        String::from_utf8(saved.stdout).unwrap()
    }

    /// No process, no rule, no release, no instance, no row.
    fn is_bare(&self) {
        assert_eq!(self.processes(), [] as [i32; 0]);
        let rules = Self::rules();
        assert!(!rules.contains("--to-ports"), "{rules}");
        let listed = self.run(&["--output", "json", "ls"]);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(!listed.contains("dp_"), "{listed}");
        for dir in ["releases/shop/releases", "state/instances"] {
            let left: Vec<String> = names(&self.path(dir));
            assert!(left.iter().all(|name| name.starts_with('.')), "{dir}: {left:?}");
        }
    }

    /// Checks that no name made a directory of a service, a release, an instance.
    fn has_no_names(&self) {
        let services = names(&self.path("releases"));
        assert!(services.iter().all(|name| name == "shop"), "{services:?}");
        for dir in ["releases/shop", "releases/shop/releases", "state/instances"] {
            let made = names(&self.path(dir));
            assert!(made.iter().all(|name| name == "releases" || name.starts_with('.')), "{dir}: {made:?}");
        }
    }

    /// The entries beside the two directories of switchman.
    fn outside(&self) -> Vec<String> {
        let mut all = names(self.dir.path());
        all.retain(|name| {
            let ours =
                ["state", "releases", "xtables.lock", "agent.sock", "agent.sock.lock", "agent.sock.relay"];
            !ours.contains(&name.as_str())
        });
        all.extend(names(&self.path("code")));
        all
    }
}

async fn until(mut condition: impl FnMut() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect("it never came true");
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The deploy fails with these words, and nothing is left.
fn fails(program: &'static [&'static str], with: &'static str) {
    run_in_namespace(move || async move {
        let host = Host::new();
        let ended = host.deploy(program);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains("does not answer its health check") && said.contains(with), "{said}");
        assert!(said.len() < 16 * 1024, "{} bytes are said", said.len());
        host.is_bare();
    });
}

#[test]
fn program_that_exits_at_once_fails_deploy() {
    fails(&["sh", "-c", "echo no such luck; exit 3"], "no such luck");
}

#[test]
fn program_that_never_listens_fails_deploy() {
    fails(&["sleep", "600"], "cannot connect");
}

#[test]
fn program_that_ignores_term_is_killed() {
    fails(&["sh", "-c", "trap '' TERM; sleep 600 & while :; do wait; done"], "cannot connect");
}

/// Rows: D35.
#[test]
fn program_that_answers_500_fails_deploy() {
    fails(&["python3", "500.py"], "answered 500, expected 200");
}

/// Healthy once, of three times.
#[test]
fn program_that_closes_its_port_fails_deploy() {
    fails(&["python3", "once.py"], "cannot connect");
}

#[test]
fn program_that_prints_100_megabytes_is_bounded() {
    fails(&["sh", "-c", "yes a line of output | head -c 100000000; exec sleep 600"], "cannot connect");
}

/// Whether it counts as running is the runner's business; either way nothing of it outlives a kill.
#[test]
fn program_that_becomes_a_daemon_is_ended() {
    run_in_namespace(|| async {
        let host = Host::new();
        let ended =
            host.deploy(&["sh", "-c", "setsid python3 -m http.server $PORT >/dev/null 2>&1 & exit 0"]);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        if ended.status.success() {
            assert!(Host::rules().contains("--to-ports"));
            let killed = host.run(&["kill", "shop"]);
            assert!(killed.status.success(), "{}", String::from_utf8_lossy(&killed.stderr));
        } else {
            assert!(said.contains("does not answer its health check"), "{said}");
        }
        host.is_bare();
    });
}

/// The well-behaved one, so that the others fail for their own reasons.
#[test]
fn healthy_program_is_deployed() {
    run_in_namespace(|| async {
        let host = Host::new();
        let ended = host.deploy(&["sh", "-c", "exec python3 -m http.server $PORT"]);
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert!(Host::rules().contains("--to-ports"));
        let killed = host.run(&["kill", "shop"]);
        assert!(killed.status.success(), "{}", String::from_utf8_lossy(&killed.stderr));
        host.is_bare();
    });
}

fn tricks() -> Vec<String> {
    let plain = [
        "",
        "../x",
        "..",
        "/etc/passwd",
        "a;id",
        "$(touch pwned)",
        "`touch pwned`",
        "a|id",
        "-rf",
        "--",
        "a b",
    ];
    let others = ["a\nb", "\u{202e}pohs", "ｓｈｏｐ", "shop\u{200b}", "%2e%2e", "~root", "*", "a'\"b"];
    let mut all: Vec<String> = plain.iter().chain(&others).map(|text| (*text).to_owned()).collect();
    all.push("a".repeat(4096));
    all
}

#[test]
fn hostile_names_on_command_line_are_refused() {
    run_in_namespace(|| async {
        let host = Host::new();
        let before = host.outside();
        for trick in &tricks() {
            let lines: [(&[&str], &str); 10] = [
                (&["deploy", trick, "1.0.0", ".", "--", "true"], "' for '<NAME>': "),
                (&["deploy", "shop", trick, ".", "--", "true"], "' for '<VERSION>': "),
                (
                    &["deploy", "--user", trick, "shop", "1.0.0", ".", "--", "true"],
                    "` is refused: a user has ",
                ),
                (&["--service", trick, "status"], "' for '--service <NAME>': "),
                (&["assign", trick, "1.0.0"], "cannot read the name `"),
                (&["assign", "shop", trick], "' for '[VERSION]': "),
                (&["kill", trick], "cannot read the name `"),
                (&["kill", "shop", trick], "' for '[VERSION]': "),
                (&["logs", trick], "cannot read the name `"),
                (&["update", trick, "1.0.0", "."], "cannot read the name `"),
            ];
            for (line, refusal) in lines {
                let ended = host.run(line);
                let said = String::from_utf8_lossy(&ended.stderr).into_owned();
                assert!(matches!(ended.status.code(), Some(1 | 2)), "{line:?}: {:?} {said}", ended.status);
                assert!(!said.contains("panicked"), "{line:?}: {said}");
                // Each for what it is, not because nothing of that name is there, or runs. Two are flags.
                let refusal = match trick.as_str() {
                    "-rf" => "unexpected argument '-r' found",
                    "--" => "",
                    _ => refusal,
                };
                assert!(!said.is_empty() && said.contains(refusal), "{line:?}: {said}");
                // clap reports wrong usage, and repeats the argument unchanged.
                let twists = said.contains(['\u{202e}', '\u{200b}']);
                assert!(ended.status.code() == Some(2) || !twists, "{line:?}: {said:?}");
            }
        }
        assert_eq!(host.outside(), before);
        host.has_no_names();
        host.is_bare();
    });
}

/// Status of the answer.
fn ask(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

fn in_url(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A deployment of an external workload at port 1.
fn a_deploy(service: &str) -> serde_json::Value {
    serde_json::json!({
        "id": "dp_0123456789", "service": service, "version": "1.0.0", "health_timeout_ms": 100,
        "how": {"workload": {"external": {"uri": "http://127.0.0.1:1"}}},
        "health": {"path": "/", "status": 200, "host": null, "timeout_ms": 100, "interval_ms": 10, "rise": 1},
        "site": {"ports": {"check": 8888, "main": 8080, "backup": 8081}, "address": "127.0.0.1", "balancer_is_local": true,
            "port_range": [20000, 20010], "keep_releases": 1},
        "actor": {"user": "x", "pid": 1},
    })
}

/// The deployment would become healthy after its caller has hung up: it is undone by then, and the next deploy is not refused. No
/// other service can change its routes.
#[test]
fn deploy_is_undone_when_its_caller_hangs_up() {
    run_in_namespace(|| async {
        let mut host = Host::new();
        let socket = host.serve();
        let mut deploy = a_deploy("shop");
        deploy["health_timeout_ms"] = 20_000.into();
        let body = deploy.to_string();
        let mut caller = UnixStream::connect(&socket).unwrap();
        let head = format!("POST /v1/deployments HTTP/1.1\r\nhost: x\r\ncontent-length: {}", body.len());
        caller.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
        let says = |text: &str| ask(&socket, "GET", "/v1/deployments", "").1.contains(text);
        until(|| says("\"stage\":\"starting\"")).await;
        drop(caller);
        until(|| !says("dp_0123456789")).await;
        assert!(!Host::rules().contains("--to-ports"));
        let web = std::net::TcpListener::bind("127.0.0.1:1").unwrap();
        std::thread::spawn(move || {
            for stream in web.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        });
        let (status, answer) = ask(&socket, "POST", "/v1/deployments", &body);
        assert!(matches!(status, 200..=202), "{status} {answer}");
        assert!(says("\"stage\":\"ready\""));
        let rules = Host::rules();
        assert!(rules.contains("--dport 8080") && rules.contains("--to-ports 1"), "{rules}");

        let by_id =
            "{\"which\":{\"id\":\"dp_0123456789\"},\"part\":\"whole\",\"actor\":{\"user\":\"x\",\"pid\":1}}";
        let (status, answer) = ask(&socket, "PUT", "/v1/services/blog/main", by_id);
        assert_eq!(status, 404, "{answer}");
        let (status, answer) = ask(&socket, "PUT", "/v1/services/shop/main", by_id);
        assert_eq!(status, 200, "{answer}");
        for (field, value) in [("route_change", "remove"), ("access", "private")] {
            let mut request = serde_json::json!({
                "forward": {"service": "shop", "check": 8888, "target": 1}, "switch": "on",
                "balancer_is_local": true, "actor": {"user": "x", "pid": 1}, "action": "x", "detail": "",
            });
            request[field] = value.into();
            let (status, answer) = ask(&socket, "PUT", "/v1/services/shop/forward", &request.to_string());
            assert_eq!(status, 400, "{answer}");
            assert_eq!(Host::rules(), rules);
        }
    });
}

#[test]
fn hostile_names_over_api_are_refused() {
    run_in_namespace(|| async {
        let mut host = Host::new();
        let before = host.outside();
        let socket = host.serve();
        let mut all = tricks();
        all.extend(["\0".to_owned(), "shop\0".to_owned(), "dp_0123456789\0".to_owned()]);
        for trick in all.iter().filter(|trick| !trick.is_empty()) {
            let name = in_url(trick);
            let deploy = a_deploy(trick);
            let mut uri = deploy.clone();
            (uri["service"], uri["how"]["workload"]["external"]["uri"]) =
                ("shop".into(), trick.as_str().into());
            let version = serde_json::json!({"version": trick}).to_string();
            let asked = [
                ("POST", "/v1/deployments".to_owned(), deploy.to_string()),
                ("POST", "/deployments".to_owned(), uri.to_string()),
                ("DELETE", format!("/v1/deployments/{name}"), String::new()),
                ("PUT", format!("/v1/deployments/{name}"), "{\"uri\":\"http://127.0.0.1:1\"}".to_owned()),
                ("GET", format!("/v1/deployments/{name}/logs"), String::new()),
                ("PUT", format!("/v1/services/{name}/main"), "{\"version\":\"1.0.0\"}".to_owned()),
                ("PUT", "/v1/services/shop/main".to_owned(), version),
                ("PUT", format!("/v1/services/shop/releases/{name}"), String::new()),
                ("PUT", format!("/v1/services/{name}/releases/1.0.0"), String::new()),
            ];
            for (method, path, body) in asked {
                let (status, answer) = ask(&socket, method, &path, &body);
                assert!(matches!(status, 400 | 404), "{method} {path} {body}: {answer}");
                assert!(!answer.contains("health check"), "{method} {path} {body}: {answer}");
            }
        }
        assert_eq!(ask(&socket, "GET", "/v1", "").0, 200, "the agent lives on");
        assert_eq!(host.outside(), before);
        host.has_no_names();
        host.is_bare();
    });
}
