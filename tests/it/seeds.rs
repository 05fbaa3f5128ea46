//! Rows of the seed systems (docs/design/seed-systems.md) at the command line of one host: with a recorded state that needs no
//! privilege, and with a host of its own network namespace.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rusqlite::Connection;

use crate::single_host::{LocalOperator, make_single_host};
use crate::testing::run_in_namespace;

const HEADER: &str = "MAIN   NAME   VERSION   STATUS   RUNNING\n";

/// A host whose recorded state has four versions of `shop`, of which 6.0.1 is main; none of them runs.
fn make_host() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("switchman.yaml"), "service: shop\n").unwrap();
    let connection = Connection::open(dir.path().join("state.db")).unwrap();
    connection.execute_batch(include_str!("../fixtures/recorded/state.sql")).unwrap();
    connection.pragma_update(None, "user_version", 4).unwrap();
    dir
}

#[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchman"));
    command.current_dir(dir).arg("--local").arg("--state-dir").arg(dir).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Rows: D26, D27, R16.
#[test]
fn list_filters_by_name_and_an_empty_list_has_its_header_only() {
    let dir = make_host();
    let list = |args: &[&str]| {
        let output = run(dir.path(), args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        stdout(&output)
    };
    assert_eq!(list(&["ls"]).matches("shop").count(), 4);
    assert_eq!(list(&["ls", "shop"]).matches("shop").count(), 4);
    let one = list(&["ls", "shop", "6.0.0"]);
    assert!(
        one.matches("shop").count() == 1 && one.contains("6.0.0") && one.contains("Stopped (since "),
        "{one}"
    );
    assert!(list(&["ls", "shop", "9.0.0"]).contains(HEADER));
    let empty = tempfile::tempdir().unwrap();
    std::fs::write(empty.path().join("switchman.yaml"), "service: shop\n").unwrap();
    for args in [&["ls"][..], &["ls", "shop"]] {
        let output = run(empty.path(), args);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stdout(&output).lines().filter(|line| !line.starts_with("Active")).count(), 2, "{args:?}");
    }
}

/// An unknown name is an error of every command that takes one. Rows: D13.
#[test]
fn list_and_history_refuse_an_unknown_name() {
    let dir = make_host();
    for args in
        [&["ls", "nosuch"][..], &["ls", "nosuch", "1.0.0"], &["history", "nosuch"], &["describe", "nosuch"]]
    {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stdout(&output));
        assert!(stderr(&output).contains("No main service matching nosuch"), "{args:?}: {}", stderr(&output));
    }
    let output = run(dir.path(), &["ls", "dp_0000000000000"]);
    assert!(stderr(&output).contains("No services match the given name and version."), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(1));
}

/// The result comes after the checks: stdout of a refused command is empty.
#[test]
fn refused_commands_print_nothing_before_the_error() {
    let dir = make_host();
    for args in [
        &["mirror", "shop", "9.0.0"][..],
        &["canary", "shop", "9.0.0", "--percent", "5"],
        &["assign", "shop", "9.0.0"],
        &["update", "shop", "9.0.0", "."],
        &["describe", "nosuch"],
        &["ls", "nosuch"],
        &["logs", "shop", "9.0.0"],
    ] {
        let output = run(dir.path(), args);
        assert!(!output.status.success() && stdout(&output).is_empty(), "{args:?}: {}", stdout(&output));
        let lines: Vec<String> = stderr(&output).lines().map(str::to_owned).collect();
        assert!(lines.len() == 2 && lines[0].starts_with("error: "), "{args:?}: {lines:?}");
    }
}

/// The main again is no change. Rows: D13.
#[test]
fn assign_of_the_present_main_states_that_nothing_changed() {
    let dir = make_host();
    let output = run(dir.path(), &["assign", "shop", "6.0.1"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("shop 6.0.1 is main already: nothing changed\n"), "{text}");
    assert!(!text.contains("Changed main") && !text.contains("[y/N]"), "{text}");
}

/// Rows: D29, D30, R22, R33.
#[test]
fn commands_that_are_not_carried_over_do_not_exist() {
    let dir = make_host();
    for args in [
        &["login"][..],
        &["logout"],
        &["token"],
        &["user", "ls"],
        &["deployments", "list"],
        &["dp", "list"],
        &["svc", "list"],
        &["invocations", "pause", "inv_1"],
        &["rm", "shop"],
        &["add", "http://127.0.0.1:9000"],
        &["desc", "shop"],
    ] {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stdout(&output));
    }
    let listed = ["ls", "list"].map(|name| stdout(&run(dir.path(), &[name])));
    assert_eq!(listed[0], listed[1], "one alias");
}

/// Rows: D12, R21.
#[test]
fn ci_variable_and_end_of_input_answer_no_prompt_with_yes() {
    let dir = make_host();
    for ci in ["true", "1"] {
        let output = command(dir.path(), &["kill", "shop", "4.0.0"]).env("CI", ci).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        let question = "Are you sure you want to kill the above service(s)? [y/N]: ";
        assert!(stdout(&output).contains(question), "{}{}", stdout(&output), stderr(&output));
        assert!(stderr(&output).contains("Aborted!"), "{}", stderr(&output));
    }
    assert!(stdout(&run(dir.path(), &["ls"])).contains("4.0.0"));
}

/// Rows: R23.
#[test]
fn watches_repeat_at_their_interval_until_interrupted() {
    let dir = make_host();
    for (args, repeated) in [
        (&["describe", "shop", "--watch", "-n", "200ms"][..], "[Latest]"),
        (&["ls", "--watch", "--interval", "200ms"], "MAIN "),
        (&["status", "-w", "-n", "200ms"], "service shop"),
    ] {
        let mut child = command(dir.path(), args).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let began = Instant::now();
        let (mut text, mut times) = (Vec::new(), 0);
        while times < 3 && began.elapsed() < Duration::from_mins(1) {
            let mut part = [0; 4096];
            let length = output.read(&mut part).unwrap();
            assert!(length > 0, "{args:?} ended: {}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&part[..length]);
            times = String::from_utf8_lossy(&text).matches(repeated).count();
        }
        assert!(times >= 3 && began.elapsed() >= Duration::from_millis(400), "{args:?}: {times}");
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
        let rest = std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
        assert!(child.wait().unwrap().success(), "{args:?}");
        rest.join().unwrap().unwrap();
    }
}

/// Rows: R3.
#[test]
fn deploy_with_assign_makes_the_new_revision_main() {
    run_in_namespace(|| async {
        let operator = LocalOperator::new(make_single_host());
        operator.deploy("1.0.0");
        let program = "exec python3 -m http.server $PORT";
        let printed =
            operator.stdout(&["deploy", "shop", "2.0.0", "code", "--assign", "--", "sh", "-c", program]);
        assert!(printed.contains("Changed main version to shop 2.0.0"), "{printed}");
        let listing: serde_json::Value =
            serde_json::from_str(&operator.stdout(&["--output", "json", "ls"])).unwrap();
        let rows: Vec<_> = listing["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                (row["version"].as_str().unwrap(), row["revision"].as_u64().unwrap(), row["main"] == true)
            })
            .collect();
        assert_eq!(rows, [("1.0.0", 1, false), ("2.0.0", 2, true)]);
    });
}

/// Rows: Z4, Z13.
#[test]
fn docker_targets_exist_and_purge_removes_objects_of_the_project_only() {
    let root = crate::docs::repository_root();
    let print = |target: &str| {
        #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
        let output =
            Command::new("make").args(["-C", root.to_str().unwrap(), "-n", target]).output().unwrap();
        assert!(output.status.success(), "make {target}: {}", stderr(&output));
        stdout(&output)
    };
    for target in
        ["build", "start", "stop", "attach-lb", "attach-f1", "attach-f2", "enable-forward", "disable-forward"]
    {
        print(target);
    }
    assert!(print("attach-f1").contains("swm-front-1"));
    assert!(!print("purge").contains("system prune"));
}

/// Rows: Z7.
#[test]
fn manual_states_that_schema_changes_expand_and_contract() {
    let manual = std::fs::read_to_string(crate::docs::repository_root().join("docs/versions.md")).unwrap();
    assert!(manual.contains("expand first and"), "docs/versions.md");
}
