//! `access` checks every host before it changes the first one.

use super::*;
use crate::model::history::Actor;
use crate::ops::fleet::forward::{self, SwitchOptions};
use crate::ops::fleet::lock;
use crate::world::fake::paused::ready;

fn operator(user: &str, machine: &str) -> Actor {
    Actor { machine: machine.to_owned(), ..Actor::new(user, 7) }
}

fn private_by(actor: Actor) -> AccessRequest {
    AccessRequest { public: false, actor, dry_run: false }
}

fn are_private(fake: &FakeSite) -> Vec<bool> {
    fake.site.lock().hosts.values().map(|host| host.is_private).collect()
}

/// web2 is in the maintenance of another operator.
#[tokio::test(start_paused = true)]
async fn access_over_maintenance_of_another_operator_changes_no_host() {
    let fake = site(3, 1);
    let actor = operator("alice", "ops1");
    let options = SwitchOptions { actor, wait: false, drain: false, force: true, timeout: None };
    forward::disable(&fake.world, &fake.fleet, &fake.fleet.hosts[1], &options).await.unwrap();
    let (shop, request) = ("shop".parse().unwrap(), private_by(operator("bob", "ops2")));
    let hosts = &fake.fleet.hosts;
    for refused in [
        check_access(&fake.world, &fake.fleet, hosts, &shop, &request).await,
        set_access(&fake.world, &fake.fleet, hosts, &shop, &request).await.map(drop),
    ] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("`web2` was taken out of service by alice on ops1"), "{error}");
    }
    assert_eq!(are_private(&fake), [false; 3]);
    let request = private_by(operator("alice", "ops1"));
    set_access(&fake.world, &fake.fleet, hosts, &shop, &request).await.unwrap();
    assert_eq!(are_private(&fake), [true; 3]);
}

/// The balancers would see hosts vanish in the middle of a roll.
#[tokio::test(start_paused = true)]
async fn access_is_refused_while_another_operation_has_the_fleet_lock() {
    let fake = site(2, 1);
    let held = lock::acquire_for_person(&fake.world, "alice", "a roll").await.unwrap();
    let (shop, request) = ("shop".parse().unwrap(), private_by(actor()));
    let refused = set_access(&fake.world, &fake.fleet, &fake.fleet.hosts, &shop, &request).await;
    assert!(matches!(refused, Err(FleetDeployError::Lock(_))), "{refused:?}");
    assert_eq!(are_private(&fake), [false; 2]);
    ready(lock::release_own(&fake.world, &held));
    set_access(&fake.world, &fake.fleet, &fake.fleet.hosts, &shop, &request).await.unwrap();
    assert_eq!(ready(fake.world.lock.read_holder()), Ok(None));

    // A list names the hosts where access differs from others.
    fake.site.with_host("web1", |host| host.is_private = false);
    let rows = list_deployments(&fake.world, &fake.fleet.hosts).await.rows;
    assert_eq!(rows[0].private_on.iter().map(ToString::to_string).collect::<Vec<_>>(), ["web2"]);
}
