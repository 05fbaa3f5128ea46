//! `roll` as an operator and a program see it: Ctrl-C, exit codes, JSON lines. One host, with nothing in front of it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::single_host::make_single_host;
use crate::testing::run_in_namespace;

struct Host(tempfile::TempDir);

impl Host {
    /// Inside a namespace. The main vhost answers 200 to everything.
    fn new() -> Self {
        Self(make_single_host())
    }

    fn roll(&self, args: &[&str]) -> Command {
        #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchman"));
        command.arg("--config").arg(self.0.path().join("switchman.yaml"));
        command.arg("--state-dir").arg(self.0.path().join("state"));
        command.env("XTABLES_LOCKFILE", self.0.path().join("xtables.lock"));
        command.arg("roll").args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.roll(args).output().unwrap()
    }
}

/// A running roll, and the lines of JSON that it prints.
struct RunningRoll {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl RunningRoll {
    fn start(host: &Host, script: &str) -> Self {
        let mut command = host.roll(&["--output", "json", "--", "sh", "-c", script]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line that the command printed.
    fn output(&mut self) -> String {
        loop {
            let line = self.lines.next().expect("the roll ended").unwrap();
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if let Some(text) = line["line"].as_str() {
                return text.to_owned();
            }
        }
    }

    fn interrupt(&self) {
        self.send(Signal::SIGINT);
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

fn has_ended(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn second_ctrl_c_ends_roll_and_commands_at_once() {
    run_in_namespace(|| async {
        let host = Host::new();
        let mut roll = RunningRoll::start(&host, "trap '' TERM INT; sleep 60 & echo $!; echo $$; wait");
        let pids = [roll.output(), roll.output()];
        roll.interrupt();
        assert!(pids.iter().all(|pid| !has_ended(pid)), "once: the command may end");
        // Signals of one kind become one while they wait: the second is sent until it is received.
        while roll.child.try_wait().unwrap().is_none() {
            roll.interrupt();
            std::thread::yield_now();
        }
        assert_eq!(roll.child.wait().unwrap().code(), Some(1));
        let mut stderr = String::new();
        roll.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert!(
            stderr.contains("error: cannot finish the command: a second signal stopped it at once\n next: `switchman roll --status`"),
            "{stderr}"
        );
        while !pids.iter().all(|pid| has_ended(pid)) {
            std::thread::yield_now();
        }
        let status = String::from_utf8(host.run(&["--status"]).stdout).unwrap();
        assert!(status.contains("it was cut off") && status.contains(" command "), "{status}");
        let aborted = host.run(&["--abort"]);
        assert_eq!(aborted.status.code(), Some(0), "{aborted:?}");
    });
}

#[test]
fn json_output_has_one_document_per_line() {
    run_in_namespace(|| async {
        let host = Host::new();
        let output = host.run(&["--output", "json", "--", "echo", "hello"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().all(|line| line["schema"] == 2), "{text}");
        let (last, events) = lines.split_last().unwrap();
        assert!(
            events.iter().all(|line| line["kind"] == "roll-event" && line["event"].is_string()),
            "{text}"
        );
        assert!(events.iter().any(|line| line["event"] == "output" && line["line"] == "hello"), "{text}");
        assert_eq!((&last["kind"], &last["progress"]["result"]), (&"roll".into(), &"done".into()), "{text}");
        assert!(last["took_ms"].is_u64(), "{text}");
    });
}

#[test]
fn resume_without_roll_is_refused_and_creates_no_journal() {
    run_in_namespace(|| async {
        let host = Host::new();
        assert_eq!(host.run(&["--status"]).stdout, b"no roll yet\n");
        for verb in ["resume", "abort"] {
            let output = host.run(&[&format!("--{verb}")]);
            assert_eq!(output.status.code(), Some(1));
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(
                stderr.starts_with(&format!("error: cannot {verb} a roll: the journal has none\n next: ")),
                "{stderr}"
            );
        }
        assert!(!host.0.path().join(".switchman").exists());
        assert_eq!(host.run(&["--", "false"]).status.code(), Some(1), "none is done");
        assert_eq!(host.run(&["--", "true"]).status.code(), Some(1), "the last one is not finished");
        assert_eq!(host.run(&["--abort"]).status.code(), Some(0));
        let finished = host.run(&["--resume"]);
        let why = String::from_utf8(finished.stderr).unwrap();
        assert!(finished.status.code() == Some(1) && why.contains("cannot resume roll r"), "{why}");
        assert_eq!(host.run(&["--", "true"]).status.code(), Some(0));
    });
}

/// The kernel sends SIGHUP to the roll, and then the shell does; either may come late.
#[test]
fn hangup_ends_roll_after_its_host() {
    run_in_namespace(|| async {
        let host = Host::new();
        let fifo = host.0.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut roll =
            RunningRoll::start(&host, &format!("echo up; read line < {}; echo $line", fifo.display()));
        assert_eq!(roll.output(), "up");
        for _ in 0..3 {
            roll.send(Signal::SIGHUP);
        }
        std::fs::write(&fifo, "on\n").unwrap();
        assert_eq!(roll.output(), "on");
        let _rest: Vec<_> = roll.lines.collect();
        assert_eq!(roll.child.wait().unwrap().code(), Some(0), "there was one host, and it is done");
    });
}

/// The plan is printed, then what refuses the roll.
#[test]
fn dry_run_finds_what_roll_finds_and_changes_nothing() {
    run_in_namespace(|| async {
        let host = Host::new();
        let missing = host.0.path().join("deplyo.sh").display().to_string();
        let plain = host.0.path().join("plain.sh").display().to_string();
        std::fs::write(&plain, "#!/bin/sh\n").unwrap();
        assert_eq!(host.run(&["--dry-run", "--", "true"]).status.code(), Some(0));
        assert!(!host.0.path().join(".switchman").exists());
        for program in [missing, plain] {
            let (planned, rolled) = (host.run(&["--dry-run", "--", &program]), host.run(&["--", &program]));
            let text = String::from_utf8(planned.stdout).unwrap();
            assert!(text.contains(&format!("run here: {program}")), "{text}");
            assert_eq!(planned.status.code(), Some(1));
            let stderr = String::from_utf8(planned.stderr).unwrap();
            assert!(stderr.contains("the command cannot run"), "{stderr}");
            assert_eq!(stderr, String::from_utf8(rolled.stderr).unwrap());
        }
        assert_eq!(host.run(&["--status"]).stdout, b"no roll yet\n");
    });
}
