//! Changes between a crash and a resume, and between a request and its response.

use std::sync::Arc;

use super::*;
use crate::model::lock::Holder;
use crate::model::promote::PromotionId;
use crate::world::reporter::Reporter;

/// Killed when a host has the new main; the last of them did not get to that.
async fn killed_at_the_flip(fake: &FakeSite) {
    let interval = Duration::from_secs(10);
    let work = PromotionSpec { steps: "50".parse().unwrap(), interval, ..spec() };
    let flipped = fake.wait_for_host(MS, "web1", |host| host.main != "1.0.0");
    fake.kill_when(roll_out(fake, work), flipped).await;
    let canary = example::make_canary(&example::make_promotion_target().deployment, "100");
    fake.site.with_host("web3", |host| {
        host.main = "1.0.0".into();
        host.layer7.traffic_split.canary = Some(canary);
        host.layer7.inserted = true;
    });
}

#[tokio::test(start_paused = true)]
async fn interrupted_flip_is_finished_by_resume_and_reverted_by_abort() {
    for aborts in [false, true] {
        let fake = site(3, 1);
        killed_at_the_flip(&fake).await;
        let (world, fleet) = (&fake.world, &fake.fleet);
        if aborts {
            let report = abort(world, fleet, &actor()).await.unwrap();
            assert_eq!(report.progress.result, Some(PromotionResult::Aborted));
            assert_eq!((mains(&fake), shares(&fake)), (vec!["1.0.0".to_owned(); 3], vec![None; 3]));
        } else {
            let report = resume(world, fleet, &actor()).await.unwrap();
            assert_eq!(report.progress.result, Some(PromotionResult::Promoted));
            assert_eq!(mains(&fake), ["2.0.0"; 3]);
        }
    }
}

/// Changes of other commands between the crash and the resume stay.
#[tokio::test(start_paused = true)]
async fn resume_refuses_to_flip_changed_host() {
    let changes: [(HostChange, &str, &str); 3] = [
        (|host| host.main = "0.9.0".into(), "another command made 0.9.0 main", "0.9.0"),
        (|host| host.layer7.traffic_split.canary = None, "it has no share any more", "1.0.0"),
        (|host| host.is_reachable = false, "the connection broke", "1.0.0"),
    ];
    for (change, why, main) in changes {
        let fake = site(3, 1);
        killed_at_the_flip(&fake).await;
        fake.site.with_host("web3", change);
        let standing = resume(&fake.world, &fake.fleet, &actor()).await.unwrap().progress;
        let (result, reason) = standing.rolling_back.unwrap();
        assert_eq!(result, PromotionResult::RolledBack);
        assert!(reason.starts_with("it does not become main: ") && reason.contains(why), "{reason}");
        assert_eq!(mains(&fake), ["1.0.0", "1.0.0", main]);
    }
}

/// The agent lets it in again.
#[tokio::test(start_paused = true)]
async fn resume_flips_host_with_bypassed_proxy() {
    let fake = site(3, 1);
    killed_at_the_flip(&fake).await;
    fake.site.with_host("web3", |host| host.layer7.inserted = false);
    let report = resume(&fake.world, &fake.fleet, &actor()).await.unwrap();
    assert_eq!(
        (report.progress.result, mains(&fake)),
        (Some(PromotionResult::Promoted), vec!["2.0.0".into(); 3])
    );
}

/// A crash between the two left the copies.
#[tokio::test(start_paused = true)]
async fn resume_stops_mirror_of_comparison() {
    let fake = site(3, 1);
    let work = shadowed(&fake, Some(&evidence(1_000, 0)));
    let compared_well = || {
        let stands = ready(read_last(&fake.world)).unwrap();
        stands.and_then(|stands| stands.comparison).is_some_and(|(passed, _)| passed)
    };
    fake.kill_when(roll_out(&fake, work), wait_until(Duration::from_micros(100), compared_well)).await;
    let mirrors = || fake.site.with_host("web3", |host| host.layer7.traffic_split.mirrors.len());
    assert_eq!((mirrors(), list_shares(&fake, "web3")), (1, String::new()));
    assert_eq!(resume_to_end(&fake).await, Some(PromotionResult::Promoted));
    assert_eq!(list_shares(&fake, "web3"), "1% 5% 25% 50% 100%");
}

/// An error that does not pass by waiting.
#[tokio::test(start_paused = true)]
async fn require_match_rolls_back_on_error_and_holds_on_unreachable_host() {
    let fake = site(3, 1);
    let work = shadowed(&fake, None);
    fake.site.with_host("web2", |host| host.evidence_error = Some(build_locked_error()));
    let report = roll_out(&fake, work.clone()).await.unwrap();
    is_back(
        &fake,
        &report,
        "its answers cannot be compared: done on 2 of 3 hosts; `web2`: xtables is locked",
    );

    let fake = site(3, 1);
    let work = shadowed(&fake, Some(&evidence(1_000, 0)));
    fake.site.with_host("web3", |host| {
        host.evidence_error = Some(crate::ops::testing::site_link::build_broken_link_error());
    });
    let start = async {
        // It was ready when it began.
        wait_until(Duration::from_micros(100), || ready(read_last(&fake.world)).unwrap().is_some()).await;
        fake.site.with_host("web2", |host| host.is_reachable = false);
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert!(said(&fake, "holding: cannot read every host: `web2`: the connection broke"));
        fake.site.with_host("web2", |host| host.is_reachable = true);
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert!(said(&fake, "`web3`: the connection broke"));
        fake.site.with_host("web3", |host| host.evidence_error = None);
    };
    let (report, ()) = tokio::join!(roll_out(&fake, work.clone()), start);
    assert_eq!(report.unwrap().progress.result, Some(PromotionResult::Promoted));
}

#[tokio::test(start_paused = true)]
async fn promotion_ends_when_main_changes_during_comparison() {
    let fake = site(3, 1);
    let work = shadowed(&fake, None);
    let (report, ()) = tokio::join!(roll_out(&fake, work.clone()), async {
        tokio::time::sleep(Duration::from_mins(2)).await;
        fake.site.with_host("web2", |host| host.main = "0.9.0".into());
    });
    let standing = report.unwrap().progress;
    assert_eq!(standing.reason, "web2: another command made 0.9.0 main");
    assert_eq!(mains(&fake), ["1.0.0", "0.9.0", "1.0.0"]);
}

/// Another process that sends its request at once.
struct Impatient(FleetWorld);

impl Reporter for Impatient {
    fn report(&self, event: &Event) {
        if matches!(event, Event::DeploymentProgress { text, .. } if text.ends_with(" began") || text.ends_with(" goes on"))
        {
            let stands = ready(read_last(&self.0)).unwrap().unwrap();
            ready(send_request(&self.0, &stands.promotion, OperatorRequest::Abort, &actor())).unwrap();
        }
        self.0.reporter.report(event);
    }
}

#[tokio::test(start_paused = true)]
async fn abort_right_after_start_is_received() {
    for resumed in [false, true] {
        let fake = site(3, 1);
        let world = FleetWorld { reporter: Arc::new(Impatient(fake.world.clone())), ..fake.world.clone() };
        let (work, actor) = (spec(), actor());
        let report = if resumed {
            killed_at_the_flip(&fake).await;
            resume(&world, &fake.fleet, &actor).await
        } else {
            run(&world, &fake.fleet, &work, &actor).await
        };
        let standing = report.unwrap().progress;
        assert_eq!(standing.result, Some(PromotionResult::Aborted), "resumed: {resumed}");
        assert_eq!((mains(&fake), shares(&fake)), (vec!["1.0.0".to_owned(); 3], vec![None; 3]));
    }
}

/// Takes the lock as the process of another operator.
async fn lock_as_other(world: &FleetWorld) -> Holder {
    let purpose = LockPurpose::Promotion { service: spec().service, version: spec().version };
    lock::acquire(world, "other", purpose).await.unwrap()
}

fn append(world: &FleetWorld, holder: &Holder, promotion: &PromotionId, kind: PromotionEntryKind) {
    let entry = PromotionEntry { promotion: promotion.clone(), at: world.clock.now(), kind };
    ready(world.promotions.append(holder, &entry)).unwrap();
}

/// A process that resumes the promotion discards earlier requests.
#[tokio::test(start_paused = true)]
async fn abort_is_requested_again_after_resume() {
    let fake = site(3, 1);
    killed_at_the_flip(&fake).await;
    let (world, actor) = (&fake.world, actor());
    let stands = || ready(read_last(world)).unwrap().unwrap();
    let holder = lock_as_other(world).await;
    let (aborted, ()) = tokio::join!(abort(world, &fake.fleet, &actor), async {
        let asked = || wait_until(MS, || stands().is_abort_requested());
        asked().await;
        let row = |kind| append(world, &holder, &stands().promotion, kind);
        row(PromotionEntryKind::Resumed { actor: other() });
        assert!(!stands().is_abort_requested());
        tokio::time::timeout(Duration::from_secs(5), asked()).await.expect("no request again");
        row(PromotionEntryKind::Ended { result: PromotionResult::Aborted, reason: "aborted".into() });
        ready(lock::release_own(world, &holder));
    });
    assert_eq!(aborted.unwrap().progress.result, Some(PromotionResult::Aborted));
}

/// The promotion ended by itself between two reads, and the holder of the lock now runs another operation.
#[tokio::test(start_paused = true)]
async fn abort_of_finished_promotion_ignores_other_lock_holder() {
    let fake = site(3, 1);
    killed_at_the_flip(&fake).await;
    let (world, actor) = (&fake.world, actor());
    let promotion = ready(read_last(world)).unwrap().unwrap().promotion;
    let holder = lock_as_other(world).await;
    let (aborted, ()) = tokio::join!(abort(world, &fake.fleet, &actor), async {
        tokio::time::sleep(MS * 500).await;
        let ended = PromotionEntryKind::Ended { result: PromotionResult::RolledBack, reason: "worse".into() };
        append(world, &holder, &promotion, ended);
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    assert_eq!(aborted.unwrap().progress.result, Some(PromotionResult::RolledBack), "as soon as it is known");
    ready(lock::release_own(world, &holder));
}

fn other() -> Actor {
    Actor::new("other", 8)
}
