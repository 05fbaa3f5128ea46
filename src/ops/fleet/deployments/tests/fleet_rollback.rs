//! `rollback` over hosts that an interrupted assign left with different mains.

use super::steps::{deploy_on, list_all, make_name, make_options};
use super::*;
use crate::ops::testing::host_fleet::HostFleet;

/// Three hosts with three versions; 1.0.0 is main.
async fn with_three_versions() -> HostFleet {
    let fleet = HostFleet::new(3);
    for at in 0..3 {
        for version in ["1.0.0", "2.0.0", "3.0.0"] {
            deploy_on(&fleet, at, &make_options(version, version)).await.unwrap();
        }
    }
    fleet
}

/// `switchman assign shop VERSION --strategy flip --host` of some hosts.
async fn assign_on(fleet: &HostFleet, hosts: &[Host], version: &str) {
    let world = &fleet.site.world;
    let listing = list_deployments(world, hosts).await;
    let target = listing.resolve_target(&make_name(version), hosts).unwrap();
    assign(world, &fleet.site.fleet, hosts, target, &flip_to_2()).await.unwrap();
}

async fn roll_back(fleet: &HostFleet) -> Result<RollbackReport, FleetDeployError> {
    let FakeSite { world, fleet, .. } = &fleet.site;
    rollback(world, fleet, &fleet.hosts, &"shop".parse().unwrap(), &actor()).await
}

/// Main of every host.
async fn list_mains(fleet: &HostFleet) -> Vec<String> {
    let listing = list_all(fleet).await;
    let main = |host: &Host| {
        let row = listing.rows.iter().find(|row| row.is_main_on(&host.name)).unwrap();
        row.version.to_string()
    };
    fleet.site.fleet.hosts.iter().map(main).collect()
}

fn progress(fleet: &HostFleet) -> Vec<String> {
    let events = std::mem::take(&mut *fleet.site.events.lock().unwrap());
    let line = |event: Event| match event {
        Event::DeploymentProgress { host: Some(host), text } => Some(format!("{host}: {text}")),
        _ => None,
    };
    events.into_iter().filter_map(line).collect()
}

#[tokio::test(start_paused = true)]
async fn rollback_of_an_interrupted_assign_ends_with_one_main() {
    let fleet = with_three_versions().await;
    assign_on(&fleet, &fleet.site.fleet.hosts, "2.0.0").await;
    // web2 and web3 would go back to 1.0.0 by themselves.
    assign_on(&fleet, fleet.select(0), "3.0.0").await;
    progress(&fleet);
    let report = roll_back(&fleet).await.unwrap();
    assert_eq!((report.version.to_string(), report.changed.len()), ("2.0.0".to_owned(), 1));
    assert_eq!(list_mains(&fleet).await, ["2.0.0"; 3]);
    let lines = progress(&fleet);
    assert_eq!(
        lines[..3],
        ["web1: goes back from 3.0.0 to 2.0.0", "web2: stays at 2.0.0", "web3: stays at 2.0.0"]
    );
    // Hosts with one main go back together.
    assert_eq!(roll_back(&fleet).await.unwrap_err().to_string().matches("no earlier good main").count(), 1);
}

/// Hosts without an earlier main have the version that the others go back to.
#[tokio::test(start_paused = true)]
async fn rollback_of_the_first_assign_needs_no_earlier_main_on_other_hosts() {
    let fleet = with_three_versions().await;
    assign_on(&fleet, fleet.select(0), "2.0.0").await;
    assert_eq!(roll_back(&fleet).await.unwrap().version.to_string(), "1.0.0");
    assert_eq!(list_mains(&fleet).await, ["1.0.0"; 3]);
}

#[tokio::test(start_paused = true)]
async fn rollback_refuses_to_split_hosts() {
    let fleet = with_three_versions().await;
    assign_on(&fleet, fleet.select(0), "2.0.0").await;
    assign_on(&fleet, &fleet.site.fleet.hosts, "3.0.0").await;
    let error = roll_back(&fleet).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot roll shop back: its hosts would not have one main: `web1` has main 3.0.0 and would go back to 2.0.0; `web2` has main \
         3.0.0 and would go back to 1.0.0; `web3` has main 3.0.0 and would go back to 1.0.0"
    );
    assert_eq!(list_mains(&fleet).await, ["3.0.0"; 3]);
}
