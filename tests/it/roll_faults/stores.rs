//! The fault matrix over the stores of a journal: each kind of fault, and one command of another operator machine that repairs what is
//! left. The load runs, and no request fails.
//!
//! The suite runs the short form, whose faults and steps are those of [`Kind::list_steps`]: each kind of fault is on two or more
//! stores. `make fault-matrix` runs the whole form: every kind of fault at every step on every store, and kills repaired by
//! `--resume` and by `--abort`, which alternate otherwise.

use std::io::Write as _;

use super::*;
use crate::journal_store::servers::Servers;
use crate::site::machines::{Machines, RunningMachine, run_beside, start_servers};

/// The stores of one journal. The clusters have three nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreKind {
    Etcd,
    Consul,
    Postgres,
    /// A file on the balancer's machine, which its switchman keeps.
    Host,
    /// A file on a disk that the operator machines share, as terminals of one machine do.
    File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The power of the operator machine is cut.
    Killed,
    /// Nothing passes between the operator machines and the host.
    LinkCut,
    /// The store does not answer; a file is on a full disk.
    StoreLost,
    LeaderKilled,
    /// The operator machine sleeps for longer than its lease, and another one repairs the roll before it wakes.
    LeaseExpired,
    /// The operator machine's clock jumps by an hour, back and forth.
    ClockJumped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Steps {
    Short,
    All,
}

const KINDS: [Kind; 6] =
    [Kind::Killed, Kind::LinkCut, Kind::StoreLost, Kind::LeaderKilled, Kind::LeaseExpired, Kind::ClockJumped];
/// Ports of etcd and Consul for clients, of three nodes.
const ETCD_PORT: u16 = 2379;
const CONSUL_PORT: u16 = 8500;
/// Waits for a host or a store that does not answer, kept short.
const YAML: &str = "roll: {min_up: 1, drain_timeout: 4s, health_timeout: 4s}\n";

impl Kind {
    /// The indexes into [`STEPS`].
    fn list_steps(self, store: StoreKind, steps: Steps) -> Vec<usize> {
        let has_leader = matches!(store, StoreKind::Etcd | StoreKind::Consul);
        if steps == Steps::All {
            return (0..STEPS.len()).filter(|_| self != Self::LeaderKilled || has_leader).collect();
        }
        let short: &[usize] = match (store, self) {
            (StoreKind::Etcd, Self::StoreLost) => &[2],
            (StoreKind::Consul, Self::Killed) => &[1],
            (StoreKind::Consul | StoreKind::Postgres, Self::ClockJumped | Self::Killed) => &[6],
            (StoreKind::Postgres, Self::StoreLost) | (StoreKind::File, Self::LeaseExpired) => &[0],
            (StoreKind::Etcd, Self::Killed)
            | (StoreKind::File, Self::LinkCut | Self::ClockJumped)
            | (StoreKind::Postgres, Self::LinkCut) => &[4],
            (StoreKind::Etcd | StoreKind::Consul, Self::LeaderKilled)
            | (StoreKind::Host, Self::Killed | Self::StoreLost | Self::LeaseExpired) => &[3],
            (StoreKind::File, Self::StoreLost) => &[5],
            _ => &[],
        };
        short.to_vec()
    }
}

fn list_endpoints(port: u16) -> String {
    let endpoints: Vec<String> =
        (0..3).map(|node| format!("'http://127.0.0.1:{}'", port + 10 * node)).collect();
    endpoints.join(", ")
}

impl StoreKind {
    /// The value of the key `journal`.
    fn journal(self, site: &Site) -> String {
        let lab = site.lab.dir().display();
        match self {
            Self::Etcd => format!("{{etcd: [{}]}}", list_endpoints(ETCD_PORT)),
            Self::Consul => format!("{{consul: [{}]}}", list_endpoints(CONSUL_PORT)),
            Self::Postgres => "postgresql://postgres@127.0.0.1/postgres?sslmode=disable".to_owned(),
            Self::Host => format!("{{host: lb1, path: {lab}/lb1/journals}}"),
            Self::File => format!("{{path: {lab}/journal}}"),
        }
    }

    /// Starts the servers that the store has. `None`: they are not installed.
    fn start(self, site: &Site) -> Option<Servers> {
        match self {
            Self::Etcd => start_servers(site, || Servers::etcd(3)),
            Self::Consul => start_servers(site, || Servers::consul(3)),
            Self::Postgres => start_servers(site, Servers::postgres),
            Self::Host | Self::File => Some(Servers::new()),
        }
    }

    /// The error of a roll that cannot write to the store.
    const fn complaint(self) -> &'static str {
        match self {
            Self::Etcd => "etcd at http://127.0.0.1:2379",
            Self::Consul => "Consul at http://127.0.0.1:8500",
            Self::Postgres => "PostgreSQL at 127.0.0.1:5432",
            Self::Host => "` on lb1: ",
            Self::File => " is full",
        }
    }
}

/// One fleet and its operator machines.
struct Matrix<'a> {
    site: &'a Site,
    store: StoreKind,
    servers: Servers,
    machines: Machines<'a>,
    /// Counts the cases: each has versions and machines of its own.
    case: usize,
}

impl Matrix<'_> {
    /// Starts a roll on a machine, and stops its process when a step of the second host has begun: it is there while the fault
    /// is made.
    async fn start_roll(&self, env: &[String], step: &str) -> RunningMachine {
        let version = format!("{}.0.0", self.case + 2);
        let script = self.machines.replace(&version);
        let args = ["--output", "json", "roll", "--", "sh", "-c", &script];
        let machine = self.machines.start_with(&format!("ops{}a", self.case), env, &args);
        let began = format!(r#""event":"step-began","host":"web2","step":"{step}""#);
        machine.freeze_at(&began).await
    }

    async fn run(&self, machine: char, args: &[&str]) -> (Option<i32>, String) {
        self.machines.run(&format!("ops{}{machine}", self.case), args).await
    }

    /// The state of the unfinished roll, as another machine reads it.
    async fn describe(&self, case: &str) -> serde_json::Value {
        let (code, text) = self.run('b', &["roll", "--status"]).await;
        assert_eq!(code, Some(0), "{case}: {text}");
        assert!(
            text.contains("`switchman roll --resume` goes on") || text.contains("it is running"),
            "{case}: {text}"
        );
        let now = self.read_status().await;
        assert_eq!(now["progress"]["hosts"][0]["state"], "done", "{case}: {now:#}");
        assert_ne!(now["progress"]["hosts"][1]["state"], "waiting", "{case}: {now:#}");
        now
    }

    async fn read_status(&self) -> serde_json::Value {
        let (code, text) = self.run('c', &["roll", "--status", "--output", "json"]).await;
        assert_eq!(code, Some(0), "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// One command of another machine, and nothing is left to do.
    async fn repair(&self, case: &str, verb: &str) {
        let (code, text) = self.run('d', &["roll", verb]).await;
        assert_eq!(code, Some(0), "{case}: {text}");
        let now = self.read_status().await;
        let result = if verb == "--resume" { "done" } else { "aborted" };
        assert_eq!(now["progress"]["result"], result, "{case}: {now:#}");
        assert_eq!(now["lock"], serde_json::Value::Null, "{case}: {now:#}");
        self.is_in_service(case).await;
    }

    async fn is_in_service(&self, case: &str) {
        assert_eq!(self.site.up_count("lb1").await, 3, "{case}");
    }

    /// Makes the store unreachable for the operator machines, or reachable again.
    async fn set_reachable(&self, is_reachable: bool) {
        let verb = if is_reachable { "-D" } else { "-I" };
        let lab = self.site.lab.dir().display();
        let drop_ports =
            |ports: &str| format!("iptables {verb} INPUT -i lo -p tcp -m multiport --dports {ports} -j DROP");
        let (place, script) = match self.store {
            StoreKind::Etcd => ("client", drop_ports("2379,2389,2399")),
            StoreKind::Consul => ("client", drop_ports("8500,8510,8520")),
            StoreKind::Postgres => ("client", drop_ports("5432")),
            StoreKind::Host => {
                ("lb1", format!("iptables {verb} INPUT -s 10.77.0.250 -p tcp --dport 22 -j DROP"))
            }
            StoreKind::File if is_reachable => ("client", format!("rm {lab}/journal/filler")),
            StoreKind::File => {
                ("client", format!("head -c 16M /dev/zero > {lab}/journal/filler 2>/dev/null; true"))
            }
        };
        self.site.inside(place, &script).await;
    }

    /// A roll does not begin without its store, and has touched nothing.
    async fn lose_store_before(&self) {
        self.set_reachable(false).await;
        let (code, text) = self.run('a', &["roll", "--", "true"]).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(self.store.complaint()) && text.contains("\n next: "), "{text}");
        self.set_reachable(true).await;
        self.is_in_service("before").await;
    }

    async fn run_case(&mut self, kind: Kind, step: usize, verb: &str) {
        let name = STEPS[step];
        let case = format!("{:?}, {kind:?} at {name}, {verb}", self.store);
        let began = std::time::Instant::now();
        match kind {
            Kind::Killed => {
                self.start_roll(&[], name).await.cut_power().await;
                self.describe(&case).await;
                self.repair(&case, verb).await;
            }
            Kind::LinkCut => self.cut_link(&case, name, verb).await,
            Kind::StoreLost => self.lose_store(&case, name, verb).await,
            Kind::LeaderKilled => self.kill_leader(&case, name).await,
            Kind::LeaseExpired => self.expire_lease(&case, name, verb).await,
            Kind::ClockJumped => self.jump_clock(&case, name).await,
        }
        self.case += 1;
        let _ = writeln!(std::io::stderr(), "{case}: {} ms", began.elapsed().as_millis());
    }

    async fn cut_link(&self, case: &str, step: &str, verb: &str) {
        let machine = self.start_roll(&[], step).await;
        cut(self.site, "web2", true).await;
        machine.signal(Signal::SIGCONT);
        let (code, log) = machine.end().await;
        // The last waits need the balancers and not the host.
        let is_done = code == Some(0) && (step == "up" || step == "forward-on");
        assert!(is_done || code == Some(3), "{case}: {code:?} {log}");
        cut(self.site, "web2", false).await;
        if is_done {
            return self.is_in_service(case).await;
        }
        let now = self.describe(case).await;
        let web2 = &now["progress"]["hosts"][1];
        let ended = (web2["state"].as_str(), web2["end"].as_str());
        assert_eq!(ended, (Some("failed"), Some("unreachable")), "{case}: {log}");
        self.repair(case, verb).await;
    }

    async fn lose_store(&self, case: &str, step: &str, verb: &str) {
        let machine = self.start_roll(&[], step).await;
        self.set_reachable(false).await;
        machine.signal(Signal::SIGCONT);
        let (code, log) = machine.end().await;
        assert!(code == Some(1) && log.contains(self.store.complaint()), "{case}: {code:?} {log}");
        self.set_reachable(true).await;
        self.describe(case).await;
        self.repair(case, verb).await;
    }

    /// The roll outlasts an election. Afterwards the node is there again.
    async fn kill_leader(&mut self, case: &str, step: &str) {
        let (site, store) = (self.site, self.store);
        let mut leader = None;
        site.until("a leader", async || {
            leader = find_leader(site, store).await;
            leader.is_some()
        })
        .await;
        let leader = leader.unwrap();
        let machine = self.start_roll(&[], step).await;
        self.servers.kill(leader);
        machine.signal(Signal::SIGCONT);
        let (code, log) = machine.end().await;
        assert_eq!(code, Some(0), "{case}: {log}");
        let now = self.read_status().await;
        assert_eq!(now["progress"]["result"], "done", "{case}: {now:#}");
        self.is_in_service(case).await;
        run_beside(site, || self.servers.restart(leader));
        site.until("the node is back", async || is_node_ready(site, store, leader).await).await;
    }

    async fn expire_lease(&self, case: &str, step: &str, verb: &str) {
        let machine = self.start_roll(&[], step).await;
        let now = self.describe(case).await;
        assert_ne!(now["lock"]["liveness"], "dead", "{case}: the lease has not expired: {now:#}");
        self.repair(case, verb).await;
        let before = self.read_status().await;
        machine.signal(Signal::SIGCONT);
        let (code, log) = machine.end().await;
        assert!(code == Some(1) && log.contains("the fleet lock was lost"), "{case}: {code:?} {log}");
        assert_eq!(self.read_status().await, before, "{case}: {log}");
        self.is_in_service(case).await;
    }

    async fn jump_clock(&self, case: &str, step: &str) {
        let found =
            self.site.inside("client", "find /usr/lib -name libfaketimeMT.so.1 | head -1").await.stdout;
        assert!(!found.trim().is_empty(), "Debian's package faketime is missing: make setup");
        let clock = self.site.lab.dir().join("clock");
        std::fs::write(&clock, "+0\n").unwrap();
        let env = [
            format!("LD_PRELOAD={}", found.trim()),
            format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "DONT_FAKE_MONOTONIC=1".to_owned(),
        ];
        let machine = self.start_roll(&env, step).await;
        std::fs::write(&clock, if self.case.is_multiple_of(2) { "-1h\n" } else { "+1h\n" }).unwrap();
        machine.signal(Signal::SIGCONT);
        let (code, log) = machine.end().await;
        assert_eq!(code, Some(0), "{case}: {log}");
        let now = self.read_status().await;
        assert_eq!(now["progress"]["result"], "done", "{case}: {now:#}");
        assert_eq!(now["lock"], serde_json::Value::Null, "{case}: {now:#}");
        self.is_in_service(case).await;
    }
}

async fn find_leader(site: &Site, store: StoreKind) -> Option<usize> {
    if store == StoreKind::Consul {
        for node in 0..3 {
            let url = format!("http://127.0.0.1:{}/v1/status/leader", CONSUL_PORT + 10 * node);
            let leader = site.inside("client", &format!("curl -sf {url}; true")).await.stdout;
            let port = leader
                .trim()
                .trim_matches('"')
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse::<usize>().ok());
            if let Some(port) = port {
                return Some((port - 8300) / 10);
            }
        }
        return None;
    }
    for node in 0..3 {
        let url = format!("http://127.0.0.1:{}/v3/maintenance/status", ETCD_PORT + 10 * node);
        let status = site.inside("client", &format!("curl -sf -X POST -d '{{}}' {url}; true")).await.stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
        if status["leader"].is_string() && status["leader"] == status["header"]["member_id"] {
            return Some(usize::from(node));
        }
    }
    None
}

/// A read by the whole cluster succeeds at the node.
async fn is_node_ready(site: &Site, store: StoreKind, node: usize) -> bool {
    let url = match store {
        StoreKind::Consul => {
            format!(
                "http://127.0.0.1:{}/v1/kv/switchman?consistent&keys",
                usize::from(CONSUL_PORT) + 10 * node
            )
        }
        _ => format!("http://127.0.0.1:{}/health", usize::from(ETCD_PORT) + 10 * node),
    };
    let answer = site.inside("client", &format!("curl -sf '{url}'; true")).await.stdout;
    if store == StoreKind::Consul { answer.contains("switchman") } else { answer.contains("true") }
}

async fn run_matrix(store: StoreKind, steps: Steps) {
    if !can_make_namespaces() {
        return;
    }
    let name = ["me", "mc", "mp", "mh", "mf"][store as usize];
    let site = Site::up(name, Plan { yaml: YAML, ..Plan::default() }).await;
    let mut mounted = None;
    if store == StoreKind::File {
        let path = site.lab.dir().join("journal").display().to_string();
        std::fs::create_dir(&path).unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("none"), path.as_str(), Some("tmpfs"), flags, Some("size=8m")).unwrap();
        mounted = Some(Mounted(path));
    }
    let Some(servers) = store.start(&site) else { return };
    let machines = Machines::new(&site, &store.journal(&site));
    let mut matrix = Matrix { site: &site, store, servers, machines, case: 0 };
    matrix.lose_store_before().await;
    matrix.case += 1;
    for kind in KINDS {
        for step in kind.list_steps(store, steps) {
            let verbs = ["--resume", "--abort"];
            let first = matrix.case % 2;
            matrix.run_case(kind, step, verbs[first]).await;
            if kind == Kind::Killed && steps == Steps::All {
                matrix.run_case(kind, step, verbs[1 - first]).await;
            }
        }
    }
    drop((matrix, mounted));
    site.down_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roll_survives_each_kind_of_fault_on_etcd() {
    run_matrix(StoreKind::Etcd, Steps::Short).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roll_survives_each_kind_of_fault_on_consul() {
    run_matrix(StoreKind::Consul, Steps::Short).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roll_survives_each_kind_of_fault_on_postgres() {
    run_matrix(StoreKind::Postgres, Steps::Short).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roll_survives_each_kind_of_fault_on_another_machine() {
    run_matrix(StoreKind::Host, Steps::Short).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roll_survives_each_kind_of_fault_on_a_shared_file() {
    run_matrix(StoreKind::File, Steps::Short).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a quarter of an hour: make fault-matrix"]
async fn roll_survives_every_fault_at_every_step_on_etcd() {
    run_matrix(StoreKind::Etcd, Steps::All).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a quarter of an hour: make fault-matrix"]
async fn roll_survives_every_fault_at_every_step_on_consul() {
    run_matrix(StoreKind::Consul, Steps::All).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a quarter of an hour: make fault-matrix"]
async fn roll_survives_every_fault_at_every_step_on_postgres() {
    run_matrix(StoreKind::Postgres, Steps::All).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a quarter of an hour: make fault-matrix"]
async fn roll_survives_every_fault_at_every_step_on_another_machine() {
    run_matrix(StoreKind::Host, Steps::All).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a quarter of an hour: make fault-matrix"]
async fn roll_survives_every_fault_at_every_step_on_a_shared_file() {
    run_matrix(StoreKind::File, Steps::All).await;
}
