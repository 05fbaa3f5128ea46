//! What lists state of a version: a canary's share, a maintenance, hosts that could not be read.

use super::steps::{deploy_both, deploy_on, kill_rows, list_all, make_name, make_options};
use super::*;
use crate::model::traffic_split::TrafficSplitChange;
use crate::ops::testing::host_fleet::HostFleet;

/// `Drained` is the word for what can be removed.
/// Rows: R15.
#[tokio::test(start_paused = true)]
async fn canary_has_a_status_of_its_own() {
    let fleet = HostFleet::new(2);
    deploy_both(&fleet).await;
    let id = list_all(&fleet).await.rows[1].id.clone();
    let options = SplitOptions {
        service: "shop".parse().unwrap(),
        change: TrafficSplitChange::SetCanary(example::make_canary(&id, "20%")),
        forwarded: None,
        wait: false,
        actor: actor(),
        detail: String::new(),
    };
    let (world, fleet_config) = (&fleet.site.world, &fleet.site.fleet);
    // On one host of two.
    split(world, fleet_config, fleet.select(0), &options).await.unwrap();
    let listing = list_all(&fleet).await;
    assert_eq!(listing.rows[1].status.to_string(), "Canary 20%");
    assert_eq!(serde_json::to_value(&listing.rows[1].status).unwrap(), "Canary 20%");
    assert_eq!(listing.rows[0].status, VersionStatus::Active);
}

/// A kill of the last version turns the forward off, and a deploy ends no maintenance.
#[tokio::test(start_paused = true)]
async fn deploy_after_kill_is_listed_as_in_maintenance() {
    let fleet = HostFleet::new(1);
    let options = make_options("1.0.0", "one");
    deploy_on(&fleet, 0, &options).await.unwrap();
    let listing = list_all(&fleet).await;
    assert_eq!(listing.rows[0].maintenance, []);
    kill_rows(&fleet, &listing, &listing.rows).await.unwrap();
    deploy_on(&fleet, 0, &options).await.unwrap();
    let listing = list_all(&fleet).await;
    assert_eq!(listing.rows[0].maintenance, ["web1".parse().unwrap()]);
}

/// Rows: R17.
#[tokio::test(start_paused = true)]
async fn r17_dry_run_shows_the_new_revision_and_the_old_endpoint() {
    let fleet = HostFleet::new(1);
    let dry = |version| DeployOptions { dry_run: true, ..make_options(version, version) };
    let read_lines = || {
        let events = std::mem::take(&mut *fleet.site.events.lock().unwrap());
        let text = |event: &Event| match event {
            Event::DeploymentProgress { host: None, text } => Some(text.clone()),
            _ => None,
        };
        events.iter().filter_map(text).collect::<Vec<_>>()
    };
    deploy_on(&fleet, 0, &dry("1.0.0")).await.unwrap();
    assert_eq!(read_lines(), [] as [String; 0], "nothing is updated");
    deploy_on(&fleet, 0, &make_options("1.0.0", "1.0.0")).await.unwrap();
    let id = list_all(&fleet).await.rows[0].id.clone();
    deploy_on(&fleet, 0, &dry("2.0.0")).await.unwrap();
    let old = format!("Old Deployment: http://10.0.0.1:20000/ on web1 (at {id}, main 1.0.0)");
    assert_eq!(read_lines(), ["Revision: 1 -> 2".to_owned(), old]);
}

/// Rows: R34.
#[tokio::test(start_paused = true)]
async fn r34_the_newest_revision_is_the_latest() {
    let fleet = HostFleet::new(2);
    deploy_both(&fleet).await;
    let latest: Vec<bool> = list_all(&fleet).await.rows.iter().map(|row| row.is_latest).collect();
    assert_eq!(latest, [false, true]);
}

#[tokio::test(start_paused = true)]
async fn unread_hosts_are_named_where_no_version_is_found() {
    let fake = site(2, 1);
    fake.site.with_host("web1", |host| host.is_reachable = false);
    fake.site.with_host("web2", |host| host.is_reachable = false);
    let listing = list_deployments(&fake.world, &fake.fleet.hosts).await;
    let shop = DeploymentName::Service { service: "shop".parse().unwrap(), version: None };
    for name in [make_name("2.0.0"), shop] {
        let error = listing.resolve(&name).unwrap_err().to_string();
        assert!(error.starts_with("cannot read every host: `web1`: "), "{error}");
    }
}
