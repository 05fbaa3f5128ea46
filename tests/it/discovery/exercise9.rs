//! Exercise 9 of the course (docs/design/seed-systems.md#exercise-9): replicas start and stop behind an HAProxy that is not touched.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use switchman::lab::demo::release::write_release;
use switchman::lab::load::{ClientKind, Load, LoadTarget};
use switchman::lab::operator::{LabTransport, Operator};
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
    lab: Lab,
    operator: Operator,
    _consul: Process,
}

impl Course {
    async fn start() -> Self {
        let name = format!("itcourse{}", std::process::id());
        let options = LabOptions::new(name.parse().unwrap(), env!("CARGO_BIN_EXE_switchman").into());
        let mut lab = Lab::start(LabOptions { hosts: SLOTS, ..options }).await.unwrap();
        let consul = start_consul(&lab).await;
        std::fs::write(lab.dir().join("lb1/haproxy.cfg"), render_haproxy(&lab)).unwrap();
        lab.restart_haproxy(0).await.unwrap();
        let operator = Operator::start(&lab, LabTransport::Socket, "").await.unwrap();
        std::fs::write(operator.dir().join("switchman.yaml"), render_yaml(&lab)).unwrap();
        Self { lab, operator, _consul: consul }
    }

    async fn run(&self, args: &[&str]) -> Output {
        self.operator.run_switchman(args).await.unwrap()
    }

    /// Runs a command that succeeds and returns its output.
    async fn succeeds(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        eprintln!("### {args:?}\n{}{}", output.stdout, output.stderr);
        assert_eq!(output.status, 0, "{args:?}\n{}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// Runs a script in the namespace of a node.
    async fn script(&self, node: &str, script: &str) -> String {
        let program = self.lab.program(node, "sh").args(["-c", script]);
        let output = program.run(b"", LIMIT).await.unwrap();
        assert_eq!(output.status, 0, "{node}: {script}\n{}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// Calls Consul from a replica.
    async fn call_consul(&self, host: &str, path: &str, body: &str) {
        let consul = self.lab.targets()[0].ip();
        let call = format!("curl -sSf -X PUT -d '{body}' 'http://{consul}:8500/v1/agent/service/{path}'");
        self.script(host, &call).await;
    }

    /// Registers a replica that HAProxy does not get yet: Consul's DNS leaves out an instance in maintenance.
    async fn register(&self, host: &str, slot: u8) {
        let address = self.script(host, "hostname -I | cut -d' ' -f1").await;
        let body = format!(
            r#"{{"ID": "shop-{host}", "Name": "shop", "Address": "{}", "Port": 8080, "Tags": ["{slot}"],
                "Meta": {{"switchman-host": "{host}"}}}}"#,
            address.trim()
        );
        self.call_consul(host, "register", &body).await;
        self.call_consul(host, &format!("maintenance/shop-{host}?enable=true"), "").await;
    }

    async fn publish(&self, host: &str) {
        self.call_consul(host, &format!("maintenance/shop-{host}?enable=false"), "").await;
    }

    async fn haproxy(&self, command: &str) -> String {
        let socket = self.lab.admin_socket_path("lb1");
        let script = format!("echo '{command}' | socat - {}", socket.display());
        self.script("lb1", &script).await
    }

    /// The status of each server of HAProxy, such as `UP` or `MAINT (resolution)`.
    async fn statuses(&self) -> BTreeMap<String, String> {
        let stat = self.haproxy("show stat").await;
        let rows = stat.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let servers = rows.filter(|row| row.len() > 17 && row[0] == "servers" && row[1].contains('-'));
        servers.map(|row| (row[1].to_owned(), row[17].to_owned())).collect()
    }

    async fn until_status(&self, server: &str, status: &str) {
        let deadline = std::time::Instant::now() + LIMIT;
        loop {
            let statuses = self.statuses().await;
            if statuses[server] == status {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{server} is not {status}: {statuses:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
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

    async fn end_without_failure(&self, load: Load) {
        let report = load.stop().await.unwrap();
        assert!(report.total_requests() > 100, "{} requests are too few", report.total_requests());
        assert_eq!(report.total_failed(), 0, "{:?} {:#?}", report.failures, self.lab.read_log_excerpts());
    }

    fn address(&self) -> std::net::SocketAddr {
        std::net::SocketAddr::new(self.lab.targets()[0].ip(), 48151)
    }

    /// `ab -n 400 HEADER http://lb:48151/`: how many answers each version gave. None failed.
    async fn count_answers(&self, header: &str) -> BTreeMap<String, usize> {
        let url = format!("http://{}/", self.address());
        let printed = self.script("client", &format!("ab -v 2 -n 400 {header} {url}")).await;
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

async fn start_consul(lab: &Lab) -> Process {
    let args = ["agent", "-dev", "-client=0.0.0.0", "-node=lb1", "-disable-host-node-id"];
    let log = lab.dir().join("consul.log");
    let consul = Process::start("Consul", &lab.program("lb1", CONSUL).args(args), &log).unwrap();
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
         defaults\n  mode http\n  log global\n  option httplog\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
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
         check: {{inter: 200ms, fall: 3, rise: 1}}}}]\n\
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

/// Rows: E1, E2, E5, E9, E10.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_come_and_go_and_a_canary_of_four_becomes_main() {
    if !can_make_namespaces() {
        return;
    }
    if !std::path::Path::new(CONSUL).exists() {
        return missing("Consul is not installed");
    }
    let course = Course::start().await;
    let [old, new] =
        [OLD, NEW].map(|version| write_release(&course.lab, version).unwrap().display().to_string());

    // 4 replicas appear.
    for (host, slot) in [("web1", 1), ("web2", 2), ("web3", 3), ("web4", 4)] {
        course.register(host, slot).await;
    }
    course.succeeds(&["deploy", "shop", OLD, &old, "--", "sh", "serve.sh"]).await;
    for (host, slot) in [("web1", 1), ("web2", 2), ("web3", 3), ("web4", 4)] {
        course.publish(host).await;
        course.until_status(&format!("main-{slot}"), "UP").await;
    }
    assert_eq!(course.count_answers("").await, only(OLD));
    let untouched = course.haproxy("show info").await;
    let pid = untouched.lines().find(|line| line.starts_with("Pid:")).unwrap().to_owned();

    // web5 starts, web1 stops.
    let load = course.start_load();
    course.register("web5", 5).await;
    course.succeeds(&["deploy", "shop", OLD, &old, "--host", "web5", "--", "sh", "serve.sh"]).await;
    course.publish("web5").await;
    course.until_status("main-5", "UP").await;
    course.succeeds(&["disable-forward", "--drain", "--host", "web1"]).await;
    course.call_consul("web1", "maintenance/shop-web1?enable=true", "").await;
    course.until_status("main-1", "MAINT (resolution)").await;
    course.until_status("backup-1", "MAINT (resolution)").await;
    course.succeeds(&["kill", "shop", OLD, "--host", "web1", "--yes", "--drain-timeout", "20s"]).await;
    course.call_consul("web1", "deregister/shop-web1", "").await;
    course.end_without_failure(load).await;
    assert_eq!(course.count_answers("").await, only(OLD));

    // A canary on 1 of 4 replicas.
    let load = course.start_load();
    course.succeeds(&["deploy", "shop", NEW, &new, "--", "sh", "serve.sh"]).await;
    course.succeeds(&["assign", "shop", NEW, "--host", "web5", "--yes"]).await;
    course.end_without_failure(load).await;
    assert_eq!(course.count_answers("").await, split(300, 100));

    // By header.
    let load = course.start_load();
    course
        .succeeds(&[
            "canary",
            "shop",
            NEW,
            "--header",
            "X-MISTERY-SHOPPER",
            "--host",
            "web2",
            "--host",
            "web3",
            "--host",
            "web4",
        ])
        .await;
    course.end_without_failure(load).await;
    assert_eq!(course.count_answers("-H 'X-MISTERY-SHOPPER: 1'").await, only(NEW));
    assert_eq!(course.count_answers("").await, split(300, 100));

    // Fewer old, more new, until none is old.
    let load = course.start_load();
    course.succeeds(&["canary", "shop", "--off"]).await;
    course.succeeds(&["assign", "shop", NEW, "--host", "web4", "--yes"]).await;
    course.end_without_failure(load).await;
    assert_eq!(course.count_answers("").await, split(200, 200));
    let load = course.start_load();
    course.succeeds(&["assign", "shop", NEW, "--yes"]).await;
    course.succeeds(&["kill", "shop", OLD, "--yes", "--drain-timeout", "20s"]).await;
    course.end_without_failure(load).await;
    assert_eq!(course.count_answers("").await, only(NEW));

    let info = course.haproxy("show info").await;
    assert!(info.lines().any(|line| line == pid), "HAProxy is the same process: {pid} {info}");
    let Course { lab, operator, _consul } = course;
    drop((operator, _consul));
    lab.tear_down().await.unwrap();
}
