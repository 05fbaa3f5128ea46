//! Two operator machines without a common disk, each in process and host namespaces of its own, with one journal on etcd.

use super::*;
use crate::journal_store::servers::Servers;
use crate::single_host::answer_every_request;

const YAML: &str = "service: shop\nhosts: {web1: {address: 10.99.0.1}}\nroll: {min_up: 0}\nhealth: {interval: 10ms}\n\
                    journal: {etcd: ['http://127.0.0.1:2379']}\n";

impl Host {
    fn with_shared_journal() -> Self {
        // The machine is the host by its address, under whatever host name a command runs.
        #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
        let added =
            Command::new("ip").args(["address", "add", "10.99.0.1/32", "dev", "lo"]).status().unwrap();
        assert!(added.success());
        let main = std::net::TcpListener::bind("10.99.0.1:8080").unwrap();
        std::thread::spawn(move || answer_every_request(&main));
        let host = Self::new();
        std::fs::write(host.0.path().join("switchman.yaml"), YAML).unwrap();
        host
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
        command.arg("--journal-dir").arg(path(machine)).args(args);
        command.env("XTABLES_LOCKFILE", path("xtables.lock")).env_remove("SUDO_USER");
        command
    }

    fn run_elsewhere(&self, machine: &str, args: &[&str]) -> (Option<i32>, String) {
        let output = self.throwaway(machine, args).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    /// Starts a roll and returns when its command works.
    fn start_elsewhere(&self, machine: &str, script: &str) -> Child {
        let command = self.throwaway(machine, &["roll", "--", "sh", "-c", &format!("echo works; {script}")]);
        spawn_until_works(command)
    }
}

#[test]
fn second_machine_is_refused_by_the_shared_lock_and_sees_the_roll() {
    run_in_namespace(|| async {
        let Some(_servers) = Servers::etcd(1).await else { return };
        let host = Host::with_shared_journal();
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
    });
}

/// As a CI job whose machine is thrown away, and the next job on another one.
#[test]
fn roll_of_a_dead_machine_is_resumed_on_another_one() {
    run_in_namespace(|| async {
        let Some(_servers) = Servers::etcd(1).await else { return };
        let host = Host::with_shared_journal();
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
    });
}

#[test]
fn unreachable_store_refuses_a_roll_before_it_begins() {
    run_in_namespace(|| async {
        let host = Host::with_shared_journal();
        let (code, text) = host.run_elsewhere("ops1", &["roll", "--", "true"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("etcd at http://127.0.0.1:2379: no answer: "), "{text}");
        assert!(text.contains("\n next: "), "{text}");
    });
}

/// The roll stops after the running step; what it could not record it did not begin.
#[test]
fn store_lost_during_a_roll_stops_it_with_the_host_in_service() {
    run_in_namespace(|| async {
        let Some(mut servers) = Servers::etcd(1).await else { return };
        let host = Host::with_shared_journal();
        host.succeeds("ops1", &["enable-forward"]);
        let fifo = host.0.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut child = host.start_elsewhere("ops1", &format!("read line < {}", fifo.display()));
        servers.kill(0);
        std::fs::write(&fifo, "on\n").unwrap();
        let mut rest = String::new();
        child.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
        let code = child.wait().unwrap().code();
        assert_eq!(code, Some(1), "{rest}");
        assert!(rest.contains("etcd at http://127.0.0.1:2379"), "{rest}");
        // A host's own commands need no journal.
        let (_, status) = host.run_elsewhere("ops1", &["status"]);
        assert!(status.contains("forward   on"), "{rest}{status}");
    });
}
