//! Costs of versions side by side on a host with many services: one assign (reading, deciding and committing apart), `ls`
//! of a thousand deployments, and the agent at rest. Figures of one run, never a test: `cargo bench --bench versions`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use switchman::model::api::deployments::{AssignRequest, AssignScope, DeploymentRef};
use switchman::model::deployment::{
    Deployment, DeploymentId, Instance, InstanceLimits, RunSpec, Stage, Workload,
};
use switchman::model::forward::{Intent, Route, RouteChange, Routes};
use switchman::model::health::Health;
use switchman::model::history::Actor;
use switchman::model::name::ServiceName;
use switchman::model::port_forward::{Forward, Switch};
use switchman::model::ports::Port;
use switchman::model::rules::Family;
use switchman::ops::host::deployments;
use switchman::ops::host::rules;
use switchman::plan::firewall;
use switchman::sys;
use switchman::sys::exec::Program;
use switchman::world::HostWorld;
use switchman::world::changes::ChangeTracker;
use switchman::world::reporter::{Event, Reporter};
use switchman::world::stop;
use switchman::world::store::ChangeOutcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

type Failed = Box<dyn std::error::Error + Send + Sync>;

const ROUNDS: usize = 11;
/// How long the agent is watched doing nothing.
const REST: Duration = Duration::from_mins(1);

struct Quiet;

impl Reporter for Quiet {
    fn report(&self, _: &Event) {}
}

fn main() -> Result<(), Failed> {
    let release =
        std::path::absolute(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/switchman"))?;
    if !release.exists() {
        return Err("build it first: cargo build --release".into());
    }
    for services in [1u16, 100, 1000] {
        let release = release.clone();
        // A namespace of its own, left by ending the thread.
        let thread = std::thread::spawn(move || -> Result<(), Failed> {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|why| format!("no network namespace: {why}"))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(measure(services, &release))
        });
        thread.join().map_err(|_| "the measuring thread panicked")??;
    }
    Ok(())
}

fn world(dir: &Path) -> HostWorld {
    let (stopper, stop) = stop::create_channel();
    // A benchmark is never stopped.
    std::mem::forget(stopper);
    let store = Arc::new(sys::store::SqliteStore::new(dir.join("state")));
    HostWorld {
        firewall: Arc::new(sys::iptables::Iptables),
        balancers: vec![],
        sockets: Arc::new(sys::sock_diag::SockDiag),
        flows: Arc::new(sys::conntrack::Conntrack),
        probe: Arc::new(sys::probe::HttpProbe),
        packets: Arc::new(sys::packet_probe::TunProbe),
        store: store.clone(),
        deployments: store,
        releases: Arc::new(sys::releases::DirReleases::new(dir.join("releases"))),
        runner: sys::runner::detect_runner(&dir.join("state")),
        proxy: Arc::new(sys::proxy::ProxyProcess::new(&dir.join("state"))),
        clock: Arc::new(sys::clock::SystemClock),
        machine: Arc::new(sys::machine::LocalMachine),
        commands: Arc::new(sys::commands::LocalCommands::new(dir.join("commands"))),
        files: Arc::new(sys::files::LocalFiles),
        journals: Arc::new(sys::journal::keeper::DirKeeper::new(dir.join("journals"))),
        rule_watch: Arc::new(sys::rule_watch::KernelRules),
        reporter: Arc::new(Quiet),
        stop,
        changes: ChangeTracker::default(),
    }
}

fn port(number: u16) -> Result<Port, Failed> {
    Port::new(number).ok_or_else(|| "no port".into())
}

fn actor() -> Actor {
    Actor::new("bench", 1)
}

/// Two versions of every service, recorded as if they had been deployed; all of them "run already".
fn record(world: &HostWorld, services: u16) -> Result<(), Failed> {
    let now = jiff::Timestamp::now();
    for number in 0..services {
        let service: ServiceName = format!("s{number}").parse()?;
        let mut ids = Vec::new();
        for version in 0..2u16 {
            let id = DeploymentId::new(now, u64::from(number) * 2 + u64::from(version));
            let runs = Workload::External { uri: "http://127.0.0.1".into() };
            let how = RunSpec {
                workload: runs,
                env: BTreeMap::new(),
                user: None,
                sandbox: None,
                resources: InstanceLimits::default(),
                grace: Duration::from_secs(1),
            };
            world.deployments.put(&Deployment {
                started_as: None,
                id: id.clone(),
                service: service.clone(),
                version: format!("{}.0.0", version + 1).parse()?,
                revision: u32::from(version) + 1,
                metadata: BTreeMap::new(),
                stage: Stage::Ready,
                instance: Instance {
                    build: 1,
                    number: 1,
                    port: port(40_000 + number * 2 + version)?,
                    how,
                    digest: None,
                },
                more_instances: vec![],
                other_instance: None,
                health: Health {
                    path: "/".into(),
                    status: 200,
                    host: None,
                    timeout: Duration::from_secs(1),
                    interval: Duration::from_millis(1),
                    rise: 1,
                },
                address: "127.0.0.1".parse()?,
                created_at: now,
                updated_at: now,
            })?;
            ids.push(id);
        }
        let target = port(40_000 + number * 2)?;
        let leg = |at| Ok::<_, Failed>(Route::new(port(at)?, ids[0].clone(), target));
        let routes = Routes::new(leg(10_000 + number * 3)?, leg(10_001 + number * 3)?);
        let intent = Intent {
            forward: Forward { service, check: port(10_002 + number * 3)?, target },
            switch: Switch::On,
            balancer_is_local: false,
            actor: actor(),
            action: "deploy".into(),
            detail: String::new(),
            route_change: RouteChange::Set { routes, trial: None },
            access: None,
            layer7: None,
        };
        let (operation, _) = world.store.begin(&intent, now)?;
        world.store.end(operation, &actor(), &ChangeOutcome::Done { detail: String::new() }, now)?;
    }
    Ok(())
}

/// Answers every request on the ports of the first service.
async fn answer() -> Result<(), Failed> {
    for number in [40_000u16, 40_001] {
        let listener = TcpListener::bind(("127.0.0.1", number)).await?;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0u8; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    .await;
            }
        });
    }
    Ok(())
}

async fn measure(services: u16, release: &Path) -> Result<(), Failed> {
    Program::new("ip").args(["link", "set", "lo", "up"]).run(b"", Duration::from_secs(5)).await?;
    let dir = tempfile::tempdir()?;
    let world = world(dir.path());
    record(&world, services)?;
    rules::reconcile(&world, "bench").await?;
    answer().await?;
    let (mut whole, mut reading, mut deciding, mut listing) = (vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let version = if round % 2 == 0 { "2.0.0" } else { "1.0.0" };
        let request = AssignRequest {
            which: DeploymentRef::Version { service: "s0".parse()?, version: version.parse()? },
            scope: AssignScope::MainAndBackup,
            trial: Duration::ZERO,
            actor: actor(),
            detail: String::new(),
            dry_run: false,
        };
        let began = Instant::now();
        deployments::assign(&world, &request).await?;
        whole.push(began.elapsed());
        let began = Instant::now();
        let observed = rules::observe(&world).await?;
        reading.push(began.elapsed());
        let began = Instant::now();
        let recorded = world.store.load_records()?;
        let mut wanted = rules::compute_desired(&recorded, &observed);
        // As if one rule were another: the whole chain is planned.
        wanted.redirects.pop_last();
        let steps: Vec<_> = observed
            .iter()
            .flat_map(|(family, tables): &(Family, _)| firewall::plan_transactions(&wanted, tables, *family))
            .collect();
        deciding.push(began.elapsed());
        if steps.is_empty() {
            return Err("nothing was planned".into());
        }
        let began = Instant::now();
        let view = deployments::read_view(&world).await?;
        listing.push(began.elapsed());
        if view.deployments.len() != usize::from(services) * 2 {
            return Err("the view is not whole".into());
        }
    }
    let (whole, reading, deciding) = (median(whole), median(reading), median(deciding));
    print(&format!("assign (flip) on a host with {services} services"), whole, "");
    print("  reading the rules once (done twice, both families)", reading, "");
    print("  reading the record and deciding (pure, both families)", deciding, "");
    print(&format!("ls of {} deployments on that host", services * 2), median(listing), "");
    at_rest(&dir.path().join("state"), dir.path(), release).await
}

/// The agent with these services recorded: memory, and processor time while nothing happens.
async fn at_rest(state: &Path, dir: &Path, release: &Path) -> Result<(), Failed> {
    let log = std::fs::File::create(dir.join("agent.log"))?;
    let mut child = Program::new(release)
        .arg("--state-dir")
        .arg(state)
        .arg("--releases-dir")
        .arg(dir.join("releases"))
        .args(["agent", "--socket"])
        .arg(dir.join("agent.sock"))
        .start(log)?;
    let pid = child.id().ok_or("no agent")?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = ticks(pid)?;
    tokio::time::sleep(REST).await;
    let spent = ticks(pid)? - before;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default().trim().to_owned();
    // 100 ticks a second (proc(5), USER_HZ), those of ended children among them.
    let percent = f64::from(spent) / (REST.as_secs_f64() * 100.0) * 100.0;
    line(&format!(
        "  the agent at rest: VmRSS {rss}, {percent:.3} % of a processor in {} s (wanted: under 15 MB, 0.1 %)",
        REST.as_secs()
    ));
    child.start_kill()?;
    child.wait().await?;
    Ok(())
}

fn ticks(pid: u32) -> Result<u32, Failed> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let sum = fields
        .get(11..15)
        .ok_or("no times")?
        .iter()
        .map(|field| field.parse::<u32>())
        .sum::<Result<u32, _>>();
    Ok(sum?)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn print(what: &str, time: Duration, remark: &str) {
    line(&format!("{what:<78} {:>9.1} ms  {remark}", time.as_secs_f64() * 1000.0));
}

fn line(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}
