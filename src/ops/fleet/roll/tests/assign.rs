use crate::model::example::{self, make_actor as actor};
use crate::model::journal::HostOutcome;
use crate::model::roll::{NewMain, Work};
use crate::ops::fleet::roll::*;
use crate::ops::testing::site::{FakeSite, site};
use crate::world::fake::MS;

fn to_2(hosts: &[&str]) -> RollSpec {
    let work = Work::Assign(NewMain { version: "2.0.0".parse().unwrap(), trial: MS * 1000 });
    RollSpec { work, ..example::make_roll_spec(hosts) }
}

fn versions(fake: &FakeSite) -> Vec<(String, String)> {
    fake.site.lock().hosts.values().map(|host| (host.main.clone(), host.backup.clone())).collect()
}

fn both(main: &str, backup: &str) -> (String, String) {
    (main.to_owned(), backup.to_owned())
}

#[tokio::test(start_paused = true)]
async fn assign_changes_main_only_during_maintenance() {
    let fake = site(3, 2);
    let report = run(&fake.world, &fake.fleet, &to_2(&["web1", "web2", "web3"]), &actor()).await.unwrap();
    assert_eq!(report.standing.result, Some(RollResult::Done));
    assert_eq!(versions(&fake), vec![both("2.0.0", "1.0.0"); 3]);
    let state = fake.site.lock();
    let well = state.hosts.values().all(|host| !host.was_assigned_in_service && host.commands.is_empty());
    assert!(well, "{:?}", state.hosts);
    assert_eq!(state.min_up_observed, 2);
}

#[tokio::test(start_paused = true)]
async fn assign_of_unhealthy_version_rolls_back() {
    let fake = site(3, 1);
    fake.site.with_host("web2", |host| host.new_main_unhealthy = true);
    let report = run(&fake.world, &fake.fleet, &to_2(&["web1", "web2", "web3"]), &actor()).await.unwrap();
    assert!(!report.is_complete());
    assert_eq!(report.standing.hosts[1].end, Some(HostOutcome::Restored));
    assert_eq!(versions(&fake), [both("2.0.0", "1.0.0"), both("1.0.0", "1.0.0"), both("1.0.0", "1.0.0")]);
    assert!(fake.site.lock().hosts.values().all(|host| host.forward && host.is_healthy));

    // After the repair the same roll goes on.
    fake.site.with_host("web2", |host| host.new_main_unhealthy = false);
    let report = resume(&fake.world, &fake.fleet, &actor()).await.unwrap();
    assert!(report.is_complete());
    assert_eq!(versions(&fake), vec![both("2.0.0", "1.0.0"); 3]);
}

#[tokio::test(start_paused = true)]
async fn failure_before_assign_does_not_roll_back() {
    let fake = site(3, 1);
    let (work, actor) = (to_2(&["web1", "web2", "web3"]), actor());
    let (report, ()) = tokio::join!(run(&fake.world, &fake.fleet, &work, &actor), async {
        fake.wait_for_host(MS * 10, "web1", |host| !host.forward).await;
        fake.site.with_host("web1", |host| {
            host.drain_duration = None;
            host.is_healthy = false;
        });
    });
    assert!(!report.unwrap().is_complete());
    assert_eq!(versions(&fake), vec![both("1.0.0", "1.0.0"); 3]);
}
