//! What fails on the way.

use super::*;

async fn at_share(fake: &FakeSite, host: &str, share: &str) {
    let wanted = Some(share.parse().unwrap());
    while fake.site.with(host, |host| host.layer7.share()) != wanted {
        tokio::time::sleep(MS * 100).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_take_a_share_takes_it_from_all() {
    let fake = site(3, 1);
    fake.site.with("web2", |host| host.layer7.refuses = Some("25%".parse().unwrap()));
    let report = roll_out(&fake, spec()).await.unwrap();
    is_back(
        &fake,
        &report,
        "not every host takes a share of 25%: done on 2 of 3 hosts; web2: the proxy refuses",
    );
    assert_eq!((told(&fake, "web1"), told(&fake, "web2")), ("1% 5% 25% -".into(), "1% 5% -".into()));
}

/// A link that is cut for a moment is no reason to go back.
#[tokio::test(start_paused = true)]
async fn a_share_whose_answer_is_lost_is_told_again() {
    let fake = site(3, 1);
    fake.site.with("web2", |host| host.answers_lost = 1);
    let report = roll_out(&fake, spec()).await.unwrap();
    assert_eq!(report.standing.result, Some(RolloutResult::Promoted));
    assert_eq!(told(&fake, "web2"), "1% 1% 5% 25% 50% 100%");
}

#[tokio::test(start_paused = true)]
async fn while_a_proxy_is_out_of_the_way_it_holds_and_says_so() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web2", "5%").await;
        fake.site.with("web2", |host| {
            host.layer7.restart();
            host.layer7.inserted = false;
        });
        tokio::time::sleep(Duration::from_mins(30)).await;
        assert!(said(&fake, "web2: its proxy is out of the way, main answers everything"));
        assert_eq!(told(&fake, "web1"), "1% 5%");
        fake.site.with("web2", |host| {
            host.layer7.pass();
            host.layer7.inserted = true;
        });
    });
    assert_eq!(report.unwrap().standing.result, Some(RolloutResult::Promoted));
}

#[tokio::test(start_paused = true)]
async fn an_interval_in_which_a_proxy_was_restarted_is_judged_anew() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web2", "5%").await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        fake.site.with("web2", |host| host.layer7.restart());
    });
    let report = report.unwrap();
    assert_eq!(report.standing.result, Some(RolloutResult::Promoted));
    assert!(said(&fake, "holding: web2: its proxy was restarted"));
    assert_eq!(told(&fake, "web2"), "1% 5% 25% 50% 100%");
}

#[tokio::test(start_paused = true)]
async fn a_host_out_of_reach_holds() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web2", "25%").await;
        fake.site.with("web2", |host| host.reachable = false);
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert!(said(&fake, "holding: web2: the link broke"));
        fake.site.with("web2", |host| host.reachable = true);
    });
    assert_eq!(report.unwrap().standing.result, Some(RolloutResult::Promoted));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_cannot_be_told_to_go_back_is_named_and_an_abort_tries_again() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web2", "5%").await;
        fake.site.with("web2", |host| host.reachable = false);
        canary(&fake, |canary| canary.error_every = 2);
    });
    let standing = report.unwrap().standing;
    assert_eq!((standing.result, standing.untold.len()), (None, 1));
    assert_eq!(standing.untold[0].0.as_str(), "web2");
    assert_eq!(shares(&fake), [None, Some("5%".parse().unwrap()), None], "all the others went back");

    let error = roll_out(&fake, spec()).await.unwrap_err();
    assert!(matches!(error, RolloutError::Unfinished { .. }), "{error}");
    fake.site.with("web2", |host| host.reachable = true);
    // A resume takes no step either: it goes on with the way back.
    let report = resume(&fake.world, &fake.fleet, &actor()).await.unwrap();
    is_back(&fake, &report, "to the canary failed");
    assert_eq!(told(&fake, "web1"), "1% 5% -");
}

#[tokio::test(start_paused = true)]
async fn an_interruption_leaves_no_canary_and_can_be_resumed() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web3", "25%").await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        fake.stopper.stop();
    });
    let standing = report.unwrap().standing;
    assert_eq!((standing.result, standing.stopped.as_deref()), (None, Some("interrupted")));
    assert_eq!((shares(&fake), standing.step), (vec![None; 3], 2));

    let world = FleetWorld { stop: Stop::never(), ..fake.world.clone() };
    let report = resume(&world, &fake.fleet, &actor()).await.unwrap();
    assert_eq!(report.standing.result, Some(RolloutResult::Promoted));
    assert_eq!(told(&fake, "web1"), "1% 5% 25% - 25% 50% 100%");
}

/// Its journal says how far it was.
async fn killed_after(fake: &FakeSite, after: Duration) {
    let (work, actor) = (spec(), actor());
    tokio::select! {
        ended = run(&fake.world, &fake.fleet, &work, &actor) => panic!("{ended:?}"),
        () = tokio::time::sleep(after) => {}
    }
    fake.journal.kill();
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_a_resume_judges_the_step_anew() {
    let fake = site(3, 1);
    killed_after(&fake, Duration::from_secs(150)).await;
    assert_eq!(shares(&fake), [Some("25%".parse().unwrap()); 3], "nobody was left to take it away");
    let error = roll_out(&fake, spec()).await.unwrap_err();
    assert!(matches!(error, RolloutError::Unfinished { .. }), "{error}");
    let report = resume(&fake.world, &fake.fleet, &actor()).await.unwrap();
    assert_eq!(report.standing.result, Some(RolloutResult::Promoted));
    assert_eq!(told(&fake, "web1"), "1% 5% 25% 25% 50% 100%");
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_nobody_is_there_to_be_promoted() {
    let fake = site(3, 1);
    let (work, actor) = (RolloutSpec { approve: true, ..spec() }, actor());
    tokio::select! {
        ended = run(&fake.world, &fake.fleet, &work, &actor) => panic!("{ended:?}"),
        () = waits(&fake, 0) => {}
    }
    fake.journal.kill();
    let error = promote(&fake.world, &actor).unwrap_err();
    assert!(matches!(error, RolloutError::NotRunning { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_an_abort_takes_the_canary_away() {
    let fake = site(3, 1);
    killed_after(&fake, Duration::from_secs(150)).await;
    let report = abort(&fake.world, &fake.fleet, &actor()).await.unwrap();
    assert_eq!(report.standing.result, Some(RolloutResult::Aborted));
    assert_eq!((shares(&fake), told(&fake, "web1")), (vec![None; 3], "1% 5% 25% -".into()));
    let error = abort(&fake.world, &fake.fleet, &actor()).await.unwrap_err();
    assert!(matches!(error, RolloutError::Finished { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_become_main_on_one_host_is_main_on_none() {
    let fake = site(3, 1);
    fake.site.with("web2", |host| host.assign_error = Some(refusal()));
    let report = roll_out(&fake, spec()).await.unwrap();
    is_back(&fake, &report, "it does not become main: done on 2 of 3 hosts; web2: xtables is locked");
}

#[tokio::test(start_paused = true)]
async fn what_another_command_changed_is_left_to_it() {
    let fake = site(3, 1);
    let deployment = example::deployment("shop", "0.9.0", 20000).id;
    let other = Canary { deployment, percent: None, sticky: None, header: None, cookie: None };
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web2", "5%").await;
        fake.site.with("web2", |host| host.layer7.splits.canary = Some(other.clone()));
    });
    let standing = report.unwrap().standing;
    assert_eq!(standing.result, Some(RolloutResult::Returned));
    assert_eq!(standing.why, "web2: another command made another version the canary");
    assert_eq!(fake.site.with("web2", |host| host.layer7.splits.canary.clone()), Some(other));
    assert_eq!(told(&fake, "web1"), "1% 5% -");
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_a_person_took_away_is_not_put_back() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web2", "5%").await;
        fake.site.with("web2", |host| host.layer7.splits.canary = None);
    });
    is_back(&fake, &report.unwrap(), "web2: another command took the canary away");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_recorded_any_more_leaves_no_canary() {
    let fake = site(3, 1);
    let (ended, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web1", "5%").await;
        *fake.journal.room.lock().unwrap() = Some(0);
    });
    let error = ended.unwrap_err();
    assert!(matches!(error, RolloutError::Journal(JournalError::Full { .. })), "{error}");
    assert_eq!(shares(&fake), [None; 3]);
}

/// Somebody took the lock by force: what follows is his.
#[tokio::test(start_paused = true)]
async fn who_lost_the_lock_touches_nothing_more() {
    let fake = site(3, 1);
    let (ended, ()) = tokio::join!(roll_out(&fake, spec()), async {
        at_share(&fake, "web3", "5%").await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        lock::release(&fake.world, "other", Some("stuck")).unwrap();
    });
    let error = ended.unwrap_err();
    assert!(matches!(error, RolloutError::Journal(JournalError::LockLost { .. })), "{error}");
    assert_eq!(shares(&fake), [Some("5%".parse().unwrap()); 3]);
}
