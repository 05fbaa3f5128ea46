//! `check` on the operator machine: every address of every host is tried, and each obstacle to a roll is reported.

use switchman::lab::operator::{LabTransport, Operator};
use switchman::lab::{Lab, LabOptions};

use crate::testing::can_make_namespaces;

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_every_obstacle_to_a_roll() {
    if !can_make_namespaces() {
        return;
    }
    let name = format!("ck{}", std::process::id()).parse().unwrap();
    let lab = Lab::start(LabOptions::new(name, env!("CARGO_BIN_EXE_switchman").into())).await.unwrap();
    let operator = Operator::start(&lab, LabTransport::Ssh, "").await.unwrap();
    let enabled = operator.run_switchman(&["enable-forward", "--all"]).await.unwrap();
    assert_eq!(enabled.status, 0, "{}", enabled.stderr);
    let sound = operator.run_switchman(&["check"]).await.unwrap();
    assert_eq!(sound.status, 0, "{}{}", sound.stdout, sound.stderr);
    for line in ["web1: switchman", "web2: switchman", "lb1: its 4 server lines"] {
        assert!(sound.stdout.contains(&format!("ok       {line}")), "{}", sound.stdout);
    }
    // The way to web2 leads nowhere (its block is the last one), and web1's rules are not what is recorded.
    let config = operator.dir().join("ssh_config");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}  Port 1\n")).unwrap();
    let flushed = lab.program("web1", "iptables").args(["-t", "nat", "-F", "SWITCHMAN"]);
    assert_eq!(flushed.run(b"", std::time::Duration::from_secs(9)).await.unwrap().status, 0);
    let unsound = operator.run_switchman(&["check"]).await.unwrap();
    assert_eq!(unsound.status, 1, "{}", unsound.stdout);
    for id in ["[drift]", "[host-unreachable]"] {
        assert!(unsound.stdout.contains(id), "{}", unsound.stdout);
    }
    assert!(unsound.stderr.contains("2 problems found"), "{}{}", unsound.stdout, unsound.stderr);
    drop(operator);
    lab.tear_down().await.unwrap();
}

/// Filters before the host drop what only HAProxy's check sends; the vhost and its forward are sound.
#[tokio::test(flavor = "multi_thread")]
async fn check_explains_servers_that_haproxy_takes_for_down() {
    if !can_make_namespaces() {
        return;
    }
    let name = format!("cd{}", std::process::id()).parse().unwrap();
    let mut lab = Lab::start(LabOptions::new(name, env!("CARGO_BIN_EXE_switchman").into())).await.unwrap();
    let operator = Operator::start(&lab, LabTransport::Ssh, "").await.unwrap();
    let before = lab.run_switchman("web1", &["check"]).await.unwrap();
    assert!(before.stdout.contains("ok       lb1: `main-web1` is DOWN (L4CON)"), "{}", before.stdout);
    let enabled = operator.run_switchman(&["enable-forward", "--all"]).await.unwrap();
    assert_eq!(enabled.status, 0, "{}", enabled.stderr);
    let rule = ["-t", "mangle", "-A", "PREROUTING", "-p", "tcp", "--dport", "8888", "-j", "DROP"];
    let filter = lab.program("web1", "iptables").args(rule);
    assert_eq!(filter.run(b"", std::time::Duration::from_secs(9)).await.unwrap().status, 0);
    lab.kill_backup(1).await.unwrap();
    let expected = ["`main-web1` is DOWN (L4TOUT) while the forward is on", "`backup-web2` is DOWN (L4CON)"];
    let mut found = operator.run_switchman(&["check"]).await.unwrap();
    for _ in 0..60 {
        if expected.iter().all(|text| found.stdout.contains(text)) {
            break;
        }
        found = operator.run_switchman(&["check"]).await.unwrap();
    }
    assert_eq!(found.status, 1, "{}", found.stdout);
    let others = ["probably a filter drops it", "[main-down]", "[backup-not-up]", "[packet-contradicts]"];
    for text in expected.into_iter().chain(others) {
        assert!(found.stdout.contains(text), "`{text}` in {}", found.stdout);
    }
    assert!(found.stderr.contains("3 problems found"), "{}{}", found.stdout, found.stderr);
    for (host, text) in [("web1", "[main-down]"), ("web2", "[backup-not-up]")] {
        let found = lab.run_switchman(host, &["check"]).await.unwrap();
        assert!(found.status == 1 && found.stdout.contains(text), "{host}: {}", found.stdout);
    }
    drop(operator);
    lab.tear_down().await.unwrap();
}

/// Runs `check --offline` in a directory that has no switchman.yaml.
fn check_offline(dir: &std::path::Path, args: &[&str]) -> (Option<i32>, String) {
    #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_switchman"));
    let output = command.args(["check", "--offline"]).args(args).current_dir(dir).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// In a CI job: no host, no balancer, and no configuration of switchman.
#[test]
fn check_offline_reads_files_and_directories_without_switchman_yaml() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("conf.d");
    std::fs::create_dir(&conf).unwrap();
    let front = b"# caf\xe9\r\ndefaults\r\n mode http\r\n option persist\r\n";
    std::fs::write(dir.path().join("first.cfg"), front).unwrap();
    let line = "check port 8888 cookie web1";
    let back = format!(
        "backend servers\n cookie S insert indirect nocache\n server main-web1 10.0.0.11:8080 {line}\n"
    );
    std::fs::write(conf.join("10-servers.cfg"), back).unwrap();
    std::fs::write(conf.join("20-ws.cfg"), "backend ws\n server ws1 10.0.0.11:8080 check\n").unwrap();
    std::fs::write(conf.join("notes.txt"), "backend servers\n").unwrap();
    let (status, text) =
        check_offline(dir.path(), &["--haproxy-cfg", "first.cfg", "--haproxy-cfg", "conf.d"]);
    assert_eq!(status, Some(1), "{text}");
    for expected in [
        "first.cfg:4: `option persist`",
        "conf.d/20-ws.cfg:2: `ws1` in backend `ws` reaches the main port 8080",
        "the backend `servers` has no server `backup-web1`",
        "[haproxy-defaults]",
    ] {
        assert!(text.contains(expected), "`{expected}` in {text}");
    }
    let (status, text) = check_offline(dir.path(), &[]);
    assert_eq!(status, Some(2), "{text}");
    let (status, text) = check_offline(dir.path(), &["--haproxy-cfg", "absent.cfg"]);
    assert!(status == Some(1) && text.contains("cannot read `absent.cfg`"), "{text}");
}
