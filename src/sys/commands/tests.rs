use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::*;
use crate::world::fake::paused::{record_lines, wait_until};

fn request(key: &str, script: &str) -> RunRequest {
    RunRequest {
        key: key.to_owned(),
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: BTreeMap::from([("SWITCHMAN_HOST".to_owned(), "web1".to_owned())]),
        dir: Some("/".into()),
        timeout_ms: None,
    }
}

async fn run(
    dir: &tempfile::TempDir,
    request: &RunRequest,
) -> (Result<RunOutcome, CommandError>, Vec<String>) {
    let (heard, lines) = record_lines();
    let commands =
        LocalCommands { lock_timeout: POLL_INTERVAL * 4, ..LocalCommands::new(dir.path().to_owned()) };
    let end = commands.run(request, heard).await;
    let lines = lines.lock().unwrap().clone();
    (end, lines)
}

/// Waits until no process has this pid.
async fn until_ended(pid: &str) {
    let pid = Pid::from_raw(pid.parse().unwrap());
    wait_until(POLL_INTERVAL, || nix::sys::signal::kill(pid, None).is_err()).await;
}

#[tokio::test]
async fn run_streams_both_outputs_and_returns_status() {
    let dir = tempfile::tempdir().unwrap();
    let script = "echo \"$SWITCHMAN_HOST in $PWD\"; printf 'half\\033[2J' >&2; cat; exit 3";
    let (end, mut lines) = run(&dir, &request("a", script)).await;
    lines.sort();
    assert_eq!(end, Ok(RunOutcome { status: 3, timed_out: false }));
    assert_eq!(lines, ["half [2J", "web1 in /"]);
}

#[tokio::test]
async fn run_timeout_ends_process_group() {
    let dir = tempfile::tempdir().unwrap();
    let slow = RunRequest { timeout_ms: Some(100), ..request("a", "sleep 60 & echo $!; wait") };
    let (end, lines) = run(&dir, &slow).await;
    let end = end.unwrap();
    assert!(end.timed_out && end.status != 0, "{end:?}");
    until_ended(&lines[0]).await;
}

#[tokio::test]
async fn second_run_waits_for_leftovers_of_first() {
    let dir = tempfile::tempdir().unwrap();
    // The program has ended; something that has its input open has not.
    let left = "exec 3<&0; sleep 60 <&3 >/dev/null 2>&1 & echo $!";
    let (end, lines) = run(&dir, &request("a", left)).await;
    assert_eq!(end, Ok(RunOutcome { status: 0, timed_out: false }));
    let (end, _) = run(&dir, &request("a", "true")).await;
    assert_eq!(end, Err(CommandError::StillRunning { program: "sh".into(), waited: POLL_INTERVAL * 4 }));
    assert!(run(&dir, &request("b", "true")).await.0.is_ok(), "another key is another run");
    nix::sys::signal::kill(Pid::from_raw(lines[0].parse().unwrap()), Signal::SIGKILL).unwrap();
    assert!(run(&dir, &request("a", "true")).await.0.is_ok());
}

#[tokio::test]
async fn run_names_program_it_cannot_start() {
    let dir = tempfile::tempdir().unwrap();
    let named = |name: &str| RunRequest {
        argv: vec![name.into()],
        dir: Some(dir.path().to_owned()),
        ..request("a", "")
    };
    for name in ["swm-no-such", "./swm-no-such"] {
        let missing = CommandError::Missing { program: name.into() };
        assert_eq!(run(&dir, &named(name)).await.0, Err(missing));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    std::fs::write(dir.path().join("plain"), "").unwrap();
    let error = run(&dir, &named("./plain")).await.0.unwrap_err();
    assert_eq!(error.to_string(), "cannot run `./plain`: Permission denied (os error 13)");
    std::os::unix::fs::symlink("/bin/true", dir.path().join("program")).unwrap();
    assert_eq!(run(&dir, &named("./program")).await.0, Ok(RunOutcome { status: 0, timed_out: false }));
}

/// In a mere group of its own, a program that reads a password from the terminal is stopped, and waited for, for ever.
#[tokio::test]
async fn run_starts_session_without_terminal() {
    let dir = tempfile::tempdir().unwrap();
    // proc(5), /proc/PID/stat: pid (4) ppid pgrp session.
    let (end, lines) = run(&dir, &request("a", "read -r pid name state parent group session rest < /proc/$$/stat; echo $$ $pid $group $session; : < /dev/tty")).await;
    assert_ne!(end.unwrap().status, 0);
    let ids: Vec<&str> =
        lines.iter().find(|line| line.starts_with(char::is_numeric)).unwrap().split(' ').collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{lines:?}");
}

/// Takes its time with every line.
struct Slow(Mutex<Vec<String>>);

#[async_trait]
impl crate::world::link::LineSink for Slow {
    async fn write_line(&self, line: &str) {
        tokio::task::yield_now().await;
        self.0.lock().unwrap().push(line.to_owned());
    }
}

#[tokio::test]
async fn run_blocks_on_slow_reader_without_losing_lines() {
    let dir = tempfile::tempdir().unwrap();
    let commands = LocalCommands::new(dir.path().to_owned());
    let slow = Arc::new(Slow(Mutex::default()));
    // More than a pipe holds, and a process in the background that keeps it open.
    let end = commands.run(&request("a", "sleep 60 & echo $!; seq 1 30000"), slow.clone()).await;
    assert_eq!(end, Ok(RunOutcome { status: 0, timed_out: false }));
    let lines = slow.0.lock().unwrap();
    assert_eq!((lines.len(), lines[30000].as_str()), (30001, "30000"));
    nix::sys::signal::kill(Pid::from_raw(lines[0].parse().unwrap()), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn run_ignores_output_of_background_process() {
    let dir = tempfile::tempdir().unwrap();
    let (end, lines) = run(&dir, &request("a", "yes & echo $!")).await;
    assert_eq!(end, Ok(RunOutcome { status: 0, timed_out: false }));
    // Its pipe is closed by now, so it has ended or is about to.
    let pid = lines.iter().find(|line| *line != "y").unwrap();
    until_ended(pid).await;
}

/// A program that ignores TERM, and one in its background; both print their pids.
const DEAF: &str = "trap '' TERM; sleep 60 & echo $!; echo $$; wait";

fn gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

async fn until_gone(pids: &[String]) {
    wait_until(POLL_INTERVAL, || pids.iter().all(|pid| gone(pid))).await;
}

/// Runs the program until it has printed two lines, then drops the future.
async fn given_up(commands: &LocalCommands) -> Vec<String> {
    let (heard, lines) = record_lines();
    let two_lines = wait_until(POLL_INTERVAL / 10, || lines.lock().unwrap().len() >= 2);
    let deaf = request("a", DEAF);
    tokio::select! {
        ended = commands.run(&deaf, heard) => panic!("{ended:?}"),
        () = two_lines => {}
    }
    std::mem::take(&mut *lines.lock().unwrap())
}

#[tokio::test]
async fn abandoned_run_is_killed_when_it_ignores_term() {
    let dir = tempfile::tempdir().unwrap();
    let commands = LocalCommands::new(dir.path().to_owned());
    let pids = given_up(&commands).await;
    commands.wait_for_all().await;
    until_gone(&pids).await;
}

/// As with a second Ctrl-C.
#[test]
fn abandoned_run_does_not_outlive_switchman() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pids = runtime.block_on(async { given_up(&LocalCommands::new(dir.path().to_owned())).await });
    runtime.shutdown_background();
    for pid in pids {
        while !gone(&pid) {
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn run_timeout_kills_program_that_ignores_term_or_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    for script in [DEAF, "echo $$; echo $$; kill -STOP $$"] {
        let slow = RunRequest { timeout_ms: Some(100), ..request("a", script) };
        let (end, pids) = run(&dir, &slow).await;
        assert!(end.unwrap().timed_out);
        until_gone(&pids).await;
    }
}

#[tokio::test]
async fn abandoned_run_gets_time_to_clean_up() {
    let dir = tempfile::tempdir().unwrap();
    let commands = LocalCommands::new(dir.path().to_owned());
    let tidy = dir.path().join("tidy");
    let script = format!("trap 'sleep 0.3; touch {}; exit' TERM; echo up; sleep 60 & wait", tidy.display());
    let up = Arc::new(tokio::sync::Notify::new());
    let theirs = up.clone();
    let (tidying, heard) = (request("a", &script), Arc::new(move |_: &str| theirs.notify_one()));
    tokio::select! {
        ended = commands.run(&tidying, heard) => panic!("{ended:?}"),
        () = up.notified() => {}
    }
    commands.wait_for_all().await;
    assert!(tidy.exists());
}

#[tokio::test]
async fn runs_of_one_key_are_serial_and_leave_no_lock_file() {
    let dir = tempfile::tempdir().unwrap();
    let locks = dir.path().join("locks");
    let commands =
        Arc::new(LocalCommands { lock_timeout: Duration::from_mins(1), ..LocalCommands::new(locks.clone()) });
    // `mkdir` fails where the one before has not ended.
    let script = format!("mkdir {0}/alone && rmdir {0}/alone", dir.path().display());
    let one = || {
        let (commands, request) = (commands.clone(), request("a", &script));
        tokio::spawn(async move { commands.run(&request, Arc::new(|_: &str| {})).await })
    };
    for ended in futures_util::future::join_all((0..40).map(|_| one())).await {
        assert_eq!(ended.unwrap(), Ok(RunOutcome { status: 0, timed_out: false }));
    }
    assert_eq!(std::fs::read_dir(locks).unwrap().count(), 0);
}
