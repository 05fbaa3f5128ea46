//! Ctrl-C, TERM and a closed terminal in every command that waits: the answer, what is finished, and what a second signal does.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::single_host::{HostAgent, answer_every_request, build_command, make_single_host};
use crate::testing::run_in_namespace;

/// The longest time from a signal to its answer. The machine of the tests is busy: the limit of the product is 100 ms.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Only ends a test that would hang.
const BOUND: Duration = Duration::from_secs(30);

/// A host of its own network namespace, with or without an agent.
struct Host {
    dir: tempfile::TempDir,
    agent: Option<HostAgent>,
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.agent.take());
        // Instances outlive the commands that start them.
        let _ = self.run(&["kill", "--all", "--yes", "--force"]);
    }
}

impl Host {
    fn new() -> Self {
        Self { dir: make_single_host(), agent: None }
    }

    /// A host that is driven through its agent.
    fn with_agent() -> Self {
        let mut host = Self::new();
        let socket = host.socket();
        let yaml = format!(
            "service: shop\nroll: {{min_up: 0}}\nhealth: {{interval: 10ms}}\nhosts:\n  web1: {{address: 127.0.0.1, agent: \
             'unix://{socket}'}}\n"
        );
        std::fs::write(host.dir.path().join("switchman.yaml"), yaml).unwrap();
        host.agent = Some(HostAgent::start(host.command(&[]), std::path::Path::new(&socket)));
        host
    }

    fn socket(&self) -> String {
        self.dir.path().join("agent.sock").display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = build_command(self.dir.path());
        command.env_remove("CI").args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    fn start(&self, args: &[&str]) -> Running {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let stdin = child.stdin.take();
        Running { child, lines, _stdin: stdin }
    }

    /// A release whose program listens on no port.
    fn make_release(&self) -> String {
        let release = self.dir.path().join("release");
        std::fs::create_dir_all(&release).unwrap();
        std::fs::write(release.join("index.html"), "hello").unwrap();
        release.display().to_string()
    }

    /// Starts the deployment of a version that never becomes healthy, and waits until its program runs.
    fn start_endless_deploy(&self) -> Running {
        let release = self.make_release();
        let deploy = self.start(&["deploy", "shop", "1.0.0", &release, "--", "sleep", "600"]);
        wait_until(|| String::from_utf8_lossy(&self.run(&["ls"]).stdout).contains("running"));
        deploy
    }

    fn list(&self) -> String {
        String::from_utf8(self.run(&["ls"]).stdout).unwrap()
    }
}

struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStderr>>,
    /// Kept open: the end of the input is another answer.
    _stdin: Option<ChildStdin>,
}

impl Running {
    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Reads lines until one has this text.
    fn read_until(&mut self, text: &str) -> String {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("ended before {text:?}")).unwrap();
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Sends the signal; returns once a line with this text has answered it.
    fn expect_answer(&mut self, signal: Signal, text: &str) {
        let sent_at = Instant::now();
        self.send(signal);
        self.read_until(text);
        assert!(sent_at.elapsed() < ANSWER_LIMIT, "{signal}: {:?}", sent_at.elapsed());
    }

    /// Returns the exit code and the rest of stderr.
    fn wait(mut self) -> (Option<i32>, String) {
        let rest: Vec<String> = self.lines.by_ref().map(Result::unwrap).collect();
        (self.child.wait().unwrap().code(), rest.join("\n"))
    }
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < BOUND, "it never came true");
        std::thread::yield_now();
    }
}

/// Seed row D25: the first signal is refused with the sentence of the seed, the second aborts.
fn check_deploy_is_aborted(host: &Host, signal: Signal) {
    let mut deploy = host.start_endless_deploy();
    deploy.expect_answer(signal, "CTRL+C is disabled during deployment. Please be patient!");
    deploy.read_until("next: a second Ctrl-C aborts the deployment");
    assert!(host.list().contains("1.0.0"), "the first signal changes nothing");
    deploy.expect_answer(Signal::SIGINT, "interrupted: the deployment is removed");
    let (code, stderr) = deploy.wait();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("removed again"), "{stderr}");
    assert!(stderr.contains("error: cannot deploy shop 1.0.0: "), "{stderr}");
    assert!(!host.list().contains("1.0.0"), "{}", host.list());
}

/// Rows: D25.
#[test]
fn second_signal_aborts_deploy_and_removes_it() {
    run_in_namespace(|| async {
        let host = Host::new();
        check_deploy_is_aborted(&host, Signal::SIGINT);
        check_deploy_is_aborted(&host, Signal::SIGTERM);
        check_deploy_is_aborted(&host, Signal::SIGHUP);
    });
}

#[test]
fn second_signal_aborts_deploy_through_an_agent() {
    run_in_namespace(|| async {
        check_deploy_is_aborted(&Host::with_agent(), Signal::SIGINT);
    });
}

/// A client that hangs up locks the host for no time: the next deploy waits for no limit of the first.
#[test]
fn hung_up_deploy_leaves_the_host_unlocked() {
    run_in_namespace(|| async {
        let host = Host::with_agent();
        let mut deploy = host.start_endless_deploy();
        deploy.child.kill().unwrap();
        deploy.child.wait().unwrap();
        wait_until(|| !host.list().contains("1.0.0"));
        let mut again = host.start_endless_deploy();
        again.child.kill().unwrap();
        again.child.wait().unwrap();
        wait_until(|| !host.list().contains("1.0.0"));
    });
}

#[test]
fn signal_at_a_question_aborts() {
    run_in_namespace(|| async {
        let host = Host::new();
        let application = std::net::TcpListener::bind("127.0.0.1:8090").unwrap();
        std::thread::spawn(move || answer_every_request(&application));
        let deployed = host.run(&["deploy", "shop", "1.0.0", "http://127.0.0.1:8090"]);
        assert_eq!(deployed.status.code(), Some(0), "{deployed:?}");
        for (args, question) in [
            (&["kill", "shop"][..], "[y/N]: "),
            (&["access", "shop", "private"], "[y/N]: "),
            (&["init", "somewhere"], "[my_project]: "),
        ] {
            for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
                let mut asking = host.start(args);
                let mut stdout = asking.child.stdout.take().unwrap();
                let mut text = String::new();
                while !text.ends_with(question) {
                    let mut byte = [0];
                    stdout.read_exact(&mut byte).unwrap();
                    text.push(char::from(byte[0]));
                }
                asking.expect_answer(signal, "error: Aborted!");
                let (code, rest) = asking.wait();
                let next = " next: nothing was changed; `--yes` answers every question with yes";
                assert_eq!((code, rest.as_str()), (Some(1), next), "{args:?} {signal}");
            }
        }
        assert!(host.list().contains("1.0.0"));
    });
}

#[test]
fn watches_end_with_success() {
    run_in_namespace(|| async {
        let host = Host::new();
        for args in [&["status", "--watch"][..], &["ls", "--watch"]] {
            for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
                let mut watching = host.start(args);
                let mut stdout = watching.child.stdout.take().unwrap();
                stdout.read_exact(&mut [0; 4]).unwrap();
                watching.send(signal);
                let (code, stderr) = watching.wait();
                assert_eq!((code, stderr.as_str()), (Some(0), ""), "{args:?} {signal}");
            }
        }
    });
}

/// A wait for a balancer whose state cannot be read takes the time of its check settings.
#[test]
fn switch_keeps_the_kernel_and_ends_its_wait() {
    run_in_namespace(|| async {
        let host = Host::new();
        let yaml = "service: shop\nroll: {min_up: 0}\nhealth: {interval: 10ms}\n\
                    load_balancers:\n  - {name: lb1, backend: servers, check: {inter: 60s, fall: 3}}\n";
        std::fs::write(host.dir.path().join("switchman.yaml"), yaml).unwrap();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let mut switch = host.start(&["disable-forward"]);
            switch.read_until("state cannot be read");
            switch.expect_answer(signal, "interrupted: the kernel's change is finished");
            let (code, stderr) = switch.wait();
            assert_eq!(code, Some(1), "{stderr}");
            assert!(stderr.contains("its forward is off, but the wait was interrupted"), "{stderr}");
        }
        let mut switch = host.start(&["disable-forward", "--output", "json"]);
        switch.read_until("state cannot be read");
        switch.expect_answer(Signal::SIGINT, "a second Ctrl-C stops at once");
    });
}

/// SQLite waits for the lock of another process on the thread that runs the command.
#[test]
fn signal_is_answered_while_the_journal_is_locked() {
    run_in_namespace(|| async {
        let host = Host::new();
        assert_eq!(host.run(&["enable-forward"]).status.code(), Some(0));
        assert_eq!(host.run(&["roll", "--", "true"]).status.code(), Some(0));
        let journal = host.dir.path().join(".switchman/shop.db");
        let locked = rusqlite::Connection::open(&journal).unwrap();
        locked.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut roll = host.start(&["roll", "--", "true"]);
        let files = format!("/proc/{}/fd", roll.child.id());
        wait_until(|| {
            let mut files = std::fs::read_dir(&files).unwrap().flatten();
            files.any(|file| std::fs::read_link(file.path()).is_ok_and(|file| file == journal))
        });
        roll.expect_answer(Signal::SIGINT, "interrupted: ");
        locked.execute_batch("ROLLBACK").unwrap();
        assert_eq!(roll.wait().0, Some(1));
    });
}

/// The operator's machine answers, even while a host does not.
#[test]
fn signal_is_answered_while_a_host_is_silent() {
    run_in_namespace(|| async {
        let host = Host::new();
        let socket = host.socket();
        let silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let yaml = format!(
            "service: shop\nroll: {{min_up: 0}}\nhosts:\n  web1: {{address: 127.0.0.1, agent: 'unix://{socket}'}}\n"
        );
        std::fs::write(host.dir.path().join("switchman.yaml"), yaml).unwrap();
        let release = host.make_release();
        let changing = [
            &["roll", "--", "true"][..],
            &["assign", "shop", "1.0.0", "--yes"],
            &["enable-forward", "--all"],
            &["kill", "shop", "--yes"],
            &["update", "shop", "1.0.0", &release],
            &["mirror", "shop", "1.0.0"],
            &["canary", "shop", "1.0.0", "--percent", "5"],
            &["rollback", "shop"],
            &["access", "shop", "private", "--yes"],
            &["promote", "shop", "1.0.0"],
        ];
        // A command may connect twice: what the one before it has left is not the next one's.
        let forget_connections = || {
            silent.set_nonblocking(true).unwrap();
            while silent.accept().is_ok() {}
            silent.set_nonblocking(false).unwrap();
        };
        for args in changing {
            forget_connections();
            let mut running = host.start(args);
            let _connected = silent.accept().unwrap();
            running.expect_answer(Signal::SIGINT, "interrupted: ");
            while running.child.try_wait().unwrap().is_none() {
                running.send(Signal::SIGINT);
                std::thread::yield_now();
            }
            let (code, stderr) = running.wait();
            assert_eq!(code, Some(1), "{args:?}: {stderr}");
            assert!(stderr.contains("error: ") && stderr.contains(" next: "), "{args:?}: {stderr}");
        }
        for args in
            [&["status"][..], &["check"], &["ls"], &["describe", "shop"], &["logs", "shop"], &["metrics"]]
        {
            forget_connections();
            let mut running = host.start(args);
            let _connected = silent.accept().unwrap();
            running.expect_answer(Signal::SIGTERM, "error: cannot finish the command: a signal stopped it");
            assert_eq!(running.wait().0, Some(1), "{args:?}");
        }
        forget_connections();
        let following = host.start(&["status", "--watch"]);
        let _connected = silent.accept().unwrap();
        following.send(Signal::SIGINT);
        assert_eq!(following.wait(), (Some(0), String::new()));
    });
}
