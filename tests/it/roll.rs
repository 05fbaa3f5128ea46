//! Rolls over real hosts under load: every kind of client, every pipe.

use switchman::lab::operator::LabTransport;

use crate::site::{Plan, Site};
use crate::testing::can_make_namespaces;

const YAML: &str = "roll: {min_up: 2, drain_timeout: 20s}\n";

async fn every_main_is_replaced(name: &str, plan: Plan, flags: &[&str], fewest: usize) {
    if !can_make_namespaces() {
        return;
    }
    let hosts = plan.hosts;
    let site = Site::up(name, plan).await;
    let output = site.roll(flags, &site.replace("2.0.0")).await;
    assert_eq!(output.status, 0, "{}{}", output.stdout, output.stderr);
    assert!(output.stdout.contains(&format!("{hosts} of {hosts} hosts done")), "{}", output.stdout);
    for number in 1..=hosts {
        site.answered_by(&format!("web{number}"), "2.0.0").await;
    }
    let history = site.run(&["history"]).await;
    assert!(history.stdout.contains(&format!("{hosts} of {hosts}")), "{}", history.stdout);
    let lowest = site.down_without_loss().await;
    assert!(lowest >= fewest, "only {lowest} mains were UP at some moment");
}

#[tokio::test(flavor = "multi_thread")]
async fn roll_over_ssh_replaces_every_main_under_load() {
    let plan = Plan { hosts: 4, balancers: 2, all_kinds: true, yaml: YAML, ..Plan::default() };
    every_main_is_replaced("ssh", plan, &[], 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roll_in_batches_keeps_capacity_floor() {
    let plan = Plan { hosts: 4, balancers: 2, all_kinds: true, yaml: YAML, ..Plan::default() };
    every_main_is_replaced("batch", plan, &["--batch", "2"], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roll_over_unix_sockets_loses_no_request() {
    let plan = Plan { hosts: 4, balancers: 2, pipe: LabTransport::Socket, yaml: YAML, ..Plan::default() };
    every_main_is_replaced("sock", plan, &["--batch", "50%"], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roll_over_mutual_tls_loses_no_request() {
    let plan = Plan { hosts: 4, balancers: 2, pipe: LabTransport::MutualTls, yaml: YAML, ..Plan::default() };
    every_main_is_replaced("mtls", plan, &["--batch", "2"], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forwards_of_several_hosts_are_switched_at_once() {
    if !can_make_namespaces() {
        return;
    }
    let site = Site::up("many", Plan { hosts: 3, pipe: LabTransport::Token, ..Plan::default() }).await;
    let all = site.run(&["disable-forward", "--all"]).await;
    assert_eq!(all.status, 1, "{}", all.stderr);
    assert!(all.stderr.contains("these 3 hosts are all there are"), "{}", all.stderr);
    assert!(all.stderr.contains("`lb1` has 0 other main vhosts UP"), "{}", all.stderr);
    assert_eq!(site.up_count("lb1").await, 3, "nothing was switched");

    let two = site.run(&["disable-forward", "--host", "web1", "--host", "web2", "--drain"]).await;
    assert_eq!(two.status, 0, "{}", two.stderr);
    assert_eq!(two.stdout.lines().filter(|line| line.contains("drained after")).count(), 2, "{}", two.stdout);
    assert_eq!(site.up_count("lb1").await, 1);
    let status = site.run(&["status"]).await;
    assert_eq!(status.stdout.matches("maintenance: 8888 is refused").count(), 2, "{}", status.stdout);

    // A main breaks during the command: the other comes back, and the exit code means partly done.
    site.inside("web2", &format!("kill -QUIT $(cat {}/web2/shop-main.pid)", site.lab.dir().display())).await;
    let back = site.run(&["enable-forward", "--all"]).await;
    assert_eq!(back.status, 3, "{}", back.stderr);
    assert!(
        back.stderr.contains("done on 2 of 3 hosts") && back.stderr.contains("`web2`"),
        "{}",
        back.stderr
    );
    site.inside("web2", &format!("sh {}/web2/replace-main.sh 2.0.0", site.lab.dir().display())).await;
    assert_eq!(site.run(&["enable-forward", "--all"]).await.status, 0);
    assert_eq!(site.up_count("lb1").await, 3);

    // Another operator has the fleet lock.
    assert_eq!(site.run(&["lock", "acquire", "-m", "measuring"]).await.status, 0);
    let held = site.run(&["disable-forward", "--host", "web1", "--host", "web2"]).await;
    assert!(held.status == 1 && held.stderr.contains("measuring"), "{}", held.stderr);
    site.down_without_loss().await;
}
