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
    assert!(unsound.stderr.contains("2 problems found"), "{}", unsound.stderr);
    drop(operator);
    lab.tear_down().await.unwrap();
}
