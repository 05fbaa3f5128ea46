//! Shadows and canaries: the proxy comes with the first and goes with the last, and its death interrupts service only for a
//! moment.

use super::*;
use crate::model::ports::Port;
use crate::model::proxy::ServiceStats;
use crate::model::traffic_split::{TrafficSplitChange, TrafficSplitRequest, TrafficSplitResponse};
use crate::ops::host::proxy::{self as host_proxy, apply_split, bypass_dead_proxy};
use crate::plan::traffic_split::TrafficSplitError;
use crate::world::proxy::ProxyError;

const PROXY: u16 = 20009;

fn mirror(fake: &FakeWorld, version: &str) -> TrafficSplitChange {
    TrafficSplitChange::SetMirror(example::make_mirror(&id_of(fake, version)))
}

fn canary(fake: &FakeWorld, version: &str) -> TrafficSplitChange {
    TrafficSplitChange::SetCanary(example::make_canary(&id_of(fake, version), "25"))
}

async fn asked(
    fake: &FakeWorld,
    change: TrafficSplitChange,
) -> Result<TrafficSplitResponse, HostDeployError> {
    ask_of(fake, &shop(), change).await
}

async fn ask_of(
    fake: &FakeWorld,
    service: &ServiceName,
    change: TrafficSplitChange,
) -> Result<TrafficSplitResponse, HostDeployError> {
    let port_range = (port(20000), port(PROXY));
    let request = TrafficSplitRequest { port_range, ..example::make_split_request(change) };
    apply_split(&fake.world, service, &request).await
}

/// Main 1.0.0 on 20000, 2.0.0 on 20001.
async fn two() -> FakeWorld {
    with_versions(&["1.0.0", "2.0.0"]).await
}

/// The same, with copies to 2.0.0.
async fn mirrored() -> FakeWorld {
    let fake = two().await;
    asked(&fake, mirror(&fake, "2.0.0")).await.unwrap();
    fake
}

fn is_proxied(fake: &FakeWorld) -> bool {
    rules(fake).contains(&("route", PROXY))
}

/// Waits until the rules bypass the proxy, which takes less than a second, and until they route to it again.
async fn until_bypassed_and_back(fake: &FakeWorld) {
    until_bypassed(fake).await;
    until(|| is_proxied(fake)).await;
}

async fn until_bypassed(fake: &FakeWorld) {
    let began = Instant::now();
    until(|| rules(fake) == all_to(20000, 20000)).await;
    assert!(began.elapsed() < MS * 1000, "{:?}", began.elapsed());
}

fn warnings(fake: &FakeWorld) -> Vec<String> {
    let events = fake.host.events.lock().unwrap();
    events.iter().map(|event| format!("{event:?}")).collect()
}

/// The last configuration of the only service: where main is, copies, whether a canary has a share, whether it drains.
fn told(fake: &FakeWorld) -> (u16, usize, bool, bool) {
    let told = fake.proxy.told.lock().unwrap();
    let service = &told.last().unwrap().services[0];
    let splits = &service.traffic_split;
    (service.main.address.port(), splits.mirrors.len(), splits.canary.is_some(), service.draining)
}

#[tokio::test(start_paused = true)]
async fn proxy_starts_with_first_split_and_stops_with_last() {
    let fake = two().await;
    let done = asked(&fake, mirror(&fake, "2.0.0")).await.unwrap();
    assert!(done.inserted && !done.known);
    assert_eq!(rules(&fake), BTreeSet::from([("forward", PROXY), ("route", PROXY), ("backup", 20000)]));
    // Nothing is copied before the rules route to it.
    let first = fake.proxy.told.lock().unwrap()[0].services[0].clone();
    assert!(first.traffic_split.is_empty() && !first.draining);
    assert_eq!(told(&fake), (20000, 1, false, false));

    let again = asked(&fake, mirror(&fake, "2.0.0")).await.unwrap();
    assert!(again.known && again.inserted);

    asked(&fake, TrafficSplitChange::RemoveMirror(id_of(&fake, "2.0.0"))).await.unwrap();
    assert_eq!(rules(&fake), all_to(20000, 20000));
    assert_eq!(told(&fake), (20000, 0, false, true));
}

#[tokio::test(start_paused = true)]
async fn proxied_connections_follow_assign_and_main_is_not_its_own_shadow() {
    let fake = mirrored().await;
    deploy(&fake.world, &request(&fake, "3.0.0")).await.unwrap();
    asked(&fake, canary(&fake, "3.0.0")).await.unwrap();
    assert_eq!(told(&fake), (20000, 1, true, false));
    assign(&fake.world, &to("2.0.0")).await.unwrap();
    assert_eq!(told(&fake), (20001, 0, true, false));
    assert_eq!(rules(&fake), BTreeSet::from([("forward", PROXY), ("route", PROXY), ("backup", 20001)]));
    assign(&fake.world, &to("3.0.0")).await.unwrap();
    assert_eq!(told(&fake), (20002, 0, false, true));
    assert_eq!(rules(&fake), all_to(20002, 20002));
}

#[tokio::test(start_paused = true)]
async fn kill_ends_copies_to_shadow_and_stops_unused_proxy() {
    let fake = mirrored().await;
    kill(&fake.world, &kill_of(&fake, "2.0.0")).await.unwrap();
    assert_eq!(rules(&fake), all_to(20000, 20000));
    kill(&fake.world, &kill_of(&fake, "1.0.0")).await.unwrap();
    assert!(!*fake.proxy.is_running.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn refused_kill_keeps_copies_and_share() {
    let fake = two().await;
    for change in [mirror(&fake, "2.0.0"), canary(&fake, "2.0.0")] {
        asked(&fake, change.clone()).await.unwrap();
        let before = fake.store.records.lock().unwrap()[0].layer7.clone();
        fake.host.sockets.lock().unwrap().push(busy());
        let error = kill(&fake.world, &kill_of(&fake, "2.0.0")).await.unwrap_err();
        assert!(matches!(error, HostDeployError::Refused(DeployRefusal::NotDrained { .. })), "{error}");
        assert_eq!(fake.store.records.lock().unwrap()[0].layer7, before);
        assert!(is_proxied(&fake));
        fake.host.sockets.lock().unwrap().clear();
        let off = match change {
            TrafficSplitChange::SetMirror(mirror) => TrafficSplitChange::RemoveMirror(mirror.deployment),
            _ => TrafficSplitChange::RemoveCanary,
        };
        asked(&fake, off).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn refused_split_changes_nothing() {
    let fake = two().await;
    let before = fake.store.records.lock().unwrap().clone();
    assert!(matches!(
        asked(&fake, mirror(&fake, "1.0.0")).await,
        Err(HostDeployError::Split(TrafficSplitError::IsMain { .. }))
    ));
    *fake.proxy.is_unwatched.lock().unwrap() = true;
    assert_eq!(asked(&fake, mirror(&fake, "2.0.0")).await, Err(ProxyError::NotWatched.into()));
    assert_eq!(*fake.store.records.lock().unwrap(), before);
    *fake.proxy.is_unwatched.lock().unwrap() = false;
    *fake.proxy.start_fails.lock().unwrap() = true;
    assert!(matches!(asked(&fake, mirror(&fake, "2.0.0")).await, Err(HostDeployError::Proxy(_))));
    assert_eq!(rules(&fake), all_to(20000, 20000));
    assert!(fake.store.records.lock().unwrap()[0].layer7.traffic_split.is_empty());
}

#[tokio::test(start_paused = true)]
async fn proxy_is_not_inserted_when_self_test_fails() {
    let fake = two().await;
    *fake.versions.unhealthy_port.lock().unwrap() = Some(port(PROXY));
    let error = asked(&fake, mirror(&fake, "2.0.0")).await.unwrap_err();
    assert!(
        error.to_string().contains("main of shop does not answer through the proxy on port 20009: "),
        "{error}"
    );
    assert_eq!(rules(&fake), all_to(20000, 20000));
}

/// The agent's watch beside something else.
async fn watched(fake: &FakeWorld, work: impl Future<Output = ()>) {
    let actor = actor();
    tokio::select! {
        () = host_proxy::run(&fake.world, &actor) => panic!("the watch ended"),
        () = work => {}
    }
}

async fn until(what: impl Fn() -> bool) {
    wait_until(MS, what).await;
}

#[tokio::test(start_paused = true)]
async fn dead_proxy_is_bypassed_and_reinserted() {
    let fake = mirrored().await;
    watched(&fake, async {
        for death in 1..=3u32 {
            let began = Instant::now();
            fake.proxy.kill();
            until_bypassed_and_back(&fake).await;
            assert_eq!(*fake.proxy.start_count.lock().unwrap(), 1 + death);
            // Two deaths in a row are no accident: the pause grows.
            assert!(began.elapsed() >= MS * 1000 * 2u32.pow(death - 1), "{:?}", began.elapsed());
        }
    })
    .await;
    let died = warnings(&fake).iter().filter(|text| text.contains("died or stopped answering")).count();
    assert_eq!(died, 3);
}

#[tokio::test(start_paused = true)]
async fn hung_proxy_is_bypassed_within_a_second() {
    let fake = mirrored().await;
    watched(&fake, async {
        tokio::time::sleep(MS * 5000).await;
        assert!(is_proxied(&fake), "one that answers stays");
        *fake.proxy.is_unresponsive.lock().unwrap() = true;
        until_bypassed(&fake).await;
        *fake.proxy.is_unresponsive.lock().unwrap() = false;
        until(|| is_proxied(&fake)).await;
    })
    .await;
}

/// Wherever the rules route to the proxy, the proxy runs and has the configuration with the current main.
fn leads_to_somebody(fake: &FakeWorld) -> Result<(), String> {
    let alive = *fake.proxy.is_running.lock().unwrap();
    let instances = running_ports(fake);
    let led = rules(fake);
    match led.iter().find(|(_, to)| !(instances.contains(to) || (alive && *to == PROXY))) {
        Some(rule) => Err(format!("{rule:?} leads nowhere")),
        None if led.contains(&("route", PROXY)) && !instances.contains(&told(fake).0) => {
            Err(format!("the proxy routes to {}", told(fake).0))
        }
        None => Ok(()),
    }
}

/// Killed at every deed of every story with the proxy: nothing leads nowhere at any moment, and the agent that comes back brings
/// rules and proxy to what is recorded.
#[tokio::test(start_paused = true)]
async fn recovery_repairs_kill_at_any_step_with_proxy() {
    let stories: [(&str, bool, Story); 5] = [
        ("mirror", false, |fake| Box::pin(async { asked(fake, mirror(fake, "2.0.0")).await.is_ok() })),
        ("mirror --off", true, |fake| {
            Box::pin(async {
                asked(fake, TrafficSplitChange::RemoveMirror(id_of(fake, "2.0.0"))).await.is_ok()
            })
        }),
        ("assign the shadow", true, |fake| {
            Box::pin(async { assign(&fake.world, &to("2.0.0")).await.is_ok() })
        }),
        ("update main", true, |fake| {
            Box::pin(async { update(&fake.world, &update_of(fake, "1.0.0")).await.is_ok() })
        }),
        ("kill the shadow", true, |fake| {
            Box::pin(async { kill(&fake.world, &kill_of(fake, "2.0.0")).await.is_ok() })
        }),
    ];
    for (name, is_mirrored, story) in stories {
        let prepare = async || if is_mirrored { mirrored().await } else { two().await };
        kill_at_every_deed(name, prepare, story, async |fake, at| {
            rules::reconcile(&fake.world, "repair").await.unwrap();
            assert_eq!(leads_to_somebody(fake), Ok(()), "{at}");
            restore_instances(&fake.world).await.unwrap();
            bypass_dead_proxy(&fake.world, &actor()).await.unwrap();
            watched(fake, tokio::time::sleep(MS * 180_000)).await;
            assert_eq!(leads_to_somebody(fake), Ok(()), "{at}");
            let record = fake.store.records.lock().unwrap()[0].clone();
            let main = record.forward.target.get();
            if record.layer7.traffic_split.is_empty() {
                assert_eq!(record.layer7.place, None, "{at}");
                assert!(!*fake.proxy.is_running.lock().unwrap(), "{at}");
                assert!(rules(fake).contains(&("route", main)), "{at}");
            } else {
                assert!(is_proxied(fake), "{at}");
                assert_eq!(told(fake), (main, 1, false, false), "{at}");
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn proxy_stops_when_drained() {
    let fake = two().await;
    let connections = |connections| {
        let stats = ServiceStats { connections, ..example::make_service_stats("shop", vec![]) };
        fake.proxy.stats.lock().unwrap().services = vec![stats];
    };
    asked(&fake, canary(&fake, "2.0.0")).await.unwrap();
    connections(1);
    asked(&fake, TrafficSplitChange::RemoveCanary).await.unwrap();
    watched(&fake, async {
        tokio::time::sleep(MS * 60_000).await;
        assert!(*fake.proxy.is_running.lock().unwrap(), "a client is connected to it");
        connections(0);
        until(|| !*fake.proxy.is_running.lock().unwrap()).await;
    })
    .await;
    assert_eq!(fake.store.records.lock().unwrap()[0].layer7.place, None);
}

#[tokio::test(start_paused = true)]
async fn boot_bypasses_missing_proxy() {
    let fake = mirrored().await;
    *fake.proxy.is_running.lock().unwrap() = false;
    bypass_dead_proxy(&fake.world, &actor()).await.unwrap();
    assert_eq!(rules(&fake), all_to(20000, 20000));
    // It is wanted still.
    watched(&fake, until(|| is_proxied(&fake))).await;
}

#[tokio::test(start_paused = true)]
async fn private_service_is_not_proxied_until_public_again() {
    let fake = mirrored().await;
    let to = |public| AccessRequest { public, actor: actor(), dry_run: false };
    Box::pin(watched(&fake, async {
        set_access(&fake.world, &shop(), &to(false)).await.unwrap();
        assert_eq!(rules(&fake), BTreeSet::new());
        tokio::time::sleep(MS * 60_000).await;
        set_access(&fake.world, &shop(), &to(true)).await.unwrap();
        assert!(is_proxied(&fake));
    }))
    .await;
    assert_eq!(told(&fake), (20000, 1, false, false));
}

#[tokio::test(start_paused = true)]
async fn restarted_proxy_is_bypassed_until_configured() {
    let fake = mirrored().await;
    watched(&fake, async {
        tokio::time::sleep(MS * 5000).await;
        // It answers at every moment, and listens on no port.
        fake.proxy.replace();
        until_bypassed_and_back(&fake).await;
    })
    .await;
    assert_eq!(fake.proxy.active_config.lock().unwrap().services[0].traffic_split.mirrors.len(), 1);

    fake.proxy.replace();
    bypass_dead_proxy(&fake.world, &actor()).await.unwrap();
    assert_eq!(rules(&fake), all_to(20000, 20000));
}

#[tokio::test(start_paused = true)]
async fn reconciler_pushes_config_to_differing_proxy() {
    let fake = mirrored().await;
    let right = fake.proxy.active_config.lock().unwrap().clone();
    fake.proxy.active_config.lock().unwrap().services[0].traffic_split.mirrors.clear();
    let again = asked(&fake, mirror(&fake, "2.0.0")).await.unwrap();
    assert!(again.known);
    assert_eq!(*fake.proxy.active_config.lock().unwrap(), right, "the configuration is pushed again");
    fake.proxy.active_config.lock().unwrap().services[0].main.address = ([127, 0, 0, 1], 20001).into();
    watched(&fake, until(|| *fake.proxy.active_config.lock().unwrap() == right)).await;
}

/// A service beside the shop, with a shadow as well.
async fn cart(fake: &FakeWorld) -> ServiceName {
    let cart = beside(fake).await;
    let which = DeploymentRef::Version { service: cart.clone(), version: "9.0.0".parse().unwrap() };
    let all = fake.world.deployments.all().unwrap();
    let shadow = example::make_mirror(&versions::find_deployment(&all, &which).unwrap().id);
    assert!(ask_of(fake, &cart, TrafficSplitChange::SetMirror(shadow)).await.unwrap().inserted);
    cart
}

/// The port of the proxy that the rules of a service route to, or `None` if they bypass the proxy.
fn place_of(fake: &FakeWorld, service: &ServiceName) -> Option<Port> {
    let recorded = fake.store.records.lock().unwrap();
    recorded.iter().find(|one| one.forward.service == *service).unwrap().layer7.inserted()
}

#[tokio::test(start_paused = true)]
async fn slow_insert_does_not_delay_other_services() {
    let fake = mirrored().await;
    let cart = cart(&fake).await;
    let place = |service: &ServiceName| place_of(&fake, service);
    let is_in = |service: &ServiceName| place(service).is_some();
    *fake.versions.unhealthy_port.lock().unwrap() = place(&cart);
    watched(&fake, async {
        for death in 0..4 {
            let began = Instant::now();
            fake.proxy.kill();
            until(|| !is_in(&shop())).await;
            assert!(began.elapsed() < MS * 1000, "{:?}", began.elapsed());
            until(|| is_in(&shop())).await;
            // Its own deaths, each more than the time after which they are forgotten apart.
            assert!(began.elapsed() < MS * 4000, "death {death}: {:?}", began.elapsed());
            tokio::time::sleep(MS * 700_000).await;
            assert!(!is_in(&cart), "its main does not answer through the proxy");
            // The next death is while the cart is tried again.
            let told = fake.proxy.told.lock().unwrap().len();
            until(|| fake.proxy.told.lock().unwrap().len() > told).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn hung_proxy_does_not_block_rules_lock() {
    let fake = mirrored().await;
    *fake.proxy.is_unresponsive.lock().unwrap() = true;
    let actor = actor();
    let to_new = to("2.0.0");
    let telling = assign(&fake.world, &to_new);
    let falling_back = async {
        until(|| fake.store.records.lock().unwrap()[0].forward.target.get() == 20001).await;
        // The assign waits for the proxy now.
        tokio::time::sleep(MS * 100).await;
        let began = Instant::now();
        bypass_dead_proxy(&fake.world, &actor).await.unwrap();
        assert!(began.elapsed() < MS * 1000, "{:?}", began.elapsed());
    };
    let (_, ()) = tokio::join!(telling, falling_back);
    assert_eq!(rules(&fake), all_to(20001, 20001));
}

#[tokio::test(start_paused = true)]
async fn proxy_port_is_kept_while_connections_are_unknown() {
    let fake = two().await;
    asked(&fake, canary(&fake, "2.0.0")).await.unwrap();
    asked(&fake, TrafficSplitChange::RemoveCanary).await.unwrap();
    *fake.proxy.is_unresponsive.lock().unwrap() = true;
    watched(&fake, tokio::time::sleep(MS * 60_000)).await;
    assert!(fake.store.records.lock().unwrap()[0].layer7.place.is_some());
    fake.proxy.kill();
    watched(&fake, until(|| fake.store.records.lock().unwrap()[0].layer7.place.is_none())).await;
}

#[tokio::test(start_paused = true)]
async fn second_agent_takes_over_when_first_ends() {
    let fake = mirrored().await;
    *fake.proxy.is_watched_elsewhere.lock().unwrap() = true;
    watched(&fake, async {
        tokio::time::sleep(MS * 10_000).await;
        fake.proxy.kill();
        tokio::time::sleep(MS * 10_000).await;
        assert!(is_proxied(&fake), "the other one's business");
        *fake.proxy.is_watched_elsewhere.lock().unwrap() = false;
        until(|| rules(&fake) == all_to(20000, 20000)).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn taken_port_affects_only_its_service() {
    let fake = mirrored().await;
    let cart = cart(&fake).await;
    let place = |service: &ServiceName| place_of(&fake, service);
    *fake.proxy.occupied_port.lock().unwrap() = place(&cart);
    watched(&fake, async {
        until(|| place(&cart).is_none()).await;
        assert!(place(&shop()).is_some());
        fake.proxy.kill();
        until(|| place(&shop()).is_none()).await;
        until(|| place(&shop()).is_some()).await;
        tokio::time::sleep(MS * 120_000).await;
        assert!(place(&cart).is_none() && place(&shop()).is_some());
        *fake.proxy.occupied_port.lock().unwrap() = None;
        until(|| place(&cart).is_some()).await;
    })
    .await;
    let told =
        warnings(&fake).into_iter().filter(|text| text.contains("cart: the proxy cannot listen on port"));
    assert_eq!(told.count(), 1, "warned once: {:?}", warnings(&fake));
}

#[tokio::test(start_paused = true)]
async fn failed_split_keeps_concurrent_changes() {
    let fake = two().await;
    deploy(&fake.world, &request(&fake, "3.0.0")).await.unwrap();
    asked(&fake, canary(&fake, "3.0.0")).await.unwrap();
    // The mirror waits for a main that does not answer through the proxy; while it waits, the canary is taken off.
    fake.proxy.kill();
    bypass_dead_proxy(&fake.world, &actor()).await.unwrap();
    *fake.versions.unhealthy_port.lock().unwrap() = Some(port(PROXY));
    let waiting = asked(&fake, mirror(&fake, "2.0.0"));
    let off = async {
        tokio::time::sleep(MS * 1000).await;
        asked(&fake, TrafficSplitChange::RemoveCanary).await
    };
    let (waited, _) = tokio::join!(waiting, off);
    assert!(matches!(waited, Err(HostDeployError::Proxy(_))), "{waited:?}");
    assert_eq!(fake.store.records.lock().unwrap()[0].layer7.traffic_split.canary, None);
    kill(&fake.world, &kill_of(&fake, "3.0.0")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn failed_bypass_is_retried_and_reported_once() {
    let fake = mirrored().await;
    let rows = || fake.store.history.lock().unwrap().len();
    watched(&fake, async {
        let before = rows();
        let error = StoreError::Full { path: "state.db".into() };
        *fake.store.write_error.lock().unwrap() = Some(error);
        fake.proxy.kill();
        tokio::time::sleep(MS * 10_000).await;
        assert_eq!(rows(), before);
        assert!(is_proxied(&fake));
        *fake.store.write_error.lock().unwrap() = None;
        until(|| rules(&fake) == all_to(20000, 20000)).await;
    })
    .await;
    let told: Vec<String> = warnings(&fake)
        .into_iter()
        .filter(|text| text.contains("still route to a proxy that has exited"))
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("state.db"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn stop_request_ends_proxy_self_test() {
    let fake = two().await;
    *fake.versions.unhealthy_port.lock().unwrap() = Some(port(PROXY));
    let change = mirror(&fake, "2.0.0");
    let began = Instant::now();
    let (asked, ()) = tokio::join!(asked(&fake, change), async {
        tokio::time::sleep(MS * 500).await;
        fake.stopper.stop();
    });
    assert!(began.elapsed() < MS * 1000 && asked.is_err(), "{asked:?}");
    assert!(fake.store.records.lock().unwrap()[0].layer7.traffic_split.is_empty());
}

#[tokio::test(start_paused = true)]
async fn insert_and_config_push_run_concurrently() {
    let fake = mirrored().await;
    *fake.proxy.configure_delay.lock().unwrap() = MS * 1700;
    watched(&fake, async {
        let began = Instant::now();
        fake.proxy.kill();
        until(|| rules(&fake) == all_to(20000, 20000)).await;
        until(|| is_proxied(&fake)).await;
        assert!(began.elapsed() < MS * 15_000, "{:?}", began.elapsed());
    })
    .await;
}
