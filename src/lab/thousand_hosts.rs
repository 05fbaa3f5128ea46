//! A thousand hosts in memory, rolled by two operator machines with their journal on a real etcd of three servers: the first machine
//! freezes in the middle, and a server is killed. It prints what it took.

use std::net::TcpListener;
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
use crate::sys::journal::etcd::{Etcd, EtcdSettings};
use crate::sys::journal::kv::KvJournal;
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

/// Three servers on ports of this machine.
struct Cluster {
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
    /// Returns `None` where etcd is not installed.
    fn start() -> Option<Self> {
        if crate::sys::exec::find("etcd").is_none() {
            crate::sys::testing::missing("etcd is not installed");
            return None;
        }
        // Ports that were free a moment ago; the listeners are kept until all are chosen.
        let listeners: Vec<_> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let urls: Vec<String> = listeners
            .iter()
            .map(|listener| format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port()))
            .collect();
        drop(listeners);
        let (endpoints, peers) = urls.split_at(3);
        let members: Vec<String> =
            peers.iter().enumerate().map(|(number, url)| format!("n{number}={url}")).collect();
        let dir = tempfile::tempdir().unwrap();
        let start = |number: usize| {
            #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
            let mut server = Command::new("etcd");
            server.arg("--name").arg(format!("n{number}"));
            server.arg("--data-dir").arg(dir.path().join(format!("n{number}")));
            server.args(["--listen-client-urls", &endpoints[number], "--advertise-client-urls"]);
            server.args([&endpoints[number], "--listen-peer-urls", &peers[number]]);
            server.args(["--initial-advertise-peer-urls", &peers[number]]);
            server.args(["--initial-cluster", &members.join(",")]);
            server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let servers = (0..3).map(start).collect();
        Some(Self { servers, endpoints: endpoints.to_vec(), _dir: dir })
    }

    fn open(&self) -> Arc<dyn JournalStore> {
        let endpoints = self.endpoints.clone();
        let etcd = Etcd::new(EtcdSettings { endpoints, ..EtcdSettings::default() }).unwrap();
        Arc::new(KvJournal::new(Arc::new(etcd), "shop"))
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

fn count_done(fake: &FakeSite) -> usize {
    let state = fake.site.lock();
    state.hosts.values().filter(|host| host.commands.last() == Some(&"ended")).count()
}

#[allow(clippy::disallowed_macros, reason = "as a benchmark it prints what it measured")]
#[tokio::test]
#[ignore = "takes minutes: make fault-matrix runs it"]
async fn roll_over_a_thousand_hosts_is_resumed_from_another_machine() {
    let Some(mut cluster) = Cluster::start() else { return };
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
        "a roll over {HOSTS} hosts in batches of 5 %, journal on 3 servers of etcd, one killed: {} entries; {count} hosts done \
         after {:.1} s, when its machine froze; {:.1} s with the takeover and the rest",
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
