//! Two operator machines without a common disk, each in process and host namespaces of its own, with one journal on etcd or on
//! a machine that is reached by ssh.

use super::*;
use crate::agent_link::Place;
use crate::journal_store::servers::Servers;
use crate::single_host::answer_every_request;

const YAML: &str =
    "service: shop\nhosts: {web1: {address: 10.99.0.1}}\nroll: {min_up: 0}\nhealth: {interval: 10ms}\n";
const ETCD: &str = "journal: {etcd: ['http://127.0.0.1:2379']}\n";

/// The store that the operator machines share.
pub(super) enum SharedStore {
    Etcd(Servers),
    /// A machine with sshd, which keeps the journal.
    Machine(Place),
}

impl SharedStore {
    /// `None` where etcd is not installed.
    async fn start_etcd() -> Option<Self> {
        Servers::etcd(1).await.map(Self::Etcd)
    }

    pub(super) async fn start_machine() -> Self {
        let mut place = Place::new();
        place.sshd("").await;
        Self::Machine(place)
    }

    /// The lines of `switchman.yaml` about the store.
    pub(super) fn yaml(&self) -> String {
        match self {
            Self::Etcd(_) => ETCD.to_owned(),
            Self::Machine(place) => {
                let options: Vec<String> =
                    place.ssh_options("").iter().map(|word| format!("{word:?}")).collect();
                let (program, state) = (env!("CARGO_BIN_EXE_switchman"), place.text("lb1"));
                format!(
                    "ssh: {{options: [{}], switchman: {program} --state-dir {state}}}\njournal: {{host: lb1}}\n",
                    options.join(", ")
                )
            }
        }
    }

    /// The store as errors name it.
    const fn label(&self) -> &'static str {
        match self {
            Self::Etcd(_) => "etcd at http://127.0.0.1:2379",
            Self::Machine(_) => "the journal on lb1",
        }
    }

    fn kill(&mut self) {
        match self {
            Self::Etcd(servers) => servers.kill(0),
            Self::Machine(place) => place.kill_all(),
        }
    }
}

impl Host {
    pub(super) fn with_shared_journal(store: &str) -> Self {
        // The machine is the host by its address, under whatever host name a command runs.
        #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
        let added =
            Command::new("ip").args(["address", "add", "10.99.0.1/32", "dev", "lo"]).status().unwrap();
        assert!(added.success());
        let main = std::net::TcpListener::bind("10.99.0.1:8080").unwrap();
        std::thread::spawn(move || answer_every_request(&main));
        let host = Self::new();
        host.write_yaml(store);
        host
    }

    pub(super) fn write_yaml(&self, store: &str) {
        std::fs::write(self.0.path().join("switchman.yaml"), format!("{YAML}{store}")).unwrap();
    }

    /// A command on a machine that can be thrown away: its processes end with the returned one.
    fn throwaway(&self, machine: &str, args: &[&str]) -> Command {
        let path = |name: &str| self.0.path().join(name);
        #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
        let mut command = Command::new("unshare");
        command.args(["--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-c", "hostname \"$0\"; exec \"$@\"", machine]);
        command.arg(env!("CARGO_BIN_EXE_switchman"));
        command.arg("--config").arg(path("switchman.yaml")).arg("--state-dir").arg(path("state"));
        let yaml = std::fs::read_to_string(path("switchman.yaml")).unwrap();
        // A journal in a directory is that of the configuration, for all machines.
        if !yaml.contains("journal: {path:") {
            command.arg("--journal-dir").arg(path(machine));
        }
        command.args(args);
        command.env("XTABLES_LOCKFILE", path("xtables.lock")).env_remove("SUDO_USER");
        command
    }

    pub(super) fn run_elsewhere(&self, machine: &str, args: &[&str]) -> (Option<i32>, String) {
        let output = self.throwaway(machine, args).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    /// Starts a roll and returns when its command works.
    pub(super) fn start_elsewhere(&self, machine: &str, script: &str) -> Child {
        let command = self.throwaway(machine, &["roll", "--", "sh", "-c", &format!("echo works; {script}")]);
        spawn_until_works(command)
    }
}

#[test]
fn second_machine_is_refused_by_the_shared_lock_and_sees_the_roll() {
    run_in_namespace(|| async {
        let Some(store) = SharedStore::start_etcd().await else { return };
        check_second_machine_is_refused(&store);
    });
}

#[test]
fn second_machine_is_refused_by_the_lock_on_another_machine() {
    run_in_namespace(|| async {
        check_second_machine_is_refused(&SharedStore::start_machine().await);
    });
}

fn check_second_machine_is_refused(store: &SharedStore) {
    let host = Host::with_shared_journal(&store.yaml());
    host.succeeds("ops1", &["enable-forward"]);
    let mut roll = host.start_elsewhere("ops1", "sleep 600");
    let (code, text) = host.run_elsewhere("ops2", &["roll", "--", "true"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the fleet is locked by root on ops1 "), "{text}");
    assert!(text.contains("watching for 10s whether root on ops1 "), "by its heartbeats: {text}");
    let (code, status) = host.run_elsewhere("ops2", &["roll", "--status"]);
    assert_eq!(code, Some(0), "{status}");
    assert!(status.contains("by root") && status.contains("sleep 600"), "{status}");
    roll.kill().unwrap();
    roll.wait().unwrap();
}

/// As a CI job whose machine is thrown away, and the next job on another one.
#[test]
fn roll_of_a_dead_machine_is_resumed_on_another_one() {
    run_in_namespace(|| async {
        let Some(store) = SharedStore::start_etcd().await else { return };
        check_roll_of_a_dead_machine_is_resumed(&store);
    });
}

#[test]
fn roll_of_a_dead_machine_is_resumed_from_the_journal_on_another_machine() {
    run_in_namespace(|| async {
        check_roll_of_a_dead_machine_is_resumed(&SharedStore::start_machine().await);
    });
}

fn check_roll_of_a_dead_machine_is_resumed(store: &SharedStore) {
    let host = Host::with_shared_journal(&store.yaml());
    host.succeeds("ops1", &["enable-forward"]);
    let mut roll = host.start_elsewhere("ops1", "sleep 600");
    roll.kill().unwrap();
    roll.wait().unwrap();
    let (code, text) = host.run_elsewhere("ops2", &["roll", "--abort"]);
    assert_eq!(code, Some(0), "{text}");
    let (_, status) = host.run_elsewhere("ops3", &["status"]);
    assert!(status.contains("forward   on"), "{status}");
    let (code, text) = host.run_elsewhere("ops3", &["roll", "--", "true"]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn unreachable_store_refuses_a_roll_before_it_begins() {
    run_in_namespace(|| async {
        let host = Host::with_shared_journal(ETCD);
        let (code, text) = host.run_elsewhere("ops1", &["roll", "--", "true"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("etcd at http://127.0.0.1:2379: no answer: "), "{text}");
        assert!(text.contains("\n next: "), "{text}");
        let mut store = SharedStore::start_machine().await;
        store.kill();
        host.write_yaml(&store.yaml());
        let (code, text) = host.run_elsewhere("ops1", &["roll", "--", "true"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("in the journal on lb1: ssh reports: "), "{text}");
        assert!(text.contains("\n next: start sshd there"), "{text}");
    });
}

/// The roll stops after the running step; what it could not record it did not begin.
#[test]
fn store_lost_during_a_roll_stops_it_with_the_host_in_service() {
    run_in_namespace(|| async {
        let Some(mut store) = SharedStore::start_etcd().await else { return };
        check_lost_store_stops_the_roll(&mut store);
    });
}

#[test]
fn machine_of_the_journal_lost_during_a_roll_stops_it_with_the_host_in_service() {
    run_in_namespace(|| async {
        check_lost_store_stops_the_roll(&mut SharedStore::start_machine().await);
    });
}

fn check_lost_store_stops_the_roll(store: &mut SharedStore) {
    let host = Host::with_shared_journal(&store.yaml());
    host.succeeds("ops1", &["enable-forward"]);
    let fifo = host.0.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut child = host.start_elsewhere("ops1", &format!("read line < {}", fifo.display()));
    store.kill();
    std::fs::write(&fifo, "on\n").unwrap();
    let mut rest = String::new();
    child.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
    let code = child.wait().unwrap().code();
    assert_eq!(code, Some(1), "{rest}");
    assert!(rest.contains(store.label()), "{rest}");
    // A host's own commands need no journal.
    let (_, status) = host.run_elsewhere("ops1", &["status"]);
    assert!(status.contains("forward   on"), "{rest}{status}");
}

#[test]
fn output_of_a_failed_command_is_read_on_another_machine() {
    run_in_namespace(|| async {
        let store = SharedStore::start_machine().await;
        let host = Host::with_shared_journal(&store.yaml());
        host.succeeds("ops1", &["enable-forward"]);
        let script = "seq 1 100; echo the disk is full; exit 3";
        let (code, text) = host.run_elsewhere("ops1", &["roll", "--", "sh", "-c", script]);
        assert_eq!(code, Some(1), "{text}");
        let (_, status) = host.run_elsewhere("ops2", &["roll", "--status"]);
        let is_roll = |word: &&str| word.starts_with("r2") && word.contains('-');
        let roll = status.split_whitespace().find(is_roll).unwrap_or_else(|| panic!("no roll: {status}"));
        let roll = roll.trim_end_matches([':', ',', ';']);
        // The files of the output are on the first machine.
        std::fs::remove_dir_all(host.0.path().join("ops1")).unwrap();
        let (code, past) = host.run_elsewhere("ops2", &["history", "--roll", roll]);
        assert_eq!(code, Some(0), "{past}");
        assert!(past.contains("output of web1 until ") && past.contains("\n  the disk is full\n"), "{past}");
        assert!(past.contains("\n  100\n") && !past.contains("\n  1\n"), "its end: {past}");
    });
}
