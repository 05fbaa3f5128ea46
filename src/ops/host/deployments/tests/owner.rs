//! A host that another operation took out of service refuses every change of its versions.

use super::*;
use crate::model::api::ForwardRequest;
use crate::model::deployment::Access;
use crate::model::history::Actor;
use crate::model::port_forward::Forward;
use crate::model::traffic_split::{TrafficSplitChange, TrafficSplitRequest};
use crate::ops::host::api::LocalHost;
use crate::world::link::{HostDeployments as _, HostLink as _, HostTrafficSplit as _, LinkError};

fn alice() -> Actor {
    Actor { machine: "ops1".into(), ..Actor::new("alice", 9) }
}

fn take_out(actor: Actor) -> ForwardRequest {
    let ports = example::make_ports();
    ForwardRequest {
        forward: Forward { service: shop(), check: ports.check, target: ports.main },
        switch: Switch::Off,
        balancer_is_local: false,
        actor,
        action: "disable-forward".into(),
        detail: String::new(),
        addresses: vec![],
        dry_run: false,
    }
}

/// The answer of each call that changes something.
async fn call_all(fake: &FakeWorld, host: &LocalHost) -> Vec<(&'static str, Result<(), LinkError>)> {
    let on = ForwardRequest { switch: Switch::On, ..take_out(actor()) };
    let canary = TrafficSplitRequest {
        change: TrafficSplitChange::RemoveMirror(id_of(fake, "1.0.0")),
        port_range: site().port_range,
        forwarded: None,
        actor: actor(),
        detail: String::new(),
        dry_run: false,
    };
    vec![
        ("forward on", host.set_forward(&on).await.map(drop)),
        ("forward off", host.set_forward(&take_out(actor())).await.map(drop)),
        ("deploy", host.deploy(&request(fake, "3.0.0")).await.map(drop)),
        ("update", host.update(&update_of(fake, "2.0.0")).await.map(drop)),
        ("assign", host.assign(&shop(), &to("2.0.0")).await.map(drop)),
        ("rollback", host.rollback(&shop(), &back()).await.map(drop)),
        (
            "access",
            host.set_access(&shop(), &AccessRequest { public: false, actor: actor(), dry_run: false })
                .await
                .map(drop),
        ),
        ("canary", host.change_traffic_split(&shop(), &canary).await.map(drop)),
        ("kill", host.kill(&kill_of(fake, "2.0.0")).await.map(drop)),
    ]
}

#[tokio::test(start_paused = true)]
async fn every_change_by_another_operator_is_refused() {
    let fake = fake();
    let host = LocalHost::new(fake.world.clone());
    for version in ["1.0.0", "2.0.0"] {
        deploy(&fake.world, &request(&fake, version)).await.unwrap();
    }
    host.set_forward(&take_out(alice())).await.unwrap();
    let before = (fake.store.records.lock().unwrap().clone(), fake.world.deployments.all().unwrap());
    for (name, result) in call_all(&fake, &host).await {
        let refused = matches!(&result, Err(LinkError::Refused { code: ErrorCode::Owned, message })
            if message.contains("alice on ops1, by hand, since"));
        assert!(refused, "{name}: {result:?}");
    }
    let after = (fake.store.records.lock().unwrap().clone(), fake.world.deployments.all().unwrap());
    assert_eq!(before, after);
    assert_eq!(after.0[0].access, Access::Public);

    // Taken over: everything goes on as for an owner.
    let replaces = after.0[0].owner.clone().into_iter().collect();
    let taker = Actor { replaces, ..actor().with_reason(Some("alice is ill"), true) };
    host.set_forward(&take_out(taker)).await.unwrap();
    for (name, result) in call_all(&fake, &host).await {
        let is_owned = matches!(result, Err(LinkError::Refused { code: ErrorCode::Owned, .. }));
        assert!(!is_owned, "{name}: {result:?}");
    }
}

/// What the host does by itself is no stranger's change: a trial that fails goes back.
#[tokio::test(start_paused = true)]
async fn host_repairs_itself_in_the_maintenance_of_anyone() {
    let fake = fake();
    let host = LocalHost::new(fake.world.clone());
    for version in ["1.0.0", "2.0.0"] {
        deploy(&fake.world, &request(&fake, version)).await.unwrap();
    }
    let trial = MS * 60_000;
    host.set_forward(&take_out(alice())).await.unwrap();
    host.assign(&shop(), &AssignRequest { trial, actor: alice(), ..to("2.0.0") }).await.unwrap();
    let id = id_of(&fake, "2.0.0");
    *fake.versions.unhealthy_port.lock().unwrap() = Some(port(20001));
    let ended = host.watch_trial(&shop(), &WatchRequest { id, actor: actor() }).await.unwrap();
    assert!(matches!(ended, TrialOutcome::RolledBack { .. }), "{ended:?}");
}
