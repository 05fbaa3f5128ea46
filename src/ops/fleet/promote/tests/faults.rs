//! Faults during a promotion.

use super::*;

async fn at_share(fake: &FakeSite, host: &str, share: &str) {
    let wanted = Some(share.parse().unwrap());
    fake.wait_for_host(MS * 100, host, |host| host.layer7.share() == wanted).await;
}

#[tokio::test(start_paused = true)]
async fn promotion_rolls_back_everywhere_when_one_host_refuses_share() {
    let fake = site(3, 1);
    fake.site.with_host("web2", |host| host.layer7.refused_share = Some("25%".parse().unwrap()));
    is_back(
        &fake,
        &roll_out(&fake, spec()).await.unwrap(),
        "not every host takes a share of 25%: done on 2 of 3 hosts; `web2`: the proxy refuses",
    );
    assert_eq!(
        (list_shares(&fake, "web1"), list_shares(&fake, "web2")),
        ("1% 5% 25% -".into(), "1% 5% -".into())
    );
}

/// A link that is cut for a moment is no reason to go back.
#[tokio::test(start_paused = true)]
async fn set_share_retries_after_lost_answer() {
    let fake = site(3, 1);
    fake.site.with_host("web2", |host| host.lost_answers = 1);
    let report = roll_out(&fake, spec()).await.unwrap();
    assert_eq!(report.progress.result, Some(PromotionResult::Promoted));
    assert_eq!(list_shares(&fake, "web2"), "1% 1% 5% 25% 50% 100%");
}

#[tokio::test(start_paused = true)]
async fn promotion_holds_while_a_proxy_is_bypassed() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web2", "5%").await;
        fake.site.with_host("web2", |host| {
            host.layer7.restart();
            host.layer7.inserted = false;
        });
        tokio::time::sleep(Duration::from_mins(30)).await;
        assert!(said(&fake, "web2: its proxy is out of the way, main answers everything"));
        assert_eq!(list_shares(&fake, "web1"), "1% 5%");
        fake.site.with_host("web2", |host| {
            host.layer7.advance();
            host.layer7.inserted = true;
        });
    });
    assert_eq!(report.unwrap().progress.result, Some(PromotionResult::Promoted));
}

#[tokio::test(start_paused = true)]
async fn promotion_restarts_interval_after_proxy_restart() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web2", "5%").await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        fake.site.with_host("web2", |host| host.layer7.restart());
    });
    let report = report.unwrap();
    assert_eq!(report.progress.result, Some(PromotionResult::Promoted));
    assert!(said(&fake, "holding: web2: its proxy was restarted"));
    assert_eq!(list_shares(&fake, "web2"), "1% 5% 25% 50% 100%");
}

#[tokio::test(start_paused = true)]
async fn promotion_holds_while_a_host_is_unreachable() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web2", "25%").await;
        fake.site.with_host("web2", |host| host.is_reachable = false);
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert!(said(&fake, "holding: web2: the connection broke"));
        fake.site.with_host("web2", |host| host.is_reachable = true);
    });
    assert_eq!(report.unwrap().progress.result, Some(PromotionResult::Promoted));
}

#[tokio::test(start_paused = true)]
async fn rollback_names_unreached_host_and_abort_retries() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web2", "5%").await;
        fake.site.with_host("web2", |host| host.is_reachable = false);
        canary(&fake, |canary| canary.error_every = 2);
    });
    let standing = report.unwrap().progress;
    assert_eq!((standing.result, standing.unreachable_hosts.len()), (None, 1));
    assert_eq!(standing.unreachable_hosts[0].0.as_str(), "web2");
    assert_eq!(shares(&fake), [None, Some("5%".parse().unwrap()), None], "all the others went back");

    let error = roll_out(&fake, spec()).await.unwrap_err();
    assert!(matches!(error, PromotionError::Unfinished { .. }), "{error}");
    fake.site.with_host("web2", |host| host.is_reachable = true);
    // A resume takes no step either: it goes on with the way back.
    is_back(&fake, &resume(&fake.world, &fake.fleet, &actor()).await.unwrap(), "to the canary failed");
    assert_eq!(list_shares(&fake, "web1"), "1% 5% -");
}

#[tokio::test(start_paused = true)]
async fn interrupt_removes_canary_and_allows_resume() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web3", "25%").await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        fake.stopper.stop();
    });
    let standing = report.unwrap().progress;
    assert_eq!((standing.result, standing.stop_reason.as_deref()), (None, Some("interrupted")));
    assert_eq!((shares(&fake), standing.step), (vec![None; 3], 2));

    let world = FleetWorld { stop: StopToken::without_handle(), ..fake.world.clone() };
    let report = resume(&world, &fake.fleet, &actor()).await.unwrap();
    assert_eq!(report.progress.result, Some(PromotionResult::Promoted));
    assert_eq!(list_shares(&fake, "web1"), "1% 5% 25% - 25% 50% 100%");
}

/// The journal shows how far the promotion was.
async fn killed_after(fake: &FakeSite, after: Duration) {
    fake.kill_when(roll_out(fake, spec()), tokio::time::sleep(after)).await;
}

#[tokio::test(start_paused = true)]
async fn resume_after_kill_restarts_step() {
    let fake = site(3, 1);
    killed_after(&fake, Duration::from_secs(150)).await;
    assert_eq!(shares(&fake), [Some("25%".parse().unwrap()); 3], "no process was left to remove it");
    let error = roll_out(&fake, spec()).await.unwrap_err();
    assert!(matches!(error, PromotionError::Unfinished { .. }), "{error}");
    assert_eq!(resume_to_end(&fake).await, Some(PromotionResult::Promoted));
    assert_eq!(list_shares(&fake, "web1"), "1% 5% 25% 25% 50% 100%");
}

#[tokio::test(start_paused = true)]
async fn approve_after_kill_is_refused() {
    let fake = site(3, 1);
    let work = PromotionSpec { require_approval: true, ..spec() };
    fake.kill_when(roll_out(&fake, work), waits(&fake, 0)).await;
    let error = ready(approve(&fake.world, &fake.fleet, &actor())).unwrap_err();
    assert!(matches!(error, PromotionError::NotRunning { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn abort_after_kill_removes_canary() {
    let fake = site(3, 1);
    killed_after(&fake, Duration::from_secs(150)).await;
    let report = abort(&fake.world, &fake.fleet, &actor()).await.unwrap();
    assert_eq!(report.progress.result, Some(PromotionResult::Aborted));
    assert_eq!((shares(&fake), list_shares(&fake, "web1")), (vec![None; 3], "1% 5% 25% -".into()));
    let error = abort(&fake.world, &fake.fleet, &actor()).await.unwrap_err();
    assert!(matches!(error, PromotionError::Finished { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn failed_final_flip_is_reverted_on_all_hosts() {
    let fake = site(3, 1);
    fake.site.with_host("web2", |host| host.assign_error = Some(build_locked_error()));
    let report = roll_out(&fake, spec()).await.unwrap();
    is_back(&fake, &report, "it does not become main: done on 2 of 3 hosts; `web2`: xtables is locked");
}

#[tokio::test(start_paused = true)]
async fn rollback_keeps_changes_of_another_command() {
    let fake = site(3, 1);
    let other = other_canary();
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web2", "5%").await;
        fake.site.with_host("web2", |host| host.layer7.traffic_split.canary = Some(other.clone()));
    });
    let standing = report.unwrap().progress;
    assert_eq!(standing.result, Some(PromotionResult::RolledBack));
    assert_eq!(standing.reason, "web2: another command made another version the canary");
    assert_eq!(fake.site.with_host("web2", |host| host.layer7.traffic_split.canary.clone()), Some(other));
    assert_eq!(list_shares(&fake, "web1"), "1% 5% -");
}

#[tokio::test(start_paused = true)]
async fn promotion_does_not_restore_removed_canary() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web2", "5%").await;
        fake.site.with_host("web2", |host| host.layer7.traffic_split.canary = None);
    });
    is_back(&fake, &report.unwrap(), "web2: another command took the canary away");
}

#[tokio::test(start_paused = true)]
async fn journal_failure_removes_canary() {
    let fake = site(3, 1);
    let (ended, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web1", "5%").await;
        *fake.journal.free_entries.lock().unwrap() = Some(0);
    });
    let error = ended.unwrap_err();
    assert!(matches!(error, PromotionError::Journal(JournalError::Full { .. })), "{error}");
    assert_eq!(shares(&fake), [None; 3]);
}

/// Another operator took the lock by force: this process changes nothing more.
#[tokio::test(start_paused = true)]
async fn lost_lock_stops_promotion_without_changes() {
    let fake = site(3, 1);
    let (ended, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web3", "5%").await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        ready(lock::release(&fake.world, "other", Some("stuck"))).unwrap();
    });
    let error = ended.unwrap_err();
    assert!(matches!(error, PromotionError::Journal(JournalError::LockLost { .. })), "{error}");
    assert_eq!(shares(&fake), [Some("5%".parse().unwrap()); 3]);
}
