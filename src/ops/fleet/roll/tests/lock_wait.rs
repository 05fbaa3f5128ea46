//! `--wait-lock`: a command that waits for the lock of another one.

use super::*;

/// The site as another operator's process works with it: its lock waits for so long.
fn waiting(fake: &FakeSite, limit: Duration) -> FleetWorld {
    FleetWorld { lock: fake.world.lock.clone().with_wait_limit(limit), ..fake.world.clone() }
}

fn purpose() -> LockPurpose {
    LockPurpose::Command { name: "assign".to_owned() }
}

/// The holders that were announced, in order.
fn announced(fake: &FakeSite) -> Vec<String> {
    let events = fake.events.lock().unwrap();
    let user = |event: &Event| match event {
        Event::WaitingForLock { lock, .. } => Some(lock.holder.user.clone()),
        _ => None,
    };
    events.iter().filter_map(user).collect()
}

#[tokio::test(start_paused = true)]
async fn waiting_roll_begins_when_the_lock_is_released() {
    let fake = site(2, 1);
    let world = waiting(&fake, Duration::from_mins(10));
    ready(lock::acquire_for_person(&fake.world, "anna", "measuring")).unwrap();
    let spec = spec(2);
    let actor = actor();
    let (rolled, ()) = tokio::join!(run(&world, &fake.fleet, &spec, &actor), async {
        tokio::time::sleep(Duration::from_mins(3)).await;
        assert!(fake.journal.rolls.lock().unwrap().is_empty());
        ready(lock::release(&fake.world, "anna", None)).unwrap();
    });
    let progress = rolled.unwrap().progress;
    assert_eq!(progress.result, Some(RollResult::Done));
    assert_eq!(announced(&fake), ["anna"], "once");
    let minutes = progress.began_at.duration_since(jiff::Timestamp::UNIX_EPOCH).as_mins();
    assert!(minutes >= 3 && progress.roll.to_string().starts_with("r19700101-0003"), "{}", progress.roll);
}

/// A roll that runs is waited for, not taken for one that has to be resumed.
#[tokio::test(start_paused = true)]
async fn waiting_roll_follows_a_running_one() {
    let fake = site(3, 1);
    let world = waiting(&fake, Duration::from_mins(10));
    let (first, second) = tokio::join!(roll(&fake, spec(3)), async {
        tokio::time::sleep(MS * 100).await;
        run(&world, &fake.fleet, &spec(3), &actor()).await
    });
    assert!(first.unwrap().is_complete() && second.unwrap().is_complete());
    // One that stopped is not.
    fake.site.with_host("web2", |host| host.command_status = 1);
    let (first, second) = tokio::join!(roll(&fake, spec(3)), async {
        tokio::time::sleep(MS * 100).await;
        run(&world, &fake.fleet, &spec(3), &actor()).await
    });
    assert!(!first.unwrap().is_complete());
    assert!(matches!(second, Err(RollError::Unfinished { .. })), "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn wait_ends_at_its_limit_with_the_refusal_and_its_duration() {
    let fake = site(1, 1);
    let world = waiting(&fake, Duration::from_secs(90));
    ready(lock::acquire_for_person(&fake.world, "anna", "measuring")).unwrap();
    let began = Instant::now();
    let error = lock::acquire(&world, "ops", purpose()).await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 90);
    let text = error.to_string();
    assert!(text.starts_with("the fleet is locked by anna on desk since "), "{text}");
    assert!(text.ends_with(": measuring; waited 1m30s"), "{text}");
    // One limit for a command that takes the lock twice.
    let again = lock::acquire(&world, "ops", purpose()).await.unwrap_err().to_string();
    assert!(!again.contains("waited") && began.elapsed().as_secs() == 90, "{again}");
}

#[tokio::test(start_paused = true)]
async fn stop_request_ends_the_wait_at_once() {
    let fake = site(1, 1);
    let world = waiting(&fake, Duration::from_mins(10));
    ready(lock::acquire_for_person(&fake.world, "anna", "measuring")).unwrap();
    let (ended, stopped_at) = tokio::join!(lock::acquire(&world, "ops", purpose()), async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        fake.stopper.stop();
        Instant::now()
    });
    assert!(matches!(ended, Err(LockError::Interrupted { .. })), "{ended:?}");
    assert!(stopped_at.elapsed() < MS * 100);
    let held = ready(fake.world.lock.read_holder()).unwrap().unwrap();
    assert_eq!(held.holder.user, "anna");
}

/// Its process is looked up, because no store reports the death of a process.
#[tokio::test(start_paused = true)]
async fn wait_ends_with_the_process_of_the_holder() {
    let fake = site(1, 1);
    let world = waiting(&fake, Duration::from_mins(10));
    lock::acquire(&fake.world, "eve", purpose()).await.unwrap();
    let began = Instant::now();
    let (ended, ()) = tokio::join!(lock::acquire(&world, "ops", purpose()), async {
        tokio::time::sleep(Duration::from_mins(1)).await;
        fake.journal.kill();
    });
    assert_eq!(ended.unwrap().user, "ops");
    assert!(began.elapsed() < Duration::from_secs(61), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn silent_holder_is_replaced_also_with_a_short_limit() {
    for limit in [Duration::from_secs(1), Duration::from_mins(10)] {
        let fake = site(1, 1);
        let world = waiting(&fake, limit);
        lock::acquire(&fake.world, "eve", purpose()).await.unwrap();
        *fake.journal.liveness.lock().unwrap() = Some(Liveness::Remote);
        let began = Instant::now();
        assert_eq!(lock::acquire(&world, "ops", purpose()).await.unwrap().user, "ops");
        assert_eq!(began.elapsed().as_secs(), 10, "five intervals of its heartbeat");
    }
}

/// The last heartbeat of a process that has ended arrives late: its store could not be reached before.
#[tokio::test(start_paused = true)]
async fn one_late_heartbeat_is_no_sign_of_life() {
    let fake = site(1, 1);
    let eve = lock::acquire(&fake.world, "eve", purpose()).await.unwrap();
    *fake.journal.liveness.lock().unwrap() = Some(Liveness::Remote);
    let late = async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        ready(fake.world.lock.send_heartbeat(&eve)).unwrap();
    };
    let began = Instant::now();
    let (taken, ()) = tokio::join!(lock::acquire(&fake.world, "ops", purpose()), late);
    assert_eq!(taken.unwrap().user, "ops");
    assert_eq!(began.elapsed().as_secs(), 20);
}

/// A holder whose store is slow sends one heartbeat in a long time.
#[tokio::test(start_paused = true)]
async fn slow_holder_is_not_replaced() {
    let fake = site(1, 1);
    let eve = lock::acquire(&fake.world, "eve", purpose()).await.unwrap();
    *fake.journal.liveness.lock().unwrap() = Some(Liveness::Remote);
    let beat = async {
        loop {
            tokio::time::sleep(Duration::from_secs(9)).await;
            ready(fake.world.lock.send_heartbeat(&eve)).unwrap();
        }
    };
    let refused = tokio::select! {
        refused = lock::acquire(&fake.world, "ops", purpose()) => refused,
        () = beat => unreachable!(),
    };
    assert!(matches!(refused, Err(LockError::Locked { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_of_a_remote_holder_are_waited_out() {
    let fake = site(1, 1);
    let world = waiting(&fake, Duration::from_secs(30));
    let eve = lock::acquire(&fake.world, "eve", purpose()).await.unwrap();
    *fake.journal.liveness.lock().unwrap() = Some(Liveness::Remote);
    let beat = async {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            ready(fake.world.lock.send_heartbeat(&eve)).unwrap();
        }
    };
    let began = Instant::now();
    let ended = tokio::select! {
        ended = lock::acquire(&world, "ops", purpose()) => ended,
        () = beat => unreachable!(),
    };
    assert!(matches!(ended, Err(LockError::Locked { .. })), "{ended:?}");
    assert_eq!(began.elapsed().as_secs(), 30);
    assert_eq!(announced(&fake), ["eve"], "a heartbeat is no new holder");
}

/// The lock goes to others twice before this command gets it.
#[tokio::test(start_paused = true)]
async fn lost_race_goes_on_waiting_and_names_the_new_holder() {
    let fake = site(1, 1);
    let world = waiting(&fake, Duration::from_mins(10));
    ready(lock::acquire_for_person(&fake.world, "anna", "measuring")).unwrap();
    let others = async {
        for (user, next) in [("anna", Some("bert")), ("bert", Some("cleo")), ("cleo", None)] {
            tokio::time::sleep(Duration::from_secs(20)).await;
            ready(lock::release(&fake.world, user, None)).unwrap();
            if let Some(next) = next {
                ready(lock::acquire_for_person(&fake.world, next, "measuring")).unwrap();
            }
        }
    };
    let (ended, ()) = tokio::join!(lock::acquire(&world, "ops", purpose()), others);
    assert_eq!(ended.unwrap().user, "ops");
    assert_eq!(announced(&fake), ["anna", "bert", "cleo"]);
}

/// A leader election of the store is no reason to fail a job that waits.
#[tokio::test(start_paused = true)]
async fn wait_outlasts_a_store_that_does_not_answer_for_a_while() {
    let fake = site(1, 1);
    let world = waiting(&fake, Duration::from_mins(10));
    ready(lock::acquire_for_person(&fake.world, "anna", "measuring")).unwrap();
    let (ended, ()) = tokio::join!(lock::acquire(&world, "ops", purpose()), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        fake.journal.set_unreachable(Some(StoreFault::RequestLost));
        tokio::time::sleep(Duration::from_secs(20)).await;
        fake.journal.set_unreachable(None);
        ready(lock::release(&fake.world, "anna", None)).unwrap();
    });
    assert_eq!(ended.unwrap().user, "ops");
    // A store that has not answered once refuses.
    fake.journal.set_unreachable(Some(StoreFault::RequestLost));
    let ended = lock::acquire(&world, "ops", purpose()).await;
    assert!(matches!(ended, Err(LockError::Journal(JournalError::Unreachable { .. }))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn finished_roll_refuses_resume_with_its_end_and_its_result() {
    let fake = site(2, 1);
    let error = resume(&fake.world, &fake.fleet, &actor()).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot resume a roll: the journal has none");
    let done = roll(&fake, spec(2)).await.unwrap().progress;
    for verb in ["resume", "abort"] {
        let ended = match verb {
            "resume" => resume(&fake.world, &fake.fleet, &actor()).await,
            _ => abort(&fake.world, &fake.fleet, &actor()).await,
        };
        let expected = format!(
            "cannot {verb} roll {}: it finished at {:.0} with the result `done`",
            done.roll, done.changed_at
        );
        assert_eq!(ended.unwrap_err().to_string(), expected);
    }
}
