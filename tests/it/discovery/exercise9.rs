//! Exercise 9 of the course (docs/design/seed-systems.md#exercise-9): replicas start and stop behind an HAProxy that is not touched.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use switchman::lab::demo::release::write_release;
use switchman::lab::load::{ClientKind, Load, LoadTarget};
use switchman::lab::operator::{LabTransport, Operator, start_agent};
use switchman::lab::process::Process;
use switchman::lab::{Lab, LabOptions};
use switchman::sys::exec::Output;

use crate::testing::{can_make_namespaces, missing};

const CONSUL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/consul/bin/consul");
const OLD: &str = "4.0.0";
const NEW: &str = "5.0.0";
const SLOTS: u8 = 5;
const LIMIT: Duration = Duration::from_mins(2);

/// Five hosts, Consul, and HAProxy on port 48151 whose configuration has slots and no host.
struct Course {
    /// Before the lab, so that they end before it.
    agents: BTreeMap<String, Process>,
    lab: Lab,
    operator: Operator,
    consul: Option<Process>,
}

impl Course {
    async fn start() -> Self {
        let name = format!("itcourse{}", std::process::id());
        let options = LabOptions::new(name.parse().unwrap(), env!("CARGO_BIN_EXE_switchman").into());
        let mut lab = Lab::start(LabOptions { hosts: SLOTS, ..options }).await.unwrap();
        let consul = Some(start_consul(&lab).await);
        std::fs::write(lab.dir().join("lb1/haproxy.cfg"), render_haproxy(&lab)).unwrap();
        lab.restart_haproxy(0).await.unwrap();
        let mut operator = Operator::start(&lab, LabTransport::Socket, "").await.unwrap();
        // Agents that do not register.
        for agent in operator.servers.drain(..) {
            agent.stop(Signal::SIGTERM).await.unwrap();
        }
        std::fs::write(operator.dir().join("switchman.yaml"), render_yaml(&lab)).unwrap();
        Self { agents: BTreeMap::new(), lab, operator, consul }
    }

    async fn run(&self, args: &[&str]) -> Output {
        self.operator.run_switchman(args).await.unwrap()
    }

    /// Runs a command that succeeds and returns its output.
    async fn succeeds(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert_eq!(output.status, 0, "{args:?}\n{}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// Runs a script in the namespace of a node.
    async fn run_script(&self, node: &str, script: &str) -> String {
        let program = self.lab.program(node, "sh").args(["-c", script]);
        let output = program.run(b"", LIMIT).await.unwrap();
        assert_eq!(output.status, 0, "{node}: {script}\n{}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// Starts the agent of a replica, which registers it and claims a slot.
    async fn start_agent(&mut self, host: &str) {
        std::fs::write(self.lab.dir().join(host).join("switchman.yaml"), render_yaml(&self.lab)).unwrap();
        let consul = format!("consul://{}:8500", self.lab.targets()[0].ip());
        let slots = SLOTS.to_string();
        let flags = ["--register", &consul, "--register-host", host, "--register-slots", &slots];
        let agent = start_agent(&self.lab, host, &flags.map(ToOwned::to_owned)).await.unwrap();
        self.agents.insert(host.to_owned(), agent);
    }

    async fn start_consul(&mut self) {
        self.consul = Some(start_consul(&self.lab).await);
    }

    async fn stop_consul(&mut self) {
        self.consul.take().unwrap().stop(Signal::SIGKILL).await.unwrap();
    }

    async fn until_slot(&self, host: &str) -> u8 {
        until(&format!("{host} has a slot"), async || self.find_slot(host).await.is_some()).await;
        self.find_slot(host).await.unwrap()
    }

    /// Waits until the entry of a main vhost has this version and this health.
    async fn until_main(&self, host: &str, version: &str, is_passing: bool) {
        let wanted = (vec!["main".to_owned(), version.replace('.', "-")], is_passing);
        let is_met = async || self.read_entries("shop-main").await.get(host) == Some(&wanted);
        until(&format!("main of {host} is {wanted:?}"), is_met).await;
    }

    async fn call_consul(&self, path: &str) -> serde_json::Value {
        let url = format!("http://127.0.0.1:8500/v1/{path}");
        let printed = self.run_script("lb1", &format!("curl -sS '{url}'")).await;
        serde_json::from_str(&printed).unwrap_or_default()
    }

    /// The entries of a service in Consul, by host: the tags, and whether all checks pass.
    async fn read_entries(&self, service: &str) -> BTreeMap<String, (Vec<String>, bool)> {
        let found = self.call_consul(&format!("health/service/{service}")).await;
        let entry = |entry: &serde_json::Value| {
            let host = entry["Service"]["Meta"]["switchman-host"].as_str().unwrap().to_owned();
            let tags = entry["Service"]["Tags"].as_array().unwrap().iter();
            let tags = tags.map(|tag| tag.as_str().unwrap().to_owned()).collect();
            let checks = entry["Checks"].as_array().unwrap();
            (host, (tags, checks.iter().all(|check| check["Status"] == "passing")))
        };
        found.as_array().into_iter().flatten().map(entry).collect()
    }

    async fn find_slot(&self, host: &str) -> Option<u8> {
        self.read_entries("shop").await.get(host)?.0.first()?.parse().ok()
    }

    async fn send_to_haproxy(&self, command: &str) -> String {
        let socket = self.lab.admin_socket_path("lb1");
        let script = format!("echo '{command}' | socat - {}", socket.display());
        self.run_script("lb1", &script).await
    }

    async fn read_haproxy_pid(&self) -> String {
        let info = self.send_to_haproxy("show info").await;
        info.lines().find(|line| line.starts_with("Pid:")).unwrap().to_owned()
    }

    /// The status of each server of HAProxy, such as `UP` or `MAINT (resolution)`.
    async fn read_statuses(&self) -> BTreeMap<String, String> {
        let stat = self.send_to_haproxy("show stat").await;
        let rows = stat.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let servers = rows.filter(|row| row.len() > 17 && row[0] == "servers" && row[1].contains('-'));
        servers.map(|row| (row[1].to_owned(), row[17].to_owned())).collect()
    }

    async fn until_status(&self, server: &str, status: &str) {
        let is_met = async || self.read_statuses().await[server] == status;
        until(&format!("{server} is {status}"), is_met).await;
    }

    /// Clients with and without a cookie, each request of which is counted.
    fn start_load(&self) -> Load {
        let cookies = (1..=SLOTS).map(|slot| format!("s{slot}")).collect();
        let target = LoadTarget { addresses: vec![self.address()], host: "shop.example".into(), cookies };
        let mix = vec![
            (ClientKind::KeepAliveCookie, 5),
            (ClientKind::KeepAlive, 3),
            (ClientKind::PerRequest, 3),
            (ClientKind::Upload, 1),
        ];
        Load::start(Some(&self.lab.namespace_path("client")), target, &mix).unwrap()
    }

    /// Waits until requests began after the last change, and ends the load: none failed.
    async fn end_without_failure(&self, load: Load) {
        let started = load.take_snapshot().started;
        until("more requests", async || load.take_snapshot().started > started + 200).await;
        let report = load.stop().await.unwrap();
        assert_eq!(report.total_failed(), 0, "{:?} {:#?}", report.failures, self.lab.read_log_excerpts());
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.lab.targets()[0].ip(), 48151)
    }

    /// `ab -n 400 HEADER http://lb:48151/`: how many answers each version gave. None failed.
    async fn count_answers(&self, header: &str) -> BTreeMap<String, usize> {
        let url = format!("http://{}/", self.address());
        let printed = self.run_script("client", &format!("ab -v 2 -n 400 {header} {url}")).await;
        let summary = &printed[printed.rfind("Complete requests:").unwrap()..];
        let is_whole = |line: &str| summary.lines().any(|other| other.replace(' ', "") == line);
        assert!(is_whole("Completerequests:400") && is_whole("Failedrequests:0"), "{summary}");
        assert!(!summary.contains("Non-2xx"), "{summary}");
        let mut answers = BTreeMap::new();
        for line in printed.lines() {
            if let Some(version) = line.strip_prefix("x-swm-version: ") {
                *answers.entry(version.trim().to_owned()).or_default() += 1;
            }
        }
        answers
    }
}

async fn until(what: &str, mut is_met: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_met().await {
        assert!(Instant::now() < deadline, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn start_consul(lab: &Lab) -> Process {
    let data = format!("-data-dir={}", lab.dir().join("consul").display());
    let address = format!("-bind={}", lab.targets()[0].ip());
    let args =
        ["agent", "-server", "-bootstrap-expect=1", "-client=0.0.0.0", "-node=lb1", "-disable-host-node-id"];
    let log = lab.dir().join("consul.log");
    let program = lab.program("lb1", CONSUL).args(args).args([data, address]);
    let consul = Process::start("Consul", &program, &log).unwrap();
    let has_leader = async || {
        let url = "http://127.0.0.1:8500/v1/status/leader";
        let answer = lab.program("lb1", "curl").args(["-sf", url]).run(b"", LIMIT).await.unwrap();
        answer.status == 0 && answer.stdout.len() > 4
    };
    consul.wait_until("Consul's leader", has_leader).await.unwrap();
    consul
}

/// The configuration of docs/discovery.md.
fn render_haproxy(lab: &Lab) -> String {
    let mut text = format!(
        "global\n  log stdout format raw local0\n  stats socket {} level admin\n\
         defaults\n  mode http\n  log global\n  option httplog\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  timeout check 2s\n\
         resolvers consul\n  nameserver local 127.0.0.1:8600\n  accepted_payload_size 4096\n  timeout resolve 500ms\n  \
         timeout retry 500ms\n  hold valid 500ms\n  hold nx 500ms\n  hold obsolete 1s\n  hold timeout 24h\n  \
         hold refused 24h\n  hold other 24h\n\
         frontend shop\n  bind {}:48151\n  default_backend servers\n\
         backend servers\n  balance roundrobin\n  option httpchk GET /health\n  option redispatch 1\n  retries 3\n  \
         cookie SERVER_ID insert indirect nocache\n  \
         default-server inter 200ms fall 3 rise 1 resolvers consul resolve-prefer ipv4 init-addr none \
         resolve-opts allow-dup-ip\n",
        lab.admin_socket_path("lb1").display(),
        lab.targets()[0].ip(),
    );
    for slot in 1..=SLOTS {
        let name = format!("{slot}.shop.service.consul");
        let _ = writeln!(
            text,
            "  server main-{slot} {name}:8080 check port 8888 cookie s{slot} weight 100\n  \
             server backup-{slot} {name}:80 check cookie s{slot} backup"
        );
    }
    text
}

fn render_yaml(lab: &Lab) -> String {
    let (root, socket) = (lab.dir().display(), lab.admin_socket_path("lb1"));
    format!(
        "service: shop\nhosts:\n  consul:\n    address: \"http://{}:8500\"\n    service: shop\n    \
         agent: \"unix://{root}/{{host}}/agent.sock\"\n\
         load_balancers: [{{name: lb1, haproxy: {}, on_host: false, backend: servers, \
         check: {{inter: 200ms, fall: 3, rise: 1, timeout: 2s}}}}]\n\
         health: {{path: /health, host: shop.example}}\nroll: {{min_up: 3, drain_timeout: 20s}}\nversions: {{watch: 0s}}\n",
        lab.targets()[0].ip(),
        socket.display()
    )
}

fn only(version: &str) -> BTreeMap<String, usize> {
    BTreeMap::from([(version.to_owned(), 400)])
}

fn split(old: usize, new: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([(OLD.to_owned(), old), (NEW.to_owned(), new)])
}

const FOUR: [&str; 4] = ["web1", "web2", "web3", "web4"];

/// Rows: E1, E2, E5, E9, E10.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_start_and_stop_and_a_canary_of_four_becomes_main() {
    if !can_make_namespaces() {
        return;
    }
    if !std::path::Path::new(CONSUL).exists() {
        return missing("Consul is not installed");
    }
    let mut course = Course::start().await;
    let [old, new] =
        [OLD, NEW].map(|version| write_release(&course.lab, version).unwrap().display().to_string());
    start_four(&mut course, &old).await;
    let process = course.read_haproxy_pid().await;
    restart_agent(&mut course).await;
    restart_consul(&mut course).await;
    replace_replica(&mut course, &old).await;
    release_canary(&course, &new).await;
    replace_old_version(&course).await;
    assert_eq!(course.read_haproxy_pid().await, process, "HAProxy was not started again");
    let Course { lab, operator, consul, agents } = course;
    drop((agents, operator, consul));
    lab.tear_down().await.unwrap();
}

/// The four race for their slots, and each gets one.
async fn start_four(course: &mut Course, release: &str) {
    for host in FOUR {
        course.start_agent(host).await;
    }
    let mut slots = Vec::new();
    for host in FOUR {
        slots.push(course.until_slot(host).await);
    }
    slots.sort_unstable();
    assert_eq!(slots, [1, 2, 3, 4]);
    course.succeeds(&["deploy", "shop", OLD, release, "--", "sh", "serve.sh"]).await;
    for host in FOUR {
        let slot = course.until_slot(host).await;
        course.until_status(&format!("main-{slot}"), "UP").await;
        course.until_main(host, OLD, true).await;
    }
    assert_eq!(course.count_answers("").await, only(OLD));
}

/// An update of an agent moves no user: the registration stays, and so does the slot.
async fn restart_agent(course: &mut Course) {
    let load = course.start_load();
    let slot = course.until_slot("web2").await;
    course.agents.remove("web2").unwrap().stop(Signal::SIGTERM).await.unwrap();
    assert_eq!(course.find_slot("web2").await, Some(slot));
    course.start_agent("web2").await;
    // A maintenance is in the check of main, and the name that HAProxy resolves does not follow it.
    course.succeeds(&["disable-forward", "--drain", "--host", "web2"]).await;
    course.until_main("web2", OLD, false).await;
    let entries = course.read_entries("shop").await;
    assert_eq!(entries["web2"], (vec![slot.to_string()], true));
    course.succeeds(&["enable-forward", "--host", "web2"]).await;
    course.until_main("web2", OLD, true).await;
    course.end_without_failure(load).await;
}

/// Consul is killed: users are served, switches work, and what happened in between is registered when Consul is back.
async fn restart_consul(course: &mut Course) {
    let load = course.start_load();
    let before = course.read_entries("shop").await;
    course.stop_consul().await;
    let started = load.take_snapshot().started;
    until("requests without Consul", async || load.take_snapshot().started > started + 500).await;
    let local = course.lab.switchman_program("web3", &["disable-forward", "--no-wait", "--force"]);
    let output = local.run(b"", LIMIT).await.unwrap();
    assert_eq!(output.status, 0, "{}", output.stderr);
    course.start_consul().await;
    course.until_main("web3", OLD, false).await;
    assert_eq!(course.read_entries("shop").await, before);
    course.succeeds(&["enable-forward", "--host", "web3"]).await;
    course.until_main("web3", OLD, true).await;
    course.end_without_failure(load).await;
}

/// web5 starts and web1 stops.
async fn replace_replica(course: &mut Course, release: &str) {
    let load = course.start_load();
    course.start_agent("web5").await;
    assert_eq!(course.until_slot("web5").await, 5);
    course.succeeds(&["deploy", "shop", OLD, release, "--host", "web5", "--", "sh", "serve.sh"]).await;
    course.until_status("main-5", "UP").await;

    let slot = course.until_slot("web1").await;
    course.succeeds(&["disable-forward", "--drain", "--deregister", "--host", "web1"]).await;
    for line in ["main", "backup"] {
        let statuses = course.read_statuses().await;
        assert_eq!(statuses[&format!("{line}-{slot}")], "MAINT (resolution)");
    }
    course.succeeds(&["kill", "shop", OLD, "--host", "web1", "--yes", "--drain-timeout", "20s"]).await;
    let is_removed = async || !course.read_entries("shop").await.contains_key("web1");
    until("web1 is deregistered", is_removed).await;
    let claim = format!("kv/switchman/shop/slots/{slot}");
    until("the slot is released", async || course.call_consul(&claim).await.is_null()).await;
    course.end_without_failure(load).await;
    assert_eq!(course.count_answers("").await, only(OLD));
}

/// One of four replicas has the new version, then the others too for requests with the header.
async fn release_canary(course: &Course, release: &str) {
    let load = course.start_load();
    course.succeeds(&["deploy", "shop", NEW, release, "--", "sh", "serve.sh"]).await;
    course.succeeds(&["assign", "shop", NEW, "--host", "web5", "--yes"]).await;
    course.end_without_failure(load).await;
    assert_eq!(course.count_answers("").await, split(300, 100));

    let load = course.start_load();
    let others = ["--host", "web2", "--host", "web3", "--host", "web4"];
    let canary = ["canary", "shop", NEW, "--header", "X-MISTERY-SHOPPER"];
    course.succeeds(&[&canary[..], &others].concat()).await;
    course.end_without_failure(load).await;
    assert_eq!(course.count_answers("-H 'X-MISTERY-SHOPPER: 1'").await, only(NEW));
    assert_eq!(course.count_answers("").await, split(300, 100));
}

/// Fewer old, more new, until none is old.
async fn replace_old_version(course: &Course) {
    let load = course.start_load();
    course.succeeds(&["canary", "shop", "--off"]).await;
    course.succeeds(&["assign", "shop", NEW, "--host", "web4", "--yes"]).await;
    course.end_without_failure(load).await;
    assert_eq!(course.count_answers("").await, split(200, 200));

    let load = course.start_load();
    course.succeeds(&["assign", "shop", NEW, "--host", "web2", "--host", "web3", "--yes"]).await;
    course.succeeds(&["kill", "shop", OLD, "--yes", "--drain-timeout", "20s"]).await;
    course.end_without_failure(load).await;
    assert_eq!(course.count_answers("").await, only(NEW));
}
