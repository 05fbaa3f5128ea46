//! Command lines that clap or the command refuses: missing, contradicting and malformed arguments, with the exit code.

use std::fmt::Write as _;

use super::run_switchman;
use crate::snapshot::assert_snapshot;

/// Words apart by blanks. None of them reaches a configuration, a host or the kernel.
const COMMAND_LINES: [&str; 33] = [
    "nonsense",
    "staus",
    "status --output xml",
    "status --host ../etc",
    "--service a/b status",
    "enable-forward --all --host web1",
    "kill shop --drain-timeout soon",
    "init --host web1",
    "roll --resume --abort",
    "roll --resume --batch 2",
    "roll --batch 0 -- true",
    "roll --health-timeout 5 -- true",
    "deploy shop",
    "deploy shop 1 ./dist",
    "deploy shop 1.0.0 ./dist --port 70000",
    "assign shop",
    "assign shop 2.0.0 --strategy slow",
    "assign shop 2.0.0 --ignore body",
    "mirror shop 2.0.0 --control 200",
    "canary shop 2.0.0 --percent 200",
    "canary shop 2.0.0 --percent 5 --off",
    "compare shop",
    "compare shop 2.0.0 --ignore price",
    "promote shop",
    "promote shop 2.0.0 --resume",
    "promote shop 2.0.0 --steps 100",
    "promote shop 2.0.0 --max-p99-ratio 0.5",
    "update shop ./dist",
    "update shop 2 ./dist",
    "access shop open",
    "lock release --reason later",
    "agent --listen 127.0.0.1:8443",
    "agent --stdio --listen 127.0.0.1:8443",
];

#[test]
fn usage_errors_are_those_of_the_snapshot() {
    let mut text = String::new();
    for line in COMMAND_LINES {
        let output = run_switchman(&line.split(' ').collect::<Vec<_>>());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "`{line}` is accepted");
        assert_eq!(stderr.matches("error:").count(), 1, "{line}: {stderr}");
        let code = output.status.code().unwrap();
        let _ = write!(text, "$ switchman {line}\n{}\nexit: {code}\n\n", stderr.trim_end());
    }
    assert_snapshot("usage.txt", &format!("{}\n", text.trim_end()));
}
