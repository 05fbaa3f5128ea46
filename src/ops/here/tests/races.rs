//! Another command changes main while one is at work: nothing of it is reverted.

use super::*;
use crate::ops::here::watch;
use crate::world::store::{Outcome, Store as _};

/// Another command makes a version main while the story waits for the rules.
async fn while_assigned<T>(fake: &FakeWorld, version: &str, story: impl Future<Output = T>) -> T {
    let held = fake.store.lock("another command", MS).await.unwrap();
    let (ended, ()) = tokio::join!(story, async {
        // The clock goes on when nothing else does: the story waits.
        tokio::time::sleep(MS * 3000).await;
        let (records, existing) = (fake.store.recorded().unwrap(), fake.world.deployments.all().unwrap());
        let now = fake.world.clock.now();
        let (intent, _) = crate::plan::versions::assign(&records, &existing, &to(version), now).unwrap();
        let (operation, _) = fake.store.begin(&intent, now).unwrap();
        fake.store.end(operation, &actor(), &Outcome::Done { detail: String::new() }, now).unwrap();
        drop(held);
    });
    rules::reconcile(&fake.world, "repair").await.unwrap();
    ended
}

/// Three versions; the second is main and on trial, the first is its backup.
async fn three() -> FakeWorld {
    let fake = fake();
    for version in ["1.0.0", "2.0.0", "3.0.0"] {
        deploy(&fake.world, &request(&fake, version)).await.unwrap();
    }
    assign(&fake.world, &AssignRequest { trial: MS * 5000, ..to("2.0.0") }).await.unwrap();
    assert_eq!(rules(&fake), all_to(20001, 20000));
    fake
}

#[tokio::test(start_paused = true)]
async fn a_kill_reverts_no_assign() {
    let fake = three().await;
    let killed = while_assigned(&fake, "3.0.0", kill(&fake.world, &kill_of(&fake, "1.0.0"))).await;
    assert_eq!(killed.unwrap().deployment.version.to_string(), "1.0.0");
    assert_eq!(rules(&fake), all_to(20002, 20002));
    assert_eq!(is_sound(&fake), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_update_reverts_no_assign() {
    let fake = three().await;
    let updated = while_assigned(&fake, "3.0.0", update(&fake.world, &update_of(&fake, "2.0.0"))).await;
    assert_eq!(updated.unwrap().instance.build, 2);
    assert_eq!(rules(&fake), all_to(20002, 20002));
    assert_eq!(is_sound(&fake), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_watch_window_reverts_no_assign() {
    let fake = three().await;
    // Its window is over.
    let until = jiff::Timestamp::UNIX_EPOCH;
    fake.store.recorded.lock().unwrap()[0].trial.as_mut().unwrap().until = until;
    let (shop, actor) = (shop(), actor());
    let ended = while_assigned(&fake, "3.0.0", watch(&fake.world, &shop, &actor)).await;
    assert_eq!(ended.unwrap(), TrialEnd::Overtaken);
    assert_eq!(rules(&fake), all_to(20002, 20002));
}

/// R9: a refused kill puts back what it took, and only that.
#[tokio::test(start_paused = true)]
async fn a_refused_kill_leaves_the_main_that_was_made_meanwhile() {
    for (version, led_to) in [("3.0.0", 20002), ("1.0.0", 20000)] {
        let fake = three().await;
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
