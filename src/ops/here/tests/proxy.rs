//! Shadows and canaries: the proxy comes with the first and goes with the last, and its death costs nobody more than a moment.

use super::*;
use crate::model::percent::Percent;
use crate::model::proxy::{Canary, Mirror, ServiceStats};
use crate::model::splits::{Split, SplitChange, SplitRequest};
use crate::world::proxy::ProxyError;

const PROXY: u16 = 20009;

fn mirror(fake: &FakeWorld, version: &str) -> SplitChange {
    SplitChange::Mirror(Mirror {
        deployment: id_of(fake, version),
        percent: Percent::ALL,
        methods: vec![],
        paths: vec![],
        without_headers: vec![],
        compare: false,
        control: Percent::ZERO,
    })
}

fn canary(fake: &FakeWorld, version: &str) -> SplitChange {
    let percent = Some("25".parse().unwrap());
    SplitChange::Canary(Canary {
        deployment: id_of(fake, version),
        percent,
        sticky: None,
        header: None,
        cookie: None,
    })
}

async fn asked(fake: &FakeWorld, change: SplitChange) -> Result<Split, VersionError> {
    let range = (port(20000), port(PROXY));
    let request = SplitRequest { change, range, forwarded: None, actor: actor(), detail: String::new() };
    split(&fake.world, &shop(), &request).await
}

/// Main 1.0.0 on 20000, 2.0.0 on 20001.
async fn two() -> FakeWorld {
    let fake = fake();
    for version in ["1.0.0", "2.0.0"] {
        deploy(&fake.world, &request(&fake, version)).await.unwrap();
    }
    fake
}

fn warnings(fake: &FakeWorld) -> Vec<String> {
    let events = fake.host.events.lock().unwrap();
    events.iter().map(|event| format!("{event:?}")).collect()
}

/// What the proxy was told last of the only service: where main is, copies, whether somebody has a share, whether it drains.
fn told(fake: &FakeWorld) -> (u16, usize, bool, bool) {
    let told = fake.proxy.told.lock().unwrap();
    let service = &told.last().unwrap().services[0];
    let splits = &service.splits;
    (service.main.address.port(), splits.mirrors.len(), splits.canary.is_some(), service.draining)
}

#[tokio::test(start_paused = true)]
async fn the_proxy_comes_with_the_first_split_and_goes_with_the_last() {
    let fake = two().await;
    let done = asked(&fake, mirror(&fake, "2.0.0")).await.unwrap();
    assert!(done.inserted && !done.known);
    assert_eq!(rules(&fake), BTreeSet::from([("forward", PROXY), ("route", PROXY), ("backup", 20000)]));
    // Nothing is copied before the rules lead to it.
    let first = fake.proxy.told.lock().unwrap()[0].services[0].clone();
    assert!(first.splits.is_empty() && !first.draining);
    assert_eq!(told(&fake), (20000, 1, false, false));

    let again = asked(&fake, mirror(&fake, "2.0.0")).await.unwrap();
    assert!(again.known && again.inserted);

    asked(&fake, SplitChange::NoMirror(id_of(&fake, "2.0.0"))).await.unwrap();
    assert_eq!(rules(&fake), all_to(20000, 20000));
    assert_eq!(told(&fake), (20000, 0, false, true));
}

#[tokio::test(start_paused = true)]
async fn who_is_connected_through_the_proxy_follows_an_assign_and_main_is_never_its_own_shadow() {
    let fake = two().await;
    asked(&fake, mirror(&fake, "2.0.0")).await.unwrap();
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
async fn a_killed_shadow_gets_nothing_and_a_killed_service_leaves_no_proxy() {
    let fake = two().await;
    asked(&fake, mirror(&fake, "2.0.0")).await.unwrap();
    kill(&fake.world, &kill_of(&fake, "2.0.0")).await.unwrap();
    assert_eq!(rules(&fake), all_to(20000, 20000));
    kill(&fake.world, &kill_of(&fake, "1.0.0")).await.unwrap();
    assert!(!*fake.proxy.alive.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_refused_kill_leaves_a_shadow_its_copies_and_a_canary_its_share() {
    let fake = two().await;
    for change in [mirror(&fake, "2.0.0"), canary(&fake, "2.0.0")] {
        asked(&fake, change.clone()).await.unwrap();
        let before = fake.store.recorded.lock().unwrap()[0].layer7.clone();
        fake.host.sockets.lock().unwrap().push(busy());
        let error = kill(&fake.world, &kill_of(&fake, "2.0.0")).await.unwrap_err();
        assert!(matches!(error, VersionError::Refused(Refused::NotDrained { .. })), "{error}");
        assert_eq!(fake.store.recorded.lock().unwrap()[0].layer7, before);
        assert!(rules(&fake).contains(&("route", PROXY)));
        fake.host.sockets.lock().unwrap().clear();
        let off = match change {
            SplitChange::Mirror(mirror) => SplitChange::NoMirror(mirror.deployment),
            _ => SplitChange::NoCanary,
        };
        asked(&fake, off).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_changes_nothing() {
    let fake = two().await;
    let before = fake.store.recorded.lock().unwrap().clone();
    assert!(matches!(
        asked(&fake, mirror(&fake, "1.0.0")).await,
        Err(VersionError::Split(SplitRefused::IsMain { .. }))
    ));
    *fake.proxy.alone.lock().unwrap() = true;
    assert_eq!(asked(&fake, mirror(&fake, "2.0.0")).await, Err(ProxyError::NotKept.into()));
    assert_eq!(*fake.store.recorded.lock().unwrap(), before);
    *fake.proxy.alone.lock().unwrap() = false;
    *fake.proxy.broken.lock().unwrap() = true;
    assert!(matches!(asked(&fake, mirror(&fake, "2.0.0")).await, Err(VersionError::Proxy(_))));
    assert_eq!(rules(&fake), all_to(20000, 20000));
    assert!(fake.store.recorded.lock().unwrap()[0].layer7.splits.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_proxy_through_which_main_does_not_answer_is_not_let_in() {
    let fake = two().await;
    *fake.versions.sick.lock().unwrap() = Some(port(PROXY));
    let error = asked(&fake, mirror(&fake, "2.0.0")).await.unwrap_err();
    assert!(error.to_string().contains("main does not answer through it on port 20009"), "{error}");
    assert_eq!(rules(&fake), all_to(20000, 20000));
}

/// The agent's watch beside something else.
async fn watched(fake: &FakeWorld, work: impl Future<Output = ()>) {
    let actor = actor();
    tokio::select! {
        () = keep_proxy(&fake.world, &actor) => panic!("the watch ended"),
        () = work => {}
    }
}

async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(MS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_proxy_is_out_of_the_way_at_once_and_comes_back_by_itself() {
    let fake = two().await;
    asked(&fake, mirror(&fake, "2.0.0")).await.unwrap();
    watched(&fake, async {
        for death in 1..=3u32 {
            let began = tokio::time::Instant::now();
            fake.proxy.kill();
            until(|| rules(&fake) == all_to(20000, 20000)).await;
            assert!(began.elapsed() < MS * 1000, "{:?}", began.elapsed());
            until(|| rules(&fake).contains(&("route", PROXY))).await;
            assert_eq!(*fake.proxy.starts.lock().unwrap(), 1 + death);
            // Two deaths in a row are no accident: the pause grows.
            assert!(began.elapsed() >= MS * 1000 * 2u32.pow(death - 1), "{:?}", began.elapsed());
        }
    })
    .await;
    let died = warnings(&fake).iter().filter(|text| text.contains("died or stopped answering")).count();
    assert_eq!(died, 3);
}

#[tokio::test(start_paused = true)]
async fn a_drained_proxy_ends() {
    let fake = two().await;
    let connections = |connections| {
        let service = shop();
        let (legs, shadows, rejected) = (vec![], vec![], std::collections::BTreeMap::new());
        fake.proxy.stats.lock().unwrap().services =
            vec![ServiceStats { service, connections, upgraded: 0, in_flight: 0, legs, shadows, rejected }];
    };
    asked(&fake, canary(&fake, "2.0.0")).await.unwrap();
    connections(1);
    asked(&fake, SplitChange::NoCanary).await.unwrap();
    watched(&fake, async {
        tokio::time::sleep(MS * 60_000).await;
        assert!(*fake.proxy.alive.lock().unwrap(), "somebody is connected to it");
        connections(0);
        until(|| !*fake.proxy.alive.lock().unwrap()).await;
    })
    .await;
    assert_eq!(fake.store.recorded.lock().unwrap()[0].layer7.place, None);
}

#[tokio::test(start_paused = true)]
async fn after_a_boot_no_rule_leads_to_a_proxy_that_is_not_there() {
    let fake = two().await;
    asked(&fake, mirror(&fake, "2.0.0")).await.unwrap();
    *fake.proxy.alive.lock().unwrap() = false;
    straighten(&fake.world, &actor()).await.unwrap();
    assert_eq!(rules(&fake), all_to(20000, 20000));
    // It is wanted still.
    watched(&fake, until(|| rules(&fake).contains(&("route", PROXY)))).await;
}

#[tokio::test(start_paused = true)]
async fn a_private_service_is_not_proxied_and_comes_back_as_it_was() {
    let fake = two().await;
    asked(&fake, mirror(&fake, "2.0.0")).await.unwrap();
    let to = |public| AccessRequest { public, actor: actor() };
    access(&fake.world, &shop(), &to(false)).await.unwrap();
    assert_eq!(rules(&fake), BTreeSet::new());
    access(&fake.world, &shop(), &to(true)).await.unwrap();
    assert!(rules(&fake).contains(&("route", PROXY)));
}
