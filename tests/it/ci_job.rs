//! Deploys as a CI job does them: without a terminal, on a machine that is thrown away, with its settings in the environment.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::journal_store::servers::Servers;
use crate::single_host::{answer_every_request, make_single_host};
use crate::site::machines::{Machines, start_servers};
use crate::site::{Plan, Site};
use crate::testing::{can_make_namespaces, run_in_namespace};

mod store_loss;

/// A wait for something that has to come true.
const LIMIT: Duration = Duration::from_mins(2);

const YAML: &str =
    "service: shop\nhosts: {web1: {address: 10.99.0.1}}\nroll: {min_up: 0}\nhealth: {interval: 10ms}\n";

const STORES: [(&str, &str); 3] = [
    ("etcd", "{etcd: ['http://127.0.0.1:2379']}"),
    ("consul", "{consul: ['http://127.0.0.1:8500']}"),
    ("postgres", "postgresql://postgres@127.0.0.1/postgres?sslmode=disable"),
];

async fn start_store(name: &str) -> Option<Servers> {
    match name {
        "etcd" => Servers::etcd(1).await,
        "consul" => Servers::consul(1).await,
        _ => Servers::postgres().await,
    }
}

fn wait_until(what: &str, mut is_met: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_met() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        #[allow(clippy::disallowed_methods, reason = "a test polls")]
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// One host, inside a namespace, and operator machines without a common disk.
struct Fleet {
    dir: tempfile::TempDir,
    /// `SWITCHMAN_JOURNAL`.
    journal: String,
}

/// A command that runs, with its standard error in a file.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn log(&self) -> String {
        read(&self.log)
    }

    fn wait_for(&self, text: &str) {
        wait_until(text, || self.log().contains(text));
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, self.log())
    }
}

impl Fleet {
    fn new(journal: &str) -> Self {
        // The machine is the host by its address, under whatever host name a command runs.
        #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
        let added = Command::new("ip").args(["address", "add", "10.99.0.1/32", "dev", "lo"]).status();
        assert!(added.unwrap().success());
        let main = std::net::TcpListener::bind("10.99.0.1:8080").unwrap();
        std::thread::spawn(move || answer_every_request(&main));
        let fleet = Self { dir: make_single_host(), journal: journal.to_owned() };
        std::fs::write(fleet.path("switchman.yaml"), YAML).unwrap();
        let (code, text) = fleet.start("ops0", &["enable-forward"]).end();
        assert_eq!(code, Some(0), "{text}");
        fleet
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A journal that is a file is the same for all machines; one on a server needs no common disk.
    fn command(&self, machine: &str, args: &[&str]) -> Command {
        #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
        let mut command = Command::new("unshare");
        command.args(["--uts", "sh", "-c", "hostname \"$0\"; exec \"$@\"", machine]);
        command.arg(env!("CARGO_BIN_EXE_switchman")).arg("--state-dir").arg(self.path("state")).args(args);
        command.env("SWITCHMAN_CONFIG", self.path("switchman.yaml"));
        command.env("XTABLES_LOCKFILE", self.path("xtables.lock")).env_remove("SUDO_USER");
        if self.journal.is_empty() {
            command.env("SWITCHMAN_JOURNAL_DIR", self.path("journal"));
        } else {
            command.env("SWITCHMAN_JOURNAL", &self.journal);
            command.env("SWITCHMAN_JOURNAL_DIR", self.path(machine));
        }
        command.stdin(Stdio::null());
        command
    }

    fn start(&self, machine: &str, args: &[&str]) -> Running {
        self.spawn(machine, self.command(machine, args))
    }

    fn spawn(&self, machine: &str, mut command: Command) -> Running {
        let log = self.path(&format!("{machine}.log"));
        let file = std::fs::File::create(&log).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Running { child, log }
    }

    fn run(&self, machine: &str, args: &[&str]) -> (Option<i32>, String) {
        self.start(machine, args).end()
    }

    /// Starts a roll whose command works until the returned file is there.
    fn start_roll(&self, machine: &str) -> (Running, PathBuf) {
        let flag = self.path(&format!("{machine}.flag"));
        let script = format!("echo works; while [ ! -e {} ]; do sleep 0.05; done", flag.display());
        let roll = self.start(machine, &["roll", "--", "sh", "-c", &script]);
        roll.wait_for("works\n");
        (roll, flag)
    }
}

/// Two operator machines, and an operator machine and a CI job.
fn check_wait_for_lock(fleet: &Fleet) {
    let (roll, flag) = fleet.start_roll("ops1");
    let (code, text) = fleet.run("ops2", &["roll", "--", "true"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the fleet is locked by root on ops1 "), "{text}");
    let (code, text) = fleet.run("ops2", &["roll", "--wait-lock", "1s", "--", "true"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the fleet is locked by root on ops1 ") && text.contains("; waited "), "{text}");

    let announced = "; waiting for it, ";
    let interrupted = fleet.start("ops3", &["roll", "--wait-lock", "10m", "--", "true"]);
    interrupted.wait_for(announced);
    interrupted.signal(Signal::SIGINT);
    let (code, text) = interrupted.end();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("interrupted while waiting for root on ops1 "), "{text}");

    let waiting = fleet.start("ci1", &["roll", "--wait-lock", "10m", "--", "true"]);
    waiting.wait_for(announced);
    std::fs::write(flag, "").unwrap();
    let (code, text) = roll.end();
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = waiting.end();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("the fleet is locked by root on ops1 "), "{text}");
    assert_eq!(text.matches(announced).count(), 1, "{text}");
    assert!(text.contains("\n next: wait for it: `switchman roll --status`"), "{text}");
}

#[test]
fn second_machine_is_refused_or_waits_on_sqlite() {
    run_in_namespace(|| async { check_wait_for_lock(&Fleet::new("")) });
}

#[test]
fn second_machine_is_refused_or_waits_on_etcd() {
    check_store("etcd");
}

#[test]
fn second_machine_is_refused_or_waits_on_consul() {
    check_store("consul");
}

#[test]
fn second_machine_is_refused_or_waits_on_postgres() {
    check_store("postgres");
}

fn check_store(name: &'static str) {
    run_in_namespace(move || async move {
        let Some(_servers) = start_store(name).await else { return };
        let journal = STORES.iter().find(|(store, _)| *store == name).unwrap().1;
        check_wait_for_lock(&Fleet::new(journal));
    });
}

#[test]
fn resume_of_any_roll_succeeds_where_none_is_unfinished() {
    run_in_namespace(|| async {
        let fleet = Fleet::new("");
        for verb in ["--resume", "--abort"] {
            assert_eq!(fleet.run("ci1", &["roll", verb]).0, Some(1));
            let (code, text) = fleet.run("ci1", &["roll", verb, "--if-any"]);
            assert_eq!((code, text.as_str()), (Some(0), "no roll is unfinished: the journal has none\n"));
        }
        let (code, text) = fleet.run("ci1", &["roll", "--", "sh", "-c", "exit 9"]);
        assert_eq!(code, Some(1), "{text}");
        let (code, text) = fleet.run("ci1", &["roll", "--resume", "--if-any"]);
        assert_eq!(code, Some(1), "its command fails again: {text}");
        let (code, text) = fleet.run("ci1", &["roll", "--abort", "--if-any"]);
        assert_eq!(code, Some(0), "{text}");
        let (code, text) = fleet.run("ci1", &["roll", "--resume"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(": it finished at ") && text.contains(" with the result `aborted`"), "{text}");
        let (code, text) = fleet.run("ci1", &["roll", "--resume", "--if-any"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.starts_with("no roll is unfinished: r") && text.contains("`aborted`"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    });
}

#[test]
fn summary_is_written_at_every_end() {
    run_in_namespace(|| async {
        let fleet = Fleet::new("");
        let file = fleet.path("summary.md");
        let name = file.display().to_string();
        std::fs::write(&file, "from an earlier step").unwrap();
        let take = || {
            let text = read(&file);
            std::fs::write(&file, "").unwrap();
            text
        };
        // A file that cannot be written is found before a host is touched.
        let (code, text) = fleet.run("ci1", &["roll", "--summary", "/no/such/dir/x.md", "--", "true"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("cannot write `/no/such/dir/x.md`") && !text.contains("forward"), "{text}");

        let (code, text) = fleet.run("ci1", &["roll", "--summary", &name, "--", "true"]);
        assert_eq!(code, Some(0), "{text}");
        let summary = take();
        assert!(summary.starts_with("from an earlier step\n### switchman roll: done\n"), "{summary}");
        assert!(summary.contains("\n| web1 | done | "), "{summary}");

        let script = "echo '```'; echo 'no | disk <left>'; exit 9";
        let (code, text) = fleet.run("ci1", &["roll", "--summary", &name, "--", "sh", "-c", script]);
        assert_eq!(code, Some(1), "{text}");
        let summary = take();
        assert!(summary.contains("| failed, returned | ") && summary.contains("**next:** "), "{summary}");
        assert!(summary.contains("\n````text\n```\nno | disk <left>\n````\n"), "{summary}");

        let (code, text) = fleet.run("ci1", &["roll", "--summary", &name, "--", "true"]);
        assert_eq!(code, Some(1), "{text}");
        let summary = take();
        assert!(summary.contains("is not finished") && summary.contains("| web1 | failed"), "{summary}");

        let (code, text) = fleet.run("ci1", &["roll", "--summary", &name, "--abort"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(take().starts_with("### switchman roll: aborted\n"));
        let (code, text) = fleet.run("ci1", &["roll", "--summary", &name, "--resume", "--if-any"]);
        assert_eq!(code, Some(0), "{text}");
        let summary = take();
        assert!(summary.contains("nothing to do") && summary.contains("no roll is unfinished"), "{summary}");

        // The second signal ends the command at once.
        let roll =
            fleet.start("ci1", &["roll", "--summary", &name, "--", "sh", "-c", "echo works; sleep 600"]);
        roll.wait_for("works\n");
        roll.signal(Signal::SIGINT);
        roll.wait_for("interrupted: ");
        roll.signal(Signal::SIGINT);
        let (code, text) = roll.end();
        assert_eq!(code, Some(1), "{text}");
        let summary = take();
        assert!(summary.contains("a second signal stopped it at once"), "{summary}");
        assert!(summary.contains("roll --abort"), "{summary}");
    });
}

/// A first signal ends the roll, a second one ends it at once: the key stays in neither case.
#[test]
fn ssh_key_of_the_environment_is_a_private_file_until_the_end() {
    run_in_namespace(|| async {
        let fleet = Fleet::new("");
        let temporary = fleet.path("tmp");
        std::fs::create_dir(&temporary).unwrap();
        let is_empty = || std::fs::read_dir(&temporary).unwrap().next().is_none();
        let script = "[ -z \"$SWITCHMAN_SSH_KEY\" ] || exit 8; stat -c %a \"$SWITCHMAN_SSH_KEY_FILE\"; \
                      cat \"$SWITCHMAN_SSH_KEY_FILE\"; echo works; exec sleep 600";
        for signals in [vec![Signal::SIGKILL; 0], vec![Signal::SIGTERM; 2], vec![Signal::SIGINT; 2]] {
            let is_finished = signals.is_empty();
            let script =
                if is_finished { script.replace("exec sleep 600", "true") } else { script.to_owned() };
            let verb = ["roll", "--", "sh", "-c", &script];
            let mut command = fleet.command("ci1", &verb);
            command.env("TMPDIR", &temporary).env("SWITCHMAN_SSH_KEY", "the key");
            let roll = fleet.spawn("ci1", command);
            roll.wait_for("works\n");
            for signal in &signals {
                assert!(!is_empty());
                roll.signal(*signal);
                roll.wait_for("interrupted: ");
            }
            let (code, text) = roll.end();
            assert_eq!(code, Some(i32::from(!is_finished)), "{text}");
            assert!(text.contains("| 600\n") && text.contains("| the key\n"), "{text}");
            assert!(is_empty(), "{text}");
            let (code, text) = fleet.run("ci1", &["roll", "--abort", "--if-any"]);
            assert_eq!(code, Some(0), "{text}");
        }
    });
}

/// Standard input is a pipe that stays open and silent, as that of some runners.
#[test]
fn prompt_without_terminal_and_answer_is_refused() {
    run_in_namespace(|| async {
        let fleet = Fleet::new("");
        let other = std::net::TcpListener::bind("10.99.0.1:9000").unwrap();
        std::thread::spawn(move || answer_every_request(&other));
        let (code, text) = fleet.run("ci1", &["deploy", "shop", "1.0.0", "http://10.99.0.1:9000"]);
        assert_eq!(code, Some(0), "{text}");
        let mut command = fleet.command("ci1", &["access", "shop", "private"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let silent = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(silent);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(
            text.contains("standard input is no terminal, and nothing was written to it for 10s"),
            "{text}"
        );
        assert!(text.contains("\n next: `--yes` answers every question"), "{text}");
    });
}

/// Each job is killed with all that it has, and the next one, on another machine, completes the roll.
async fn killed_jobs_are_resumed_by_the_next_one(name: &'static str) {
    if !can_make_namespaces() {
        return;
    }
    let journal = STORES.iter().find(|(store, _)| *store == name).unwrap().1;
    let site = Site::up(&format!("ci{}", &name[..2]), Plan::default()).await;
    let Some(servers) = start_servers(&site, || start_store(name)) else { return };
    let jobs = Machines::new(&site, journal);
    let dir = site.lab.dir().to_owned();
    for (round, place) in ["while it drains", "while its command works"].into_iter().enumerate() {
        let version = format!("{}.0.0", round + 2);
        let flag = dir.join(format!("at-command-{round}"));
        let script = format!(
            "[ -z \"$SWITCHMAN_SSH_KEY\" ] || exit 8; \
             [ $SWITCHMAN_HOST != web2 ] || [ $SWITCHMAN_ATTEMPT -gt 1 ] || {{ touch {}; sleep {}; }}; \
             {}",
            flag.display(),
            if round == 0 { 0 } else { 600 },
            jobs.replace(&version)
        );
        let machine = format!("ci{round}a");
        let job = jobs.start(&machine, &["roll", "--wait-lock", "5m", "--", "sh", "-c", &script]);
        site.until(place, async || if round == 0 { job.log().contains("web2: ") } else { flag.exists() })
            .await;
        job.cut_power().await;

        let (code, text) = jobs.run(&format!("ci{round}b"), &["roll", "--status"]).await;
        assert_eq!(code, Some(0), "{place}: {text}");
        assert!(text.contains(" by root") && text.contains("1 of 3 hosts done"), "{place}: {text}");
        let resume = ["roll", "--resume", "--if-any", "--wait-lock", "5m"];
        let (code, text) = jobs.run(&format!("ci{round}c"), &resume).await;
        assert_eq!(code, Some(0), "{place}: {text}");
        assert!(text.contains("3 of 3 hosts done"), "{place}: {text}");
        assert_eq!(site.up_count("lb1").await, 3, "{place}");
        site.answered_by("web2", &version).await;
        let (code, text) = jobs.run(&format!("ci{round}d"), &resume).await;
        assert_eq!(code, Some(0), "{place}: {text}");
        assert!(text.contains("no roll is unfinished"), "{place}: {text}");
    }
    drop(servers);
    site.down_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_job_is_resumed_by_the_next_one_on_etcd() {
    killed_jobs_are_resumed_by_the_next_one("etcd").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute, and the fault matrix kills a roll on this store too: `make soak`"]
async fn killed_job_is_resumed_by_the_next_one_on_consul() {
    killed_jobs_are_resumed_by_the_next_one("consul").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute, and the fault matrix kills a roll on this store too: `make soak`"]
async fn killed_job_is_resumed_by_the_next_one_on_postgres() {
    killed_jobs_are_resumed_by_the_next_one("postgres").await;
}
