//! A thousand hosts in memory, rolled by two operator machines with their journal on a real etcd or Consul of three servers: the first
//! machine freezes in the middle, and a server is killed. It prints what it took.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::example;
use crate::model::history::Actor;
use crate::model::lock::{Holder, Liveness, LockPurpose};
use crate::model::roll::{Batch, RollSpec};
use crate::ops::fleet::balancer_cache::CachedBalancer;
use crate::ops::fleet::roll::{read_last, resume, run};
use crate::ops::testing::site::{FakeSite, site};
use crate::plan::roll::progress::StepState;
use crate::sys::identity::ProcIdentity;
use crate::sys::journal::consul::{Consul, ConsulSettings};
use crate::sys::journal::etcd::{Etcd, EtcdSettings};
use crate::sys::journal::kv::{KvClient, KvJournal};
use crate::world::FleetWorld;
use crate::world::balancer::Balancer;
use crate::world::fake::MS;
use crate::world::fake::paused::wait_until;
use crate::world::journal::Journal;
use crate::world::journal_store::JournalStore;
use crate::world::lock::{FleetLock, HolderIdentity};
use crate::world::reporter::{Event, Reporter};

const HOSTS: usize = 1000;

struct Silent;

impl Reporter for Silent {
    fn report(&self, _: &Event) {}
}

/// Another machine than the one that the test runs on: its processes cannot be looked up.
struct Machine(&'static str);

impl HolderIdentity for Machine {
    fn holder(&self, user: &str, purpose: LockPurpose, now: jiff::Timestamp) -> Holder {
        let (machine, boot_id) = (self.0.to_owned(), format!("boot of {}", self.0));
        Holder { machine, boot_id, ..ProcIdentity.holder(user, purpose, now) }
    }

    fn detect_liveness(&self, holder: &Holder) -> Liveness {
        match &holder.purpose {
            LockPurpose::Operator { .. } => Liveness::Live,
            _ if holder.machine == self.0 => Liveness::Live,
            _ => Liveness::Remote,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Etcd,
    Consul,
}

/// Three servers on ports of this machine.
struct Cluster {
    kind: Kind,
    servers: Vec<Child>,
    endpoints: Vec<String>,
    _dir: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Cluster {
    /// Returns `None` where the program is not installed.
    fn start(kind: Kind) -> Option<Self> {
        // The tests' own, brought by their set-up.
        let brought = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/consul/bin/consul");
        let program = match kind {
            Kind::Etcd => crate::sys::exec::find("etcd"),
            Kind::Consul => brought.exists().then_some(brought),
        };
        let Some(program) = program else {
            crate::sys::testing::missing(&format!("{kind:?} is not installed"));
            return None;
        };
        // Ports that were free a moment ago; the listeners are kept until all are chosen.
        let listeners: Vec<_> = (0..9).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(listeners);
        let dir = tempfile::tempdir().unwrap();
        let start = |node: usize| {
            let data_dir = dir.path().join(format!("n{node}"));
            let arguments = match kind {
                Kind::Etcd => list_etcd_arguments(node, &ports),
                Kind::Consul => list_consul_arguments(node, &ports),
            };
            #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
            let mut server = Command::new(&program);
            server.args(arguments).arg(if kind == Kind::Etcd { "--data-dir" } else { "-data-dir" });
            server.arg(data_dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            server.spawn().unwrap()
        };
        let servers = (0..3).map(start).collect();
        let endpoints = ports[..3].iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        Some(Self { kind, servers, endpoints, _dir: dir })
    }

    fn open(&self) -> Arc<dyn JournalStore> {
        let endpoints = self.endpoints.clone();
        let client: Arc<dyn KvClient> = match self.kind {
            Kind::Etcd => Arc::new(Etcd::new(EtcdSettings { endpoints, ..EtcdSettings::default() }).unwrap()),
            Kind::Consul => {
                Arc::new(Consul::new(ConsulSettings { endpoints, ..ConsulSettings::default() }).unwrap())
            }
        };
        Arc::new(KvJournal::new(client, "shop"))
    }

    fn build_world(&self, fake: &FakeSite, machine: &'static str) -> FleetWorld {
        let store = self.open();
        FleetWorld {
            journal: Journal::new(store.clone()),
            promotions: Journal::new(store.clone()),
            lock: FleetLock::new(store, Arc::new(Machine(machine))),
            ..fake.world.clone()
        }
    }
}

/// Three ports for clients, then three for the servers among themselves.
fn list_etcd_arguments(node: usize, ports: &[u16]) -> Vec<String> {
    let url = |at: usize| format!("http://127.0.0.1:{}", ports[at]);
    let members: Vec<String> = (0..3).map(|member| format!("n{member}={}", url(3 + member))).collect();
    let options = [
        ("--name", format!("n{node}")),
        ("--listen-client-urls", url(node)),
        ("--advertise-client-urls", url(node)),
        ("--listen-peer-urls", url(3 + node)),
        ("--initial-advertise-peer-urls", url(3 + node)),
        ("--initial-cluster", members.join(",")),
    ];
    options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}

/// Three ports for clients, three of the servers, three of the gossip.
fn list_consul_arguments(node: usize, ports: &[u16]) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["agent", "-server", "-client=127.0.0.1", "-bind=127.0.0.1", "-bootstrap-expect=3"]
            .into_iter()
            .chain(["-disable-host-node-id", "-raft-protocol=3", "-serf-wan-port=-1", "-dns-port=-1"])
            .map(str::to_owned)
            .collect();
    arguments.push(format!("-node=n{node}"));
    for (name, at) in [("http", node), ("server", 3 + node), ("serf-lan", 6 + node)] {
        arguments.push(format!("-{name}-port={}", ports[at]));
    }
    arguments.extend((6..9).map(|at| format!("-retry-join=127.0.0.1:{}", ports[at])));
    // Elections within a second instead of five; the hosts of a batch are more than the default allows for one address.
    for hcl in ["performance { raft_multiplier = 1 }", "limits { http_max_conns_per_client = 2000 }"] {
        arguments.extend(["-hcl".to_owned(), hcl.to_owned()]);
    }
    arguments
}

fn count_done(fake: &FakeSite) -> usize {
    let state = fake.site.lock();
    state.hosts.values().filter(|host| host.commands.last() == Some(&"ended")).count()
}

#[tokio::test]
#[ignore = "takes minutes: make fault-matrix runs it"]
async fn roll_over_a_thousand_hosts_is_resumed_from_another_machine_on_etcd() {
    roll_and_resume(Kind::Etcd).await;
}

#[tokio::test]
#[ignore = "takes minutes: make fault-matrix runs it"]
async fn roll_over_a_thousand_hosts_is_resumed_from_another_machine_on_consul() {
    roll_and_resume(Kind::Consul).await;
}

#[allow(clippy::disallowed_macros, reason = "as a benchmark it prints what it measured")]
async fn roll_and_resume(kind: Kind) {
    let Some(mut cluster) = Cluster::start(kind) else { return };
    let mut fake = site(HOSTS, 3);
    let cache =
        |inner: &Arc<dyn Balancer>| -> Arc<dyn Balancer> { Arc::new(CachedBalancer::new(inner.clone())) };
    fake.world.balancers = fake.world.balancers.iter().map(cache).collect();
    fake.world.reporter = Arc::new(Silent);
    let hosts = fake.fleet.hosts.iter().map(|host| host.name.clone()).collect();
    let spec = RollSpec { hosts, batch: Batch::Percent(5), ..example::make_roll_spec(&[]) };
    let first = cluster.build_world(&fake, "ops1");
    let store = cluster.open();
    wait_until_ready(&store).await;

    let began = Instant::now();
    let (ann, bob) = (Actor::new("ann", 1), Actor::new("bob", 2));
    let mut rolling = Box::pin(run(&first, &fake.fleet, &spec, &ann));
    tokio::select! {
        ended = &mut rolling => panic!("{:?}", ended.map(|report| report.progress.result)),
        () = wait_until(MS * 20, || count_done(&fake) >= HOSTS / 4) => {}
    }
    cluster.servers[0].kill().unwrap();
    tokio::select! {
        ended = &mut rolling => panic!("{:?}", ended.map(|report| report.progress.result)),
        () = wait_until(MS * 20, || count_done(&fake) >= HOSTS / 2) => {}
    }
    // The machine freezes: its process neither works nor releases its lock.
    std::mem::forget(rolling);
    let frozen_at = began.elapsed();

    let second = cluster.build_world(&fake, "ops2");
    let left = read_last(&second).await.unwrap().unwrap();
    let count = left.hosts.iter().filter(|host| host.state == StepState::Done).count();
    let report = resume(&second, &fake.fleet, &bob).await.unwrap();
    let took = began.elapsed();
    assert!(report.is_complete(), "{:?}", report.progress.stop_reason);
    assert!(report.progress.hosts.iter().all(|host| host.state == StepState::Done));
    assert_eq!(count_done(&fake), HOSTS);
    assert!(fake.site.lock().hosts.values().all(|host| host.forward), "every host is in service");
    // Another client reads what both have written.
    let id = report.progress.roll.to_string();
    let entries = store.load(crate::model::journal_record::Log::Rolls, &id, 0).await.unwrap();
    let done = entries.iter().filter(|entry| entry.what.contains("\"done\"")).count();
    assert!(done >= HOSTS, "{done} of {} entries end a host", entries.len());
    assert_eq!(store.read_lock().await, Ok(None));
    println!(
        "a roll over {HOSTS} hosts in batches of 5 %, journal on 3 servers of {kind:?}, one killed: {} entries; {count} hosts \
         done after {:.1} s, when its machine froze; {:.1} s with the takeover and the rest",
        entries.len(),
        frozen_at.as_secs_f64(),
        took.as_secs_f64()
    );
}

async fn wait_until_ready(store: &Arc<dyn JournalStore>) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while let Err(error) = store.read_lock().await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(MS * 100).await;
    }
}
