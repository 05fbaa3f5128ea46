//! A roll whose store loses its leader, and one whose process sleeps for longer than its lease.

use super::*;

/// The first server is at this port, the next ones each ten above.
const ETCD_PORT: u16 = 2379;
const CONSUL_PORT: u16 = 8500;

fn list_endpoints(port: u16) -> String {
    let endpoints: Vec<String> =
        (0..3).map(|node| format!("'http://127.0.0.1:{}'", port + 10 * node)).collect();
    endpoints.join(", ")
}

fn request(args: &[&str]) -> serde_json::Value {
    #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
    let answer = Command::new("curl").arg("-sf").args(args).output().unwrap().stdout;
    serde_json::from_slice(&answer).unwrap_or_default()
}

fn find_etcd_leader() -> Option<usize> {
    (0..3).find(|node| {
        let url = format!("http://127.0.0.1:{}/v3/maintenance/status", usize::from(ETCD_PORT) + 10 * node);
        let status = request(&["-X", "POST", "-d", "{}", &url]);
        status["leader"].is_string() && status["leader"] == status["header"]["member_id"]
    })
}

fn find_consul_leader() -> Option<usize> {
    let leader = request(&[&format!("http://127.0.0.1:{CONSUL_PORT}/v1/status/leader")]);
    let port: usize = leader.as_str()?.rsplit_once(':')?.1.parse().ok()?;
    Some((port - 8300) / 10)
}

/// An election takes a second or two, and every write is tried for longer.
fn roll_outlasts_leader(mut servers: Servers, journal: &str, find_leader: impl Fn() -> Option<usize>) {
    let fleet = Fleet::new(journal);
    let (roll, flag) = fleet.start_roll("ops1");
    let mut leader = None;
    wait_until("a leader", || {
        leader = find_leader();
        leader.is_some()
    });
    servers.kill(leader.unwrap());
    let waiting = fleet.start("ci1", &["roll", "--wait-lock", "10m", "--", "true"]);
    std::fs::write(flag, "").unwrap();
    let (code, text) = roll.end();
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = waiting.end();
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = fleet.run("ops2", &["roll", "--resume", "--if-any"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("no roll is unfinished"), "{text}");
}

#[test]
#[ignore = "a case of the fault matrix without users: `make soak`"]
fn roll_outlasts_the_death_of_the_leader_of_etcd() {
    run_in_namespace(|| async {
        let Some(servers) = Servers::etcd(3).await else { return };
        let journal = format!("{{etcd: [{}]}}", list_endpoints(ETCD_PORT));
        roll_outlasts_leader(servers, &journal, find_etcd_leader);
    });
}

#[test]
#[ignore = "a case of the fault matrix without users: `make soak`"]
fn roll_outlasts_the_death_of_the_leader_of_consul() {
    run_in_namespace(|| async {
        let Some(servers) = Servers::consul(3).await else { return };
        let journal = format!("{{consul: [{}]}}", list_endpoints(CONSUL_PORT));
        roll_outlasts_leader(servers, &journal, find_consul_leader);
    });
}

/// A laptop that was closed, or a virtual machine that was paused. Another operator has resumed the roll when it wakes.
fn sleeping_holder_is_fenced(journal: &str) {
    let fleet = Fleet::new(journal);
    let (roll, flag) = fleet.start_roll("ops1");
    roll.signal(Signal::SIGSTOP);
    std::fs::write(flag, "").unwrap();
    let (code, text) = fleet.run("ops2", &["roll", "--resume", "--if-any", "--wait-lock", "5m"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("the fleet is locked by root on ops1 "), "{text}");
    let (_, before) = fleet.run("ops2", &["roll", "--status"]);
    roll.signal(Signal::SIGCONT);
    let (code, text) = roll.end();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the fleet lock was lost"), "{text}");
    let (_, after) = fleet.run("ops2", &["roll", "--status"]);
    assert_eq!(before, after, "{text}");
    assert!(after.contains("1 of 1 host done"), "{after}");
    let (_, status) = fleet.run("ops2", &["status"]);
    assert!(status.contains("forward   on"), "{status}");
}

#[test]
fn sleeping_holder_is_fenced_by_the_lease_of_etcd() {
    run_in_namespace(|| async {
        let Some(_servers) = Servers::etcd(1).await else { return };
        sleeping_holder_is_fenced(STORES[0].1);
    });
}

#[test]
#[ignore = "a case of the fault matrix without users: `make soak`"]
fn sleeping_holder_is_fenced_by_the_session_of_consul() {
    run_in_namespace(|| async {
        let Some(_servers) = Servers::consul(1).await else { return };
        sleeping_holder_is_fenced(STORES[1].1);
    });
}

/// The clock of an operator machine is no part of the lock: it jumps by an hour in both directions.
#[test]
fn clock_jump_of_the_holder_neither_loses_nor_keeps_the_lock() {
    run_in_namespace(|| async {
        let Some(_servers) = Servers::etcd(1).await else { return };
        let fleet = Fleet::new(STORES[0].1);
        #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
        let library =
            Command::new("sh").args(["-c", "find /usr/lib -name libfaketimeMT.so.1 | head -1"]).output();
        let library = String::from_utf8(library.unwrap().stdout).unwrap();
        assert!(!library.trim().is_empty(), "Debian's package faketime is missing: make setup");
        let clock = fleet.path("clock");
        std::fs::write(&clock, "+0\n").unwrap();
        let flag = fleet.path("flag");
        let script = format!("echo works; while [ ! -e {} ]; do sleep 0.05; done", flag.display());
        let mut command = fleet.command("ops1", &["roll", "--", "sh", "-c", &script]);
        command.env("LD_PRELOAD", library.trim()).env("FAKETIME_TIMESTAMP_FILE", &clock);
        command.env("FAKETIME_NO_CACHE", "1").env("DONT_FAKE_MONOTONIC", "1");
        let roll = fleet.spawn("ops1", command);
        roll.wait_for("works\n");
        for offset in ["-1h\n", "+1h\n"] {
            std::fs::write(&clock, offset).unwrap();
            let (code, text) = fleet.run("ops2", &["roll", "--wait-lock", "5s", "--", "true"]);
            assert_eq!(code, Some(1), "{text}");
            assert!(text.contains("the fleet is locked by root on ops1 "), "{text}");
        }
        let waiting = fleet.start("ops3", &["roll", "--wait-lock", "10m", "--", "true"]);
        std::fs::write(&flag, "").unwrap();
        let (code, text) = roll.end();
        assert_eq!(code, Some(0), "{text}");
        let (code, text) = waiting.end();
        assert_eq!(code, Some(0), "{text}");
    });
}
