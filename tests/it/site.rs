//! A fleet in the lab for stories about rolls: hosts, load balancers, an operator with a way to every host, and a load
//! that counts every request.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use switchman::lab::load::{ClientKind, ClientMix, Load, LoadTarget, Report, default_mix};
use switchman::lab::operator::{LabTransport, Operator, start_agent};
use switchman::lab::process::Process;
use switchman::lab::{Lab, LabOptions};
use switchman::model::balancer::{BackendView, BalancerSpec, CheckTiming, ServerNames, StatsEndpoint};
use switchman::sys::exec::Output;
use switchman::sys::haproxy::connect;

pub mod machines;

pub struct Site {
    pub lab: Lab,
    pub operator: Operator,
    pub load: Load,
    watch: Watch,
    /// The last row of the journal when a roll was started.
    journaled: std::sync::Mutex<i64>,
    /// Agents that were started in place of killed ones.
    restarted: std::sync::Mutex<Vec<Process>>,
}

/// The outcome of a run.
pub struct Account {
    pub report: Report,
    /// The fewest mains that were UP on any balancer at any look.
    pub fewest: usize,
    /// Log lines of HAProxy and nginx, if requests failed.
    pub clues: Vec<String>,
}

impl Account {
    /// Requests that failed while the load was in a phase.
    pub fn failed_in(&self, phase: &str) -> u64 {
        let failures = self.report.failures.iter().filter(|(failed, _)| failed.phase == phase);
        failures.map(|(_, count)| count).sum()
    }
}

/// Looks all the time how many mains every balancer has UP.
struct Watch {
    fewest: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    looking: tokio::task::JoinHandle<()>,
}

pub struct Plan {
    pub hosts: u8,
    pub balancers: u8,
    pub pipe: LabTransport,
    /// Every kind of client; else those that end within moments, which keeps drains short.
    pub all_kinds: bool,
    pub yaml: &'static str,
    /// The operator may send admin commands to HAProxy, and there is a second service.
    pub admin: bool,
    /// The operator reaches admin sockets of HAProxy through ssh.
    pub ssh_balancers: bool,
    /// More keywords for all server lines of HAProxy.
    pub server_keywords: &'static str,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            hosts: 3,
            balancers: 1,
            pipe: LabTransport::Ssh,
            all_kinds: false,
            yaml: "",
            admin: false,
            ssh_balancers: false,
            server_keywords: "",
        }
    }
}

pub const MS: Duration = Duration::from_millis(1);
/// Bound on anything that is to come true.
const PATIENCE: Duration = Duration::from_mins(2);

impl Site {
    /// Every main in service and UP, the load running.
    pub async fn up(name: &str, plan: Plan) -> Self {
        Self::up_with(name, plan, usize::MAX).await
    }

    /// The load goes through the first `loaded` balancers only.
    pub async fn up_with(name: &str, plan: Plan, loaded: usize) -> Self {
        let name = format!("it{name}{}", std::process::id());
        let check = CheckTiming {
            inter: MS * 200,
            fastinter: Some(MS * 50),
            fall: 3,
            rise: 2,
            timeout: Some(MS * 500),
        };
        let (hosts, balancers) = (plan.hosts, plan.balancers);
        let options = LabOptions::new(name.parse().unwrap(), env!("CARGO_BIN_EXE_switchman").into());
        let (has_second_service, server_keywords) = (plan.admin, plan.server_keywords);
        let options = LabOptions { hosts, balancers, check, has_second_service, server_keywords, ..options };
        let lab = Lab::start(options).await.unwrap();
        let operator = if plan.admin {
            Operator::start_with_admin_sockets(&lab, plan.pipe, plan.yaml).await.unwrap()
        } else if plan.ssh_balancers {
            Operator::start_with_ssh_balancers(&lab, plan.yaml).await.unwrap()
        } else {
            Operator::start(&lab, plan.pipe, plan.yaml).await.unwrap()
        };
        let site_up = operator.run_switchman(&["enable-forward", "--all"]).await.unwrap();
        assert_eq!(site_up.status, 0, "{}", site_up.stderr);
        let cookies = lab.hosts.iter().map(|host| host.host.name.to_string()).collect();
        let addresses = lab.targets().into_iter().take(loaded).collect();
        let target = LoadTarget { addresses, host: "shop.example".into(), cookies };
        let mix: ClientMix = if plan.all_kinds {
            default_mix()
        } else {
            vec![
                (ClientKind::KeepAliveCookie, 6),
                (ClientKind::KeepAlive, 3),
                (ClientKind::PerRequest, 3),
                (ClientKind::Upload, 1),
            ]
        };
        let load = Load::start(Some(&lab.namespace_path("client")), target, &mix).unwrap();
        load.set_phase("all");
        let watch = Watch::start(&lab);
        let (journaled, restarted) = (std::sync::Mutex::new(0), std::sync::Mutex::default());
        Self { lab, operator, load, watch, journaled, restarted }
    }

    pub async fn run(&self, args: &[&str]) -> Output {
        self.operator.run_switchman(args).await.unwrap()
    }

    /// Must end well; what it printed.
    pub async fn well(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert_eq!(output.status, 0, "{args:?}\n{}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// A question to the agent of a host, past the operator.
    pub async fn asked(&self, host: &str, path: &str) -> serde_json::Value {
        let script = format!("curl -sS --unix-socket {} http://agent{path}", self.socket(host).display());
        let answer = self.inside(host, &script).await.stdout;
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {host} {path}: {answer}"))
    }

    fn socket(&self, host: &str) -> PathBuf {
        self.lab.dir().join(host).join("agent.sock")
    }

    /// Kills the agent as a power cut would; returns when it no longer answers.
    pub async fn kill_agent(&self, host: &str) {
        let script = "for pid in $(ip netns pids $(ip netns identify $$)); do \
                      tr '\\0' ' ' </proc/$pid/cmdline | grep -q ' agent --socke[t]' && kill -9 $pid; done; true";
        self.inside(host, script).await;
        let socket = self.socket(host);
        let refuses = async || tokio::net::UnixStream::connect(&socket).await.is_err();
        self.until(&format!("the end of the agent of {host}"), refuses).await;
    }

    pub async fn start_agent(&self, host: &str) {
        let agent = start_agent(&self.lab, host, &[]).await.unwrap();
        self.restarted.lock().unwrap().push(agent);
    }

    /// Ends the agent of a host as a power cut would, and starts another.
    pub async fn restart_agent(&self, host: &str) {
        self.kill_agent(host).await;
        self.start_agent(host).await;
    }

    /// `roll ... -- sh replace-main.sh VERSION` on the host's own ground.
    pub fn replace(&self, version: &str) -> Vec<String> {
        let lab = self.lab.dir().display().to_string();
        let name = self.lab.dir().file_name().unwrap().to_str().unwrap();
        let script = format!(
            "ip netns exec swm-{name}-$SWITCHMAN_HOST sh {lab}/$SWITCHMAN_HOST/replace-main.sh {version}"
        );
        vec!["sh".into(), "-c".into(), script]
    }

    pub async fn roll(&self, flags: &[&str], command: &[String]) -> Output {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        self.run(&[&["roll"], flags, &["--"], command.as_slice()].concat()).await
    }

    /// Starts a roll and leaves it to itself.
    pub fn start(&self, flags: &[&str], command: &[String]) -> Rolling {
        self.start_with(&[], flags, command)
    }

    /// With more in its environment.
    pub fn start_with(&self, env: &[String], flags: &[&str], command: &[String]) -> Rolling {
        *self.journaled.lock().unwrap() = self.rows().last().map_or(0, |row| row.0);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let args = [&["roll"], flags, &["--"], command.as_slice()].concat();
        let log = self.operator.dir().join("roll.log");
        let file = std::fs::File::create(&log).unwrap();
        let program = env
            .iter()
            .filter_map(|pair| pair.split_once('='))
            .fold(self.operator.program(&args), |program, (key, value)| program.env(key, value));
        let child = program.start(file).unwrap();
        Rolling { child, log }
    }

    /// Starts any command and leaves it to itself.
    pub fn begin(&self, args: &[&str]) -> Rolling {
        let log = self.operator.dir().join("begun.log");
        let child = self.operator.program(args).start(std::fs::File::create(&log).unwrap()).unwrap();
        Rolling { child, log }
    }

    /// The rows written to the journal since the last [`Site::start`]: host and row.
    pub fn journal(&self) -> Vec<(String, String)> {
        let since = *self.journaled.lock().unwrap();
        self.rows().into_iter().filter(|row| row.0 > since).map(|(_, host, what)| (host, what)).collect()
    }

    fn rows(&self) -> Vec<(i64, String, String)> {
        let file = self.operator.dir().join(".switchman/shop.db");
        if !file.exists() {
            return vec![];
        }
        let journal = rusqlite::Connection::open(file).unwrap();
        journal.busy_timeout(PATIENCE).unwrap();
        // The file is there a moment before its tables.
        let Ok(mut rows) = journal.prepare("SELECT id, coalesce(host, ''), what FROM journal ORDER BY id")
        else {
            return vec![];
        };
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        rows.query_map([], row).unwrap().map(Result::unwrap).collect()
    }

    /// Waits until a step of a host has begun (or is done), by the journal.
    pub async fn until_step(&self, host: &str, what: &str, step: &str) {
        let wanted = format!(r#"{{"what":"{what}","step":"{step}"#);
        self.until(&format!("{what} {step} of {host}"), async || {
            self.journal().iter().any(|(name, row)| name == host && row.starts_with(&wanted))
        })
        .await;
    }

    /// Runs a script in one of the lab's namespaces.
    pub async fn inside(&self, place: &str, script: &str) -> Output {
        let program = self.lab.program(place, "sh").args(["-c", script]);
        let output = program.run(b"", PATIENCE).await.unwrap();
        assert_eq!(output.status, 0, "{script}: {}", output.stderr);
        output
    }

    /// The current view of a balancer.
    pub async fn view(&self, balancer: &str) -> Arc<BackendView> {
        let socket = self.lab.admin_socket_path(balancer);
        connect(&spec(socket), Duration::from_secs(5)).unwrap().read().await.unwrap()
    }

    /// How many mains a balancer has UP.
    pub async fn up_count(&self, balancer: &str) -> usize {
        up_count(self.view(balancer).await.as_ref())
    }

    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !holds().await {
            assert!(std::time::Instant::now() < deadline, "{what} did not come true");
            tokio::time::sleep(MS * 20).await;
        }
    }

    /// `roll --status`, or `status`, as JSON.
    pub async fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.run(&[args, &["--output", "json"]].concat()).await;
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Which version answers on each host's main vhost, by the load's own account since this phase began.
    pub async fn answered_by(&self, host: &str, version: &str) {
        let phase = format!("{host} {version}");
        self.load.set_phase(&phase);
        self.until(&format!("an answer of {version} on {host}"), async || {
            self.load.take_snapshot().count_answers(&phase, host, "main", Some(version)) > 0
        })
        .await;
    }

    /// The account of the load; the fewest mains that were UP on any balancer at any look.
    pub async fn down(self) -> Account {
        let report = self.load.stop().await.unwrap();
        self.watch.stop.store(true, Ordering::Relaxed);
        self.watch.looking.await.unwrap();
        let fewest = self.watch.fewest.load(Ordering::Relaxed);
        let clues = if report.total_failed() > 0 { self.lab.read_log_excerpts() } else { vec![] };
        drop((self.restarted, self.operator));
        self.lab.tear_down().await.unwrap();
        Account { report, fewest, clues }
    }

    /// [`Site::down`], and no request has failed.
    pub async fn down_without_loss(self) -> usize {
        let Account { report, fewest, clues } = self.down().await;
        assert!(
            report.total_requests() > 100,
            "{} requests are too few to mean anything",
            report.total_requests()
        );
        assert_eq!((report.total_failed(), report.strays), (0, 0), "{:?} {clues:#?}", report.failures);
        fewest
    }
}

/// A roll that runs by itself.
pub struct Rolling {
    child: tokio::process::Child,
    log: std::path::PathBuf,
}

impl Rolling {
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Returns the exit code (`None` after a kill) and the whole output.
    pub async fn ended(mut self) -> (Option<i32>, String) {
        let status = tokio::time::timeout(PATIENCE * 2, self.child.wait()).await.unwrap().unwrap();
        (status.code(), std::fs::read_to_string(&self.log).unwrap())
    }
}

impl Watch {
    fn start(lab: &Lab) -> Self {
        let balancers: Vec<_> =
            lab.targets().iter().enumerate().map(|(at, _)| format!("lb{}", at + 1)).collect();
        let readers: Vec<_> = balancers
            .iter()
            .map(|name| connect(&spec(lab.admin_socket_path(name)), Duration::from_secs(5)).unwrap())
            .collect();
        let (fewest, stop) = (Arc::new(AtomicUsize::new(usize::MAX)), Arc::new(AtomicBool::new(false)));
        let (low, done) = (fewest.clone(), stop.clone());
        let looking = tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                for reader in &readers {
                    // A balancer that is stopped on purpose has no state.
                    if let Ok(view) = reader.read().await {
                        low.fetch_min(up_count(&view), Ordering::Relaxed);
                    }
                }
                tokio::time::sleep(MS * 20).await;
            }
        });
        Self { fewest, stop, looking }
    }
}

fn up_count(view: &BackendView) -> usize {
    // A start of HAProxy calls every server `UP 1/3` until its first check.
    view.servers().iter().filter(|server| !server.backup && !server.state.is_out_of_service()).count()
}

fn spec(socket: std::path::PathBuf) -> BalancerSpec {
    BalancerSpec {
        name: "lb".parse().unwrap(),
        stats_endpoint: Some(StatsEndpoint::Unix(socket)),
        backend: "servers".into(),
        servers: ServerNames::default(),
        check: CheckTiming::default(),
        is_on_host: false,
    }
}
