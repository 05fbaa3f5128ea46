//! A host in other hands: what it answers neither moves the operator's terminal nor fills the operator's memory. `ssh` is a program of
//! the test that answers as `agent --stdio` does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Greets, answers `/v1`, and then each request with what `answer` in its directory has: the status, the type, and the
/// body, `endless` for one without end.
const SSH: &str = r#"#!/usr/bin/env python3
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
out, inp = sys.stdout.buffer, sys.stdin.buffer
answer = json.load(open(os.path.join(here, 'answer')))
out.write(b'switchman agent api=%d..%d version=%s\n' % (answer['api'], answer['api'], answer['version'].encode()))
out.flush()
def send(status, body):
    out.write(b'HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n' % (status, len(body)) + body)
    out.flush()
while True:
    head = inp.readline()
    if not head:
        break
    length = 0
    while True:
        line = inp.readline().strip()
        if not line:
            break
        if line.lower().startswith(b'content-length:'):
            length = int(line.split(b':')[1])
    inp.read(length)
    if b' /v1 ' in head:
        send(200, json.dumps({'api': answer['api'], 'oldest_api': answer['api'], 'version': answer['version'], 'machine': 'web1'}).encode())
    elif answer['body'] == 'endless':
        out.write(b'HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n')
        block = b'[' + b'"x",' * 16384
        sent = 0
        # More than any answer may have, and less than a machine has.
        while sent < 512 << 20:
            out.write(b'%x\r\n' % len(block) + block + b'\r\n')
            out.flush()
            sent += len(block)
            with open(os.path.join(here, 'sent'), 'w') as file:
                file.write(str(sent))
    else:
        send(answer['status'], answer['body'].encode())
"#;

struct FakeHost {
    dir: tempfile::TempDir,
}

impl FakeHost {
    fn new(status: u16, body: &str) -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(host.path("ssh"), SSH).unwrap();
        fs::set_permissions(host.path("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
        let api = switchman::model::api::API_VERSION;
        let version = env!("CARGO_PKG_VERSION");
        let answer = serde_json::json!({"api": api, "version": version, "status": status, "body": body});
        fs::write(host.path("answer"), answer.to_string()).unwrap();
        fs::write(
            host.path("switchman.yaml"),
            "service: shop\nhosts: {web1: {address: 127.0.0.1, ssh: ops@web1}}\n",
        )
        .unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the command with the `ssh` of the test first in the path; the process may have 2 GB of address space.
    fn run(&self, args: &[&str]) -> Output {
        #[allow(
            clippy::disallowed_methods,
            reason = "a test reads its own environment and starts programs by itself"
        )]
        let (mut command, path) = (Command::new("sh"), std::env::var("PATH").unwrap());
        command.args(["-c", "ulimit -v 2000000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_switchman")]);
        command.arg("--config").arg(self.path("switchman.yaml")).arg("--state-dir").arg(self.path("state"));
        command.args(args).env("PATH", format!("{}:{path}", self.dir.path().display()));
        command.env_remove("SWITCHMAN_CONFIG").output().unwrap()
    }
}

/// Sets the title of the terminal, clears it, writes a line of its own and turns the text around.
const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\nweb1 is fine\u{202e}\u{9b}1A";

fn assert_harmless(output: &Output) {
    for bytes in [&output.stdout, &output.stderr] {
        let text = String::from_utf8(bytes.clone()).unwrap();
        for c in ['\u{1b}', '\u{7}', '\u{202e}', '\u{9b}', '\r'] {
            assert!(!text.contains(c), "{c:?} in {text:?}");
        }
        assert!(!text.lines().any(|line| line.starts_with("web1 is fine")), "{text}");
    }
}

#[test]
fn refusal_of_a_host_has_no_escape_sequences() {
    let body = serde_json::json!({"code": "unsupported", "message": HOSTILE}).to_string();
    let host = FakeHost::new(500, &body);
    let commands: [&[&str]; 6] = [
        &["status", "--host", "web1"],
        &["--output", "json", "status", "--host", "web1"],
        &["ls"],
        &["history", "shop"],
        &["logs", "shop"],
        &["check"],
    ];
    for args in commands {
        let output = host.run(args);
        let text = format!("{output:?}");
        assert!(text.contains("owned"), "{args:?} shows what the host answers: {text}");
        assert_harmless(&output);
    }
}

/// Actors, reasons and phases are what a host says they are.
#[test]
fn history_of_a_host_has_no_escape_sequences() {
    let entry = serde_json::json!([{
        "operation": 1, "at": "2026-11-27T10:15:00Z", "service": "shop", "phase": "done",
        "action": HOSTILE, "actor": {"user": HOSTILE, "pid": 7, "machine": HOSTILE, "reason": HOSTILE}, "detail": HOSTILE
    }]);
    let host = FakeHost::new(200, &entry.to_string());
    let output = host.run(&["history", "shop"]);
    let text = format!("{output:?}");
    assert!(text.contains("owned"), "{text}");
    assert_harmless(&output);
}

/// Metadata, command lines, and the ends of processes are what a host says they are.
#[test]
fn deployments_of_a_host_have_no_escape_sequences() {
    let colored = format!("\u{1b}[31m{HOSTILE}");
    let health = serde_json::json!({
        "path": colored, "status": 200, "host": null, "timeout_ms": 1000, "interval_ms": 1000, "rise": 1
    });
    let deployment = serde_json::json!({
        "id": "dp_0123456789", "service": "shop", "version": "1.0.0", "revision": 1, "stage": "ready", "health": health,
        "metadata": {colored.as_str(): colored}, "address": "127.0.0.1",
        "created_at": "2026-11-27T10:15:00Z", "updated_at": "2026-11-27T10:15:00Z",
        "instance": {"build": 1, "port": 20000, "how": {"workload": {"command": {"argv": [colored]}}}, "digest": colored}
    });
    let error = serde_json::json!({"error": colored});
    let view = serde_json::json!({
        "deployment": deployment, "role": "shadow", "backup": false, "status": "Drained",
        "process": error, "sockets": error, "via_main_port": error
    });
    let body = serde_json::json!({"services": [], "deployments": [view], "runner": colored});
    let host = FakeHost::new(200, &body.to_string());
    for args in [&["describe", "shop"][..], &["ls", "-W"], &["ls"], &["--output", "json", "describe", "shop"]]
    {
        let output = host.run(args);
        let text = format!("{output:?}");
        assert!(text.contains("1.0.0"), "{args:?}: {text}");
        assert!(!args.contains(&"describe") || text.contains("owned"), "{args:?}: {text}");
        assert_harmless(&output);
    }
}

#[test]
fn answer_without_end_is_cut_and_named() {
    let host = FakeHost::new(200, "endless");
    for args in [&["status", "--host", "web1"][..], &["ls"], &["history", "shop"]] {
        let output = host.run(args);
        let text = format!("{output:?}");
        assert!(text.contains("is longer than 16 MiB"), "{args:?}: {text}");
        let sent: u64 = fs::read_to_string(host.path("sent")).unwrap().parse().unwrap();
        assert!(sent < 128 << 20, "{args:?} took {sent} bytes");
    }
}

#[test]
fn answer_of_too_many_values_is_refused() {
    let host = FakeHost::new(200, &format!("[{}1]", "1,".repeat(600_000)));
    let output = host.run(&["history", "shop"]);
    let text = format!("{output:?}");
    assert!(text.contains("values, more than 500000"), "{text}");
}
