//! A store that is out of reach from any entry of a roll on: another operator repairs the rest with one command.

use super::*;
use crate::model::roll::Step;
use crate::world::fake::paused::wait_until;

/// Returns `false` when the roll has ended before it had this many entries.
async fn lose_store_at(entries: usize, fault: StoreFault, verb: &str) -> bool {
    let fake = site(2, 1);
    let lost = async {
        wait_until(MS, || fake.journal.rolls.lock().unwrap().len() >= entries).await;
        fake.journal.set_unreachable(Some(fault));
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = roll(&fake, spec(2)) => ended,
        () = lost => unreachable!("it is pending"),
    };
    let case = format!("{fault:?} from entry {entries} on, {verb}");
    if ended.as_ref().is_ok_and(RollReport::is_complete) {
        return false;
    }
    let error = ended.unwrap_err();
    assert!(error.to_string().contains("timed out"), "{case}: {error}");
    fake.journal.set_unreachable(None);
    // The process has ended, and could not release its lock.
    fake.journal.kill();
    let Some(progress) = ready(read_last(&fake.world)).unwrap() else {
        assert_eq!(in_service(&fake), [true; 2], "{case}: nothing began");
        return true;
    };
    // Every host out of service is one that the journal describes so.
    for (host, is_in_service) in progress.hosts.iter().zip(in_service(&fake)) {
        assert!(is_in_service || host.may_be_out(), "{case}: {host:?}");
    }
    if progress.is_finished() {
        assert_eq!(in_service(&fake), [true; 2], "{case}");
        return true;
    }
    let other = crate::model::history::Actor::new("ann", 4711);
    let repaired = match verb {
        "resume" => resume(&fake.world, &fake.fleet, &other).await,
        _ => abort(&fake.world, &fake.fleet, &other).await,
    };
    let repaired = repaired.unwrap_or_else(|error| panic!("{case}: {error}"));
    assert!(repaired.is_complete(), "{case}: {:?}", repaired.progress);
    assert_eq!(in_service(&fake), [true; 2], "{case}");
    if verb == "resume" {
        let state = fake.site.lock();
        let is_done = |host: &crate::ops::testing::site::SiteHost| host.commands.last() == Some(&"ended");
        assert!(state.hosts.values().all(is_done), "{case}: {:?}", state.hosts);
    }
    true
}

async fn lose_store_at_every_entry(verb: &str) {
    for fault in [StoreFault::RequestLost, StoreFault::AnswerLost, StoreFault::OldLeader] {
        let mut entries = 0;
        while lose_store_at(entries, fault, verb).await {
            entries += 1;
            assert!(entries < 1000, "the roll never ends");
        }
        assert!(entries > 20, "{entries} entries are too few for two hosts");
    }
}

#[tokio::test(start_paused = true)]
async fn store_lost_at_any_entry_is_repaired_by_resume_of_another_operator() {
    lose_store_at_every_entry("resume").await;
}

#[tokio::test(start_paused = true)]
async fn store_lost_at_any_entry_is_repaired_by_abort_of_another_operator() {
    lose_store_at_every_entry("abort").await;
}

/// Waits until the roll has recorded a step of web1 and has not done it.
async fn wait_for_step(fake: &FakeSite, step: Step) {
    let began = RollEntryKind::StepBegan { step };
    wait_until(MS, || fake.journal.rolls.lock().unwrap().last().is_some_and(|entry| entry.kind == began))
        .await;
}

/// The process sleeps at a step of web1, and the store is out of reach when it wakes up: the host is put back, and the operator
/// reads that.
#[tokio::test(start_paused = true)]
async fn store_lost_during_sleep_puts_host_back() {
    for step in [Step::Down, Step::Drained, Step::Command] {
        let fake = site(2, 1);
        let (ended, ()) = tokio::join!(roll(&fake, spec(2)), async {
            wait_for_step(&fake, step).await;
            fake.journal.set_unreachable(Some(StoreFault::RequestLost));
            tokio::time::advance(Duration::from_secs(30)).await;
        });
        let error = ended.unwrap_err().to_string();
        assert!(error.contains("timed out"), "{step:?}: {error}");
        assert_eq!(in_service(&fake), [true; 2], "{step:?}");
        assert!(fake.site.with_host("web1", |host| host.commands.is_empty()), "{step:?}");
        let is_described = |event: &Event| {
            let Event::Roll { event, .. } = event else { return false };
            matches!(event, RollEvent::Settled { end: HostOutcome::Restored, .. })
        };
        assert!(fake.events.lock().unwrap().iter().any(is_described), "{step:?}");
    }
}

/// The lock was taken over during the sleep: the host is another operator's by now.
#[tokio::test(start_paused = true)]
async fn lock_lost_during_sleep_leaves_host_to_the_next_holder() {
    let fake = site(2, 1);
    let (ended, ()) = tokio::join!(roll(&fake, spec(2)), async {
        wait_for_step(&fake, Step::Command).await;
        ready(lock::release(&fake.world, "boss", Some("asleep"))).unwrap();
        tokio::time::advance(Duration::from_secs(30)).await;
    });
    assert!(matches!(ended, Err(RollError::Journal(JournalError::LockLost { .. }))), "{ended:?}");
    assert_eq!(in_service(&fake), [false, true], "nothing was done");
    assert!(fake.site.with_host("web1", |host| host.commands.is_empty()));
}

/// Whether a switch is on its way to web1.
fn is_switch_sent(fake: &FakeSite) -> bool {
    fake.site.with_host("web1", |host| host.calls.contains(&"set_forward"))
}

/// The process sleeps at any moment between its look at the lock and the request, while another operator puts the fleet back: it
/// sends no request of the roll that has ended.
#[tokio::test(start_paused = true)]
async fn roll_that_slept_before_a_switch_sends_nothing() {
    let mut slept = 0;
    for half_ms in 0..14 {
        let fake = site(2, 1);
        let (ended, ()) = tokio::join!(roll(&fake, spec(2)), async {
            wait_for_step(&fake, Step::ForwardOff).await;
            tokio::time::sleep(MS * half_ms / 2).await;
            if is_switch_sent(&fake) {
                return;
            }
            ready(lock::release(&fake.world, "boss", Some("asleep"))).unwrap();
            tokio::time::advance(Duration::from_secs(30)).await;
        });
        if !matches!(ended, Err(RollError::Journal(JournalError::LockLost { .. }))) {
            assert!(half_ms > 4, "the request was not sent yet: {ended:?}");
            continue;
        }
        slept += 1;
        assert_eq!(in_service(&fake), [true; 2], "slept {half_ms} half milliseconds after the step began");
    }
    assert!(slept > 3, "{slept}");
}

/// The same for the request that puts a host back after its command failed: the next operator has taken it out again.
#[tokio::test(start_paused = true)]
async fn roll_that_slept_before_a_put_back_leaves_the_host() {
    let mut slept = 0;
    for half_ms in 0..30 {
        let fake = site(2, 1);
        fake.site.with_host("web1", |host| host.set_fault(HostFault::CommandFails, true));
        let (ended, is_left) = tokio::join!(roll(&fake, spec(2)), async {
            let is_failed = |entry: &RollEntry| matches!(entry.kind, RollEntryKind::StepFailed { .. });
            wait_until(MS / 4, || fake.journal.rolls.lock().unwrap().last().is_some_and(is_failed)).await;
            fake.site.with_host("web1", |host| host.calls.clear());
            tokio::time::sleep(MS * half_ms / 2).await;
            let is_left = !is_switch_sent(&fake);
            if is_left {
                ready(lock::release(&fake.world, "boss", Some("asleep"))).unwrap();
                tokio::time::advance(Duration::from_secs(30)).await;
            }
            is_left
        });
        if is_left {
            slept += 1;
            assert!(matches!(ended, Err(RollError::Journal(JournalError::LockLost { .. }))), "{ended:?}");
            assert!(!in_service(&fake)[0], "put back {half_ms} half milliseconds after the failure");
        }
    }
    assert!(slept > 3, "{slept}");
}
