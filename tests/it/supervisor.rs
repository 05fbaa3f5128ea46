//! The built-in supervisor, with the real binary and real processes. Nothing is waited for by the clock.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use switchman::model::deployment::{InstanceId, InstanceLimits, InstanceSpec, ProcessState, StopSignal};
use switchman::sys::supervisor::{Supervisor, Tuning};
use switchman::world::runner::{Runner, RunnerError, StopResult};

mod accounts;
mod adoption;
mod logs;

const SWITCHMAN: &str = env!("CARGO_BIN_EXE_switchman");
/// Only ends a test that would hang.
const BOUND: Duration = Duration::from_secs(30);
/// More than anything takes here.
const LONG: Duration = Duration::from_secs(30);
const ID: &str = "dp_0123456789-1";

/// A state directory with a supervisor; at the end nothing that it started is left.
struct Yard {
    dir: tempfile::TempDir,
    runner: Supervisor,
}

impl Drop for Yard {
    fn drop(&mut self) {
        let runner = self.runner.clone();
        let ended = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for id in runner.list_instances().await.unwrap() {
                    runner.stop(&id, Duration::ZERO).await.unwrap();
                }
            });
        });
        // A second panic would hide the first.
        let _ = ended.join();
    }
}

impl Yard {
    fn new() -> Self {
        Self::with(Tuning { initial_backoff: Duration::from_millis(10), ..Tuning::default() })
    }

    fn with(tuning: Tuning) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runner = Supervisor::new(dir.path()).with_program(SWITCHMAN, tuning);
        Self { dir, runner }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A script in the yard's directory.
    fn sh(&self, script: &str) -> InstanceSpec {
        self.spec(&["sh", "-c", script])
    }

    fn spec(&self, argv: &[&str]) -> InstanceSpec {
        InstanceSpec {
            id: id(),
            service: "shop".parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            argv: argv.iter().map(ToString::to_string).collect(),
            env: BTreeMap::new(),
            dir: self.dir.path().to_owned(),
            user: None,
            account: None,
            sandbox: None,
            resources: InstanceLimits::default(),
            grace: Duration::from_secs(5),
            stop_signal: StopSignal::Term,
        }
    }

    async fn state(&self) -> ProcessState {
        self.runner.state(&id()).await.unwrap()
    }

    async fn stop(&self, grace: Duration) -> StopResult {
        self.runner.stop(&id(), grace).await.unwrap()
    }

    /// The number in a file, once it is there.
    async fn pid(&self, name: &str) -> u32 {
        until(async || std::fs::read_to_string(self.path(name)).is_ok_and(|text| text.ends_with('\n'))).await;
        std::fs::read_to_string(self.path(name)).unwrap().trim().parse().unwrap()
    }

    async fn main(&self) -> u32 {
        match self.state().await {
            ProcessState::Running { pid, .. } => pid,
            other => panic!("{other:?}"),
        }
    }

    async fn log(&self, tail: Option<u32>) -> Vec<String> {
        let (heard, lines) = listener();
        self.runner.stream_logs(&id(), tail, false, heard).await.unwrap();
        let lines = lines.lock().unwrap();
        lines.iter().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    /// The pid of the keeper: it alone has this directory as its last argument.
    fn keeper(&self) -> Option<u32> {
        let dir = self.path("instances").join(ID).display().to_string();
        let line = format!("supervise\0--role\0monitor\0{dir}\0");
        pids().find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.ends_with(&line))
                && !gone(*pid)
        })
    }
}

fn id() -> InstanceId {
    ID.parse().unwrap()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn listener() -> (switchman::world::link::SharedLineSink, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let theirs = lines.clone();
    (Arc::new(move |line: &str| theirs.lock().unwrap().push(line.to_owned())), lines)
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Not even a zombie.
fn gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

async fn until(condition: impl AsyncFn() -> bool) {
    let waited = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, waited).await.expect("it never came true");
}

#[tokio::test]
async fn start_and_stop_are_idempotent() {
    let yard = Yard::new();
    assert_eq!(yard.stop(LONG).await, StopResult::NotRunning);
    assert_eq!(yard.runner.state(&id()).await, Err(RunnerError::Unknown { instance: id() }));
    let spec = yard.spec(&["sleep", "600"]);
    yard.runner.start(&spec).await.unwrap();
    let pid = yard.main().await;
    yard.runner.start(&spec).await.unwrap();
    assert_eq!((yard.main().await, yard.runner.list_instances().await.unwrap()), (pid, vec![id()]));
    let other = yard.runner.start(&yard.spec(&["sleep", "601"])).await.unwrap_err().to_string();
    assert!(other.ends_with("it is there already, and is run in another way"), "{other}");
    let refused = yard.runner.delete_records(&id()).await.unwrap_err().to_string();
    assert!(refused.ends_with("it is not stopped"), "{refused}");
    assert_eq!((yard.stop(LONG).await, gone(pid)), (StopResult::Exited, true));
    assert!(
        matches!(yard.state().await, ProcessState::Stopped { since: Some(_), last_exit } if last_exit.is_empty())
    );
    assert_eq!(
        (yard.stop(LONG).await, yard.runner.list_instances().await.unwrap()),
        (StopResult::NotRunning, vec![])
    );
    assert_eq!(yard.keeper(), None);
    // Stopped is forgotten: now it may be run in another way.
    yard.runner.start(&yard.spec(&["sleep", "601"])).await.unwrap();
    yard.stop(LONG).await;
    yard.runner.delete_records(&id()).await.unwrap();
    yard.runner.delete_records(&id()).await.unwrap();
    assert!(!yard.path("instances").join(ID).exists());
}

/// Rows: D37.
#[tokio::test]
async fn exited_program_is_restarted() {
    let yard = Yard::new();
    let spec = yard.sh("echo run >> runs; [ $(wc -l < runs) -ge 4 ] && exec sleep 600; exit 7");
    yard.runner.start(&spec).await.unwrap();
    let runs = || std::fs::read_to_string(yard.path("runs")).unwrap_or_default().lines().count();
    until(async || matches!(yard.state().await, ProcessState::Running { restarts: 3, .. })).await;
    // It is started a moment before it writes.
    until(async || runs() >= 4).await;
    send(yard.main().await, Signal::SIGKILL);
    until(async || matches!(yard.state().await, ProcessState::Running { restarts: 4, .. })).await;
    until(async || runs() >= 5).await;
    yard.stop(LONG).await;
    assert_eq!(runs(), 5);
}

/// With pauses that double from 10 ms, fifty starts take for ever; without them they take a moment.
#[tokio::test]
async fn crash_loop_is_restarted_with_backoff() {
    let yard = Yard::with(Tuning { initial_backoff: LONG, max_backoff: LONG, ..Tuning::default() });
    yard.runner.start(&yard.sh("echo run >> runs; exit 7")).await.unwrap();
    until(async || matches!(yard.state().await, ProcessState::Waiting { .. })).await;
    assert!(
        matches!(yard.state().await, ProcessState::Waiting { restarts: 0, last_exit, .. } if last_exit == "status 7")
    );
    // It waits, and can be stopped all the same.
    assert_eq!(yard.stop(LONG).await, StopResult::NotRunning);
    assert_eq!(std::fs::read_to_string(yard.path("runs")).unwrap(), "run\n");
}

#[tokio::test]
async fn program_that_ignores_term_is_killed_after_grace() {
    let yard = Yard::new();
    let script = "trap '' TERM; (echo $$ > mine; exec sleep 600) & echo $! > child; while :; do wait; done";
    yard.runner.start(&yard.sh(script)).await.unwrap();
    let (child, main) = (yard.pid("child").await, yard.main().await);
    assert_eq!(yard.stop(Duration::from_millis(100)).await, StopResult::Killed);
    assert!(gone(child) && gone(main));
}

#[tokio::test]
async fn frozen_program_ends_gracefully() {
    let yard = Yard::new();
    yard.runner.start(&yard.spec(&["sleep", "600"])).await.unwrap();
    send(yard.main().await, Signal::SIGSTOP);
    assert_eq!(yard.stop(LONG).await, StopResult::Exited);
}

/// Example: the entry script of a container image, whose trap calls `curl` to leave a registry.
#[tokio::test]
async fn programs_of_a_trap_are_not_signalled() {
    let yard = Yard::new();
    let trap = "for i in 1 2 3 4 5; do sleep 0.1 || exit 1; done; touch cleaned; exit 0";
    let script = &format!("trap '{trap}' TERM; echo $$ > trapped; while :; do sleep 0.01; done");
    yard.runner.start(&yard.sh(script)).await.unwrap();
    let main = yard.pid("trapped").await;
    assert_eq!((yard.stop(LONG).await, gone(main)), (StopResult::Exited, true));
    assert!(yard.path("cleaned").exists());
}

/// A daemon has no parent here and has a session of its own.
const DAEMON: &str = "setsid sh -c 'echo $$ > daemon; TRAP exec sleep 600' < /dev/null &";

#[tokio::test]
async fn daemon_ends_with_its_program() {
    for (trap, ended) in [("", StopResult::Exited), ("trap \"\" TERM;", StopResult::Killed)] {
        let yard = Yard::new();
        let script =
            DAEMON.replace("TRAP", trap) + "while [ ! -s daemon ]; do sleep 0.01; done; exec sleep 600";
        yard.runner.start(&yard.sh(&script)).await.unwrap();
        let daemon = yard.pid("daemon").await;
        let grace = if trap.is_empty() { LONG } else { Duration::from_millis(100) };
        assert_eq!((yard.stop(grace).await, gone(daemon)), (ended, true));
    }
}

#[tokio::test]
async fn daemon_ends_before_next_start() {
    let yard = Yard::new();
    let script = format!(
        "[ -e daemon ] && exec sleep 600; {} while [ ! -s daemon ]; do sleep 0.01; done; exit 0",
        DAEMON.replace("TRAP", "")
    );
    yard.runner.start(&yard.sh(&script)).await.unwrap();
    until(async || matches!(yard.state().await, ProcessState::Running { restarts: 1, .. })).await;
    assert!(gone(yard.pid("daemon").await));
}

#[tokio::test]
async fn first_process_ends_its_children_on_quit() {
    let yard = Yard::new();
    let spec = yard.sh(
        "sh -c 'trap \"echo wrong >> said\" QUIT TERM; echo $$ > child; while [ ! -e end ]; do sleep 0.01; done' &
         trap 'echo quit >> said; touch end; wait; exit' QUIT; trap 'echo wrong >> said' TERM
         echo $$ > main; while :; do sleep 0.01; done",
    );
    yard.runner.start(&InstanceSpec { stop_signal: StopSignal::Quit, ..spec }).await.unwrap();
    // A signal before a trap is set would end the program.
    assert_ne!(yard.pid("child").await, yard.pid("main").await);
    assert_eq!(yard.stop(LONG).await, StopResult::Exited);
    assert_eq!(std::fs::read_to_string(yard.path("said")).unwrap(), "quit\n");
}

#[tokio::test]
async fn failed_start_is_reported_and_leaves_nothing() {
    let yard = Yard::new();
    let missing = yard.spec(&["swm-no-such"]);
    let error = RunnerError::Missing { program: "swm-no-such".to_owned() };
    assert_eq!(yard.runner.start(&missing).await, Err(error));
    let user = InstanceSpec { user: Some("swm-nobody".to_owned()), ..yard.spec(&["sleep", "600"]) };
    assert_eq!(yard.runner.start(&user).await, Err(RunnerError::NoUser { user: "swm-nobody".to_owned() }));
    let place = InstanceSpec { dir: yard.path("no/such"), ..yard.spec(&["sleep", "600"]) };
    let error = yard.runner.start(&place).await.unwrap_err().to_string();
    assert!(error.contains("cannot enter `") && error.contains("No such file"), "{error}");
    std::fs::write(yard.path("script"), "#!/swm/no/such\n").unwrap();
    set_mode(&yard.path("script"), 0o755);
    let error = yard.runner.start(&yard.spec(&["./script"])).await.unwrap_err().to_string();
    assert!(error.contains("cannot run `./script`"), "{error}");
    set_mode(&yard.path("script"), 0o644);
    let error = yard.runner.start(&yard.spec(&["./script"])).await.unwrap_err().to_string();
    assert!(error.contains("cannot run `./script`: Permission denied"), "{error}");
    assert_eq!((yard.runner.list_instances().await.unwrap(), yard.keeper()), (vec![], None));
    std::fs::write(yard.path("file"), "").unwrap();
    let nowhere = Supervisor::new(&yard.path("file")).with_program(SWITCHMAN, Tuning::default());
    assert!(matches!(nowhere.start(&missing).await, Err(RunnerError::WriteFailed { .. })));
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[tokio::test]
async fn program_runs_with_groups_and_permissions_of_its_user() {
    if !is_root() {
        return crate::testing::missing("this user is not root");
    }
    let yard = Yard::new();
    set_mode(yard.dir.path(), 0o755);
    let spec = InstanceSpec {
        user: Some("nobody".to_owned()),
        ..yard.sh("id; echo x > /dev/stdout; exec sleep 600")
    };
    yard.runner.start(&spec).await.unwrap();
    until(async || yard.log(None).await.len() == 2).await;
    let lines = yard.log(None).await;
    assert!(lines[0].starts_with("uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)"), "{lines:?}");
    yard.stop(LONG).await;
    set_mode(yard.dir.path(), 0o700);
    let error = yard.runner.start(&spec).await.unwrap_err().to_string();
    assert!(error.contains("` as `nobody`: Permission denied") && error.contains("namei -l"), "{error}");
}

/// Rows: D37.
#[tokio::test]
async fn program_gets_clean_environment() {
    let yard = Yard::new();
    let mut spec = yard.sh(
        "env | sort; umask; ulimit -n; grep Sig[BI] /proc/self/status; ls /proc/self/fd; pwd; exec sleep 600",
    );
    spec.env = BTreeMap::from([("PORT".to_owned(), "9001".to_owned()), ("LANG".to_owned(), "de".to_owned())]);
    spec.resources.open_files = Some(321);
    yard.runner.start(&spec).await.unwrap();
    until(async || yard.log(Some(1)).await == [yard.dir.path().display().to_string()]).await;
    let mark = format!("SWITCHMAN_INSTANCE_DIR={}", yard.path("instances").join(ID).display());
    let pwd = format!("PWD={}", yard.dir.path().display());
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut expected = vec!["LANG=de", path, "PORT=9001", &pwd, &mark];
    let lines = yard.log(None).await;
    let home = lines.iter().find(|line| line.starts_with("HOME=")).unwrap();
    expected.insert(0, home);
    let (env, rest) = lines.split_at(expected.len());
    assert_eq!(env, expected);
    let rest: Vec<&str> = rest.iter().map(|line| line.split_whitespace().last().unwrap()).collect();
    assert_eq!(rest[..2], ["0022", "321"]);
    // The C library's own two are none of a program's (nptl(7)).
    for mask in &rest[2..4] {
        assert_eq!(u64::from_str_radix(mask, 16).unwrap() & 0x7fff_ffff, 0, "{mask}");
    }
    // `ls` has the directory open as its fourth file.
    assert_eq!(rest[4..8], ["0", "1", "2", "3"]);
    assert_eq!(rest.len(), 9);
}

#[tokio::test]
async fn memory_and_tasks_are_limited_by_cgroup() {
    let yard = Yard::new();
    let mut spec = yard.sh(
        "grep -E 'swm-' /proc/self/cgroup; grep 'address space' /proc/self/limits; echo end; exec sleep 600",
    );
    spec.resources.memory_bytes = Some(512 * 1024 * 1024);
    spec.resources.tasks = Some(50);
    yard.runner.start(&spec).await.unwrap();
    until(async || yard.log(Some(1)).await == ["end"]).await;
    let lines = yard.log(None).await;
    let grouped = |name: &str| lines.iter().any(|line| line.contains(name));
    assert!(grouped("swm-") || lines[0].contains("536870912"), "{lines:?}");
    if grouped("pids:") && grouped("memory:") {
        let line = lines.iter().find(|line| line.contains("pids:")).unwrap();
        let group = line.split_once(":/").unwrap().1;
        let read = |file: String| std::fs::read_to_string(file).unwrap().trim().to_owned();
        assert_eq!(read(format!("/sys/fs/cgroup/pids/{group}/pids.max")), "50");
        assert_eq!(read(format!("/sys/fs/cgroup/memory/{group}/memory.limit_in_bytes")), "536870912");
        yard.stop(LONG).await;
        assert!(!Path::new(&format!("/sys/fs/cgroup/pids/{group}")).exists());
    }
}

#[tokio::test]
async fn concurrent_starts_make_one_instance() {
    let yard = Arc::new(Yard::new());
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let yard = yard.clone();
        starts.spawn(async move { yard.runner.start(&yard.sh("echo run >> runs; exec sleep 600")).await });
    }
    assert!(starts.join_all().await.iter().all(Result::is_ok));
    yard.main().await;
    assert_eq!(yard.stop(LONG).await, StopResult::Exited);
    assert!(std::fs::read_to_string(yard.path("runs")).unwrap_or_default().len() <= 4, "one run at most");
}
