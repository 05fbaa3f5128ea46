use std::time::Duration;

use super::*;
use crate::model::evidence::{Evidence, Pattern};
use crate::model::example;
use crate::model::failure::ErrorCode;
use crate::model::field::Field;
use crate::model::percent::Percent;
use crate::model::promote::Verdict;
use crate::model::proxy::{Canary, Mirror};
use crate::plan::promote::Reached;
use crate::world::fake::MS;
use crate::world::fake::site::{FakeSite, site};
use crate::world::fake::site_traffic_split::Behaviour;
use crate::world::link::LinkError;

mod faults;
mod taken_up;
mod walks;

const HOSTS: [&str; 3] = ["web1", "web2", "web3"];

fn actor() -> Actor {
    Actor { user: "ops".into(), pid: 7 }
}

fn spec() -> RolloutSpec {
    example::rollout(&HOSTS)
}

async fn roll_out(fake: &FakeSite, spec: RolloutSpec) -> Result<RolloutReport, RolloutError> {
    run(&fake.world, &fake.fleet, &spec, &actor()).await
}

fn each(fake: &FakeSite, change: impl Fn(&mut crate::world::fake::site_traffic_split::SiteProxy)) {
    for host in HOSTS {
        fake.site.with(host, |host| {
            host.layer7.pass();
            change(&mut host.layer7);
        });
    }
}

/// The canary of every host answers so from now on.
fn canary(fake: &FakeSite, change: impl Fn(&mut Behaviour)) {
    each(fake, |proxy| change(&mut proxy.canary));
}

/// What each host was told its canary's share is, `-`: none.
fn told(fake: &FakeSite, host: &str) -> String {
    let told = fake.site.with(host, |host| host.layer7.told.clone());
    let words = told.iter().map(|share| share.map_or_else(|| "-".to_owned(), |share| share.to_string()));
    words.collect::<Vec<_>>().join(" ")
}

fn shares(fake: &FakeSite) -> Vec<Option<Percent>> {
    fake.site.lock().hosts.values().map(|host| host.layer7.share()).collect()
}

fn mains(fake: &FakeSite) -> Vec<String> {
    fake.site.lock().hosts.values().map(|host| host.main.clone()).collect()
}

fn said(fake: &FakeSite, part: &str) -> bool {
    let said = |event: &Event| matches!(event, Event::Version { text, .. } if text.contains(part));
    fake.events.lock().unwrap().iter().any(said)
}

/// Returned: main answers everything on every host, and the reason is named.
fn is_back(fake: &FakeSite, report: &RolloutReport, why: &str) {
    let standing = &report.standing;
    assert_eq!(standing.result, Some(RolloutResult::Returned), "{standing:?}");
    assert!(standing.why.contains(why), "{}", standing.why);
    assert_eq!((shares(fake), mains(fake)), (vec![None; 3], vec!["1.0.0".to_owned(); 3]));
    assert_eq!(fake.world.lock.view(), Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_good_version_gets_all_of_it_and_becomes_main() {
    let fake = site(3, 1);
    let report = roll_out(&fake, spec()).await.unwrap();
    assert_eq!(report.standing.result, Some(RolloutResult::Promoted));
    assert_eq!(mains(&fake), ["2.0.0"; 3]);
    for host in HOSTS {
        assert_eq!(told(&fake, host), "1% 5% 25% 50% 100%");
    }
    assert_eq!(shares(&fake), [None; 3], "its share went when it became main");
    let steps = &report.standing.steps;
    assert!(steps.iter().all(|step| step.reached == Reached::Passed));
    let last = steps[4].judged.as_ref().unwrap();
    assert_eq!(last.verdict, Verdict::Done);
    assert!(
        last.canary.requests > 30_000 && last.main.requests > 15_000,
        "main's of the step before: {last:?}"
    );
    assert!(report.took >= Duration::from_mins(5));
}

#[tokio::test(start_paused = true)]
async fn one_percent_of_errors_goes_back() {
    let fake = site(3, 1);
    canary(&fake, |canary| canary.error_every = 100);
    let report = roll_out(&fake, spec()).await.unwrap();
    is_back(&fake, &report, "requests to the canary failed: 1%, at most 0.5% may; of main's 0%");
    assert!(told(&fake, "web1").ends_with(" -"), "{}", told(&fake, "web1"));
}

#[tokio::test(start_paused = true)]
async fn twice_as_slow_goes_back() {
    let fake = site(3, 1);
    canary(&fake, |canary| canary.latency_us = 40_000);
    let report = roll_out(&fake, spec()).await.unwrap();
    is_back(&fake, &report, "2.00 times main's");
    assert_eq!(told(&fake, "web1"), "1% -");
    assert!(report.took < Duration::from_mins(1), "a gross breach ends early: {:?}", report.took);
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_takes_no_connection_goes_back() {
    let fake = site(3, 1);
    canary(&fake, |canary| canary.refuses = true);
    let report = roll_out(&fake, spec()).await.unwrap();
    is_back(&fake, &report, "main answered them): 100%");
}

/// It turns bad when it is asked for more.
#[tokio::test(start_paused = true)]
async fn what_fails_at_a_later_share_goes_back_to_none_and_no_step_is_run_again() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        while fake.site.with("web3", |host| host.layer7.share()).is_none_or(|share| share.parts() < 2_500) {
            tokio::time::sleep(MS * 100).await;
        }
        canary(&fake, |canary| canary.error_every = 3);
    });
    is_back(&fake, &report.unwrap(), "requests to the canary failed: 3");
    for host in HOSTS {
        assert_eq!(told(&fake, host), "1% 5% 25% -");
    }
    let error = resume(&fake.world, &fake.fleet, &actor()).await.unwrap_err();
    assert!(matches!(error, RolloutError::Finished { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_trickle_is_held_and_said_so() {
    let fake = site(3, 1);
    each(&fake, |proxy| proxy.per_minute = 500);
    let (work, actor) = (example::rollout(&["web1"]), actor());
    tokio::select! {
        ended = run(&fake.world, &fake.fleet, &work, &actor) => panic!("{ended:?}"),
        () = tokio::time::sleep(Duration::from_hours(3)) => {}
    }
    assert_eq!(told(&fake, "web1"), "1%");
    let held = last(&fake.world).unwrap().unwrap().steps[0].judged.clone().unwrap();
    assert_eq!(held.verdict.reason(), "5 requests to the canary in 1m, 100 are needed");
    assert!(said(&fake, "holding: 5 requests to the canary in 1m, 100 are needed"));
}

/// Somebody else's outage is neither a reason to go on nor to go back.
#[tokio::test(start_paused = true)]
async fn while_main_is_as_bad_nothing_is_decided() {
    let fake = site(3, 1);
    each(&fake, |proxy| (proxy.canary.error_every, proxy.main.error_every) = (4, 4));
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        tokio::time::sleep(Duration::from_mins(30)).await;
        assert!(said(&fake, "main is as bad, so nothing is decided"));
        assert_eq!(told(&fake, "web1"), "1%");
        each(&fake, |proxy| (proxy.canary.error_every, proxy.main.error_every) = (0, 0));
    });
    assert_eq!(report.unwrap().standing.result, Some(RolloutResult::Promoted));
}

fn evidence(compared: u64, differing: u64) -> Evidence {
    let mut evidence = Evidence { compared, ..Evidence::default() };
    if differing > 0 {
        evidence.patterns.add(Pattern::new([Field::Body].into()), differing);
    }
    evidence
}

fn compared(fake: &FakeSite, evidence: Option<&Evidence>) {
    for host in HOSTS {
        fake.site.with(host, |host| host.evidence = evidence.cloned());
    }
}

fn shadowed(fake: &FakeSite, evidence: Option<&Evidence>) -> RolloutSpec {
    let mirror = Mirror {
        deployment: example::rollout_target().deployment,
        percent: Percent::ALL,
        methods: vec![],
        paths: vec![],
        without_headers: vec![],
        compare: true,
        control: Percent::ZERO,
    };
    each(fake, |proxy| {
        proxy.splits.mirrors = vec![mirror.clone()];
        proxy.inserted = true;
    });
    compared(fake, evidence);
    RolloutSpec { require_match: Some("99.9%".parse().unwrap()), ..spec() }
}

#[tokio::test(start_paused = true)]
async fn answers_that_differ_while_it_is_a_shadow_get_it_no_share_at_all() {
    let fake = site(3, 1);
    let work = shadowed(&fake, Some(&evidence(1_000, 20)));
    let report = roll_out(&fake, work.clone()).await.unwrap();
    is_back(&fake, &report, "its answers differ from main's: 98% of 3,000 answers match, 99.9% are wanted");
    for host in HOSTS {
        assert_eq!(told(&fake, host), "");
        assert_eq!(fake.site.with(host, |host| host.layer7.splits.mirrors.len()), 1, "the shadow stays");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_match_are_waited_for_then_the_shadow_becomes_the_canary() {
    let fake = site(3, 1);
    let work = shadowed(&fake, None);
    let (report, ()) = tokio::join!(roll_out(&fake, work.clone()), async {
        tokio::time::sleep(Duration::from_mins(20)).await;
        assert!(said(&fake, "holding: no request was copied to it yet"));
        assert_eq!(told(&fake, "web1"), "");
        compared(&fake, Some(&evidence(1_000, 0)));
    });
    let standing = report.unwrap().standing;
    assert_eq!(standing.result, Some(RolloutResult::Promoted));
    assert!(standing.compared.unwrap().0);
    assert!(fake.site.lock().hosts.values().all(|host| host.layer7.splits.is_empty()));
}

async fn waits(fake: &FakeSite, step: usize) {
    while last(&fake.world).unwrap().and_then(|standing| standing.waiting) != Some(step) {
        tokio::time::sleep(MS * 100).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_step_waits_for_a_word() {
    let fake = site(3, 1);
    let work = RolloutSpec { approve: true, ..spec() };
    let (report, ()) = tokio::join!(roll_out(&fake, work.clone()), async {
        for step in 0..5 {
            waits(&fake, step).await;
            tokio::time::sleep(Duration::from_hours(1)).await;
            assert_eq!(last(&fake.world).unwrap().unwrap().waiting, Some(step), "nobody said so");
            promote(&fake.world, &actor()).unwrap();
            // Twice is once.
            promote(&fake.world, &actor()).unwrap();
        }
    });
    assert_eq!(report.unwrap().standing.result, Some(RolloutResult::Promoted));
    let error = promote(&fake.world, &actor()).unwrap_err();
    assert!(matches!(error, RolloutError::Finished { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_turns_bad_while_it_waits_goes_back() {
    let fake = site(3, 1);
    let work = RolloutSpec { approve: true, ..spec() };
    let (report, ()) = tokio::join!(roll_out(&fake, work.clone()), async {
        waits(&fake, 0).await;
        promote(&fake.world, &actor()).unwrap();
        waits(&fake, 1).await;
        tokio::time::sleep(Duration::from_hours(2)).await;
        canary(&fake, |canary| canary.error_every = 10);
    });
    is_back(&fake, &report.unwrap(), "to the canary failed");
    assert_eq!(told(&fake, "web2"), "1% 5% -");
}

#[tokio::test(start_paused = true)]
async fn a_word_is_not_taken_before_it_is_asked_for() {
    let fake = site(3, 1);
    let work = RolloutSpec { approve: true, ..spec() };
    let (_, ()) = tokio::join!(roll_out(&fake, work.clone()), async {
        while told(&fake, "web1").is_empty() {
            tokio::time::sleep(MS * 100).await;
        }
        let error = promote(&fake.world, &actor()).unwrap_err();
        assert!(matches!(error, RolloutError::NotWaiting { .. }), "{error}");
        waits(&fake, 0).await;
        fake.stopper.stop();
    });
    let error = promote(&fake.world, &actor()).unwrap_err();
    assert!(matches!(error, RolloutError::NotWaiting { .. }), "nobody runs it: {error}");
}

/// Asked for by another process, while this one holds the lock.
#[tokio::test(start_paused = true)]
async fn an_abort_ends_a_running_one() {
    let fake = site(3, 1);
    let (work, actor) = (spec(), actor());
    let (ran, aborted) = tokio::join!(run(&fake.world, &fake.fleet, &work, &actor), async {
        tokio::time::sleep(Duration::from_secs(150)).await;
        abort(&fake.world, &fake.fleet, &actor).await
    });
    let (ran, aborted) = (ran.unwrap().standing, aborted.unwrap().standing);
    assert_eq!((ran.result, aborted.result), (Some(RolloutResult::Aborted), Some(RolloutResult::Aborted)));
    assert_eq!((shares(&fake), mains(&fake)), (vec![None; 3], vec!["1.0.0".to_owned(); 3]));
    assert_eq!(told(&fake, "web1"), "1% 5% 25% -");
}

#[tokio::test(start_paused = true)]
async fn there_is_one_at_a_time() {
    let fake = site(3, 1);
    let (work, actor) = (spec(), actor());
    let (first, ()) = tokio::join!(run(&fake.world, &fake.fleet, &work, &actor), async {
        tokio::time::sleep(Duration::from_secs(90)).await;
        let second = run(&fake.world, &fake.fleet, &work, &actor).await.unwrap_err();
        assert!(matches!(second, RolloutError::Lock(LockError::Held { .. })), "{second}");
    });
    assert_eq!(first.unwrap().standing.result, Some(RolloutResult::Promoted));
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_where_it_is_not_ready() {
    async fn refused(change: impl Fn(&FakeSite), why: &str) {
        let fake = site(3, 1);
        change(&fake);
        let error = roll_out(&fake, spec()).await.unwrap_err().to_string();
        assert!(error.starts_with("refused to roll out: ") && error.contains(why), "{error}");
        assert_eq!(told(&fake, "web1"), "");
        assert_eq!((last(&fake.world), fake.world.lock.view()), (Ok(None), Ok(None)));
    }
    refused(
        |fake| fake.site.with("web2", |host| host.main = "2.0.0".into()),
        "web2: shop 2.0.0 is main already",
    )
    .await;
    refused(
        |fake| fake.site.with("web2", |host| host.main = "0.9.0".into()),
        "web2: main is another deployment",
    )
    .await;
    refused(|fake| fake.site.with("web3", |host| host.reachable = false), "web3: the link broke").await;
    refused(|fake| fake.site.with("web1", |host| host.healthy = false), "web1: shop 2.0.0 does not answer")
        .await;
    refused(|fake| drop(shadowed(fake, None)), "is a shadow that gets copies").await;
    let other = |fake: &FakeSite| {
        let deployment = example::deployment("shop", "0.9.0", 20000).id;
        let canary = Canary { deployment, percent: None, sticky: None, header: None, cookie: None };
        fake.site.with("web2", |host| host.layer7.splits.canary = Some(canary));
    };
    refused(other, "web2: shop has a canary already").await;

    let fake = site(3, 1);
    let work = RolloutSpec { require_match: Some(Percent::ALL), ..spec() };
    let error = roll_out(&fake, work.clone()).await.unwrap_err().to_string();
    assert!(error.contains("no shadow whose answers are compared"), "{error}");
}

fn refusal() -> LinkError {
    LinkError::Refused { code: ErrorCode::RulesLocked, message: "xtables is locked".into() }
}
