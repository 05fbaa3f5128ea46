//! `update` and `kill` are refused while another operation has the fleet lock; `rollback` is not.

use super::steps::{deploy_both, kill_rows, list_all, make_name};
use super::*;
use crate::model::lock::LockPurpose;
use crate::ops::fleet::lock;
use crate::ops::testing::host_fleet::HostFleet;

async fn deployed() -> HostFleet {
    let fleet = HostFleet::new(2);
    deploy_both(&fleet).await;
    fleet
}

fn count_instances(fleet: &HostFleet) -> Vec<usize> {
    fleet.hosts.iter().map(|fake| fake.versions.running.lock().unwrap().len()).collect()
}

fn take_warnings(fleet: &HostFleet) -> Vec<String> {
    let events = std::mem::take(&mut *fleet.site.events.lock().unwrap());
    let text = |event| if let Event::Warning { text } = event { Some(text) } else { None };
    events.into_iter().filter_map(text).collect()
}

#[tokio::test(start_paused = true)]
async fn kill_and_update_are_refused_while_another_operation_has_the_fleet_lock() {
    let fleet = deployed().await;
    let FakeSite { world, fleet: config, .. } = &fleet.site;
    let listing = list_all(&fleet).await;
    let shadow: Vec<_> =
        listing.rows.iter().filter(|row| row.version.to_string() == "2.0.0").cloned().collect();
    let options = UpdateOptions {
        source: Source::Release("new".into()),
        run_change: RunSpecChange::default(),
        drain_timeout: MS * 100,
        actor: actor(),
    };
    let held = lock::acquire_for_person(world, "alice", "a roll").await.unwrap();
    let checked = check_kill(world, config, &config.hosts, &listing, &shadow, &actor()).await;
    assert!(matches!(checked, Err(FleetDeployError::Lock(_))), "{checked:?}");
    let killed = kill_rows(&fleet, &listing, &shadow).await;
    assert!(matches!(killed, Err(FleetDeployError::Lock(_))), "{killed:?}");
    let updated = update(world, config, &config.hosts, &shadow[0], &options).await;
    assert!(matches!(updated, Err(FleetDeployError::Lock(_))), "{updated:?}");
    assert_eq!(count_instances(&fleet), [2, 2]);
    ready(lock::release_own(world, &held));
    kill_rows(&fleet, &listing, &shadow).await.unwrap();
    assert_eq!((count_instances(&fleet), ready(world.lock.read_holder())), (vec![1, 1], Ok(None)));
}

/// Users get errors now, and the holder may be an operator who sleeps.
#[tokio::test(start_paused = true)]
async fn rollback_continues_with_a_warning_while_the_fleet_is_locked() {
    let fleet = deployed().await;
    let FakeSite { world, fleet: config, .. } = &fleet.site;
    let target = list_all(&fleet).await;
    let target = target.resolve_target(&make_name("2.0.0"), &config.hosts).unwrap();
    assign(world, config, &config.hosts, target, &flip_to_2()).await.unwrap();
    let held = lock::acquire_for_person(world, "alice", "moving the rack").await.unwrap();
    take_warnings(&fleet);
    let report = rollback(world, config, &config.hosts, &"shop".parse().unwrap(), &actor()).await.unwrap();
    assert_eq!((report.version.to_string(), report.changed.len()), ("1.0.0".to_owned(), 2));
    let warnings = take_warnings(&fleet);
    assert!(
        warnings
            .iter()
            .any(|text| text.contains("locked by alice")
                && text.ends_with("rollback continues without the lock")),
        "{warnings:?}"
    );
    let holder = ready(world.lock.read_holder()).unwrap().unwrap().holder;
    assert_eq!(holder, held, "the lock of alice is left alone");
}

/// A roll that begins in the middle of a rollback would see two mains.
#[tokio::test(start_paused = true)]
async fn rollback_has_the_lock_while_it_is_free() {
    let fleet = deployed().await;
    let FakeSite { world, fleet: config, .. } = &fleet.site;
    let target = list_all(&fleet).await;
    let target = target.resolve_target(&make_name("2.0.0"), &config.hosts).unwrap();
    assign(world, config, &config.hosts, target, &flip_to_2()).await.unwrap();
    let (service, actor) = ("shop".parse().unwrap(), actor());
    let mut rolling_back = Box::pin(rollback(world, config, &config.hosts, &service, &actor));
    let mut purposes = Vec::new();
    loop {
        tokio::select! {
            biased;
            report = &mut rolling_back => {
                report.unwrap();
                break;
            }
            () = tokio::time::sleep(MS) => {
                purposes.extend(ready(world.lock.read_holder()).unwrap().map(|lock| lock.holder.purpose));
            }
        }
    }
    let expected = LockPurpose::Command { name: "rollback".to_owned() };
    assert!(!purposes.is_empty() && purposes.iter().all(|purpose| *purpose == expected), "{purposes:?}");
    assert_eq!(ready(world.lock.read_holder()), Ok(None));
}

/// The store of the journal is down: a rollback neither waits for its lock nor for the rolls in it.
#[tokio::test(start_paused = true)]
async fn rollback_does_not_wait_for_a_store_that_is_down() {
    let fleet = deployed().await;
    let FakeSite { world, fleet: config, journal, .. } = &fleet.site;
    let target = list_all(&fleet).await;
    let target = target.resolve_target(&make_name("2.0.0"), &config.hosts).unwrap();
    assign(world, config, &config.hosts, target, &flip_to_2()).await.unwrap();
    take_warnings(&fleet);
    let began = tokio::time::Instant::now();
    journal.set_delay(Duration::from_mins(1));
    let report = rollback(world, config, &config.hosts, &"shop".parse().unwrap(), &actor()).await.unwrap();
    assert_eq!(report.version.to_string(), "1.0.0");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let warnings = take_warnings(&fleet);
    assert!(warnings.iter().any(|text| text.contains("the fleet lock was not taken")), "{warnings:?}");
}
