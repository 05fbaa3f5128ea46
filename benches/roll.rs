//! Measures the duration of a roll beyond the time that HAProxy's check settings force, over ssh with a warm connection;
//! with the journal in a file and on an etcd of the same network; and the same job as an Ansible playbook with its haproxy
//! module, side by side. `make bench`. Not a test: nothing here fails for being slow.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use switchman::lab::operator::{LabTransport, Operator};
use switchman::lab::{Lab, LabOptions};
use switchman::model::balancer::{BalancerSpec, CheckTiming, ServerNames, StatsEndpoint};
use switchman::sys::exec::Program;
use switchman::sys::haproxy::connect;
use switchman::world::balancer::Balancer;

type Failed = Box<dyn std::error::Error>;

const HOSTS: u8 = 4;
const ROUNDS: usize = 5;
const BOUND: Duration = Duration::from_mins(5);
/// Interval of the watcher: the precision of the time that HAProxy itself takes.
const LOOK: Duration = Duration::from_millis(4);

fn main() -> Result<(), Failed> {
    let release =
        std::path::absolute(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/switchman"))?;
    if !release.exists() {
        return Err("build it first: cargo build --release".into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let options = LabOptions { hosts: HOSTS, ..LabOptions::new("broll".parse()?, release) };
        let lab = Lab::start(options).await?;
        let measured = measure(&lab).await;
        lab.tear_down().await?;
        measured
    })
}

async fn measure(lab: &Lab) -> Result<(), Failed> {
    let mut etcd = start_etcd(lab)?;
    let measured = measure_rolls(lab, etcd.is_some()).await;
    if let Some(etcd) = &mut etcd {
        etcd.kill().await?;
    }
    measured
}

async fn measure_rolls(lab: &Lab, has_etcd: bool) -> Result<(), Failed> {
    // The lab's usual checks (inter 500 ms, fastinter 100 ms, fall 3, rise 2); probes of the real port every 50 ms.
    let operator = Operator::start(lab, LabTransport::Ssh, "roll: {min_up: 1, drain_timeout: 30s}\n").await?;
    faster_probes(operator.dir())?;
    succeeds(&operator.program(&["enable-forward", "--all"])).await?;
    let book = playbook(lab, &operator)?;
    // The haproxy module is in the package of that command.
    let have_ansible = switchman::sys::exec::find("ansible-community").is_some();
    let mut rolls = vec![Rolls { store: "a file", journal: None, took: vec![], beyond: vec![] }];
    if has_etcd {
        let journal = Some(format!("{{etcd: [\"http://{}:2379\"]}}", lab.targets()[0].ip()));
        rolls.push(Rolls { store: "etcd", journal, took: vec![], beyond: vec![] });
    }
    let mut theirs = vec![];
    for round in 0..=ROUNDS {
        for one in &mut rolls {
            let mut program = operator.program(&["--output", "json", "roll", "--", "true"]);
            if let Some(journal) = &one.journal {
                program = program.env("SWITCHMAN_JOURNAL", journal);
            }
            let watch = Watch::start(lab);
            let began = Instant::now();
            let output = succeeds(&program).await?;
            let took = began.elapsed();
            let seen = watch.stop().await?;
            let beyond = overheads(&output, &seen);
            if beyond.len() != usize::from(HOSTS) {
                return Err(
                    format!("the roll's result has the times of {} hosts: {output}", beyond.len()).into()
                );
            }
            // The first round warms the connection and the caches.
            if round > 0 {
                one.took.push(took);
                one.beyond.extend(beyond);
            }
        }
        if have_ansible {
            let began = Instant::now();
            succeeds(&book).await?;
            if round > 0 {
                theirs.push(began.elapsed());
            }
        }
    }
    report(&mut rolls, &mut theirs);
    Ok(())
}

/// The rolls with one journal store.
struct Rolls {
    store: &'static str,
    /// The value of `SWITCHMAN_JOURNAL`; `None` for the default.
    journal: Option<String>,
    took: Vec<Duration>,
    beyond: Vec<Duration>,
}

/// Starts one etcd on the balancer's machine, with its writes on the disk. `None` where it is not installed.
fn start_etcd(lab: &Lab) -> Result<Option<tokio::process::Child>, Failed> {
    if switchman::sys::exec::find("etcd").is_none() {
        return Ok(None);
    }
    let dir = lab.dir().join("etcd");
    std::fs::create_dir_all(&dir)?;
    let url = format!("http://{}:2379", lab.targets()[0].ip());
    let program =
        lab.program("lb1", "etcd").args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    Ok(Some(program.arg("--data-dir").arg(dir.join("data")).start(std::fs::File::create(dir.join("log"))?)?))
}

#[allow(clippy::print_stdout, clippy::disallowed_macros, reason = "a benchmark prints its table")]
fn report(rolls: &mut [Rolls], theirs: &mut [Duration]) {
    println!(
        "\nroll of {HOSTS} hosts, command `true`, over ssh with a warm connection, {ROUNDS} rounds, interleaved"
    );
    for Rolls { store, took, beyond, .. } in rolls.iter_mut() {
        println!("journal on {store}");
        println!("  wall time of the whole command            {:>8.2} s", median(took).as_secs_f64());
        let (middle, worst) = (median(beyond), beyond.iter().max().copied().unwrap_or_default());
        println!(
            "  a host beyond what HAProxy's checks force {:>8.0} ms, worst {:.0} ms  (wanted: under 300 ms)",
            ms(middle),
            ms(worst)
        );
    }
    if rolls.len() == 1 {
        println!("etcd is not installed: sh tests/setup.sh bench");
    }
    if theirs.is_empty() {
        println!("Ansible is not installed: sh tests/setup.sh bench");
        return;
    }
    let ansible = median(theirs);
    println!("the same as an Ansible playbook, serial 1   {:>8.2} s", ansible.as_secs_f64());
    let ratio = median(&mut rolls[0].took).as_secs_f64() / ansible.as_secs_f64();
    println!("  a file's roll / Ansible                   {ratio:>8.2}");
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn median(values: &mut [Duration]) -> Duration {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn faster_probes(dir: &Path) -> Result<(), Failed> {
    let file = dir.join("switchman.yaml");
    let text = std::fs::read_to_string(&file)?;
    let faster = text.replace("status: 200, timeout: 2s", "status: 200, timeout: 2s, interval: 50ms");
    if faster == text {
        return Err("the template's health line has changed".into());
    }
    Ok(std::fs::write(file, faster)?)
}

async fn succeeds(program: &Program) -> Result<String, Failed> {
    let output = program.run(b"", BOUND).await?;
    match output.status {
        0 => Ok(output.stdout),
        status => Err(format!("{program}: status {status}: {}{}", output.stdout, output.stderr).into()),
    }
}

/// When HAProxy's word on each main changed, seen from beside.
struct Watch {
    stop: tokio::sync::oneshot::Sender<()>,
    looking: tokio::task::JoinHandle<()>,
    seen: Arc<Mutex<Vec<Change>>>,
}

#[derive(Clone)]
struct Change {
    server: String,
    up: bool,
    at: jiff::Timestamp,
}

impl Watch {
    fn start(lab: &Lab) -> Self {
        let spec = BalancerSpec {
            name: "lb1".parse().unwrap_or_else(|_| unreachable!("a plain name")),
            stats_endpoint: Some(StatsEndpoint::Unix(lab.admin_socket_path("lb1"))),
            backend: "servers".into(),
            servers: ServerNames::default(),
            check: CheckTiming::default(),
            is_on_host: false,
        };
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let seen: Arc<Mutex<Vec<Change>>> = Arc::default();
        let theirs = seen.clone();
        let balancer = connect(&spec, Duration::from_secs(2));
        let looking = tokio::spawn(async move {
            let Some(balancer) = balancer else { return };
            let mut last = std::collections::BTreeMap::new();
            while stopped.try_recv().is_err() {
                look(balancer.as_ref(), &mut last, &theirs).await;
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { stop, looking, seen }
    }

    async fn stop(self) -> Result<Vec<Change>, Failed> {
        let _ = self.stop.send(());
        self.looking.await?;
        Ok(self.seen.lock().map_err(|_| "the watcher panicked")?.clone())
    }
}

async fn look(
    balancer: &dyn Balancer,
    last: &mut std::collections::BTreeMap<String, bool>,
    seen: &Mutex<Vec<Change>>,
) {
    let Ok(view) = balancer.read().await else { return };
    let at = jiff::Timestamp::now();
    for server in view.servers().iter().filter(|server| !server.backup) {
        let up = if server.state.is_out_of_service() {
            false
        } else if server.state.is_up() {
            true
        } else {
            continue;
        };
        if last.insert(server.name.clone(), up) != Some(up)
            && let Ok(mut seen) = seen.lock()
        {
            seen.push(Change { server: server.name.clone(), up, at });
        }
    }
}

/// Returns the time of each host from its first row to its last, without the time from a switched forward to HAProxy's
/// report of it.
fn overheads(output: &str, seen: &[Change]) -> Vec<Duration> {
    let lines = output.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let Some(roll) = lines.rev().find(|line| line["kind"] == "roll") else { return vec![] };
    let rows = roll["progress"]["hosts"].as_array().cloned().unwrap_or_default();
    rows.iter().filter_map(|host| overhead(host, seen)).collect()
}

fn overhead(host: &serde_json::Value, seen: &[Change]) -> Option<Duration> {
    let time = |value: &serde_json::Value| value.as_str()?.parse::<jiff::Timestamp>().ok();
    let (began, ended) = (time(&host["began_at"])?, time(&host["changed_at"])?);
    let server = format!("main-{}", host["host"].as_str()?);
    let word = |up: bool| {
        seen.iter()
            .find(|change| change.server == server && change.up == up && change.at > began)
            .map(|change| change.at)
    };
    let step = |name: &str| time(&host["steps_done"][name]);
    let forced =
        word(false)?.duration_since(step("forward-off")?) + word(true)?.duration_since(step("forward-on")?);
    Duration::try_from(ended.duration_since(began) - forced).ok()
}

/// Builds the equivalent playbook: one host at a time, disabled in HAProxy and waited for, the command, a health check,
/// enabled.
fn playbook(lab: &Lab, operator: &Operator) -> Result<Program, Failed> {
    let dir = operator.dir();
    let socket = lab.admin_socket_path("lb1").display().to_string();
    let hosts: Vec<String> = lab.hosts.iter().map(|host| host.host.name.to_string()).collect();
    let inventory: String = hosts
        .iter()
        .map(|name| {
            format!("{name} ansible_ssh_common_args='-F {}/ssh_config' ansible_python_interpreter=/usr/bin/python3\n", dir.display())
        })
        .collect();
    std::fs::write(dir.join("inventory"), format!("[web]\n{inventory}"))?;
    let haproxy = |state: &str| {
        format!(
            "  - community.general.haproxy: {{state: {state}, host: 'main-{{{{ inventory_hostname }}}}', backend: servers, socket: {socket}, wait: true, wait_interval: 1}}\n    delegate_to: localhost\n"
        )
    };
    let text = format!(
        "- hosts: web\n  serial: 1\n  gather_facts: false\n  tasks:\n{}  - command: 'true'\n  - uri: {{url: 'http://127.0.0.1:8080/health'}}\n{}",
        haproxy("disabled"),
        haproxy("enabled"),
    );
    std::fs::write(dir.join("playbook.yml"), text)?;
    let config = "[defaults]\nhost_key_checking = False\nlocalhost_warning = False\n[ssh_connection]\npipelining = True\n";
    std::fs::write(dir.join("ansible.cfg"), config)?;
    Ok(lab
        .program("client", "ansible-playbook")
        .args(["-i", "inventory", "playbook.yml"])
        .env("ANSIBLE_CONFIG", dir.join("ansible.cfg"))
        .dir(dir))
}
