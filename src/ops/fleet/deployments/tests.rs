mod access;
mod calls;
mod fleet_lock;
mod fleet_rollback;
mod kill_order;
mod one_version;
mod statuses;
mod steps;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::model::api::deployments::{AccessRequest, LogsRequest};
use crate::model::deployment::{Deployment, Instance, RunSpec, RunSpecChange};
use crate::model::example::{self, make_actor as actor};
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::model::roll::{NewMain, RollSpec, Work};
use crate::ops::testing::site::{FakeSite, site};
use crate::ops::testing::site_link::build_locked_error;
use crate::world::fake::MS;
use crate::world::fake::paused::{ready, wait_until};
use crate::world::link::SharedLineSink;
use crate::world::reporter::Event;

fn flip_to_2() -> AssignOptions {
    AssignOptions { watch: Duration::ZERO, wait: true, actor: actor(), roll: None }
}

/// The whole walk of `switchman assign shop 2.0.0`: resolved by one list, then made main.
async fn assign_2(fake: &FakeSite, options: &AssignOptions) -> Result<AssignReport, FleetDeployError> {
    let (world, hosts) = (&fake.world, &fake.fleet.hosts);
    let name = DeploymentName::from_version(&"shop".parse().unwrap(), &"2.0.0".parse().unwrap());
    let listing = list_deployments(world, hosts).await;
    assign(world, &fake.fleet, hosts, listing.resolve_target(&name, hosts)?, options).await
}

async fn flip(fake: &FakeSite) -> Result<AssignReport, FleetDeployError> {
    assign_2(fake, &flip_to_2()).await
}

fn mains(fake: &FakeSite) -> Vec<String> {
    fake.site.lock().hosts.values().map(|host| host.main.clone()).collect()
}

/// A host refuses, another host's response is lost: the old main is everywhere.
#[tokio::test(start_paused = true)]
async fn flip_is_reverted_on_all_hosts_when_one_fails() {
    let fake = site(3, 1);
    fake.site.with_host("web1", |host| host.assign_error = Some(build_locked_error()));
    fake.site.with_host("web2", |host| host.lost_answers = 1);
    flip(&fake).await.unwrap_err();
    assert_eq!(mains(&fake), ["1.0.0"; 3]);
}

/// A host that had the version before has nothing to be taken back.
#[tokio::test(start_paused = true)]
async fn flip_revert_skips_host_that_had_the_version_before() {
    let fake = site(3, 1);
    fake.site.with_host("web1", |host| host.assign_error = Some(build_locked_error()));
    fake.site.with_host("web2", |host| {
        host.main = "2.0.0".to_owned();
        host.lost_answers = 1;
    });
    flip(&fake).await.unwrap_err();
    assert_eq!(mains(&fake), ["1.0.0", "2.0.0", "1.0.0"]);
}

fn watched_flip() -> AssignOptions {
    AssignOptions { watch: Duration::from_secs(10), ..flip_to_2() }
}

fn roll_to_2(fake: &FakeSite, watch: Duration) -> AssignOptions {
    let roll = RollSpec {
        hosts: fake.fleet.hosts.iter().map(|host| host.name.clone()).collect(),
        work: Work::Assign(NewMain { version: "2.0.0".parse().unwrap(), trial: watch }),
        ..example::make_roll_spec(&[])
    };
    AssignOptions { watch, roll: Some(roll), ..flip_to_2() }
}

/// When the watch request arrives, the host has no trial any more.
#[tokio::test(start_paused = true)]
async fn assign_fails_when_agent_already_rolled_back() {
    for is_rolling in [false, true] {
        let fake = site(3, 1);
        fake.site.with_host("web2", |host| host.rollback_reason = Some("503".into()));
        let options = if is_rolling { roll_to_2(&fake, Duration::from_secs(10)) } else { watched_flip() };
        let error = assign_2(&fake, &options).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot keep shop 2.0.0 as main: web2: 503; 1.0.0 is main again");
        assert_eq!(mains(&fake), ["1.0.0"; 3], "rolling: {is_rolling}");
    }
}

/// Another operator's change stays, and the operator who assigned another version gets an error.
#[tokio::test(start_paused = true)]
async fn assign_fails_when_another_command_changed_main() {
    let fake = site(3, 1);
    let options = watched_flip();
    let (ended, ()) = tokio::join!(assign_2(&fake, &options), async {
        wait_until(MS, || mains(&fake) == ["2.0.0"; 3]).await;
        fake.site.with_host("web2", |host| host.main = "0.9.0".into());
    });
    let error = ended.unwrap_err();
    assert_eq!(error.to_string(), "cannot keep shop 2.0.0 as main: web2: another command made 0.9.0 main");
    assert_eq!(mains(&fake), ["2.0.0", "0.9.0", "2.0.0"]);
    assert_eq!(ready(fake.world.lock.read_holder()), Ok(None));
}

/// Idle connections take a while to close, which a window may be shorter than.
#[tokio::test(start_paused = true)]
async fn watch_starts_concurrently_with_flush() {
    let fake = site(2, 1);
    // The last connection cannot be counted: the flush goes on until its timeout.
    fake.site.lock().has_admin_socket = true;
    fake.site.with_host("web2", |host| host.kernel_unreadable = true);
    let began = tokio::time::Instant::now();
    assign_2(&fake, &watched_flip()).await.unwrap();
    let seen = fake.site.with_host("web1", |host| host.watch_started_at.unwrap());
    assert!(began.elapsed() >= FLUSH_TIMEOUT && seen - began < Duration::from_secs(1), "{:?}", seen - began);

    // The flush ends when main is rolled back during it.
    let fake = site(2, 1);
    fake.site.lock().has_admin_socket = true;
    fake.site.with_host("web1", |host| host.rollback_reason = Some("503".into()));
    fake.site.with_host("web2", |host| host.kernel_unreadable = true);
    let began = tokio::time::Instant::now();
    assign_2(&fake, &watched_flip()).await.unwrap_err();
    assert!(began.elapsed() < FLUSH_TIMEOUT, "{:?}", began.elapsed());
}

/// An unknown count is not zero.
#[tokio::test(start_paused = true)]
async fn flip_reports_uncounted_connections_as_unknown() {
    let fake = site(2, 1);
    fake.site.with_host("web2", |host| host.kernel_unreadable = true);
    let report = flip(&fake).await.unwrap();
    assert_eq!(
        report.hosts.iter().map(|host| host.remaining_connections).collect::<Vec<_>>(),
        [Some(0), None]
    );
    let told = |event: &Event| matches!(event, Event::DeploymentProgress { text, .. } if text.contains("(web2: not known)"));
    assert!(fake.events.lock().unwrap().iter().any(told));
    let listing = list_deployments(&fake.world, &fake.fleet.hosts).await;
    assert_eq!(listing.rows[0].active, None, "one host of two could not count its requests");
    let listing = list_deployments(&fake.world, &fake.fleet.hosts[..1]).await;
    assert_eq!(listing.rows[0].active, Some(0));
}

async fn update_main(
    fake: &FakeSite,
    run_change: RunSpecChange,
    source: &str,
) -> Vec<(HostName, Deployment)> {
    let listing = list_deployments(&fake.world, &fake.fleet.hosts).await;
    let row = listing.find_main(&"shop".parse().unwrap()).unwrap();
    let options = UpdateOptions {
        source: Source::Release(source.into()),
        run_change,
        drain_timeout: Duration::from_secs(5),
        actor: actor(),
    };
    update(&fake.world, &fake.fleet, &fake.fleet.hosts, row, &options).await.unwrap()
}

/// Connections that HAProxy keeps to the old instance would hold its drain until the deadline.
#[tokio::test(start_paused = true)]
async fn update_closes_idle_connections_while_old_instance_drains() {
    for admin in [true, false] {
        let fake = site(1, 1);
        fake.site.lock().has_admin_socket = admin;
        update_main(&fake, RunSpecChange::default(), "new").await;
        let flushed = std::mem::take(&mut fake.site.lock().flushed);
        let (main, backup) = ("main-web1".to_owned(), "backup-web1".to_owned());
        assert_eq!(flushed[..2], [(main, Some(true)), (backup, Some(true))]);
        assert!(flushed.iter().all(|(_, moved)| *moved == Some(true)), "not before it moved: {flushed:?}");
        // A balancer that does not allow it gets one request.
        assert_eq!(flushed.len() > 4, admin, "{flushed:?}");
        assert!(admin || flushed.len() == 2, "{flushed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn update_changes_only_given_run_options() {
    let fake = site(1, 1);
    let env = |value: &str| [("A".to_owned(), value.to_owned())].into();
    let was = example::deployment("shop", "1.0.0", 20001).instance;
    // The same code, run as it is: nothing to do.
    update_main(&fake, RunSpecChange::default(), &was.digest.clone().unwrap().0).await;
    assert_eq!(fake.site.with_host("web1", |host| host.updates.len()), 0);
    update_main(&fake, RunSpecChange { env: env("1"), ..RunSpecChange::default() }, &was.digest.unwrap().0)
        .await;
    let asked = fake.site.with_host("web1", |host| host.updates.remove(0).how);
    assert_eq!(asked, Some(RunSpec { env: env("1"), ..was.how }), "the program stays one");
}

/// Two values may have one placeholder: a new secret would never arrive.
#[tokio::test(start_paused = true)]
async fn given_values_of_the_environment_are_compared_on_the_host() {
    let fake = site(1, 1);
    let mut listing = list_deployments(&fake.world, &fake.fleet.hosts).await;
    let instance = &mut listing.rows[0].hosts[0].1.deployment.instance;
    let spec = RunSpec { env: [("A".to_owned(), "1".to_owned())].into(), ..instance.how.clone() };
    instance.how = spec.clone().redact();
    let source = Source::Release(instance.digest.clone().unwrap().0.into());
    for (env, updates) in [(std::collections::BTreeMap::new(), 0), (spec.env, 1)] {
        let options = UpdateOptions {
            source: source.clone(),
            run_change: RunSpecChange { env, ..RunSpecChange::default() },
            drain_timeout: Duration::from_secs(5),
            actor: actor(),
        };
        update(&fake.world, &fake.fleet, &fake.fleet.hosts, &listing.rows[0], &options).await.unwrap();
        assert_eq!(fake.site.with_host("web1", |host| host.updates.len()), updates);
    }
}

/// The time limit of the request grows with the instances that the host replaces.
#[tokio::test(start_paused = true)]
async fn update_expects_every_instance_of_a_host() {
    let fake = site(1, 1);
    let mut listing = list_deployments(&fake.world, &fake.fleet.hosts).await;
    let deployment = &mut listing.rows[0].hosts[0].1.deployment;
    let more = (2..=8).map(|number| Instance { number, ..deployment.instance.clone() });
    deployment.more_instances = more.collect();
    let options = UpdateOptions {
        source: Source::Release("new".into()),
        run_change: RunSpecChange::default(),
        drain_timeout: Duration::from_secs(5),
        actor: actor(),
    };
    update(&fake.world, &fake.fleet, &fake.fleet.hosts, &listing.rows[0], &options).await.unwrap();
    assert_eq!(fake.site.with_host("web1", |host| host.updates.remove(0).expected_instances), 8);
}

/// A host that cannot be read is named, and the others are shown.
#[tokio::test(start_paused = true)]
async fn list_and_history_name_unreachable_hosts() {
    let fake = site(2, 1);
    fake.site.with_host("web2", |host| host.is_reachable = false);
    let hosts = &fake.fleet.hosts;
    let listing = list_deployments(&fake.world, hosts).await;
    assert_eq!(listing.rows[0].hosts.len(), 1);
    let error = listing.require_complete().unwrap_err().to_string();
    assert!(error.starts_with("cannot read every host: `web2`: "), "{error}");
    let shop = "shop".parse().unwrap();
    let heard = read_histories(&fake.world, hosts, &shop, 9).await;
    let names = |host: &HostName| host.to_string();
    let read: Vec<String> = heard.hosts.iter().map(|(host, _)| names(host)).collect();
    let unread: Vec<String> = heard.unread.iter().map(|(host, _)| names(host)).collect();
    assert_eq!((read, unread), (vec!["web1".to_owned()], vec!["web2".to_owned()]));
    for answers in [listing.require_answers(hosts), heard.require_answers()] {
        assert!(matches!(answers, Err(FleetDeployError::PartlyRead { read: 1, .. })), "{answers:?}");
    }
    let request = AccessRequest { public: false, actor: actor(), dry_run: false };
    let error = set_access(&fake.world, &fake.fleet, hosts, &shop, &request).await.unwrap_err();
    assert!(matches!(&error, FleetDeployError::Hosts(failed) if failed.len() == 1), "{error}");
    assert!(!fake.site.with_host("web1", |host| host.is_private), "no host is touched");
    fake.site.with_host("web1", |host| host.is_reachable = false);
    let none = list_deployments(&fake.world, hosts).await.require_answers(hosts);
    assert!(matches!(none, Err(FleetDeployError::Unread { .. })), "{none:?}");
}

#[tokio::test(start_paused = true)]
async fn logs_are_read_only_from_hosts_with_the_version() {
    let fake = site(3, 1);
    let mut row = list_deployments(&fake.world, &fake.fleet.hosts).await.rows.remove(0);
    row.hosts.retain(|(host, _)| host.as_str() != "web2");
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = |_: &HostName| -> SharedLineSink {
        let lines = lines.clone();
        Arc::new(move |line: &str| lines.lock().unwrap().push(line.to_owned()))
    };
    let request = LogsRequest { id: row.id.clone(), tail: None, follow: false };
    stream_logs(&fake.world, &fake.fleet.hosts, &row, &request, heard).await.unwrap();
    let mut lines = lines.lock().unwrap().clone();
    lines.sort();
    assert_eq!(lines, ["web1 writes", "web3 writes"]);
}

/// `logs` prints the lines of the others, and then ends with 3.
#[tokio::test(start_paused = true)]
async fn logs_without_the_lines_of_a_silent_host_are_partial() {
    let fake = site(2, 1);
    fake.site.with_host("web2", |host| host.is_reachable = false);
    let listing = list_deployments(&fake.world, &fake.fleet.hosts).await;
    let request = LogsRequest { id: listing.rows[0].id.clone(), tail: None, follow: false };
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let make_sink = |_: &HostName| -> SharedLineSink {
        let lines = lines.clone();
        Arc::new(move |line: &str| lines.lock().unwrap().push(line.to_owned()))
    };
    stream_logs(&fake.world, &fake.fleet.hosts, &listing.rows[0], &request, make_sink).await.unwrap();
    assert_eq!(*lines.lock().unwrap(), ["web1 writes"]);
    let error = listing.require_answers(&fake.fleet.hosts).unwrap_err();
    let FleetDeployError::PartlyRead { read: 1, unread } = &error else { panic!("{error}") };
    assert_eq!(unread[0].0.as_str(), "web2");
}

/// A read that takes long names its host while it waits, after one second.
#[tokio::test(start_paused = true)]
async fn silent_host_is_named_after_a_second() {
    let fake = site(1, 0);
    let web1 = &fake.fleet.hosts[0].name;
    let waits = || {
        let events = fake.events.lock().unwrap();
        let is_wait = |event: &&Event| matches!(event, Event::DeploymentProgress { host: Some(host), text } if host == web1 && text == "waiting for its answer");
        events.iter().filter(is_wait).count()
    };
    super::each_host::report_long_wait(&fake.world, web1, tokio::time::sleep(MS * 900)).await;
    assert_eq!(waits(), 0);
    super::each_host::report_long_wait(&fake.world, web1, tokio::time::sleep(MS * 1100)).await;
    assert_eq!(waits(), 1);
}
