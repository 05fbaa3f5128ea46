//! The instance goes on when any process around it is killed.

use super::*;

const TICKS: &str = "n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.02; done";

/// Ignores TERM and records it. It writes `trapped` when its trap is set: a TERM before that would end it.
const RECORDS_TERM: &str = "trap 'touch terminated' TERM; echo $$ > trapped; while :; do sleep 0.01; done";

/// Returns when its lock is free too, which is after its command line has disappeared.
async fn kill_keeper(pid: u32) {
    send(pid, Signal::SIGKILL);
    let zombie = |stat: String| stat.contains(") Z ");
    // Process 1 takes its time to wait for it.
    until(async || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, zombie)).await;
}

#[tokio::test]
async fn next_monitor_adopts_instance_of_killed_monitor() {
    let yard = Yard::new();
    let spec = yard.sh(TICKS);
    yard.runner.start(&spec).await.unwrap();
    let (main, first) = (yard.main().await, yard.keeper().unwrap());
    until(async || !yard.log(None).await.is_empty()).await;
    kill_keeper(first).await;
    assert_eq!(yard.main().await, main, "it runs on, and is seen to");
    yard.runner.start(&spec).await.unwrap();
    assert_eq!(yard.main().await, main);
    assert_ne!(yard.keeper().unwrap(), first);
    let lines = yard.log(None).await.len();
    until(async || yard.log(None).await.len() > lines + 3).await;
    // Lines written without a reader are there too: no number is missing.
    let expected: Vec<String> = (1..=lines + 3).map(|number| format!("tick {number}")).collect();
    assert_eq!(yard.log(None).await[..lines + 3], expected);
    // It is still kept: what ends is started again.
    send(main, Signal::SIGKILL);
    until(
        async || matches!(yard.state().await, ProcessState::Running { pid, restarts: 1, .. } if pid != main),
    )
    .await;
    let again = yard.main().await;
    assert_eq!(yard.stop(LONG).await, StopResult::Exited);
    until(async || gone(main) && gone(again) && gone(first)).await;
}

#[tokio::test]
async fn stop_ends_instance_of_killed_monitor_with_its_daemons() {
    let yard = Yard::new();
    let script = "setsid sh -c 'echo $$ > daemon; exec sleep 600' < /dev/null & exec sleep 600";
    yard.runner.start(&yard.sh(script)).await.unwrap();
    let (main, daemon, keeper) = (yard.main().await, yard.pid("daemon").await, yard.keeper().unwrap());
    kill_keeper(keeper).await;
    assert_eq!(yard.stop(LONG).await, StopResult::Exited);
    until(async || gone(main) && gone(daemon) && gone(keeper)).await;
    assert_eq!((yard.keeper(), yard.runner.list_instances().await.unwrap()), (None, vec![]));
}

#[tokio::test]
async fn instance_that_ended_without_monitor_is_restarted() {
    let yard = Yard::new();
    let spec = yard.spec(&["sleep", "600"]);
    yard.runner.start(&spec).await.unwrap();
    let main = yard.main().await;
    kill_keeper(yard.keeper().unwrap()).await;
    send(main, Signal::SIGKILL);
    until(async || matches!(yard.state().await, ProcessState::Stopped { .. })).await;
    yard.runner.start(&spec).await.unwrap();
    assert_ne!(yard.main().await, main);
}

#[tokio::test]
async fn next_monitor_completes_interrupted_stop() {
    let yard = Arc::new(Yard::new());
    yard.runner.start(&yard.sh(RECORDS_TERM)).await.unwrap();
    let (main, keeper) = (yard.pid("trapped").await, yard.keeper().unwrap());
    let theirs = yard.clone();
    let stop = tokio::spawn(async move { theirs.runner.stop(&id(), Duration::from_secs(2)).await });
    until(async || yard.path("terminated").exists()).await;
    send(keeper, Signal::SIGKILL);
    assert_eq!(stop.await.unwrap(), Ok(StopResult::Killed));
    until(async || gone(main)).await;
}

#[tokio::test]
async fn next_start_completes_stop_of_killed_caller() {
    let yard = Yard::new();
    let spec = yard.sh(RECORDS_TERM);
    yard.runner.start(&spec).await.unwrap();
    let main = yard.pid("trapped").await;
    let instance = id();
    tokio::select! {
        ended = yard.runner.stop(&instance, LONG) => panic!("{ended:?}"),
        () = until(async || yard.path("terminated").exists()) => {}
    }
    yard.runner.start(&spec).await.unwrap();
    assert_ne!(yard.main().await, main);
}

#[tokio::test]
async fn kill_during_start_leaves_one_instance_or_none() {
    let yard = Yard::new();
    let spec = yard.sh("echo run >> runs; exec sleep 600");
    for after in 0..12 {
        yard.runner.start(&spec).await.unwrap();
        // What a starter does to take over a dead keeper's instance, killed a little later each time.
        let (keeper, main) = (yard.keeper().unwrap(), yard.main().await);
        kill_keeper(keeper).await;
        let dir = yard.path("instances").join(ID);
        #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
        let mut starter = Command::new(SWITCHMAN)
            .args(["supervise", "--role", "launch"])
            .arg(&dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(after)).await;
        starter.kill().unwrap();
        starter.wait().unwrap();
        yard.runner.start(&spec).await.unwrap();
        assert_eq!(yard.main().await, main);
    }
    until(async || std::fs::read_to_string(yard.path("runs")).is_ok_and(|runs| runs == "run\n")).await;
}

#[tokio::test]
async fn terminated_monitor_ends_instance_and_keeps_its_record() {
    let yard = Yard::new();
    let spec = yard.spec(&["sleep", "600"]);
    yard.runner.start(&spec).await.unwrap();
    let main = yard.main().await;
    // As at the shutdown of a machine.
    send(yard.keeper().unwrap(), Signal::SIGTERM);
    until(async || matches!(yard.state().await, ProcessState::Stopped { .. })).await;
    assert!(gone(main));
    assert_eq!(yard.runner.list_instances().await.unwrap(), [id()]);
    yard.runner.start(&spec).await.unwrap();
    assert_ne!(yard.main().await, main);
}
