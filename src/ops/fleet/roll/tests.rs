#[cfg(test)]
mod assign;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod undo;
use std::time::Duration;

use super::*;
use crate::model::example;
use crate::model::failure::ErrorCode;
use crate::model::journal::HostEnd;
use crate::model::lock::Life;
use crate::model::roll::Batch;
use crate::plan::roll::progress::Reached;

use crate::world::fake::MS;
use crate::world::fake::site::{FakeSite, site};
use crate::world::link::LinkError;
use crate::world::lock::FleetLock as _;

fn actor() -> Actor {
    Actor { user: "ops".into(), pid: 7 }
}

fn spec(hosts: usize) -> RollSpec {
    let names: Vec<String> = (1..=hosts).map(|number| format!("web{number}")).collect();
    example::roll(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

async fn roll(fake: &FakeSite, spec: &RollSpec) -> Result<RollReport, RollError> {
    run(&fake.world, &fake.fleet, spec, &actor()).await
}

fn ends(report: &RollReport) -> Vec<(Reached, Option<HostEnd>)> {
    report.standing.hosts.iter().map(|host| (host.reached, host.end)).collect()
}

fn in_service(fake: &FakeSite) -> Vec<bool> {
    fake.site.lock().hosts.values().map(|host| host.forward && host.healthy).collect()
}

const DONE: (Reached, Option<HostEnd>) = (Reached::Done, None);
const WAITING: (Reached, Option<HostEnd>) = (Reached::Waiting, None);

#[tokio::test(start_paused = true)]
async fn every_host_is_taken_out_worked_on_and_put_back_one_by_one() {
    let fake = site(3, 2);
    let report = roll(&fake, &spec(3)).await.unwrap();
    assert_eq!((report.standing.result, ends(&report)), (Some(RollResult::Done), vec![DONE; 3]));
    assert_eq!(in_service(&fake), [true; 3]);
    let state = fake.site.lock();
    assert_eq!(state.fewest_up, 2, "one at a time");
    assert!(state.hosts.values().all(|host| host.commands == ["began", "ended"]), "{:?}", state.hosts);
    let notices: Vec<&str> = state.notices.iter().map(|notice| notice.text.as_str()).collect();
    assert_eq!(notices.len(), 5, "{notices:?}");
    assert_eq!(fake.journal.view(), Ok(None), "the lock is given back");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_out_together_and_never_below_the_floor() {
    let mut fake = site(5, 1);
    fake.fleet.limits.min_up = 3;
    let spec = RollSpec { batch: Batch::Hosts(2), ..spec(5) };
    let report = roll(&fake, &spec).await.unwrap();
    assert!(report.is_whole());
    assert_eq!(fake.site.lock().fewest_up, 3);
    let too_much = RollSpec { batch: Batch::Hosts(3), ..spec };
    assert!(matches!(roll(&fake, &too_much).await, Err(RollError::Plan(PlanError::Floor { left: 2, .. }))));
}

#[tokio::test(start_paused = true)]
async fn a_failed_command_puts_the_host_back_and_stops() {
    let fake = site(3, 1);
    fake.site.with("web2", |host| host.command_status = 9);
    let report = roll(&fake, &spec(3)).await.unwrap();
    assert_eq!(ends(&report), [DONE, (Reached::Failed, Some(HostEnd::Returned)), WAITING]);
    assert_eq!(report.standing.stopped.as_deref(), Some("1 failed, at most 0 may"));
    assert_eq!(report.standing.hosts[1].detail, "the command ended with status 9");
    assert_eq!(in_service(&fake), [true; 3]);
    assert!(!report.is_whole());

    // Mended, the same roll goes on, and runs the command again.
    fake.site.with("web2", |host| host.command_status = 0);
    let report = resume(&fake.world, &fake.fleet, &actor()).await.unwrap();
    assert_eq!(ends(&report), [DONE; 3]);
    assert_eq!(fake.site.with("web2", |host| host.commands.len()), 4);
    assert_eq!(fake.site.with("web1", |host| host.commands.len()), 2, "what is done is not done again");
    assert!(matches!(resume(&fake.world, &fake.fleet, &actor()).await, Err(RollError::Finished { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_main_vhost_that_is_broken_stays_out_and_the_error_says_so() {
    let fake = site(3, 1);
    fake.site.with("web1", |host| host.command_breaks = true);
    let report = roll(&fake, &spec(3)).await.unwrap();
    assert_eq!(ends(&report), [(Reached::Failed, Some(HostEnd::LeftOut)), WAITING, WAITING]);
    assert_eq!(in_service(&fake), [false, true, true]);
    assert!(!fake.site.with("web1", |host| host.forward), "never on before it is healthy");

    // Somebody mends it by hand: the command is not run again, the host comes back.
    fake.site.with("web1", |host| host.healthy = true);
    let report = resume(&fake.world, &fake.fleet, &actor()).await.unwrap();
    assert_eq!(ends(&report), [DONE; 3]);
    assert_eq!(fake.site.with("web1", |host| host.commands.len()), 2);
}

#[tokio::test(start_paused = true)]
async fn failures_within_the_limit_do_not_stop_it() {
    let fake = site(4, 1);
    fake.site.with("web2", |host| host.command_status = 1);
    fake.site.with("web3", |host| host.reachable = false);
    let spec = RollSpec { max_failures: 2, ..spec(4) };
    let report = roll(&fake, &spec).await.unwrap();
    let failed = |end| (Reached::Failed, Some(end));
    assert_eq!(ends(&report), [DONE, failed(HostEnd::Returned), failed(HostEnd::Unreachable), DONE]);
    assert_eq!(report.standing.result, Some(RollResult::DoneWithFailures));
    let one = RollSpec { max_failures: 0, ..spec };
    let error = roll(&fake, &one).await.unwrap_err().to_string();
    assert_eq!(error, "cannot roll: `web3`: the link broke (ssh fake): cut", "before anything is touched");
}

#[tokio::test(start_paused = true)]
async fn the_others_of_a_batch_stay_where_they_stand_or_are_put_back() {
    for (on_failure, forwards) in [(OnFailure::Stop, [true, false]), (OnFailure::Return, [true, true])] {
        let fake = site(4, 1);
        fake.site.with("web1", |host| host.command_status = 1);
        // Still draining when the other one fails.
        fake.site.with("web2", |host| host.drains_after = Some(MS * 4000));
        let spec = RollSpec { batch: Batch::Hosts(2), on_failure, ..spec(4) };
        let report = roll(&fake, &spec).await.unwrap();
        assert_eq!(report.standing.hosts[0].end, Some(HostEnd::Returned));
        let now = ["web1", "web2"].map(|name| fake.site.with(name, |host| host.forward));
        assert_eq!(now, forwards, "{on_failure:?}");
        assert!(fake.site.with("web2", |host| host.commands.is_empty()));
        // Either way one command goes on.
        fake.site.with("web1", |host| host.command_status = 0);
        assert!(resume(&fake.world, &fake.fleet, &actor()).await.unwrap().is_whole());
        assert_eq!(in_service(&fake), [true; 4]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_late_puts_the_host_back_unless_forced() {
    let fake = site(2, 1);
    fake.site.with("web1", |host| host.drains_after = None);
    let report = roll(&fake, &spec(2)).await.unwrap();
    assert_eq!(ends(&report)[0], (Reached::Failed, Some(HostEnd::Returned)));
    assert!(report.standing.hosts[0].detail.contains("1 in flight after 5s"), "{:?}", report.standing);
    assert!(fake.site.with("web1", |host| host.commands.is_empty()));
    abort(&fake.world, &fake.fleet, &actor()).await.unwrap();
    let forced = RollSpec { force: true, ..spec(2) };
    assert!(roll(&fake, &forced).await.unwrap().is_whole());
    assert_eq!(fake.site.with("web1", |host| host.commands[0]), "began in service", "as was asked for");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_begun_while_a_backup_vhost_or_a_balancer_is_missing() {
    let fake = site(3, 2);
    fake.site.with("web1", |host| host.backup_up = false);
    let error = roll(&fake, &spec(3)).await.unwrap_err().to_string();
    assert!(error.starts_with("refused to roll: the backup vhost is not UP: `lb1` says"), "{error}");
    fake.site.with("web1", |host| host.backup_up = true);
    fake.site.lock().unread.insert("lb2".into());
    let error = roll(&fake, &spec(3)).await.unwrap_err().to_string();
    assert!(error.starts_with("refused to roll: `lb2` cannot be read"), "{error}");
    assert_eq!(fake.journal.rows.lock().unwrap().len(), 0, "nothing was begun");
    assert_eq!(in_service(&fake), [true; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_backup_vhost_that_dies_later_stops_the_next_host() {
    let fake = site(3, 1);
    fake.site.with("web2", |host| host.backup_up = false);
    let report = roll(&fake, &spec(3)).await.unwrap();
    assert_eq!(ends(&report), [DONE, WAITING, WAITING]);
    assert!(report.standing.stopped.unwrap().contains("`lb1` says `backup-web2` is DOWN"));
}

#[tokio::test(start_paused = true)]
async fn one_interrupt_undoes_before_the_command_and_finishes_behind_it() {
    for (moment, undone) in [(MS * 1000, true), (MS * 2100, false)] {
        let fake = site(3, 1);
        let work = spec(3);
        let (report, ()) = tokio::join!(roll(&fake, &work), async {
            tokio::time::sleep(moment).await;
            fake.stopper.stop();
        });
        let report = report.unwrap();
        assert_eq!(report.standing.stopped.as_deref(), Some("interrupted"));
        let first = ends(&report)[0];
        if undone {
            assert_eq!(first.1, Some(HostEnd::Returned), "{:?}", report.standing);
        } else {
            assert_eq!(first, DONE, "{:?}", report.standing);
        }
        assert_eq!(in_service(&fake), [true; 3]);
        assert_eq!(ends(&report)[1], WAITING);
    }
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_moment_resume_ends_it_and_abort_puts_back() {
    for tenth in 0.. {
        for verb in ["resume", "abort"] {
            let fake = site(3, 2);
            let work = spec(3);
            if tokio::time::timeout(MS * 97 * tenth + MS * 3, roll(&fake, &work)).await.is_ok() {
                assert!(tenth > 50, "there are moments enough");
                return;
            }
            fake.journal.kill();
            let report = match (verb, last(&fake.world).unwrap()) {
                (_, None) => roll(&fake, &work).await,
                ("resume", _) => resume(&fake.world, &fake.fleet, &actor()).await,
                _ => abort(&fake.world, &fake.fleet, &actor()).await,
            };
            let report = report.unwrap_or_else(|error| panic!("{verb} after {tenth}: {error}"));
            assert!(report.is_whole(), "{verb} after {tenth}: {:?}", report.standing);
            assert_eq!(in_service(&fake), [true; 3], "{verb} after {tenth}");
            let state = fake.site.lock();
            let in_service = state.hosts.values().any(|host| host.commands.contains(&"began in service"));
            assert!(!in_service, "{verb} after {tenth}: {:?}", state.hosts);
            if verb == "resume" {
                let ended = |host: &crate::world::fake::site::SiteHost| {
                    let count = |word| host.commands.iter().filter(|now| **now == word).count();
                    (1..=2).contains(&count("began")) && count("ended") >= 1
                };
                assert!(state.hosts.values().all(ended), "{tenth}: {:?}", state.hosts);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_ends_it_with_the_host_back_and_the_journal_true() {
    for room in 0..24 {
        let fake = site(2, 1);
        *fake.journal.room.lock().unwrap() = Some(room);
        let ended = roll(&fake, &spec(2)).await;
        assert!(matches!(ended, Err(RollError::Journal(JournalError::Full { .. }))), "{room}: {ended:?}");
        assert_eq!(in_service(&fake), [true; 2], "{room}");
        assert_eq!(fake.journal.view(), Ok(None));
        *fake.journal.room.lock().unwrap() = None;
        let report = match room {
            0 => roll(&fake, &spec(2)).await,
            _ => resume(&fake.world, &fake.fleet, &actor()).await,
        };
        assert!(report.unwrap().is_whole(), "{room}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_lost_ends_it_and_touches_nothing_more() {
    let fake = site(3, 1);
    let work = spec(3);
    let (ended, ()) = tokio::join!(roll(&fake, &work), async {
        tokio::time::sleep(MS * 1000).await;
        lock::release(&fake.world, "boss", Some("wrong version")).unwrap();
    });
    assert!(matches!(ended, Err(RollError::Journal(JournalError::LockLost { holder: None }))), "{ended:?}");
    assert_eq!(in_service(&fake), [false, true, true], "as it stood");
    assert!(abort(&fake.world, &fake.fleet, &actor()).await.unwrap().is_whole());
    assert_eq!(in_service(&fake), [true; 3]);
    let notes = fake.journal.notes(9).unwrap();
    assert!(
        notes[0].text.contains("released by force the lock of ops on desk")
            && notes[0].text.ends_with("wrong version"),
        "{notes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_roll_at_a_time_and_a_person_is_never_waited_away() {
    let fake = site(3, 1);
    lock::hold(&fake.world, "anna", "measuring, back at 9").await.unwrap();
    let error = roll(&fake, &spec(3)).await.unwrap_err().to_string();
    assert!(
        error.starts_with("cannot roll: the fleet is held by anna on desk")
            && error.ends_with("measuring, back at 9"),
        "{error}"
    );
    assert!(matches!(lock::release(&fake.world, "ops", None), Err(LockError::NotYours { .. })));
    lock::release(&fake.world, "anna", None).unwrap();

    let work = spec(3);
    let (first, second) = tokio::join!(roll(&fake, &work), async {
        tokio::time::sleep(MS * 100).await;
        roll(&fake, &work).await
    });
    assert!(first.unwrap().is_whole());
    let held = |error: &RollError| matches!(error, RollError::Lock(LockError::Held { .. }));
    assert!(second.as_ref().is_err_and(held), "one that is being run needs no --resume: {second:?}");
}

#[tokio::test(start_paused = true)]
async fn a_holder_elsewhere_is_judged_by_its_heartbeat_alone() {
    let fake = site(2, 1);
    let purpose = || Purpose::Roll { roll: RollId::new(jiff::Timestamp::UNIX_EPOCH, 1) };
    let other = lock::acquire(&fake.world, "eve", purpose()).await.unwrap();
    *fake.journal.life.lock().unwrap() = Some(Life::Elsewhere);
    let (refused, ()) = tokio::join!(lock::acquire(&fake.world, "ops", purpose()), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        fake.journal.beat(&other).unwrap();
    });
    assert!(matches!(refused, Err(LockError::Held { .. })), "{refused:?}");
    *fake.journal.life.lock().unwrap() = Some(Life::Elsewhere);
    assert!(lock::acquire(&fake.world, "ops", purpose()).await.is_ok(), "silent for five beats");
}

#[tokio::test(start_paused = true)]
async fn hooks_run_where_they_should_with_their_environment() {
    let mut fake = site(2, 1);
    let hooks = &mut fake.fleet.hooks;
    for (lines, line) in [
        (&mut hooks.before_roll, "first"),
        (&mut hooks.before_host, "before"),
        (&mut hooks.after_host, "after"),
        (&mut hooks.after_roll, "last"),
        (&mut hooks.on_failure, "page"),
    ] {
        lines.push(line.to_owned());
    }
    roll(&fake, &spec(2)).await.unwrap();
    let ran: Vec<String> = fake.site.lock().hooks.iter().map(|(line, _)| line.clone()).collect();
    assert_eq!(ran, ["first", "before", "after", "before", "after", "last"]);
    let env = fake.site.lock().hooks[1].1.clone();
    let get = |key: &str| env.get(key).map(String::as_str);
    assert_eq!((get("SWITCHMAN_HOST"), get("SWITCHMAN_ADDRESS")), (Some("web1"), Some("10.0.0.1")));
    assert_eq!((get("SWITCHMAN_STEP"), get("SWITCHMAN_SERVICE")), (Some("before_host"), Some("shop")));

    // A hook that fails is a failure of its host; the one for failures stops nothing.
    fake.site.lock().hooks.clear();
    fake.site.lock().hook_status.extend([("before".to_owned(), 4), ("page".to_owned(), 5)]);
    let report = roll(&fake, &spec(2)).await.unwrap();
    assert_eq!(ends(&report)[0], (Reached::Failed, None));
    assert_eq!(report.standing.hosts[0].detail, "hook before_host `before` ended with status 4");
    let paged = fake.site.lock().hooks.last().cloned().unwrap();
    assert_eq!((paged.0.as_str(), paged.1["SWITCHMAN_FAILED_STEP"].as_str()), ("page", "before-host"));
    abort(&fake.world, &fake.fleet, &actor()).await.unwrap();

    fake.site.lock().hook_status.insert("first".to_owned(), 1);
    assert!(matches!(roll(&fake, &spec(2)).await, Err(RollError::Hook(_))));
    assert_eq!(in_service(&fake), [true; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_refuses_to_be_switched_is_declared_as_it_is() {
    let fake = site(3, 1);
    let refused = LinkError::Refused { code: ErrorCode::RulesLocked, message: "xtables is locked".into() };
    fake.site.with("web1", |host| host.switch_error = Some(refused));
    let report = roll(&fake, &spec(3)).await.unwrap();
    assert_eq!(ends(&report)[0], (Reached::Failed, Some(HostEnd::Returned)), "it never went off");
    assert_eq!(in_service(&fake), [true; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_main_vhost_that_dies_with_its_forward_on_is_not_called_left_out() {
    let fake = site(3, 1);
    let work = spec(3);
    let (report, ()) = tokio::join!(roll(&fake, &work), async {
        while fake.site.with("web1", |host| host.commands.len() < 2 || !host.forward) {
            tokio::time::sleep(MS * 10).await;
        }
        fake.site.with("web1", |host| host.healthy = false);
    });
    assert_eq!(ends(&report.unwrap())[0], (Reached::Failed, Some(HostEnd::NotUp)));
    assert!(fake.site.with("web1", |host| host.forward));
}

#[tokio::test(start_paused = true)]
async fn a_main_vhost_that_answers_every_other_time_is_given_up() {
    let fake = site(3, 1);
    fake.site.with("web1", |host| {
        host.flapping = true;
        host.command_status = 1;
    });
    let report = tokio::time::timeout(Duration::from_mins(5), roll(&fake, &spec(3))).await;
    assert_eq!(ends(&report.unwrap().unwrap())[0], (Reached::Failed, Some(HostEnd::LeftOut)));
}

#[tokio::test(start_paused = true)]
async fn a_resume_counts_no_host_that_went_off_a_moment_ago() {
    let mut fake = site(4, 1);
    fake.fleet.limits.min_up = 3;
    fake.site.with("web1", |host| host.command_status = 1);
    let work = RollSpec { max_failures: 1, ..spec(4) };
    let killed = async {
        while fake.site.with("web3", |host| host.forward) {
            tokio::time::sleep(MS).await;
        }
    };
    tokio::select! {
        ended = roll(&fake, &work) => panic!("{ended:?}"),
        () = killed => fake.journal.kill(),
    }
    // The balancers still say that web3 is UP; web1, which failed and is back in service, is to be tried again.
    fake.site.with("web1", |host| host.command_status = 0);
    assert!(resume(&fake.world, &fake.fleet, &actor()).await.unwrap().is_whole());
    assert_eq!(fake.site.lock().fewest_up, 3);
}

#[tokio::test(start_paused = true)]
async fn an_abort_waits_for_the_command_of_a_killed_roll_or_leaves_its_host_out() {
    let minute = Duration::from_mins(1);
    for (takes, left) in [(MS * 5000, None), (minute, Some(HostEnd::LeftOut))] {
        let fake = site(3, 1);
        fake.site.with("web1", |host| host.command_takes = takes);
        let work = spec(3);
        let killed = async {
            while !fake.site.with("web1", |host| host.running) {
                tokio::time::sleep(MS).await;
            }
        };
        tokio::select! {
            ended = roll(&fake, &work) => panic!("{ended:?}"),
            () = killed => fake.journal.kill(),
        }
        let report = abort(&fake.world, &fake.fleet, &actor()).await.unwrap();
        assert!(!fake.site.with("web1", |host| host.disturbed), "in service while it was worked on");
        assert_eq!(report.standing.hosts[0].end, left.or(Some(HostEnd::Returned)));
        assert_eq!(in_service(&fake), [left.is_none(), true, true]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_command_switches_meanwhile_stays_as_it_was_switched() {
    for (on, end) in [(false, HostEnd::LeftOut), (true, HostEnd::Returned)] {
        let fake = site(3, 1);
        // Off while it comes back; on while it drains.
        let now = |host: &mut crate::world::fake::site::SiteHost| {
            host.forward != on && host.commands.is_empty() == on
        };
        let work = spec(3);
        let (report, ()) = tokio::join!(roll(&fake, &work), async {
            while !fake.site.with("web1", now) {
                tokio::time::sleep(MS * 10).await;
            }
            fake.site.with("web1", |host| host.switched_by_other(on));
        });
        let report = report.unwrap();
        assert_eq!(ends(&report)[0], (Reached::Failed, Some(end)));
        assert!(
            fake.site.with("web1", |host| host.by_other && host.forward == on),
            "nobody switched it since"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn leave_is_asked_for_again_after_the_hooks() {
    let mut fake = site(4, 1);
    fake.fleet.limits.min_up = 3;
    fake.fleet.hooks.before_host.push("./warm.sh".to_owned());
    fake.site.lock().hooks_take = Duration::from_secs(30);
    let work = spec(4);
    let (report, ()) = tokio::join!(roll(&fake, &work), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        fake.site.with("web4", |host| host.switched_by_other(false));
    });
    let report = report.unwrap();
    assert_eq!(ends(&report)[0], (Reached::Failed, Some(HostEnd::Returned)));
    assert!(
        report.standing.hosts[0].detail.contains("the capacity floor would break"),
        "{:?}",
        report.standing
    );
    assert_eq!(in_service(&fake), [true, true, true, false]);
    assert_eq!(fake.site.lock().fewest_up, usize::MAX, "nothing was switched off");
}

#[tokio::test(start_paused = true)]
async fn a_floor_that_was_raised_since_is_no_reason_not_to_put_back() {
    let mut fake = site(3, 1);
    fake.site.with("web2", |host| host.command_breaks = true);
    roll(&fake, &spec(3)).await.unwrap();
    assert_eq!(in_service(&fake), [true, false, true]);
    fake.site.with("web2", |host| host.healthy = true);
    fake.fleet.limits.min_up = 3;
    assert!(matches!(roll(&fake, &spec(3)).await, Err(RollError::Plan(_))));
    assert!(abort(&fake.world, &fake.fleet, &actor()).await.unwrap().is_whole());
    assert_eq!(in_service(&fake), [true; 3]);
}
