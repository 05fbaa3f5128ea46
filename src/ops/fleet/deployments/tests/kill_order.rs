//! A kill checks every host first, and its order is one per host: main last.

use super::steps::{deploy_both, deploy_on, kill_rows, list_all, make_name, make_options};
use super::*;
use crate::model::socket::{Socket, TcpInfo};
use crate::ops::testing::host_fleet::HostFleet;

/// Two hosts; 2.0.0 is main on web1, 1.0.0 on web2.
async fn half_ramped() -> HostFleet {
    let fleet = HostFleet::new(2);
    deploy_both(&fleet).await;
    let (world, hosts) = (&fleet.site.world, fleet.select(0));
    let listing = list_deployments(world, hosts).await;
    let target = listing.resolve_target(&make_name("2.0.0"), hosts).unwrap();
    assign(world, &fleet.site.fleet, hosts, target, &flip_to_2()).await.unwrap();
    fleet
}

fn count_instances(fleet: &HostFleet) -> Vec<usize> {
    fleet.hosts.iter().map(|fake| fake.versions.running.lock().unwrap().len()).collect()
}

/// Rows: D16.
#[tokio::test(start_paused = true)]
async fn d16_kill_of_a_half_ramped_service_kills_main_last_on_each_host() {
    let fleet = half_ramped().await;
    let listing = list_all(&fleet).await;
    let killed = kill_rows(&fleet, &listing, &listing.rows).await.unwrap();
    let killed: Vec<_> = killed.iter().map(|one| (one.version.to_string(), one.hosts.len())).collect();
    assert_eq!(killed, [("1.0.0".to_owned(), 2), ("2.0.0".to_owned(), 2)]);
    assert_eq!(count_instances(&fleet), [0, 0]);
}

/// Rows: D19.
#[tokio::test(start_paused = true)]
async fn d19_kill_touches_no_host_if_the_version_is_main_beside_others_on_one() {
    let fleet = half_ramped().await;
    let listing = list_all(&fleet).await;
    let error = kill_rows(&fleet, &listing, &listing.rows[..1]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Not allowed to kill main service while there are mutliple deployed versions of that service: shop 1.0.0 is \
         main on `web2`"
    );
    assert_eq!(count_instances(&fleet), [2, 2], "the way back of web1 is there");
}

#[tokio::test(start_paused = true)]
async fn kill_on_some_hosts_names_where_the_version_stays() {
    let fleet = half_ramped().await;
    let (world, hosts) = (&fleet.site.world, &fleet.site.fleet.hosts);
    let killed = list_deployments(world, &hosts[..1]).await.rows;
    let elsewhere = list_deployments(world, &hosts[1..]).await.rows;
    assert_eq!(
        describe_remaining(&killed[..1], &elsewhere),
        ["shop 1.0.0 stays on web2 (as main); web1 cannot go back to it after this"]
    );
    assert!(describe_remaining(&killed[..1], &[]).is_empty());
}

#[tokio::test(start_paused = true)]
async fn kill_names_hosts_whose_backup_port_has_no_listener() {
    let fleet = HostFleet::new(1);
    deploy_both(&fleet).await;
    let listing = list_all(&fleet).await;
    let (world, hosts) = (&fleet.site.world, &fleet.site.fleet.hosts);
    let find =
        async |rows: &[FleetDeployment]| find_unserved_backups(world, &fleet.site.fleet, hosts, rows).await;
    assert_eq!(find(&listing.rows[1..]).await, [], "main stays");
    assert_eq!(find(&listing.rows).await, [("web1".parse().unwrap(), "shop".parse().unwrap())]);
    // A vhost of the operator's own listens there.
    let address = "0.0.0.0:80".parse().unwrap();
    fleet.hosts[0].packets.listeners.lock().unwrap().push(address);
    assert_eq!(find(&listing.rows).await, []);
}

/// A connection with a request on it.
fn make_busy_socket() -> Socket {
    let peer = "10.0.0.2:40000".parse().unwrap();
    Socket { cookie: 1, peer, receive_queue: 10, send_queue: 0, info: TcpInfo::default() }
}

fn read_progress(fleet: &HostFleet) -> Vec<String> {
    let text = |event: &Event| match event {
        Event::DeploymentProgress { text, .. } => Some(text.clone()),
        _ => None,
    };
    fleet.site.events.lock().unwrap().iter().filter_map(text).collect()
}

#[tokio::test(start_paused = true)]
async fn kill_reports_what_it_waits_for() {
    let fleet = HostFleet::new(1);
    deploy_on(&fleet, 0, &make_options("1.0.0", "one")).await.unwrap();
    *fleet.hosts[0].host.sockets.lock().unwrap() = vec![make_busy_socket()];
    let listing = list_all(&fleet).await;
    let began = tokio::time::Instant::now();
    let killed = kill_rows(&fleet, &listing, &listing.rows).await.unwrap();
    assert_eq!((killed[0].aborted_requests, began.elapsed() >= MS * 5000), (Some(1), true));
    let lines = read_progress(&fleet);
    assert!(lines.contains(&"shop 1.0.0: waiting for 1 request in flight".to_owned()), "{lines:?}");
}

/// No other version could answer on a connection that a load balancer keeps to the last one.
#[tokio::test(start_paused = true)]
async fn kill_of_the_last_version_does_not_wait_for_idle_connections() {
    let fleet = HostFleet::new(1);
    deploy_on(&fleet, 0, &make_options("1.0.0", "one")).await.unwrap();
    *fleet.hosts[0].host.sockets.lock().unwrap() = vec![Socket { receive_queue: 0, ..make_busy_socket() }];
    let listing = list_all(&fleet).await;
    let began = tokio::time::Instant::now();
    let killed = kill_rows(&fleet, &listing, &listing.rows).await.unwrap();
    assert_eq!(killed[0].aborted_requests, Some(0));
    assert!(began.elapsed() < MS * 1000, "{:?}", began.elapsed());
}
