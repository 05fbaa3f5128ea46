use std::time::Duration;

use proptest::prelude::*;

use super::routes::build_route;
use super::*;
use crate::model::api::deployments::AssignScope::{BackupOnly, MainAndBackup};
use crate::model::api::deployments::{AssignRequest, AssignScope, HostNetwork, RollbackRequest};
use crate::model::deployment::{Access, Instance};
use crate::model::example::{deployment, make_actor as actor, make_deploy_request, make_network, port};
use crate::model::forward::{Intent, RouteChange};
use crate::model::port_forward::Switch;

fn site() -> HostNetwork {
    make_network(3)
}

fn shop(version: &str, at: u16) -> Deployment {
    deployment("shop", version, at)
}

/// A record with these as main and backup.
fn record(main: &Deployment, backup: &Deployment) -> ServiceRecord {
    let intent = plan_first(None, main, &site(), &actor());
    let mut record = ServiceRecord::from_intent(None, &intent, NOW);
    if let Some(routes) = &mut record.routes {
        routes.backup = build_route(routes.backup.port, backup);
        routes.previous = (main.id != backup.id).then(|| backup.id.clone());
    }
    record
}

fn request(version: &str) -> DeployRequest {
    make_deploy_request(version, site())
}

const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

/// Plans an assignment of a version of the shop.
fn assign(
    records: &[ServiceRecord],
    existing: &[Deployment],
    version: &str,
    scope: AssignScope,
) -> Result<(Intent, Option<DeploymentId>), DeployRefusal> {
    let which =
        DeploymentRef::Version { service: "shop".parse().unwrap(), version: version.parse().unwrap() };
    let trial = Duration::from_secs(10);
    let request =
        AssignRequest { which, scope, trial, actor: actor(), detail: String::new(), dry_run: false };
    plan_assign(records, existing, &request, NOW)
}

/// The record that an intent makes of another one.
fn apply(record: &ServiceRecord, intent: &Intent) -> ServiceRecord {
    ServiceRecord::from_intent(Some(record), intent, NOW)
}

fn legs(intent: &Intent) -> (u16, u16) {
    match &intent.route_change {
        RouteChange::Set { routes, .. } => (routes.main.target.get(), routes.backup.target.get()),
        other => panic!("{other:?}"),
    }
}

/// Seed row D2.
#[test]
fn metadata_is_short_plain_text() {
    let check = |name: &str, value: &str| check_metadata(&[(name.to_owned(), value.to_owned())].into());
    assert_eq!(check("commit", "3f2a"), Ok(()));
    for (name, value) in [("", "x"), ("a\n", "x"), ("a", "x\u{7}"), ("a", &"x".repeat(1025))] {
        assert!(check(name, value).is_err(), "{name:?}");
    }
    let many = (0..33).map(|number| (number.to_string(), String::new())).collect();
    assert!(check_metadata(&many).is_err());
}

/// Rows: D2.
#[test]
fn first_deployment_takes_both_ports_and_keeps_maintenance() {
    let one = shop("1.0.0", 20000);
    let intent = plan_first(None, &one, &site(), &actor());
    assert_eq!((legs(&intent), intent.switch), ((20000, 20000), Switch::On));
    let off = ServiceRecord { switch: Switch::Off, routes: None, ..record(&one, &one) };
    assert_eq!(plan_first(Some(&off), &one, &site(), &actor()).switch, Switch::Off);
}

/// Seed rows R3, D22: one more than the newest of the service; D22: the same name and version is refused, the very same is known.
/// Rows: D22.
#[test]
fn revisions_increase_and_versions_are_unique() {
    let existing = [Deployment { revision: 4, ..shop("1.0.0", 20000) }, deployment("blog", "1.0.0", 20001)];
    assert_eq!(decide_deploy(&existing, &request("2.0.0")), Ok(DeployDecision::New { revision: 5 }));
    assert!(matches!(decide_deploy(&existing, &request("1.0.0")), Ok(DeployDecision::Unchanged(_))));
    let other =
        DeployRequest { digest: Some(crate::model::deployment::Digest("x".into())), ..request("1.0.0") };
    let error = decide_deploy(&existing, &other).unwrap_err();
    assert_eq!(error.to_string(), "Service with name: shop and version: 1.0.0 already exists!");
    // Its instances keep the id under which they were started.
    let new = request("2.0.0");
    let merged = [Deployment { started_as: Some(new.id.clone()), ..shop("1.0.0", 20000) }];
    assert!(matches!(decide_deploy(&merged, &new), Err(DeployRefusal::IdTaken { .. })));
}

/// Seed row R6.
#[test]
fn deploy_refuses_used_id_and_exhausted_revision() {
    let there = shop("1.0.0", 20000);
    let taken = DeployRequest { id: there.id.clone(), ..request("2.0.0") };
    assert!(matches!(
        decide_deploy(std::slice::from_ref(&there), &taken),
        Err(DeployRefusal::IdTaken { .. })
    ));
    let last = Deployment { revision: u32::MAX, ..there };
    assert_eq!(decide_deploy(&[last], &request("2.0.0")), Ok(DeployDecision::New { revision: u32::MAX }));
}

#[test]
fn deploy_refuses_invalid_health_check() {
    let good = request("1.0.0").health;
    let (how, vhost) =
        (request("1.0.0").how, Workload::Vhost { server: crate::model::deployment::WebServer::Nginx });
    let vhost = RunSpec { workload: vhost, ..how.clone() };
    assert_eq!(check_health(&good, &how), Ok(()));
    let path = |path: &str| Health { path: path.to_owned(), ..good.clone() };
    for bad in ["", "health", "/a b", "/a\r\nX: y", "/é", &format!("/{}", "a".repeat(3000))] {
        assert!(check_health(&path(bad), &how).is_err(), "{bad:?}");
    }
    assert_eq!(check_health(&path("/a;b"), &how), Ok(()));
    assert!(check_health(&path("/a;b"), &vhost).is_err());
    let others = [
        Health { host: Some(String::new()), ..good.clone() },
        Health { host: Some("a\nb".to_owned()), ..good.clone() },
        Health { status: 0, ..good.clone() },
        Health { interval: Duration::ZERO, ..good.clone() },
        Health { timeout: Duration::ZERO, ..good.clone() },
    ];
    for bad in others {
        assert!(check_health(&bad, &how).is_err(), "{bad:?}");
    }
}

#[test]
fn health_timeout_covers_a_slow_check() {
    let second = Duration::from_secs(1);
    let health = |interval, timeout, rise| {
        compute_health_timeout(&Health { timeout, interval, rise, ..request("1.0.0").health })
    };
    assert_eq!(health(second, second, 2), second * 5);
    assert_eq!(health(second * 10, second * 2, 3), second * 36);
}

/// Rows: R6, R18.
#[test]
fn two_deployments_do_not_share_an_endpoint() {
    let existing = [shop("1.0.0", 20000)];
    let error = check_port(port(20000), &existing, &[], &site()).unwrap_err();
    let id = &existing[0].id;
    assert_eq!(error.to_string(), format!("A deployment already exists that uses this endpoint (ID: {id})."));
    let records = [record(&existing[0], &existing[0])];
    let error = check_port(port(8080), &[], &records, &site()).unwrap_err();
    assert_eq!(error.to_string(), "port 8080 belongs to shop: HAProxy connects to it");
    let free = collect_used_ports(&existing, &records, &site());
    assert_eq!(list_candidate_ports(&site(), &free).map(Port::get).collect::<Vec<_>>(), [20001, 20002]);
}

/// Rows: D9.
#[test]
fn assign_moves_both_ports_and_keeps_last_good_main() {
    let (one, two, three) = (shop("1.0.0", 20000), shop("2.0.0", 20001), shop("3.0.0", 20002));
    let all = [one.clone(), two.clone(), three.clone()];
    let records = [record(&one, &one)];
    let (intent, was) = assign(&records, &all, "2.0.0", MainAndBackup).unwrap();
    assert_eq!((legs(&intent), was), ((20001, 20000), Some(one.id.clone())));
    // On trial it has not shown that it is good: the one before stays the backup.
    let after = [apply(&records[0], &intent)];
    let (intent, _) = assign(&after, &all, "3.0.0", MainAndBackup).unwrap();
    assert_eq!(legs(&intent), (20002, 20000));
    // Good: the backup vhost follows, and the next one's backup it is.
    let passed = end_trial(&after[0], &two.id, &actor()).unwrap();
    let good = [apply(&after[0], &passed)];
    assert_eq!((legs(&passed), good[0].trial.clone()), ((20001, 20001), None));
    assert_eq!(good[0].generation, records[0].generation, "no operation that waits for UP is overtaken");
    assert_eq!(find_last_good(&good, &one.service), Ok(one.id.clone()));
    let (intent, _) = assign(&good, &all, "3.0.0", MainAndBackup).unwrap();
    assert_eq!(legs(&intent), (20002, 20001));
    // Before a host is taken out, its backup vhost is routed to the current main.
    let (intent, _) = assign(&good, &all, "3.0.0", BackupOnly).unwrap();
    assert_eq!(legs(&intent), (20001, 20001));
    // Seed row D13: the main again is a no-op.
    let (intent, _) = assign(&good, &all, "2.0.0", MainAndBackup).unwrap();
    assert!(apply(&good[0], &intent).is_equivalent(&good[0]));
}

/// Seed row D13.
#[test]
fn assign_refuses_unknown_version() {
    let one = shop("1.0.0", 20000);
    let refused = |records: &[ServiceRecord], existing: &[Deployment], version: &str| {
        assign(records, existing, version, MainAndBackup).unwrap_err().to_string()
    };
    let records = [record(&one, &one)];
    assert_eq!(refused(&records, std::slice::from_ref(&one), "9.0.0"), "No service matching shop 9.0.0");
    assert_eq!(refused(&[], std::slice::from_ref(&one), "1.0.0"), "No main service matching shop");
    let starting = [Deployment { stage: Stage::Starting, ..one.clone() }];
    assert_eq!(
        refused(&records, &starting, "1.0.0"),
        "shop 1.0.0 is still being deployed, updated or killed"
    );
}

#[test]
fn rollback_restores_last_good_main() {
    let (one, two) = (shop("1.0.0", 20000), shop("2.0.0", 20001));
    let all = [one.clone(), two.clone()];
    let records = [record(&two, &one)];
    let service = &one.service;
    let back = RollbackRequest { actor: actor(), reason: String::new(), from: None, dry_run: false };
    assert_eq!(find_last_good(&records, service), Ok(one.id.clone()));
    let intent = plan_rollback(&records, &all, service, &one.id, &back).unwrap();
    assert_eq!(legs(&intent), (20000, 20000));
    let after = [apply(&records[0], &intent)];
    // One that is to take back a version takes back no other.
    let from = |version: &str| find_rollback_target(&after, &all, service, Some(&version.parse().unwrap()));
    assert_eq!(from("1.0.0"), Err(DeployRefusal::NoBackup(service.clone())));
    let error = from("2.0.0").unwrap_err().to_string();
    assert_eq!(error, "2.0.0 is not main of shop");
    let error = find_last_good(&after, service).unwrap_err().to_string();
    assert_eq!(error, "shop has no earlier good main");
}

/// Seed rows D10, D11, D19.
#[test]
fn kill_refuses_main_with_shadows_but_not_the_last_version() {
    let (one, two) = (shop("1.0.0", 20000), shop("2.0.0", 20001));
    let records = [record(&one, &one)];
    let both = [one.clone(), two.clone()];
    let refused = check_kill(&records, &both, &one).unwrap_err().to_string();
    assert_eq!(
        refused,
        "Not allowed to kill main service while there are mutliple deployed versions of that service"
    );
    assert_eq!(check_kill(&records, &both, &two), Ok(()));
    assert_eq!(check_kill(&records, std::slice::from_ref(&one), &one), Ok(()));
}

/// Seed rows R9, R19, R20: work in flight, and connections that may carry some at any moment.
/// Rows: R9, R20.
#[test]
fn kill_refuses_undrained_deployment() {
    let count = |busy, idle, tie| SocketCount { busy, idle, ambiguous: tie, silent: 0 };
    assert_eq!(check_drained(&count(0, 0, 0)), Ok(()));
    let text = check_drained(&count(2, 5, 1)).unwrap_err().to_string();
    assert!(
        text.starts_with("Deployment is still Draining. There are 3 invocations that will break"),
        "{text}"
    );
    assert!(
        text.contains("If you accept the risk of breaking in-flight invocations, you can use --force"),
        "{text}"
    );
    let kept = check_drained(&count(0, 5, 0)).unwrap_err().to_string();
    assert!(kept.starts_with("load balancers keep 5 idle connections to it"), "{kept}");
}

/// Seed row R15.
#[test]
fn status_follows_role_and_sockets() {
    let work = SocketCount { busy: 1, ..SocketCount::default() };
    let idle = SocketCount { idle: 3, ..SocketCount::default() };
    assert_eq!(derive_status(Role::Main, &idle), DeploymentStatus::Active);
    assert_eq!(derive_status(Role::Shadow, &work), DeploymentStatus::Draining);
    assert_eq!(derive_status(Role::Shadow, &idle), DeploymentStatus::Drained);
    assert!(
        DeploymentStatus::Active < DeploymentStatus::Draining
            && DeploymentStatus::Draining < DeploymentStatus::Drained,
        "R15's order"
    );
}

#[test]
fn killed_deployment_has_no_routes() {
    let (one, two) = (shop("1.0.0", 20000), shop("2.0.0", 20001));
    // The backup vhost goes to main.
    let intent = detach(&record(&two, &one), &one, &actor()).unwrap();
    assert_eq!(legs(&intent), (20001, 20001));
    // A main that is alone takes everything with it.
    let intent = detach(&record(&one, &one), &one, &actor()).unwrap();
    assert_eq!((&intent.route_change, intent.switch), (&RouteChange::Remove, Switch::Off));
    assert_eq!(intent.forward.target, record(&one, &one).routes.unwrap().main.port, "no port of an instance");
    // No route goes to a plain shadow.
    assert_eq!(detach(&record(&two, &two), &one, &actor()), None);
}

/// A refused kill restores the routes it took, as far as no other command took them since.
#[test]
fn refused_kill_restores_routes() {
    let (one, two, three) = (shop("1.0.0", 20000), shop("2.0.0", 20001), shop("3.0.0", 20002));
    let all = [one.clone(), two.clone(), three];
    let good = [record(&one, &one)];
    let (intent, _) = assign(&good, &all, "2.0.0", MainAndBackup).unwrap();
    let before = apply(&good[0], &intent);
    let cut = apply(&before, &detach(&before, &one, &actor()).unwrap());
    let back = |record: &ServiceRecord| {
        restore_routes(record, &before, &one, &actor()).map(|intent| apply(record, &intent))
    };
    assert!(back(&cut).unwrap().is_equivalent(&before));
    // A maintenance that began in between continues.
    let off = ServiceRecord { switch: Switch::Off, ..cut.clone() };
    assert!(back(&off).unwrap().is_equivalent(&ServiceRecord { switch: Switch::Off, ..before.clone() }));
    // Another main.
    let (intent, _) = assign(std::slice::from_ref(&cut), &all, "3.0.0", MainAndBackup).unwrap();
    assert_eq!(back(&apply(&cut, &intent)), None);
    // The same main, and another command changed its backup vhost.
    let mut other = cut.clone();
    if let Some(routes) = &mut other.routes {
        routes.backup = build_route(routes.backup.port, &all[2]);
    }
    let kept = back(&other).unwrap().routes.unwrap();
    assert_eq!((kept.backup.target.get(), kept.previous), (20002, Some(one.id.clone())));
}

#[test]
fn every_leftover_stage_has_one_recovery() {
    let one = shop("1.0.0", 20000);
    let led = [record(&one, &one)];
    let at = |stage, next: Option<u16>| Deployment {
        stage,
        other_instance: next.map(|at| Instance { build: 2, port: port(at), ..one.instance.clone() }),
        ..one.clone()
    };
    assert_eq!(plan_recovery(&led, &at(Stage::Ready, None)), None);
    assert_eq!(plan_recovery(&[], &at(Stage::Starting, None)), Some(Recovery::Remove));
    assert_eq!(plan_recovery(&led, &at(Stage::Starting, None)), Some(Recovery::MarkReady));
    assert_eq!(plan_recovery(&led, &at(Stage::Updating, Some(20005))), Some(Recovery::RemoveNext));
    let mut moved = led.clone();
    let intent =
        crate::plan::versions::move_instance(&led[0], &one, (one.instance.port, port(20005)), &actor())
            .unwrap();
    moved[0] = apply(&led[0], &intent);
    assert_eq!(moved[0].forward.target.get(), 20005, "the check follows");
    assert_eq!(plan_recovery(&moved, &at(Stage::Updating, Some(20005))), Some(Recovery::FinishUpdate));
    assert_eq!(plan_recovery(&led, &at(Stage::Killing, None)), Some(Recovery::FinishKill));
}

#[test]
fn prune_keeps_used_and_newest_releases() {
    let existing = [shop("1.0.0", 20000)];
    let there: Vec<String> = ["0.7.0", "0.8.0", "1.0.0", "0.9.0"].map(str::to_owned).to_vec();
    let service = "shop".parse().unwrap();
    assert_eq!(select_prunable(&there, &existing, &service, 1), ["0.7.0", "0.8.0"]);
    assert_eq!(select_prunable(&there, &existing, &service, 9), Vec::<String>::new());
}

#[test]
fn deploy_refuses_hostile_values() {
    let how = |change: &dyn Fn(&mut RunSpec)| {
        let mut how = shop("1.0.0", 20000).instance.how;
        change(&mut how);
        check_values(&how)
    };
    assert_eq!(how(&|_| {}), Ok(()));
    assert_eq!(how(&|how| drop(how.env.insert("KEY".into(), "two\n\tlines\n".into()))), Ok(()));
    let bad: [&dyn Fn(&mut RunSpec); 7] = [
        &|how| how.workload = Workload::Command { argv: vec!["a".into(), "b\nExecStart=/bin/sh".into()] },
        &|how| how.workload = Workload::Command { argv: vec!["a\0b".into()] },
        &|how| drop(how.env.insert("A B".into(), "x".into())),
        &|how| drop(how.env.insert("LD=".into(), "x".into())),
        &|how| drop(how.env.insert("A".into(), "x\r\ny".into())),
        &|how| drop(how.env.insert("A".into(), "redacted:12ab".into())),
        &|how| how.user = Some("root; id".into()),
    ];
    for (at, change) in bad.into_iter().enumerate() {
        assert!(matches!(how(change), Err(DeployRefusal::BadValue { .. })), "{at}");
    }
}

proptest! {
    /// After any commands in any order, check port and data port of main are routed to one port, which belongs to a deployment.
    #[test]
    fn forward_and_route_targets_stay_equal(steps in proptest::collection::vec((0usize..3, 0u8..4), 1..20)) {
        let all = [shop("1.0.0", 20000), shop("2.0.0", 20001), shop("3.0.0", 20002)];
        let back = RollbackRequest { actor: actor(), reason: String::new(), from: None, dry_run: false };
        let mut records = vec![record(&all[0], &all[0])];
        for (which, what) in steps {
            let version = all[which].version.to_string();
            let intent = match what {
                0 => assign(&records, &all, &version, MainAndBackup).map(|(intent, _)| intent).ok(),
                1 => assign(&records, &all, &version, BackupOnly).map(|(intent, _)| intent).ok(),
                2 => find_last_good(&records, &all[0].service)
                    .and_then(|id| plan_rollback(&records, &all, &all[0].service, &id, &back))
                    .ok(),
                _ => records[0].routes.as_ref().and_then(|routes| end_trial(&records[0], &routes.main.deployment, &actor())),
            };
            if let Some(intent) = intent {
                records = vec![apply(&records[0], &intent)];
            }
            let record = &records[0];
            let routes = record.routes.as_ref().unwrap();
            prop_assert_eq!(record.forward.target, routes.main.target);
            prop_assert_eq!(record.switch, Switch::On);
            for leg in [&routes.main, &routes.backup] {
                let owner = all.iter().find(|one| one.id == leg.deployment).unwrap();
                prop_assert_eq!(owner.instance.port, leg.target);
            }
            prop_assert_eq!(record.access, Access::Public);
        }
    }
}
