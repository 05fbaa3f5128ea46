//! The requests that a command sends to each host, counted at the fake link.

use super::*;
use crate::model::traffic_split::TrafficSplitChange;
use crate::plan::compare::{ComparedHeaders, Criteria};
use crate::world::link::LinkError;

/// The calls of each host's link, in order, since the last time.
fn take_calls(fake: &FakeSite) -> Vec<Vec<&'static str>> {
    fake.site.lock().hosts.values_mut().map(|host| std::mem::take(&mut host.calls)).collect()
}

/// Resolves, checks and assigns as the command does; returns the calls of each host's link.
async fn run_assign(fake: &FakeSite, options: &AssignOptions) -> Vec<Vec<&'static str>> {
    assign_2(fake, options).await.unwrap();
    assert_eq!(mains(fake), ["2.0.0"; 3]);
    take_calls(fake)
}

#[tokio::test(start_paused = true)]
async fn flip_lists_each_host_once() {
    for (watch, watching) in [(Duration::ZERO, None), (Duration::from_secs(10), Some("watch_trial"))] {
        let options = AssignOptions { watch, ..flip_to_2() };
        for mut calls in run_assign(&site(3, 1), &options).await {
            // The connections that the old version still holds can only be counted after the change.
            assert_eq!(calls.pop(), Some("list_deployments"));
            let expected: Vec<_> =
                ["list_deployments", "fetch_activity", "assign"].into_iter().chain(watching).collect();
            assert_eq!(calls, expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rolling_assign_lists_each_host_once() {
    for watch in [Duration::ZERO, Duration::from_secs(10)] {
        let fake = site(3, 1);
        let options = roll_to_2(&fake, watch);
        for calls in run_assign(&fake, &options).await {
            let count = |name: &str| calls.iter().filter(|call| **call == name).count();
            assert_eq!((calls[0], count("list_deployments")), ("list_deployments", 1), "{calls:?}");
            // The backup vhost first, then main.
            assert_eq!(
                (count("assign"), count("watch_trial")),
                (2, usize::from(!watch.is_zero())),
                "{calls:?}"
            );
        }
    }
}

/// The version was main when it was resolved, and is not main any more when the operator has confirmed.
#[tokio::test(start_paused = true)]
async fn assign_reads_main_again_before_it_does_nothing() {
    let fake = site(3, 1);
    fake.site.lock().hosts.values_mut().for_each(|host| host.main = "2.0.0".to_owned());
    let report = flip(&fake).await.unwrap();
    assert!(report.is_already_main);
    assert_eq!(take_calls(&fake), [["list_deployments", "list_deployments"]; 3]);

    let (world, hosts) = (&fake.world, &fake.fleet.hosts);
    let listing = list_deployments(world, hosts).await;
    fake.site.with_host("web2", |host| host.main = "0.9.0".to_owned());
    let target = listing.find_main(&"shop".parse().unwrap()).unwrap();
    let report = assign(world, &fake.fleet, hosts, target, &flip_to_2()).await.unwrap();
    assert_eq!((report.is_already_main, mains(&fake)), (false, vec!["2.0.0".to_owned(); 3]));
}

#[tokio::test(start_paused = true)]
async fn listing_resolves_versions_ids_and_mains() {
    let fake = site(2, 1);
    let hosts = &fake.fleet.hosts;
    let listing = list_deployments(&fake.world, hosts).await;
    let resolve = |name: &DeploymentName| listing.resolve(name).map(|row| row.version.to_string());
    let shop = |version: Option<&str>| DeploymentName::Service {
        service: "shop".parse().unwrap(),
        version: version.map(|version| version.parse().unwrap()),
    };
    assert_eq!(resolve(&shop(Some("0.9.0"))).unwrap(), "0.9.0");
    assert_eq!(resolve(&shop(None)).unwrap(), "1.0.0", "without a version it is main");
    let id = example::deployment("shop", "2.0.0", 1).id;
    assert_eq!(resolve(&DeploymentName::Id(id)).unwrap(), "2.0.0");
    let unknown = DeploymentName::Id("dp_0000000000".parse().unwrap());
    assert!(matches!(resolve(&unknown), Err(FleetDeployError::NoMatch)));
    let error = listing.resolve_target(&shop(Some("3.0.0")), hosts).unwrap_err();
    assert_eq!(error.to_string(), "No service matching shop 3.0.0");
    let none = listing.clone().filter(Some(&"cart".parse().unwrap()), None);
    let error = none.resolve_target(&shop(Some("2.0.0")), hosts).unwrap_err();
    assert_eq!(error.to_string(), "No main service matching shop");
    let error = list_deployments(&fake.world, &hosts[..1]).await;
    let error = error.resolve_target(&shop(Some("2.0.0")), hosts).unwrap_err();
    assert_eq!(error.to_string(), "cannot assign shop 2.0.0: it is not deployed on `web2`");
    let lost = LinkError::Broken { via: "ssh web2".into(), reason: "unexpected end of file".into() };
    let mut partial = list_deployments(&fake.world, &hosts[..1]).await;
    partial.unread = vec![(hosts[1].name.clone(), lost)];
    let error = partial.resolve_target(&shop(Some("2.0.0")), hosts).unwrap_err();
    assert!(
        matches!(&error, FleetDeployError::Unread { hosts, missing } if hosts.len() == 1 && missing.is_empty()),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn canary_lists_each_host_once() {
    let fake = site(2, 1);
    let (world, hosts) = (&fake.world, &fake.fleet.hosts);
    let listing = list_deployments(world, hosts).await;
    let target = listing.find(&"shop".parse().unwrap(), &"2.0.0".parse().unwrap()).unwrap();
    let options = SplitOptions {
        service: target.service.clone(),
        change: TrafficSplitChange::SetCanary(example::make_canary(&target.id, "10%")),
        forwarded: None,
        wait: true,
        actor: actor(),
        detail: String::new(),
    };
    let split_hosts = split(world, &fake.fleet, hosts, &options).await.unwrap();
    assert!(split_hosts.iter().all(|host| host.is_inserted && host.bypassing_connections == Some(0)));
    // The last one counts the connections that bypass the proxy.
    let expected = [
        "list_deployments",
        "preview_traffic_split",
        "fetch_activity",
        "change_traffic_split",
        "list_deployments",
    ];
    assert_eq!(take_calls(&fake), [expected; 2]);
}

#[tokio::test(start_paused = true)]
async fn compare_lists_each_host_once() {
    let fake = site(2, 1);
    let (world, hosts) = (&fake.world, &fake.fleet.hosts);
    let listing = list_deployments(world, hosts).await;
    let options = CompareOptions {
        service: "shop".parse().unwrap(),
        version: "2.0.0".parse().unwrap(),
        criteria: Criteria {
            require_match: None,
            min_samples: 1,
            ignore: vec![],
            headers: ComparedHeaders::default(),
        },
    };
    compare(world, hosts, &listing, &options).await.unwrap();
    assert_eq!(take_calls(&fake), [["list_deployments", "read_evidence", "read_proxy_stats"]; 2]);
}
