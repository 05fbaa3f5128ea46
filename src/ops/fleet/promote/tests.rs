use std::time::Duration;

use super::*;
use crate::model::evidence::{Evidence, Pattern};
use crate::model::example::{self, make_actor as actor};
use crate::model::field::Field;
use crate::model::percent::Percent;
use crate::model::promote::StepVerdict;
use crate::model::proxy::{Canary, Mirror};
use crate::ops::testing::site::{FakeSite, SiteHost, site};
use crate::ops::testing::site_link::build_locked_error;
use crate::ops::testing::site_traffic_split::{SiteProxy, VersionBehaviour};
use crate::plan::promote::PromotionStepState;
use crate::world::fake::MS;
use crate::world::fake::paused::{ready, wait_until};

mod faults;
mod random_faults;
mod resume_abort;

type HostChange = fn(&mut SiteHost);

const HOSTS: [&str; 3] = ["web1", "web2", "web3"];

fn spec() -> PromotionSpec {
    example::make_promotion_spec(&HOSTS)
}

async fn roll_out(fake: &FakeSite, spec: PromotionSpec) -> Result<PromotionReport, PromotionError> {
    run(&fake.world, &fake.fleet, &spec, &actor()).await
}

/// Resumes the promotion and returns its result.
async fn resume_to_end(fake: &FakeSite) -> Option<PromotionResult> {
    resume(&fake.world, &fake.fleet, &actor()).await.unwrap().progress.result
}

fn each(fake: &FakeSite, change: impl Fn(&mut SiteProxy)) {
    for host in HOSTS {
        fake.site.with_host(host, |host| {
            host.layer7.advance();
            change(&mut host.layer7);
        });
    }
}

/// The canary of every host answers so from now on.
fn canary(fake: &FakeSite, change: impl Fn(&mut VersionBehaviour)) {
    each(fake, |proxy| change(&mut proxy.canary));
}

/// The canary shares that each host received, `-`: none.
fn list_shares(fake: &FakeSite, host: &str) -> String {
    let shares = fake.site.with_host(host, |host| host.layer7.shares.clone());
    let words = shares.iter().map(|share| share.map_or_else(|| "-".to_owned(), |share| share.to_string()));
    words.collect::<Vec<_>>().join(" ")
}

fn shares(fake: &FakeSite) -> Vec<Option<Percent>> {
    fake.site.lock().hosts.values().map(|host| host.layer7.share()).collect()
}

fn mains(fake: &FakeSite) -> Vec<String> {
    fake.site.lock().hosts.values().map(|host| host.main.clone()).collect()
}

fn said(fake: &FakeSite, part: &str) -> bool {
    let said = |event: &Event| matches!(event, Event::DeploymentProgress { text, .. } if text.contains(part));
    fake.events.lock().unwrap().iter().any(said)
}

/// Returned: main answers everything on every host, and the reason is named.
fn is_back(fake: &FakeSite, report: &PromotionReport, why: &str) {
    let standing = &report.progress;
    assert_eq!(standing.result, Some(PromotionResult::RolledBack), "{standing:?}");
    assert!(standing.reason.contains(why), "{}", standing.reason);
    assert_eq!((shares(fake), mains(fake)), (vec![None; 3], vec!["1.0.0".to_owned(); 3]));
    assert_eq!(ready(fake.world.lock.read_holder()), Ok(None));
}

#[tokio::test(start_paused = true)]
async fn promotion_of_good_version_ends_as_main() {
    let fake = site(3, 1);
    let report = roll_out(&fake, spec()).await.unwrap();
    assert_eq!(report.progress.result, Some(PromotionResult::Promoted));
    assert_eq!(mains(&fake), ["2.0.0"; 3]);
    for host in HOSTS {
        assert_eq!(list_shares(&fake, host), "1% 5% 25% 50% 100%");
    }
    assert_eq!(shares(&fake), [None; 3], "its share went when it became main");
    let steps = &report.progress.steps;
    assert!(steps.iter().all(|step| step.state == PromotionStepState::Passed));
    let last = steps[4].judgement.as_ref().unwrap();
    assert_eq!(last.verdict, StepVerdict::Done);
    assert!(
        last.canary.requests > 30_000 && last.main.requests > 15_000,
        "main's of the step before: {last:?}"
    );
    assert!(report.took >= Duration::from_mins(5));
}

#[tokio::test(start_paused = true)]
async fn promotion_rolls_back_at_one_percent_errors() {
    let fake = site(3, 1);
    canary(&fake, |canary| canary.error_every = 100);
    let report = roll_out(&fake, spec()).await.unwrap();
    is_back(&fake, &report, "requests to the canary failed: 1%, at most 0.5% may; of main's 0%");
    assert!(list_shares(&fake, "web1").ends_with(" -"), "{}", list_shares(&fake, "web1"));
}

#[tokio::test(start_paused = true)]
async fn promotion_rolls_back_at_double_latency() {
    let fake = site(3, 1);
    canary(&fake, |canary| canary.latency_us = 40_000);
    let report = roll_out(&fake, spec()).await.unwrap();
    is_back(&fake, &report, "2.00 times main's");
    assert_eq!(list_shares(&fake, "web1"), "1% -");
    assert!(report.took < Duration::from_mins(1), "a gross breach ends early: {:?}", report.took);
}

#[tokio::test(start_paused = true)]
async fn promotion_rolls_back_when_canary_refuses_connections() {
    let fake = site(3, 1);
    canary(&fake, |canary| canary.refuses_connections = true);
    is_back(&fake, &roll_out(&fake, spec()).await.unwrap(), "main answered them): 100%");
}

/// The version becomes unhealthy at a higher share.
#[tokio::test(start_paused = true)]
async fn promotion_failing_at_later_step_rolls_back_without_repeating_steps() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        let is_late = |share: Option<Percent>| share.is_some_and(|share| share.parts() >= 2_500);
        fake.wait_for_host(MS * 100, "web3", |host| is_late(host.layer7.share())).await;
        canary(&fake, |canary| canary.error_every = 3);
    });
    is_back(&fake, &report.unwrap(), "requests to the canary failed: 3");
    for host in HOSTS {
        assert_eq!(list_shares(&fake, host), "1% 5% 25% -");
    }
    let error = resume(&fake.world, &fake.fleet, &actor()).await.unwrap_err();
    assert!(matches!(error, PromotionError::Finished { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn promotion_holds_on_too_few_requests() {
    let fake = site(3, 1);
    each(&fake, |proxy| proxy.per_minute = 500);
    let (work, actor) = (example::make_promotion_spec(&["web1"]), actor());
    tokio::select! {
        ended = run(&fake.world, &fake.fleet, &work, &actor) => panic!("{ended:?}"),
        () = tokio::time::sleep(Duration::from_hours(3)) => {}
    }
    assert_eq!(list_shares(&fake, "web1"), "1%");
    let held = ready(read_last(&fake.world)).unwrap().unwrap().steps[0].judgement.clone().unwrap();
    assert_eq!(held.verdict.reason(), "5 requests to the canary in 1m, 100 are needed");
    assert!(said(&fake, "holding: 5 requests to the canary in 1m, 100 are needed"));
}

/// An outage of another service is no reason to advance or to roll back.
#[tokio::test(start_paused = true)]
async fn promotion_holds_while_main_is_as_bad() {
    let fake = site(3, 1);
    each(&fake, |proxy| (proxy.canary.error_every, proxy.main.error_every) = (4, 4));
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        tokio::time::sleep(Duration::from_mins(30)).await;
        assert!(said(&fake, "main is as bad, so nothing is decided"));
        assert_eq!(list_shares(&fake, "web1"), "1%");
        each(&fake, |proxy| (proxy.canary.error_every, proxy.main.error_every) = (0, 0));
    });
    assert_eq!(report.unwrap().progress.result, Some(PromotionResult::Promoted));
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
        fake.site.with_host(host, |host| host.evidence = evidence.cloned());
    }
}

/// The mirror to the version of the promotion, whose answers are compared.
fn shadow() -> Mirror {
    Mirror { compare: true, ..example::make_mirror(&example::make_promotion_target().deployment) }
}

fn shadowed(fake: &FakeSite, evidence: Option<&Evidence>) -> PromotionSpec {
    each(fake, |proxy| {
        proxy.traffic_split.mirrors = vec![shadow()];
        proxy.inserted = true;
    });
    compared(fake, evidence);
    PromotionSpec { require_match: Some("99.9%".parse().unwrap()), ..spec() }
}

#[tokio::test(start_paused = true)]
async fn require_match_stops_promotion_when_shadow_differs() {
    let fake = site(3, 1);
    let work = shadowed(&fake, Some(&evidence(1_000, 20)));
    let report = roll_out(&fake, work.clone()).await.unwrap();
    is_back(&fake, &report, "its answers differ from main's: 98% of 3,000 answers match, 99.9% are wanted");
    for host in HOSTS {
        assert_eq!(list_shares(&fake, host), "");
        assert_eq!(
            fake.site.with_host(host, |host| host.layer7.traffic_split.mirrors.len()),
            1,
            "the shadow stays"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn require_match_waits_for_samples_before_canary() {
    let fake = site(3, 1);
    let work = shadowed(&fake, None);
    let (report, ()) = tokio::join!(roll_out(&fake, work.clone()), async {
        tokio::time::sleep(Duration::from_mins(20)).await;
        assert!(said(&fake, "holding: no request was copied to it yet"));
        assert_eq!(list_shares(&fake, "web1"), "");
        compared(&fake, Some(&evidence(1_000, 0)));
    });
    let standing = report.unwrap().progress;
    assert_eq!(standing.result, Some(PromotionResult::Promoted));
    assert!(standing.comparison.unwrap().0);
    assert!(fake.site.lock().hosts.values().all(|host| host.layer7.traffic_split.is_empty()));
}

async fn waits(fake: &FakeSite, step: usize) {
    let awaiting = || ready(read_last(&fake.world)).unwrap().and_then(|standing| standing.awaiting_approval);
    wait_until(MS * 100, || awaiting() == Some(step)).await;
}

#[tokio::test(start_paused = true)]
async fn require_approval_pauses_each_step() {
    let fake = site(3, 1);
    let work = PromotionSpec { require_approval: true, ..spec() };
    let (report, ()) = tokio::join!(roll_out(&fake, work.clone()), async {
        for step in 0..5 {
            waits(&fake, step).await;
            tokio::time::sleep(Duration::from_hours(1)).await;
            assert_eq!(
                ready(read_last(&fake.world)).unwrap().unwrap().awaiting_approval,
                Some(step),
                "no approval was given"
            );
            ready(approve(&fake.world, &fake.fleet, &actor())).unwrap();
            // Twice is once.
            ready(approve(&fake.world, &fake.fleet, &actor())).unwrap();
        }
    });
    assert_eq!(report.unwrap().progress.result, Some(PromotionResult::Promoted));
    let error = ready(approve(&fake.world, &fake.fleet, &actor())).unwrap_err();
    assert!(matches!(error, PromotionError::Finished { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn promotion_rolls_back_on_breach_while_waiting_for_approval() {
    let fake = site(3, 1);
    let work = PromotionSpec { require_approval: true, ..spec() };
    let (report, ()) = tokio::join!(roll_out(&fake, work.clone()), async {
        waits(&fake, 0).await;
        ready(approve(&fake.world, &fake.fleet, &actor())).unwrap();
        waits(&fake, 1).await;
        tokio::time::sleep(Duration::from_hours(2)).await;
        canary(&fake, |canary| canary.error_every = 10);
    });
    is_back(&fake, &report.unwrap(), "to the canary failed");
    assert_eq!(list_shares(&fake, "web2"), "1% 5% -");
}

#[tokio::test(start_paused = true)]
async fn approve_refuses_when_step_is_not_waiting() {
    let fake = site(3, 1);
    let work = PromotionSpec { require_approval: true, ..spec() };
    let (_, ()) = tokio::join!(roll_out(&fake, work.clone()), async {
        wait_until(MS * 100, || !list_shares(&fake, "web1").is_empty()).await;
        let error = ready(approve(&fake.world, &fake.fleet, &actor())).unwrap_err();
        assert!(matches!(error, PromotionError::NotWaitingForApproval { .. }), "{error}");
        waits(&fake, 0).await;
        fake.stopper.stop();
    });
    let error = ready(approve(&fake.world, &fake.fleet, &actor())).unwrap_err();
    assert!(matches!(error, PromotionError::NotWaitingForApproval { .. }), "no process runs it: {error}");
}

/// Another process requests the abort, while this one holds the lock.
#[tokio::test(start_paused = true)]
async fn abort_ends_running_promotion() {
    let fake = site(3, 1);
    let (ran, aborted) = tokio::join!(roll_out(&fake, spec()), async {
        tokio::time::sleep(Duration::from_secs(150)).await;
        abort(&fake.world, &fake.fleet, &actor()).await
    });
    let results = [ran, aborted].map(|ended| ended.unwrap().progress.result);
    assert_eq!(results, [Some(PromotionResult::Aborted); 2]);
    assert_eq!((shares(&fake), mains(&fake)), (vec![None; 3], vec!["1.0.0".to_owned(); 3]));
    assert_eq!(list_shares(&fake, "web1"), "1% 5% 25% -");
}

#[tokio::test(start_paused = true)]
async fn promotion_refuses_to_start_while_another_runs() {
    let fake = site(3, 1);
    let (first, ()) = tokio::join!(roll_out(&fake, spec()), async {
        tokio::time::sleep(Duration::from_secs(90)).await;
        let second = roll_out(&fake, spec()).await.unwrap_err();
        assert!(matches!(second, PromotionError::Lock(LockError::Locked { .. })), "{second}");
    });
    assert_eq!(first.unwrap().progress.result, Some(PromotionResult::Promoted));
}

#[tokio::test(start_paused = true)]
async fn promotion_refuses_unready_hosts() {
    let cases: [(&str, HostChange, &str); 6] = [
        ("web2", |host| host.main = "2.0.0".into(), "`web2`: shop 2.0.0 is main already"),
        ("web2", |host| host.main = "0.9.0".into(), "`web2`: main is another deployment"),
        ("web3", |host| host.is_reachable = false, "`web3`: the connection broke"),
        ("web1", |host| host.is_healthy = false, "`web1`: shop 2.0.0 does not answer"),
        ("web1", |host| host.layer7.traffic_split.mirrors = vec![shadow()], "is a shadow that gets copies"),
        (
            "web2",
            |host| host.layer7.traffic_split.canary = Some(other_canary()),
            "`web2`: shop has a canary already",
        ),
    ];
    for (host, change, why) in cases {
        let fake = site(3, 1);
        fake.site.with_host(host, change);
        let error = roll_out(&fake, spec()).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot start the promotion: ") && error.contains(why), "{error}");
        assert_eq!(list_shares(&fake, "web1"), "");
        assert_eq!(
            (ready(read_last(&fake.world)), ready(fake.world.lock.read_holder())),
            (Ok(None), Ok(None))
        );
    }

    let fake = site(3, 1);
    let work = PromotionSpec { require_match: Some(Percent::FULL), ..spec() };
    let error = roll_out(&fake, work.clone()).await.unwrap_err().to_string();
    assert!(error.contains("is not a shadow whose answers are compared"), "{error}");
}

/// The canary of another command.
fn other_canary() -> Canary {
    example::make_canary(&example::deployment("shop", "0.9.0", 20000).id, "10")
}

/// A share needs an agent on every host: one without is found before any host takes a share.
#[tokio::test(start_paused = true)]
async fn host_without_agent_is_found_before_the_first_share() {
    let fake = site(3, 1);
    fake.site.with_host("web3", |host| host.layer7.has_no_agent = true);
    let error = roll_out(&fake, spec()).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot start the promotion: `web3`: no agent runs on this host");
    assert_eq!(shares(&fake), [None; 3]);
    assert_eq!(list_shares(&fake, "web1"), "", "nothing was tried");
    assert_eq!(ready(read_last(&fake.world)), Ok(None), "the journal has no promotion");
}
