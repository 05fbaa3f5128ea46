//! Another command changes main while one is at work: nothing of it is reverted.

use super::*;
use crate::world::store::{ChangeOutcome, Store as _};

/// Another command makes a version main while the story waits for the rules.
async fn while_assigned<T>(fake: &FakeWorld, version: &str, story: impl Future<Output = T>) -> T {
    let held = fake.store.lock("another command", MS).await.unwrap();
    let (ended, ()) = tokio::join!(story, async {
        // The clock goes on when nothing else does: the story waits.
        tokio::time::sleep(MS * 3000).await;
        let (records, existing) = (fake.store.load_records().unwrap(), fake.world.deployments.all().unwrap());
        let now = fake.world.clock.now();
        let (intent, _) = crate::plan::versions::plan_assign(&records, &existing, &to(version), now).unwrap();
        let (operation, _) = fake.store.begin(&intent, now).unwrap();
        fake.store.end(operation, &actor(), &ChangeOutcome::Done { detail: String::new() }, now).unwrap();
        drop(held);
    });
    rules::reconcile(&fake.world, "repair").await.unwrap();
    ended
}

/// Three versions; the second is main and on trial for so long, the first was before it.
async fn three(trial: Duration) -> FakeWorld {
    let fake = with_versions(&["1.0.0", "2.0.0", "3.0.0"]).await;
    assign(&fake.world, &AssignRequest { trial, ..to("2.0.0") }).await.unwrap();
    assert_eq!(rules(&fake), all_to(20001, if trial.is_zero() { 20001 } else { 20000 }));
    fake
}

#[tokio::test(start_paused = true)]
async fn kill_does_not_revert_assign() {
    let fake = three(Duration::ZERO).await;
    let request = kill_of(&fake, "1.0.0");
    let killed = while_assigned(&fake, "3.0.0", Box::pin(kill(&fake.world, &request))).await;
    assert_eq!(killed.unwrap().deployment.version.to_string(), "1.0.0");
    assert_eq!(rules(&fake), all_to(20002, 20002));
    assert_eq!(is_sound(&fake), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn update_does_not_revert_assign() {
    let fake = three(MS * 5000).await;
    let updated =
        while_assigned(&fake, "3.0.0", Box::pin(update(&fake.world, &update_of(&fake, "2.0.0")))).await;
    assert_eq!(updated.unwrap().instance.build, 2);
    assert_eq!(rules(&fake), all_to(20002, 20002));
    assert_eq!(is_sound(&fake), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn watch_end_does_not_revert_assign() {
    let fake = three(MS * 5000).await;
    // Its window is over.
    let until = jiff::Timestamp::UNIX_EPOCH;
    fake.store.records.lock().unwrap()[0].trial.as_mut().unwrap().until = until;
    let (shop, request) = (shop(), WatchRequest { id: id_of(&fake, "2.0.0"), actor: actor() });
    let ended = Box::pin(while_assigned(&fake, "3.0.0", watch(&fake.world, &shop, &request))).await;
    let ended = ended.unwrap();
    let TrialOutcome::Overtaken { main: Some(main), .. } = ended else { panic!("{ended:?}") };
    assert_eq!(main.version.to_string(), "3.0.0");
    assert_eq!(rules(&fake), all_to(20002, 20002));
}

/// R9: a refused kill puts back what it took, and only that.
#[tokio::test(start_paused = true)]
async fn refused_kill_keeps_concurrent_assign() {
    for (version, led_to) in [("3.0.0", 20002), ("1.0.0", 20000)] {
        let fake = three(MS * 5000).await;
        *fake.host.sockets.lock().unwrap() = vec![busy()];
        let killing = kill_of(&fake, "1.0.0");
        let (killed, assigned) = tokio::join!(kill(&fake.world, &killing), async {
            // Between two looks of the drain.
            tokio::time::sleep(MS * 300).await;
            assign(&fake.world, &to(version)).await
        });
        assigned.unwrap();
        let error = killed.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotDrained, "{error}");
        assert_eq!(rules(&fake), all_to(led_to, led_to), "{version}");
        assert_eq!(is_sound(&fake), Ok(()));
    }
}

/// A command that takes a change back takes back no other, and routes only to a version that it has checked.
#[tokio::test(start_paused = true)]
async fn rollback_does_not_revert_assign() {
    let fake = three(Duration::ZERO).await;
    let shop = shop();
    let from = |version: &str| RollbackRequest { from: Some(version.parse().unwrap()), ..back() };
    let error = rollback(&fake.world, &shop, &from("3.0.0")).await.unwrap_err();
    assert_eq!(error.to_string(), "3.0.0 is not main of shop");
    let request = from("2.0.0");
    let error = while_assigned(&fake, "3.0.0", rollback(&fake.world, &shop, &request)).await.unwrap_err();
    assert_eq!(error.to_string(), "2.0.0 is not main of shop");
    assert_eq!(rules(&fake), all_to(20002, 20002));
    // Without a version to take back, it goes where it meant to, or nowhere.
    let request = back();
    let error = while_assigned(&fake, "1.0.0", rollback(&fake.world, &shop, &request)).await.unwrap_err();
    assert_eq!(error.to_string(), "another command changed main of shop in between");
    assert_eq!(rules(&fake), all_to(20000, 20000));
    rollback(&fake.world, &shop, &from("1.0.0")).await.unwrap();
    assert_eq!(rules(&fake), all_to(20002, 20002));
}

/// A caller that hangs up, as the first Ctrl-C does: the new instance has the users by then, and the requests of the old one
/// get their limit.
#[tokio::test(start_paused = true)]
async fn update_drains_to_its_limit_without_its_caller() {
    let fake = with_versions(&["1.0.0"]).await;
    *fake.host.sockets.lock().unwrap() = vec![busy()];
    let limit = Duration::from_mins(1);
    let request = UpdateRequest { drain_timeout: limit, ..update_of(&fake, "1.0.0") };
    let began = tokio::time::Instant::now();
    let hang_up = async {
        wait_until(MS, || rules(&fake) == all_to(20001, 20001)).await;
        fake.stopper.stop();
    };
    let (updated, ()) = tokio::join!(Box::pin(update(&fake.world, &request)), hang_up);
    assert_eq!(updated.unwrap().instance.build, 2);
    assert!(began.elapsed() >= limit, "{:?}", began.elapsed());
}
