use super::*;

fn read(text: &str) -> ProcessState {
    parse_process(
        &text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect(),
    )
}

/// As `systemctl show` of systemd 252 prints them.
#[test]
fn properties_map_to_process_state() {
    let at = |second| jiff::Timestamp::from_second(second).unwrap();
    let running = "ActiveState=active\nSubState=running\nMainPID=42\nNRestarts=3\nExecMainCode=0\n\
                   ExecMainStartTimestamp=Tue 2023-11-14 22:13:20 UTC\nStateChangeTimestamp=Tue 2023-11-14 22:13:21 UTC\nResult=success";
    assert_eq!(read(running), ProcessState::Running { pid: 42, since: at(1_700_000_000), restarts: 3 });
    let waiting = "ActiveState=activating\nSubState=auto-restart\nMainPID=0\nNRestarts=3\nExecMainCode=1\n\
                   ExecMainStatus=7\nStateChangeTimestamp=Tue 2023-11-14 22:13:21 UTC\nResult=exit-code";
    let last = "status 7".to_owned();
    assert_eq!(
        read(waiting),
        ProcessState::Waiting { since: at(1_700_000_001), restarts: 3, last_exit: last }
    );
    let stopped = "ActiveState=inactive\nMainPID=0\nExecMainCode=2\nExecMainStatus=9\n\
                   ExecMainExitTimestamp=Tue 2023-11-14 22:13:22 UTC\nResult=signal";
    let last = "signal 9".to_owned();
    assert_eq!(read(stopped), ProcessState::Stopped { since: Some(at(1_700_000_002)), last_exit: last });
    let never = "ActiveState=inactive\nMainPID=0\nExecMainCode=0\nExecMainExitTimestamp=\nResult=success";
    assert_eq!(read(never), ProcessState::Stopped { since: None, last_exit: "success".to_owned() });
}
