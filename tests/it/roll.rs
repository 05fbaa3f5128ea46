//! Rolls over real hosts under load: every kind of client, every pipe.

use switchman::lab::operator::Pipe;

use crate::site::{Plan, Site};
use crate::testing::may_make_namespaces;

const YAML: &str = "roll: {min_up: 2, drain_timeout: 20s}\n";

async fn every_main_is_replaced(name: &str, plan: Plan, flags: &[&str], fewest: usize) {
    if !may_make_namespaces() {
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
async fn the_roll_over_ssh_replaces_every_main_under_every_kind_of_load() {
    let plan = Plan { hosts: 4, balancers: 2, all_kinds: true, yaml: YAML, ..Plan::default() };
    every_main_is_replaced("ssh", plan, &[], 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roll_in_batches_of_two_keeps_the_floor() {
    let plan = Plan { hosts: 4, balancers: 2, all_kinds: true, yaml: YAML, ..Plan::default() };
    every_main_is_replaced("batch", plan, &["--batch", "2"], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roll_over_unix_sockets() {
    let plan = Plan { hosts: 4, balancers: 2, pipe: Pipe::Socket, yaml: YAML, ..Plan::default() };
    every_main_is_replaced("sock", plan, &["--batch", "50%"], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roll_over_mutual_tls() {
    let plan = Plan { hosts: 4, balancers: 2, pipe: Pipe::MutualTls, yaml: YAML, ..Plan::default() };
    every_main_is_replaced("mtls", plan, &["--batch", "2"], 2).await;
}
