//! One version is one deployment, whichever hosts it was deployed to first.

use super::each_host::explain_lost_release;
use super::steps::{deploy_on, list_all, make_name, make_options, make_run_spec};
use super::*;
use crate::model::api::deployments::DeployRequest;
use crate::model::deployment::{Digest, RunSpec};
use crate::model::failure::ErrorCode;
use crate::model::health::Health;
use crate::model::name::ServiceName;
use crate::model::traffic_split::TrafficSplitChange;
use crate::model::version::Version;
use crate::ops::testing::host_fleet::HostFleet;
use crate::world::link::LinkError;
use crate::world::releases::ReleaseStore as _;

#[tokio::test(start_paused = true)]
async fn deploy_joins_the_version_on_another_host() {
    let fleet = HostFleet::new(2);
    for (at, version) in [(0, "1.0.0"), (1, "1.0.0"), (0, "2.0.0"), (1, "2.0.0")] {
        deploy_on(&fleet, at, &make_options(version, version)).await.unwrap();
    }
    let listing = list_all(&fleet).await;
    let rows: Vec<_> =
        listing.rows.iter().map(|row| (row.version.to_string(), row.revision, row.hosts.len())).collect();
    assert_eq!(rows, [("1.0.0".to_owned(), 1, 2), ("2.0.0".to_owned(), 2, 2)]);

    let (world, hosts) = (&fleet.site.world, &fleet.site.fleet.hosts);
    let target = listing.resolve_target(&make_name("2.0.0"), hosts).unwrap();
    assign(world, &fleet.site.fleet, hosts, target, &flip_to_2()).await.unwrap();
    assert!(list_all(&fleet).await.rows[1].is_main());
}

#[tokio::test(start_paused = true)]
async fn hosts_of_a_version_may_have_different_numbers_of_instances() {
    let fleet = HostFleet::new(2);
    for (at, instances) in [(0, Some(3)), (1, None)] {
        let options = DeployOptions { instances, ..make_options("1.0.0", "1.0.0") };
        let report = deploy_on(&fleet, at, &options).await.unwrap();
        assert_eq!(report.planned[0].more_ports.len() + 1, instances.unwrap_or(1) as usize);
    }
    let listing = list_all(&fleet).await;
    let count = |at: usize| listing.rows[0].hosts[at].1.deployment.active_instances().count();
    assert_eq!((listing.rows.len(), count(0), count(1)), (1, 3, 1));
    // The number of a version on a host is not changed by a deploy.
    let options = DeployOptions { instances: Some(2), ..make_options("1.0.0", "1.0.0") };
    let error = deploy_on(&fleet, 0, &options).await.unwrap_err().to_string();
    assert!(error.contains("already exists"), "{error}");
}

/// The address of a program that runs already names its host.
#[tokio::test(start_paused = true)]
async fn deploy_joins_external_programs_of_different_hosts() {
    let fleet = HostFleet::new(2);
    for at in [0, 1] {
        let uri = format!("http://{}:9000", fleet.select(at)[0].address.unwrap());
        let run_spec = RunSpec::new(crate::model::deployment::Workload::External { uri });
        let options = DeployOptions { source: Source::External, run_spec, ..make_options("1.0.0", "") };
        deploy_on(&fleet, at, &options).await.unwrap();
    }
    assert_eq!(list_all(&fleet).await.rows.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn deploy_refuses_another_release_under_the_same_version() {
    let fleet = HostFleet::new(2);
    deploy_on(&fleet, 0, &make_options("1.0.0", "one")).await.unwrap();
    let error = deploy_on(&fleet, 1, &make_options("1.0.0", "two")).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "Service with name: shop and version: 1.0.0 already exists! `web1` has release one, not release two"
    );
    let run_spec = RunSpec { env: [("A".to_owned(), "1".to_owned())].into(), ..make_run_spec() };
    let other = DeployOptions { run_spec, ..make_options("1.0.0", "one") };
    let error = deploy_on(&fleet, 1, &other).await.unwrap_err().to_string();
    assert!(error.ends_with("`web1` runs it with another environment"), "{error}");
    assert!(fleet.hosts[1].versions.deployments.lock().unwrap().is_empty());
    assert!(fleet.hosts[1].versions.releases.lock().unwrap().is_empty(), "nothing was sent");
}

/// The operator's file has another check port than the host: the deploy succeeds, and the next switch would be refused.
#[tokio::test(start_paused = true)]
async fn deploy_warns_of_ports_that_differ_from_the_host() {
    let mut fleet = HostFleet::new(1);
    deploy_on(&fleet, 0, &make_options("1.0.0", "one")).await.unwrap();
    let list_warnings = |fleet: &HostFleet| -> Vec<String> {
        let events = fleet.site.events.lock().unwrap();
        let text =
            |event: &Event| if let Event::Warning { text } = event { Some(text.clone()) } else { None };
        events.iter().filter_map(text).collect()
    };
    assert_eq!(list_warnings(&fleet), Vec::<String>::new());
    fleet.site.fleet.ports.check = example::port(8889);
    deploy_on(&fleet, 0, &make_options("2.0.0", "two")).await.unwrap();
    let text = "`web1` has check port 8888, and this configuration has `ports.check: 8889`";
    assert_eq!(list_warnings(&fleet), [text]);
}

/// `deploy --host w1 --health /a`, then `--host w2 --health /b`: the deployment has one health check.
#[tokio::test(start_paused = true)]
async fn deployment_has_one_health_check() {
    let fleet = HostFleet::new(2);
    let with_path = |path: &str| {
        let health = Health { path: path.to_owned(), ..fleet.site.fleet.health.clone() };
        DeployOptions { health: Some(health), ..make_options("1.0.0", "one") }
    };
    deploy_on(&fleet, 0, &with_path("/a")).await.unwrap();
    let error = deploy_on(&fleet, 1, &with_path("/b")).await.unwrap_err().to_string();
    assert!(error.ends_with("`web1` checks its health at `/a`, not at `/b`"), "{error}");
    assert!(fleet.hosts[1].versions.deployments.lock().unwrap().is_empty());
    // Without a path of its own it has that of the deployment.
    deploy_on(&fleet, 1, &make_options("1.0.0", "one")).await.unwrap();
    let rows = list_all(&fleet).await.rows;
    let paths: Vec<&str> =
        rows[0].hosts.iter().map(|(_, view)| view.deployment.health.path.as_str()).collect();
    assert_eq!((rows.len(), paths), (1, vec!["/a", "/a"]));
}

/// The deployment of an unreadable host may have another id.
#[tokio::test(start_paused = true)]
async fn deploy_warns_of_hosts_that_cannot_be_read() {
    let fleet = HostFleet::new(1);
    let mut whole = site(2, 0);
    whole.site.with_host("web2", |host| host.is_reachable = false);
    whole
        .world
        .links
        .insert("web1".parse().unwrap(), fleet.site.world.links.values().next().unwrap().clone());
    let options = make_options("1.0.0", "one");
    deploy(&whole.world, &whole.fleet, &whole.fleet.hosts[..1], &options).await.unwrap();
    let is_warning = |event: &Event| matches!(event, Event::DeploymentProgress { host: Some(host), text } if host.as_str() == "web2" && text.contains("`switchman merge shop 1.0.0`"));
    assert!(whole.events.lock().unwrap().iter().any(is_warning));
}

/// Places the same release on both hosts under an id of each: what two deploys with `--host` made before they read the others.
async fn split_versions(versions: &[&str]) -> HostFleet {
    let fleet = HostFleet::new(2);
    for (host, fake) in fleet.site.fleet.hosts.iter().zip(&fleet.hosts) {
        for (at, version) in (1..).zip(versions) {
            let digest = fake.versions.place(&"shop".parse().unwrap(), version, "d".as_ref()).unwrap();
            let salt = if host.name.as_str() == "web1" { at } else { at + 100 };
            let request = DeployRequest {
                id: crate::model::deployment::DeploymentId::new(jiff::Timestamp::UNIX_EPOCH, salt),
                digest: Some(digest),
                revision: Some(u32::try_from(salt).unwrap()),
                ..example::make_deploy_request(version, example::make_network(10))
            };
            fleet.site.world.links[&host.name].deploy(&request).await.unwrap();
        }
    }
    fleet
}

#[tokio::test(start_paused = true)]
async fn merge_makes_one_deployment_of_a_split_version() {
    let fleet = split_versions(&["1.0.0", "2.0.0"]).await;
    let (world, hosts) = (&fleet.site.world, &fleet.site.fleet.hosts);
    let (service, version): (ServiceName, Version) = ("shop".parse().unwrap(), "2.0.0".parse().unwrap());
    // web2 sends its own 2.0.0 copies before.
    let listing = list_all(&fleet).await;
    let part =
        listing.rows.iter().find(|row| row.hosts[0].0.as_str() == "web2" && row.revision == 102).unwrap();
    let mirror = TrafficSplitChange::SetMirror(example::make_mirror(&part.id));
    let options = SplitOptions {
        service: "shop".parse().unwrap(),
        change: mirror,
        forwarded: None,
        wait: false,
        actor: actor(),
        detail: String::new(),
    };
    split(world, &fleet.site.fleet, fleet.select(1), &options).await.unwrap();
    let (running, rules) = (fleet.hosts[1].versions.running.lock().unwrap().clone(), fleet.rules(1));

    let error = listing.resolve(&make_name("2.0.0")).unwrap_err();
    assert!(matches!(&error, FleetDeployError::SplitVersion { parts, .. } if parts.len() == 2), "{error}");
    assert!(listing.resolve(&DeploymentName::Service { service: service.clone(), version: None }).is_err());
    let refused = deploy_on(&fleet, 0, &make_options("2.0.0", "d")).await.unwrap_err();
    assert!(matches!(refused, FleetDeployError::SplitVersion { .. }), "{refused}");

    let (id, changed) = merge(world, &fleet.site.fleet, (&service, &version), &actor()).await.unwrap();
    assert_eq!(changed.iter().map(HostName::as_str).collect::<Vec<_>>(), ["web2"]);
    let listing = list_all(&fleet).await;
    let row = listing.resolve(&make_name("2.0.0")).unwrap();
    assert_eq!((&row.id, row.revision, row.hosts.len()), (&id, 2, 2));
    assert_eq!(row.traffic, ["copies 100%"], "its mirror goes on");
    assert_eq!(*fleet.hosts[1].versions.running.lock().unwrap(), running, "no instance is restarted");
    assert_eq!(fleet.rules(1), rules, "no rule is changed");

    merge(world, &fleet.site.fleet, (&service, &"1.0.0".parse().unwrap()), &actor()).await.unwrap();
    let listing = list_all(&fleet).await;
    assert!(listing.rows[0].is_main());
    assert_eq!(listing.rows.len(), 2);
    // Afterwards it is a deployment as every other: assigned, and the old main killed.
    let target = listing.resolve_target(&make_name("2.0.0"), hosts).unwrap();
    assign(world, &fleet.site.fleet, hosts, target, &flip_to_2()).await.unwrap();
    let listing = list_all(&fleet).await;
    let options = KillOptions { force: false, drain_timeout: MS * 1000, keep_files: false, actor: actor() };
    let killed = kill(world, &fleet.site.fleet, hosts, (&listing, &listing.rows[..1]), &options, |_| {})
        .await
        .unwrap();
    assert_eq!(killed[0].hosts.len(), 2);
    assert_eq!(fleet.hosts[1].versions.running.lock().unwrap().len(), 1);
    // Again: it is so already.
    let (again, changed) = merge(world, &fleet.site.fleet, (&service, &version), &actor()).await.unwrap();
    assert_eq!((again, changed), (id, vec![]));
}

#[tokio::test(start_paused = true)]
async fn merge_refuses_different_releases() {
    let fleet = split_versions(&["1.0.0"]).await;
    for deployment in fleet.hosts[1].versions.deployments.lock().unwrap().values_mut() {
        deployment.instance.digest = Some(Digest("other".into()));
    }
    let (service, version) = ("shop".parse().unwrap(), "1.0.0".parse().unwrap());
    let error =
        merge(&fleet.site.world, &fleet.site.fleet, (&service, &version), &actor()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot merge shop 1.0.0: `web2` has release other, not release d as on `web1`"
    );
    assert_eq!(list_all(&fleet).await.rows.len(), 2);
}

/// A first version is main at once: a new host would answer with another version than the others.
#[tokio::test(start_paused = true)]
async fn deploy_refuses_a_second_main() {
    let fleet = HostFleet::new(3);
    for at in [0, 1] {
        deploy_on(&fleet, at, &make_options("1.0.0", "one")).await.unwrap();
    }
    let error = deploy_on(&fleet, 2, &make_options("2.0.0", "two")).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot deploy shop 2.0.0: it would be main at once on `web3`, which has no version of shop, while 1.0.0 is main on `web1`, \
         `web2`"
    );
    let (world, hosts) = (&fleet.site.world, &fleet.site.fleet.hosts);
    deploy(world, &fleet.site.fleet, hosts, &make_options("2.0.0", "two")).await.unwrap_err();
    assert!(fleet.hosts.iter().all(|host| host.versions.deployments.lock().unwrap().len() < 2));

    // The operator's own choice, and the order that the error gives.
    let chosen = DeployOptions { becomes_main: true, dry_run: true, ..make_options("2.0.0", "two") };
    deploy_on(&fleet, 2, &chosen).await.unwrap();
    deploy_on(&fleet, 2, &make_options("1.0.0", "one")).await.unwrap();
    deploy(world, &fleet.site.fleet, hosts, &make_options("2.0.0", "two")).await.unwrap();
}

/// The agent ended between two requests of the command: the cause is the lost connection.
#[tokio::test(start_paused = true)]
async fn lost_release_is_reported_as_a_lost_connection() {
    let fleet = HostFleet::new(1);
    let link = fleet.site.world.links[&fleet.select(0)[0].name].clone();
    let refused = LinkError::Refused { code: ErrorCode::NoRelease, message: "place it first".into() };
    let error = explain_lost_release(&*link, refused);
    assert!(matches!(&error, LinkError::Broken { reason, .. } if reason.contains("agent ended")), "{error}");
    let busy = LinkError::Refused { code: ErrorCode::Busy, message: String::new() };
    assert_eq!(explain_lost_release(&*link, busy.clone()), busy);
}

/// A version that one host lacks is copied to on no host.
#[tokio::test(start_paused = true)]
async fn split_changes_no_host_if_one_refuses() {
    let fleet = HostFleet::new(2);
    for at in [0, 1] {
        deploy_on(&fleet, at, &make_options("1.0.0", "one")).await.unwrap();
    }
    deploy_on(&fleet, 0, &make_options("2.0.0", "two")).await.unwrap();
    let deployment = list_all(&fleet).await.rows[1].id.clone();
    let options = SplitOptions {
        service: "shop".parse().unwrap(),
        change: TrafficSplitChange::SetMirror(example::make_mirror(&deployment)),
        forwarded: None,
        wait: false,
        actor: actor(),
        detail: String::new(),
    };
    let (world, hosts) = (&fleet.site.world, &fleet.site.fleet.hosts);
    let error = split(world, &fleet.site.fleet, hosts, &options).await.unwrap_err();
    assert!(matches!(&error, FleetDeployError::Hosts(hosts) if hosts.len() == 1), "{error}");
    assert!(list_all(&fleet).await.rows.iter().all(|row| row.traffic.is_empty()));
}
