//! Two operator machines and one host, with the real program and kernel. Each operator machine has a host name and a journal
//! of its own; both work on the host's state.

use std::io::Read;
use std::process::{Child, Command, Output, Stdio};

use crate::single_host::make_single_host;
use crate::site::{Plan, Site};
use crate::testing::{can_make_namespaces, run_in_namespace};

mod journal_move;
mod shared_journal;

struct Host(tempfile::TempDir);

impl Host {
    /// Inside a namespace. The main vhost answers 200 to everything.
    fn new() -> Self {
        Self(make_single_host())
    }

    /// A command typed on an operator machine.
    fn command(&self, machine: &str, args: &[&str]) -> Command {
        let path = |name: &str| self.0.path().join(name);
        #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
        let mut command = Command::new("unshare");
        command.args(["--uts", "sh", "-c", "hostname \"$0\"; exec \"$@\"", machine]);
        command.arg(env!("CARGO_BIN_EXE_switchman"));
        command.arg("--config").arg(path("switchman.yaml")).arg("--state-dir").arg(path("state"));
        command.arg("--journal-dir").arg(path(machine)).args(args);
        command.env("XTABLES_LOCKFILE", path("xtables.lock")).env_remove("SUDO_USER");
        command
    }

    fn run(&self, machine: &str, args: &[&str]) -> Output {
        self.command(machine, args).output().unwrap()
    }

    fn succeeds(&self, machine: &str, args: &[&str]) -> String {
        let output = self.run(machine, args);
        assert_eq!(output.status.code(), Some(0), "{machine} {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Checks that a command is refused, and returns its error.
    fn is_refused(&self, machine: &str, args: &[&str]) -> String {
        let output = self.run(machine, args);
        let stderr = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{machine} {args:?}: {output:?}");
        assert!(stderr.contains("\n next: "), "{stderr}");
        stderr
    }

    /// Starts a roll whose command works until the returned file is written to.
    fn start_roll(&self, machine: &str) -> (Child, std::path::PathBuf) {
        let fifo = self.0.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = format!("echo works; read line < {}", fifo.display());
        let command = self.command(machine, &["roll", "--", "sh", "-c", &script]);
        let child = spawn_until_works(command);
        (child, fifo)
    }
}

/// Starts a roll, and returns when its command has written `works`.
fn spawn_until_works(mut command: Command) -> Child {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut progress = child.stderr.take().unwrap();
    let mut seen = String::new();
    let mut byte = [0];
    while !seen.contains("works\n") {
        assert_eq!(progress.read(&mut byte).unwrap(), 1, "the roll ended: {seen}");
        seen.push(char::from(byte[0]));
    }
    child.stderr = Some(progress);
    child
}

fn finish(mut roll: (Child, std::path::PathBuf)) -> (Option<i32>, String) {
    std::fs::write(&roll.1, "on\n").unwrap();
    let mut text = String::new();
    roll.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    roll.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (roll.0.wait().unwrap().code(), text)
}

/// The second operator machine put the host back into service while the first one's command worked on it, and the first
/// one's roll ended with `done`.
#[test]
fn second_operator_machine_does_not_end_a_roll_of_the_first() {
    run_in_namespace(|| async {
        let host = Host::new();
        host.succeeds("ops1", &["enable-forward"]);
        let roll = host.start_roll("ops1");
        let words = "taken out of service by root on ops1, roll r";
        for args in [
            &["roll", "--", "true"][..],
            &["enable-forward"],
            &["disable-forward"],
            &["enable-forward", "--force"],
        ] {
            let error = host.is_refused("ops2", args);
            assert!(error.contains(words) && error.contains("sh -c"), "{args:?}: {error}");
            assert!(error.contains("--force --reason TEXT"), "{error}");
        }
        let status = host.succeeds("ops2", &["status"]);
        assert!(status.contains("\nowner     root on ops1, roll r"), "{status}");
        let (code, text) = finish(roll);
        assert_eq!(code, Some(0), "{text}");
        let status = host.succeeds("ops2", &["status"]);
        assert!(!status.contains("owner") && status.contains("forward   on"), "{status}");
        host.succeeds("ops2", &["roll", "--", "true"]);
    });
}

#[test]
fn takeover_stops_the_roll_and_both_histories_record_it() {
    run_in_namespace(|| async {
        let host = Host::new();
        host.succeeds("ops1", &["enable-forward"]);
        let roll = host.start_roll("ops1");
        host.succeeds("ops2", &["disable-forward", "--force", "--reason", "the disk is on fire"]);
        let (code, text) = finish(roll);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("taken over by root on ops2, by hand"), "{text}");
        let status = host.succeeds("ops1", &["status"]);
        assert!(
            status.contains("owner     root on ops2, by hand") && status.contains("forward   off"),
            "{status}"
        );
        let history = host.succeeds("ops2", &["history"]);
        assert!(history.contains("took over from root on ops1, roll r"), "{history}");
        assert!(history.contains("reason: the disk is on fire"), "{history}");
        let of_roll = host.succeeds("ops1", &["roll", "--status"]);
        assert!(of_roll.contains("root on ops2"), "{of_roll}");
        // The roll's own operator is a stranger now.
        let error = host.is_refused("ops1", &["enable-forward"]);
        assert!(error.contains("root on ops2, by hand"), "{error}");
        host.succeeds("ops2", &["enable-forward"]);
    });
}

/// It has no owner afterwards, so that the roll reads who it was in the host's history.
#[test]
fn takeover_that_puts_the_host_into_service_is_named_with_its_reason() {
    run_in_namespace(|| async {
        let host = Host::new();
        host.succeeds("ops1", &["enable-forward"]);
        let roll = host.start_roll("ops1");
        host.succeeds("ops2", &["enable-forward", "--force", "--reason", "users need it"]);
        let (code, text) = finish(roll);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("enable-forward by root on ops2 (pid "), "{text}");
        assert!(text.contains("): users need it"), "{text}");
    });
}

#[test]
fn maintenance_by_hand_is_kept_from_rolls_of_others() {
    run_in_namespace(|| async {
        let host = Host::new();
        host.succeeds("ops1", &["enable-forward"]);
        host.succeeds("ops1", &["disable-forward", "--reason", "new disk"]);
        let history = host.succeeds("ops1", &["history"]);
        assert!(history.contains("reason: new disk"), "{history}");
        let error = host.is_refused("ops2", &["roll", "--", "true"]);
        assert!(error.contains("root on ops1, by hand, since") && error.contains(": new disk"), "{error}");
        host.succeeds("ops2", &["roll", "--force", "--reason", "it is urgent", "--", "true"]);
        let history = host.succeeds("ops1", &["history"]);
        assert!(history.contains("took over from root on ops1, by hand"), "{history}");
        // The command of a roll belongs to the roll.
        let program = env!("CARGO_BIN_EXE_switchman");
        let path = |name: &str| host.0.path().join(name).display().to_string();
        let script = format!(
            "{program} --config {} --state-dir {} disable-forward --no-wait",
            path("switchman.yaml"),
            path("state")
        );
        host.succeeds("ops1", &["roll", "--", "sh", "-c", &script]);
    });
}

/// Runs a command on a second operator machine of the lab, with a host name and a journal of its own.
async fn run_on_second_machine(site: &Site, args: &[&str]) -> switchman::sys::exec::Output {
    let dir = site.operator.dir();
    let path = |name: &str| dir.join(name).display().to_string();
    let script = "hostname \"$0\"; exec \"$@\"";
    let program = site.lab.program("client", "unshare").args(["--uts", "sh", "-c", script, "swm-ops2"]);
    let program = program.arg(env!("CARGO_BIN_EXE_switchman"));
    let program = program.args(["--config", &path("switchman.yaml"), "--state-dir", &path("state2")]);
    let program = program.args(["--journal-dir", &path("ops2"), "--no-color"]).args(args).dir(dir);
    program.run(b"", std::time::Duration::from_mins(2)).await.unwrap()
}

/// Over ssh, with HAProxy and users: the second operator machine is refused by name, takes the host over with a reason, and the
/// first one's roll stops there. No user sees any of it.
#[tokio::test(flavor = "multi_thread")]
async fn two_operator_machines_over_ssh_lose_no_request() {
    if !can_make_namespaces() {
        return;
    }
    let site = Site::up("owner", Plan::default()).await;
    let flag = site.operator.dir().join("go-on");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", flag.display());
    let command = ["sh".to_owned(), "-c".to_owned(), script];
    let rolling = site.start(&[], &command);
    site.until_step("web1", "step-began", "command").await;
    for args in [
        &["enable-forward", "--host", "web1"][..],
        &["disable-forward", "--host", "web1"],
        &["roll", "--", "true"],
    ] {
        let refused = run_on_second_machine(&site, args).await;
        assert_eq!(refused.status, 1, "{args:?}: {refused:?}");
        let words = ["taken out of service by root on ", ", roll r", "--force --reason TEXT"];
        assert!(words.iter().all(|words| refused.stderr.contains(words)), "{}", refused.stderr);
    }
    let takeover = ["disable-forward", "--host", "web1", "--force", "--reason", "the disk is on fire"];
    let taken = run_on_second_machine(&site, &takeover).await;
    assert_eq!(taken.status, 0, "{taken:?}");
    assert!(taken.stderr.contains("taken over from root on "), "{}", taken.stderr);
    std::fs::write(&flag, "").unwrap();
    let (code, log) = rolling.ended().await;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("taken over by root on swm-ops2, by hand"), "{log}");
    let given_back = run_on_second_machine(&site, &["enable-forward", "--host", "web1"]).await;
    assert_eq!(given_back.status, 0, "{given_back:?}");
    site.well(&["roll", "--resume"]).await;
    site.down_without_loss().await;
}
