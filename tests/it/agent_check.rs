//! `agent-check` with a real HAProxy, kernel and record: what each answer makes of a host, through reloads and restarts.
//! One host, `web1`, with the responder beside it; `web2` is there for its users to go to.

use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use switchman::agent::agent_check::serve;
use switchman::model::agent_check::{AgentCheckConfig, MaintenanceReply};
use switchman::sys;
use switchman::sys::exec::Program;
use switchman::world::HostWorld;
use switchman::world::reporter::{Event, Reporter};
use switchman::world::stop::{self, StopHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::testing::run_in_namespace;

/// A backend with the README's lines, where the health check goes through the forward.
const RECIPE: &str = "recipe";
/// The health check goes to the data port, so that the agent alone knows of a maintenance.
const AGENT_ALONE: &str = "agent-alone";

const FRONT: &str = "127.0.0.1:8000";
const AGENT: &str = "127.0.0.1:8891";
const WEB1: &str = "127.0.0.1:8080";

struct Stage {
    dir: tempfile::TempDir,
    backend: &'static str,
    haproxy: Child,
    release: watch::Sender<bool>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.haproxy.start_kill();
    }
}

/// The state of `main-web1` in HAProxy.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    status: String,
    weight: String,
    /// The result of the health check, and of the agent check.
    check: String,
    agent: String,
    agent_said: String,
    sessions: String,
}

impl Stage {
    /// Inside a namespace. Without `web1`'s main vhost, which each test starts.
    async fn new(backend: &'static str) -> Self {
        let (release, released) = watch::channel(false);
        vhost("127.0.0.2:8080", "web2", released.clone()).await;
        vhost("127.0.0.1:80", "backup", released).await;
        let dir = tempfile::tempdir().unwrap();
        let haproxy = start_haproxy(&dir, backend, None);
        Self { dir, backend, haproxy, release }
    }

    async fn main_vhost(&self) -> JoinHandle<()> {
        vhost(WEB1, "web1", self.release.subscribe()).await
    }

    /// A new HAProxy takes over from the old one, which ends when its last connection has.
    async fn reload(&mut self) {
        let new = start_haproxy(&self.dir, self.backend, self.haproxy.id());
        std::mem::replace(&mut self.haproxy, new).wait().await.unwrap();
    }

    async fn restart(&mut self) {
        self.haproxy.kill().await.unwrap();
        self.haproxy = start_haproxy(&self.dir, self.backend, None);
    }

    async fn run(&self, verb: &str) -> Output {
        let config = self.dir.path().join("switchman.yaml");
        let balancer = "{name: lb1, backend: recipe, on_host: true}";
        std::fs::write(&config, format!("service: shop\nload_balancers: [{balancer}]\n")).unwrap();
        #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_switchman"));
        command.arg("--config").arg(config).arg("--state-dir").arg(self.dir.path().join("state"));
        command.env("XTABLES_LOCKFILE", self.dir.path().join("xtables.lock"));
        command.args([verb, "--host", "web1", "--no-wait"]).output().await.unwrap()
    }

    async fn enable(&self) {
        let output = self.run("enable-forward").await;
        assert!(output.status.success(), "{output:?}");
    }

    async fn disable(&self) {
        let output = self.run("disable-forward").await;
        assert!(output.status.success(), "{output:?}");
    }

    /// The responder, over the state directory the commands write.
    async fn agent(&self, terms: AgentCheckConfig) -> Agent {
        let listener = TcpListener::bind(AGENT).await.unwrap();
        let (stopper, stop) = stop::create_channel();
        let store = Arc::new(sys::store::SqliteStore::new(self.dir.path().join("state")));
        let world = HostWorld {
            flows: Arc::new(sys::conntrack::Conntrack),
            deployments: store.clone(),
            releases: Arc::new(sys::releases::DirReleases::new(self.dir.path().join("releases"))),
            proxy: Arc::new(switchman::sys::proxy::ProxyProcess::new(&self.dir.path().join("state"))),
            runner: sys::runner::detect_runner(&self.dir.path().join("state")),
            firewall: Arc::new(sys::iptables::Iptables),
            rule_watch: Arc::new(sys::rule_watch::KernelRules),
            balancers: vec![],
            sockets: Arc::new(sys::sock_diag::SockDiag),
            probe: Arc::new(sys::probe::HttpProbe),
            packets: Arc::new(sys::packet_probe::TunProbe),
            store,
            clock: Arc::new(sys::clock::SystemClock),
            machine: Arc::new(sys::machine::LocalMachine),
            commands: Arc::new(sys::commands::LocalCommands::new(self.dir.path().join("commands"))),
            files: Arc::new(sys::files::LocalFiles),
            journals: Arc::new(sys::journal::keeper::DirKeeper::new(self.dir.path().join("journals"))),
            reporter: Arc::new(Quiet),
            stop,
            changes: switchman::world::changes::ChangeTracker::default(),
        };
        Agent { stopper, served: tokio::spawn(serve(world, "shop".parse().unwrap(), terms, listener)) }
    }

    async fn command(&self, command: &str) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.dir.path().join("s.sock")).await?;
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Sets a state as an operator of HAProxy with an admin socket does.
    async fn operator_sets(&self, state: &str) {
        let answer = self.command(&format!("set server {}/main-web1 state {state}", self.backend)).await;
        assert_eq!(answer.unwrap().trim(), "");
    }

    async fn row(&self) -> Option<Row> {
        let table = self.command(&format!("show stat {} 4 -1", self.backend)).await.ok()?;
        let mut lines = table.trim_start_matches("# ").lines();
        let names: Vec<&str> = lines.next()?.split(',').collect();
        let server = lines.find(|line| line.contains(",main-web1,"))?;
        let values: Vec<&str> = server.split(',').collect();
        let value = |name: &str| {
            let at = names.iter().position(|found| *found == name).unwrap();
            // The star of a check that is under way.
            values[at].trim_start_matches("* ").trim_matches('"').to_owned()
        };
        Some(Row {
            status: value("status"),
            weight: value("weight"),
            check: value("check_status"),
            agent: value("agent_status"),
            agent_said: value("last_agt"),
            sessions: value("scur"),
        })
    }

    /// Reads the state until HAProxy reports the wanted one.
    async fn until(&self, what: &str, wanted: impl Fn(&Row) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let row = self.row().await;
            if row.as_ref().is_some_and(&wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {row:?}");
            tokio::task::yield_now().await;
        }
    }

    async fn until_status(&self, status: &str) {
        self.until(status, |row| row.status == status).await;
    }

    async fn until_logged(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !std::fs::read_to_string(self.dir.path().join("log")).unwrap().contains(text) {
            assert!(Instant::now() < deadline, "not logged: {text}");
            tokio::task::yield_now().await;
        }
    }

    /// Four new users, and four who hold the cookie of `web1`: who answered them.
    async fn users(&self) -> (Vec<String>, Vec<String>) {
        let (mut new, mut holders) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            new.push(body(begin("/", "").await).await);
            holders.push(body(begin("/", "Cookie: SRV=web1\r\n").await).await);
        }
        for seen in [&mut new, &mut holders] {
            seen.sort();
            seen.dedup();
        }
        (new, holders)
    }
}

struct Agent {
    stopper: StopHandle,
    served: JoinHandle<()>,
}

impl Agent {
    async fn stop(self) {
        self.stopper.stop();
        self.served.await.unwrap();
    }
}

struct Quiet;

impl Reporter for Quiet {
    fn report(&self, _: &Event) {}
}

fn start_haproxy(dir: &tempfile::TempDir, backend: &str, old: Option<u32>) -> Child {
    let check = if backend == RECIPE { "check port 8888" } else { "check" };
    let text = format!(
        "global\n stats socket {} level admin\n\
         defaults\n mode http\n option redispatch 1\n option http-server-close\n balance roundrobin\n timeout connect 1s\n \
         timeout client 30s\n timeout server 30s\n default-server inter 100ms weight 100\n\
         listen {backend}\n bind {FRONT}\n cookie SRV insert\n \
         server main-web1 {WEB1} {check} cookie web1 agent-check agent-port 8891 agent-inter 100ms agent-send shop\\n\n \
         server backup-web1 127.0.0.1:80 check cookie web1 backup\n \
         server main-web2 127.0.0.2:8080 check cookie web2\n",
        dir.path().join("s.sock").display()
    );
    let file: PathBuf = dir.path().join("haproxy.cfg");
    std::fs::write(&file, text).unwrap();
    let log = std::fs::File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
    let program = Program::new("haproxy").arg("-db").arg("-f").arg(&file);
    let program = match old {
        Some(pid) => program.arg("-sf").arg(pid.to_string()),
        None => program,
    };
    program.start(log).unwrap()
}

/// Answers with its name; `/hold` when released. Ends with its connections when the handle is aborted.
async fn vhost(address: &str, name: &'static str, released: watch::Receiver<bool>) -> JoinHandle<()> {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut released = released.clone();
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap_or(0);
                if head[..length].starts_with(b"GET /hold ") {
                    released.wait_for(|released| *released).await.unwrap();
                }
                let length = name.len();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}");
                // A health check that only connects has closed its connection already.
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    })
}

async fn begin(path: &str, cookie: &str) -> TcpStream {
    let mut stream = TcpStream::connect(FRONT).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{cookie}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn body(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer.rsplit("\r\n").next().unwrap().to_owned()
}

fn names(new: &[&str], holders: &[&str]) -> (Vec<String>, Vec<String>) {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    (owned(new), owned(holders))
}

#[test]
fn maintenance_is_reported_again_after_reload_and_restart() {
    run_in_namespace(|| async {
        let mut stage = Stage::new(RECIPE).await;
        let _main = stage.main_vhost().await;
        let _agent = stage.agent(AgentCheckConfig::default()).await;
        // Nothing is recorded yet, so the agent takes no side: the check does.
        stage.until("no record", |row| row.status == "DOWN" && row.agent == "CHECKED").await;
        stage.enable().await;
        stage.until("on", |row| row.status == "UP" && row.agent == "L7OK").await;
        assert_eq!(stage.users().await, names(&["web1", "web2"], &["web1"]));

        stage.until("at rest", |row| row.sessions == "0").await;
        let held = begin("/hold", "Cookie: SRV=web1\r\n").await;
        stage.until("in flight", |row| row.sessions == "1").await;
        stage.disable().await;
        let off = |row: &Row| {
            row.status == "DOWN (agent)"
                && row.check == "L4CON"
                && row.agent_said == "via agent : stopped (switchman: forward off)"
        };
        stage.until("off", off).await;
        assert_eq!(stage.users().await, names(&["web2"], &["backup"]));
        stage.release.send(true).unwrap();
        assert_eq!(body(held).await, "web1", "what was begun has finished");

        stage.reload().await;
        stage.until("reloaded", off).await;
        assert_eq!(stage.users().await, names(&["web2"], &["backup"]));
        stage.restart().await;
        stage.until("restarted", off).await;
        stage.enable().await;
        stage.until_status("UP").await;
        assert_eq!(stage.users().await, names(&["web1", "web2"], &["web1"]));
    });
}

/// HAProxy checks the agent again while the main vhost is dead: HAProxy receives the `up`, which changes nothing.
#[test]
fn up_does_not_override_failing_check() {
    run_in_namespace(|| async {
        let stage = Stage::new(RECIPE).await;
        let main = stage.main_vhost().await;
        let agent = stage.agent(AgentCheckConfig::default()).await;
        stage.enable().await;
        stage.until_status("UP").await;
        main.abort();
        stage.until_status("DOWN").await;
        agent.stop().await;
        let stays_down = |row: &Row| assert_eq!(row.status, "DOWN", "{row:?}");
        stage.until("agent gone", |row| (stays_down(row), row.agent == "L4CON").1).await;
        let _agent = stage.agent(AgentCheckConfig::default()).await;
        stage.until("agent says up", |row| (stays_down(row), row.agent == "L7OK").1).await;
        let _main = stage.main_vhost().await;
        stage.until_status("UP").await;
    });
}

#[test]
fn stopped_agent_leaves_its_last_state() {
    run_in_namespace(|| async {
        let stage = Stage::new(RECIPE).await;
        let _main = stage.main_vhost().await;
        let agent = stage.agent(AgentCheckConfig::default()).await;
        stage.enable().await;
        stage.until_status("UP").await;
        stage.disable().await;
        stage.until_status("DOWN (agent)").await;
        agent.stop().await;
        stage.enable().await;
        stage.until("the check passes", |row| row.check == "L4OK" && row.agent == "L4CON").await;
        assert_eq!(stage.row().await.unwrap().status, "DOWN (agent)");
        let _agent = stage.agent(AgentCheckConfig::default()).await;
        stage.until_status("UP").await;
    });
}

#[test]
fn agent_state_alone_takes_host_out() {
    run_in_namespace(|| async {
        let stage = Stage::new(AGENT_ALONE).await;
        let _main = stage.main_vhost().await;
        let weight = Some("50%".parse().unwrap());
        let _agent = stage.agent(AgentCheckConfig { weight, ..AgentCheckConfig::default() }).await;
        stage.enable().await;
        stage.until("on", |row| row.status == "UP" && row.weight == "50").await;
        stage.disable().await;
        stage.until("off", |row| row.status == "DOWN (agent)" && row.check == "L4OK").await;
        assert_eq!(stage.users().await, names(&["web2"], &["backup"]));

        // The administrative state belongs to HAProxy's operator, whichever state the agent reports.
        stage.operator_sets("maint").await;
        stage.enable().await;
        let maint = |row: &Row| assert_eq!(row.status, "MAINT", "{row:?}");
        stage.until("the agent says up", |row| (maint(row), row.agent == "L7OK").1).await;
        stage.operator_sets("ready").await;
        stage.until_status("UP").await;
    });
}

#[test]
fn drain_keeps_users_with_cookie() {
    run_in_namespace(|| async {
        let mut stage = Stage::new(AGENT_ALONE).await;
        let _main = stage.main_vhost().await;
        let _agent =
            stage.agent(AgentCheckConfig { maintenance_reply: MaintenanceReply::Drain, weight: None }).await;
        stage.enable().await;
        stage.until("on", |row| row.status == "UP" && row.agent == "CHECKED").await;
        stage.disable().await;
        stage.until_status("DRAIN (agent)").await;
        assert_eq!(stage.users().await, names(&["web2"], &["web1"]));
        stage.reload().await;
        stage.until_status("DRAIN (agent)").await;
        stage.enable().await;
        stage.until_status("UP").await;
        // The price of `ready`, and why this manner is not the default.
        stage.operator_sets("maint").await;
        stage.until_logged("main-web1 is UP/READY (leaving forced maintenance)").await;
        stage.until_status("UP").await;
    });
}
