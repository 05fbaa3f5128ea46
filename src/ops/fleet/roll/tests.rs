#[cfg(test)]
mod assign;
#[cfg(test)]
mod lock_wait;
#[cfg(test)]
mod owner;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod store_faults;
#[cfg(test)]
mod undo;
use std::time::Duration;

use super::*;
use crate::model::example::{self, make_actor as actor};
use crate::model::journal::HostOutcome;
use crate::model::lock::Liveness;
use crate::model::roll::{Batch, Work};
use crate::plan::roll::progress::StepState;

use crate::ops::testing::site::{FakeSite, site};
use crate::ops::testing::site_fault::HostFault;
use crate::world::fake::MS;
use crate::world::fake::journal::StoreFault;
use crate::world::fake::paused::ready;

fn spec(hosts: usize) -> RollSpec {
    let names: Vec<String> = (1..=hosts).map(|number| format!("web{number}")).collect();
    example::make_roll_spec(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

async fn roll(fake: &FakeSite, spec: RollSpec) -> Result<RollReport, RollError> {
    run(&fake.world, &fake.fleet, &spec, &actor()).await
}

fn ends(report: &RollReport) -> Vec<(StepState, Option<HostOutcome>)> {
    report.progress.hosts.iter().map(|host| (host.state, host.end)).collect()
}

fn in_service(fake: &FakeSite) -> Vec<bool> {
    fake.site.lock().hosts.values().map(|host| host.forward && host.is_healthy).collect()
}

const DONE: (StepState, Option<HostOutcome>) = (StepState::Done, None);
const WAITING: (StepState, Option<HostOutcome>) = (StepState::Waiting, None);

#[tokio::test(start_paused = true)]
async fn roll_processes_hosts_one_by_one() {
    let fake = site(3, 2);
    let report = roll(&fake, spec(3)).await.unwrap();
    assert_eq!((report.progress.result, ends(&report)), (Some(RollResult::Done), vec![DONE; 3]));
    assert_eq!(in_service(&fake), [true; 3]);
    let state = fake.site.lock();
    assert_eq!(state.min_up_observed, 2, "one at a time");
    assert!(state.hosts.values().all(|host| host.commands == ["began", "ended"]), "{:?}", state.hosts);
    let notices: Vec<&str> = state.notices.iter().map(|notice| notice.text.as_str()).collect();
    assert_eq!(notices.len(), 5, "{notices:?}");
    assert_eq!(ready(fake.world.lock.read_holder()), Ok(None), "the lock is given back");
}

/// Every host of the site has versions: a script that exchanges the vhosts of port 8080 would report success for nothing.
#[tokio::test(start_paused = true)]
async fn roll_of_a_command_warns_where_versions_have_the_ports() {
    let fake = site(2, 1);
    roll(&fake, spec(2)).await.unwrap();
    let events = fake.events.lock().unwrap();
    let is_warning = |event: &&Event| matches!(event, Event::Warning { text } if text.contains("port 8080 is routed to shop 1.0.0 on port 20001"));
    assert_eq!(events.iter().filter(is_warning).count(), 2, "{events:?}");
}

/// `--dry-run`: what refuses a roll refuses it too, with the same words, and nothing is recorded, locked or switched.
#[tokio::test(start_paused = true)]
async fn check_finds_what_refuses_roll() {
    type Prepare = fn(&mut FakeSite);
    let cases: [(&str, Prepare); 6] = [
        ("program", |fake| fake.site.lock().has_no_programs = true),
        ("unreachable", |fake| fake.site.with_host("web3", |host| host.is_reachable = false)),
        ("backup", |fake| fake.site.with_host("web1", |host| host.is_backup_up = false)),
        ("capacity", |fake| fake.fleet.limits.min_up = 3),
        ("balancer", |fake| fake.fleet.balancers[0].backend = "other".to_owned()),
        ("nothing", |_| {}),
    ];
    for (case, prepare) in cases {
        let mut fake = site(3, 1);
        prepare(&mut fake);
        let checked = check(&fake.world, &fake.fleet, &spec(3), &actor()).await;
        assert_eq!(in_service(&fake).len(), 3);
        assert!(read_last(&fake.world).await.unwrap().is_none(), "{case}: recorded");
        assert_eq!(fake.world.lock.read_holder().await.unwrap(), None, "{case}: locked");
        let rolled = roll(&fake, spec(3)).await;
        let describe = |error: RollError| error.to_string();
        assert_eq!(checked.map_err(describe), rolled.map(drop).map_err(describe), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn check_refuses_while_a_roll_is_unfinished_or_locked() {
    let fake = site(2, 1);
    fake.site.with_host("web1", |host| host.command_status = 9);
    roll(&fake, spec(2)).await.unwrap();
    let checked = check(&fake.world, &fake.fleet, &spec(2), &actor()).await;
    assert!(matches!(checked, Err(RollError::Unfinished { .. })), "{checked:?}");
    abort(&fake.world, &fake.fleet, &actor()).await.unwrap();
    check(&fake.world, &fake.fleet, &spec(2), &actor()).await.unwrap();
    lock::acquire_for_person(&fake.world, "ann", "new rack").await.unwrap();
    let checked = check(&fake.world, &fake.fleet, &spec(2), &actor()).await;
    assert!(matches!(checked, Err(RollError::Lock(LockError::Locked { .. }))), "{checked:?}");
}

/// Versions have the data ports of every host of the site.
#[tokio::test(start_paused = true)]
async fn plan_has_ports_of_hosts() {
    let fake = site(2, 1);
    let plan = plan(&fake.world, &fake.fleet, &spec(2)).await.unwrap().to_string();
    assert!(plan.contains("forward on: 8888 -> 20001\n") && plan.contains("probe 20001/health"), "{plan}");
}

#[tokio::test(start_paused = true)]
async fn batch_is_out_together_and_keeps_min_up() {
    let mut fake = site(5, 1);
    fake.fleet.limits.min_up = 3;
    let spec = RollSpec { batch: Batch::Hosts(2), ..spec(5) };
    let report = roll(&fake, spec.clone()).await.unwrap();
    assert!(report.is_complete());
    assert_eq!(fake.site.lock().min_up_observed, 3);
    let too_much = RollSpec { batch: Batch::Hosts(3), ..spec };
    assert!(matches!(
        roll(&fake, too_much).await,
        Err(RollError::Plan(PlanError::CapacityFloor { left: 2, .. }))
    ));
}

#[tokio::test(start_paused = true)]
async fn failed_command_restores_host_and_stops_roll() {
    let fake = site(3, 1);
    fake.site.with_host("web2", |host| host.command_status = 9);
    let report = roll(&fake, spec(3)).await.unwrap();
    assert_eq!(ends(&report), [DONE, (StepState::Failed, Some(HostOutcome::Restored)), WAITING]);
    assert_eq!(report.progress.stop_reason.as_deref(), Some("1 failed, at most 0 may"));
    assert_eq!(report.progress.hosts[1].detail, "the command ended with status 9: working on web2");
    assert_eq!(in_service(&fake), [true; 3]);
    assert!(!report.is_complete());

    // After the repair the same roll goes on, and runs the command again.
    fake.site.with_host("web2", |host| host.command_status = 0);
    let report = resume(&fake.world, &fake.fleet, &actor()).await.unwrap();
    assert_eq!(ends(&report), [DONE; 3]);
    assert_eq!(fake.site.with_host("web2", |host| host.commands.len()), 4);
    assert_eq!(fake.site.with_host("web1", |host| host.commands.len()), 2, "what is done is not done again");
    assert!(matches!(resume(&fake.world, &fake.fleet, &actor()).await, Err(RollError::Finished { .. })));
}

#[tokio::test(start_paused = true)]
async fn broken_main_vhost_stays_in_maintenance_and_is_reported() {
    let fake = site(3, 1);
    fake.site.with_host("web1", |host| host.command_breaks_health = true);
    let report = roll(&fake, spec(3)).await.unwrap();
    assert_eq!(ends(&report), [(StepState::Failed, Some(HostOutcome::LeftInMaintenance)), WAITING, WAITING]);
    assert_eq!(in_service(&fake), [false, true, true]);
    assert!(!fake.site.with_host("web1", |host| host.forward), "never on before it is healthy");

    // An operator repairs it by hand: the command is not run again, the host comes back.
    fake.site.with_host("web1", |host| host.is_healthy = true);
    let report = resume(&fake.world, &fake.fleet, &actor()).await.unwrap();
    assert_eq!(ends(&report), [DONE; 3]);
    assert_eq!(fake.site.with_host("web1", |host| host.commands.len()), 2);
}

#[tokio::test(start_paused = true)]
async fn roll_continues_within_max_failures() {
    let fake = site(4, 1);
    fake.site.with_host("web2", |host| host.command_status = 1);
    fake.site.with_host("web3", |host| host.is_reachable = false);
    let spec = RollSpec { max_failures: 2, ..spec(4) };
    let report = roll(&fake, spec.clone()).await.unwrap();
    let failed = |end| (StepState::Failed, Some(end));
    assert_eq!(ends(&report), [DONE, failed(HostOutcome::Restored), failed(HostOutcome::Unreachable), DONE]);
    assert_eq!(report.progress.result, Some(RollResult::DoneWithFailures));
    let one = RollSpec { max_failures: 0, ..spec };
    let error = roll(&fake, one).await.unwrap_err().to_string();
    assert_eq!(
        error, "cannot start the roll: `web3`: the connection broke (ssh fake): cut",
        "before anything is touched"
    );
}

#[tokio::test(start_paused = true)]
async fn on_failure_decides_for_other_hosts_of_batch() {
    for (on_failure, forwards) in [(OnFailure::Stop, [true, false]), (OnFailure::Return, [true, true])] {
        let fake = site(4, 1);
        fake.site.with_host("web1", |host| host.command_status = 1);
        // Still draining when the other one fails.
        fake.site.with_host("web2", |host| host.drain_duration = Some(MS * 4000));
        let spec = RollSpec { batch: Batch::Hosts(2), on_failure, ..spec(4) };
        let report = roll(&fake, spec).await.unwrap();
        assert_eq!(report.progress.hosts[0].end, Some(HostOutcome::Restored));
        let now = ["web1", "web2"].map(|name| fake.site.with_host(name, |host| host.forward));
        assert_eq!(now, forwards, "{on_failure:?}");
        assert!(fake.site.with_host("web2", |host| host.commands.is_empty()));
        // Either way one command goes on.
        fake.site.with_host("web1", |host| host.command_status = 0);
        assert!(resume(&fake.world, &fake.fleet, &actor()).await.unwrap().is_complete());
        assert_eq!(in_service(&fake), [true; 4]);
    }
}

#[tokio::test(start_paused = true)]
async fn drain_timeout_restores_host_unless_forced() {
    let fake = site(2, 1);
    fake.site.with_host("web1", |host| host.drain_duration = None);
    let report = roll(&fake, spec(2)).await.unwrap();
    assert_eq!(ends(&report)[0], (StepState::Failed, Some(HostOutcome::Restored)));
    assert!(report.progress.hosts[0].detail.contains("1 in flight after 5s"), "{:?}", report.progress);
    assert!(fake.site.with_host("web1", |host| host.commands.is_empty()));
    abort(&fake.world, &fake.fleet, &actor()).await.unwrap();
    let forced = RollSpec { force: true, ..spec(2) };
    assert!(roll(&fake, forced).await.unwrap().is_complete());
    assert_eq!(fake.site.with_host("web1", |host| host.commands[0]), "began in service", "as was requested");
}

#[tokio::test(start_paused = true)]
async fn roll_refuses_when_backup_vhost_or_balancer_is_missing() {
    let fake = site(3, 2);
    fake.site.with_host("web1", |host| host.is_backup_up = false);
    let error = roll(&fake, spec(3)).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot start the roll: the backup vhost is not UP: `lb1` reports"), "{error}");
    fake.site.with_host("web1", |host| host.is_backup_up = true);
    fake.site.lock().unreadable_balancers.insert("lb2".into());
    let error = roll(&fake, spec(3)).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot start the roll: `lb2` cannot be read"), "{error}");
    assert_eq!(fake.journal.rolls.lock().unwrap().len(), 0, "nothing was begun");
    assert_eq!(in_service(&fake), [true; 3]);
}

#[tokio::test(start_paused = true)]
async fn backup_vhost_failure_stops_next_host() {
    let fake = site(3, 1);
    fake.site.with_host("web2", |host| host.is_backup_up = false);
    let report = roll(&fake, spec(3)).await.unwrap();
    assert_eq!(ends(&report), [DONE, WAITING, WAITING]);
    assert!(report.progress.stop_reason.unwrap().contains("`lb1` reports `backup-web2` as DOWN"));
}

#[tokio::test(start_paused = true)]
async fn interrupt_undoes_before_command_and_finishes_after_it() {
    for (moment, undone) in [(MS * 1000, true), (MS * 2100, false)] {
        let fake = site(3, 1);
        let (report, ()) = tokio::join!(roll(&fake, spec(3)), async {
            tokio::time::sleep(moment).await;
            fake.stopper.stop();
        });
        let report = report.unwrap();
        assert_eq!(report.progress.stop_reason.as_deref(), Some("interrupted"));
        let first = ends(&report)[0];
        if undone {
            assert_eq!(first.1, Some(HostOutcome::Restored), "{:?}", report.progress);
        } else {
            assert_eq!(first, DONE, "{:?}", report.progress);
        }
        assert_eq!(in_service(&fake), [true; 3]);
        assert_eq!(ends(&report)[1], WAITING);
    }
}

#[tokio::test(start_paused = true)]
async fn killed_roll_is_finished_by_resume_and_restored_by_abort() {
    for tenth in 0.. {
        for verb in ["resume", "abort"] {
            let fake = site(3, 2);
            if tokio::time::timeout(MS * 97 * tenth + MS * 3, roll(&fake, spec(3))).await.is_ok() {
                assert!(tenth > 50, "there are moments enough");
                return;
            }
            fake.journal.kill();
            let report = match (verb, ready(read_last(&fake.world)).unwrap()) {
                (_, None) => roll(&fake, spec(3)).await,
                ("resume", _) => resume(&fake.world, &fake.fleet, &actor()).await,
                _ => abort(&fake.world, &fake.fleet, &actor()).await,
            };
            let report = report.unwrap_or_else(|error| panic!("{verb} after {tenth}: {error}"));
            assert!(report.is_complete(), "{verb} after {tenth}: {:?}", report.progress);
            assert_eq!(in_service(&fake), [true; 3], "{verb} after {tenth}");
            let state = fake.site.lock();
            let in_service = state.hosts.values().any(|host| host.commands.contains(&"began in service"));
            assert!(!in_service, "{verb} after {tenth}: {:?}", state.hosts);
            if verb == "resume" {
                let ended = |host: &crate::ops::testing::site::SiteHost| {
                    let count = |word| host.commands.iter().filter(|now| **now == word).count();
                    (1..=2).contains(&count("began")) && count("ended") >= 1
                };
                assert!(state.hosts.values().all(ended), "{tenth}: {:?}", state.hosts);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn full_disk_stops_roll_with_host_restored_and_journal_correct() {
    for room in 0..24 {
        let fake = site(2, 1);
        *fake.journal.free_entries.lock().unwrap() = Some(room);
        let ended = roll(&fake, spec(2)).await;
        assert!(matches!(ended, Err(RollError::Journal(JournalError::Full { .. }))), "{room}: {ended:?}");
        assert_eq!(in_service(&fake), [true; 2], "{room}");
        assert_eq!(ready(fake.world.lock.read_holder()), Ok(None));
        *fake.journal.free_entries.lock().unwrap() = None;
        let report = match room {
            0 => roll(&fake, spec(2)).await,
            _ => resume(&fake.world, &fake.fleet, &actor()).await,
        };
        assert!(report.unwrap().is_complete(), "{room}");
    }
}

#[tokio::test(start_paused = true)]
async fn lost_lock_stops_roll_without_changes() {
    let fake = site(3, 1);
    let (ended, ()) = tokio::join!(roll(&fake, spec(3)), async {
        tokio::time::sleep(MS * 1000).await;
        ready(lock::release(&fake.world, "boss", Some("wrong version"))).unwrap();
    });
    assert!(matches!(ended, Err(RollError::Journal(JournalError::LockLost { holder: None }))), "{ended:?}");
    assert_eq!(in_service(&fake), [false, true, true], "as it stood");
    assert!(abort(&fake.world, &fake.fleet, &actor()).await.unwrap().is_complete());
    assert_eq!(in_service(&fake), [true; 3]);
    let notes = ready(fake.world.lock.load_notes(9)).unwrap();
    assert!(
        notes[0].text.contains("released by force the lock of ops on desk")
            && notes[0].text.ends_with("wrong version"),
        "{notes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn roll_refuses_while_lock_is_held() {
    let fake = site(3, 1);
    lock::acquire_for_person(&fake.world, "anna", "measuring, back at 9").await.unwrap();
    let error = roll(&fake, spec(3)).await.unwrap_err().to_string();
    assert!(
        error.starts_with("cannot run the roll: the fleet is locked by anna on desk")
            && error.ends_with("measuring, back at 9"),
        "{error}"
    );
    assert!(matches!(ready(lock::release(&fake.world, "ops", None)), Err(LockError::OtherHolder { .. })));
    ready(lock::release(&fake.world, "anna", None)).unwrap();

    let (first, second) = tokio::join!(roll(&fake, spec(3)), async {
        tokio::time::sleep(MS * 100).await;
        roll(&fake, spec(3)).await
    });
    assert!(first.unwrap().is_complete());
    let held = |error: &RollError| matches!(error, RollError::Lock(LockError::Locked { .. }));
    assert!(second.as_ref().is_err_and(held), "one that is being run needs no --resume: {second:?}");
}

#[tokio::test(start_paused = true)]
async fn remote_holder_is_judged_by_heartbeat() {
    let fake = site(2, 1);
    let purpose = || LockPurpose::Roll { roll: RollId::new(jiff::Timestamp::UNIX_EPOCH, 1) };
    let other = lock::acquire(&fake.world, "eve", purpose()).await.unwrap();
    *fake.journal.liveness.lock().unwrap() = Some(Liveness::Remote);
    let (refused, ()) = tokio::join!(lock::acquire(&fake.world, "ops", purpose()), async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(3)).await;
            ready(fake.world.lock.send_heartbeat(&other)).unwrap();
        }
    });
    assert!(matches!(refused, Err(LockError::Locked { .. })), "{refused:?}");
    *fake.journal.liveness.lock().unwrap() = Some(Liveness::Remote);
    assert!(lock::acquire(&fake.world, "ops", purpose()).await.is_ok(), "silent for five beats");
}

#[tokio::test(start_paused = true)]
async fn hooks_run_in_order_with_environment() {
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
    roll(&fake, spec(2)).await.unwrap();
    let ran: Vec<String> = fake.site.lock().hooks.iter().map(|(line, _)| line.clone()).collect();
    assert_eq!(ran, ["first", "before", "after", "before", "after", "last"]);
    let env = fake.site.lock().hooks[1].1.clone();
    let get = |key: &str| env.get(key).map(String::as_str);
    assert_eq!((get("SWITCHMAN_HOST"), get("SWITCHMAN_ADDRESS")), (Some("web1"), Some("10.0.0.1")));
    assert_eq!((get("SWITCHMAN_STEP"), get("SWITCHMAN_SERVICE")), (Some("before_host"), Some("shop")));

    // A hook that fails is a failure of its host; the one for failures stops nothing.
    fake.site.lock().hooks.clear();
    fake.site.lock().hook_status.extend([("before".to_owned(), 4), ("page".to_owned(), 5)]);
    let report = roll(&fake, spec(2)).await.unwrap();
    assert_eq!(ends(&report)[0], (StepState::Failed, None));
    assert_eq!(report.progress.hosts[0].detail, "hook before_host `before` ended with status 4");
    let paged = fake.site.lock().hooks.last().cloned().unwrap();
    assert_eq!((paged.0.as_str(), paged.1["SWITCHMAN_FAILED_STEP"].as_str()), ("page", "before-host"));
    abort(&fake.world, &fake.fleet, &actor()).await.unwrap();

    fake.site.lock().hook_status.insert("first".to_owned(), 1);
    assert!(matches!(roll(&fake, spec(2)).await, Err(RollError::Hook(_))));
    assert_eq!(in_service(&fake), [true; 2]);
}

#[tokio::test(start_paused = true)]
async fn refused_switch_records_actual_host_state() {
    let fake = site(3, 1);
    fake.site.with_host("web1", |host| host.set_fault(HostFault::SwitchRefused, true));
    let report = roll(&fake, spec(3)).await.unwrap();
    assert_eq!(ends(&report)[0], (StepState::Failed, Some(HostOutcome::Restored)), "it never went off");
    assert_eq!(in_service(&fake), [true; 3]);
}

#[tokio::test(start_paused = true)]
async fn main_vhost_failing_with_forward_on_is_recorded_as_not_up() {
    let fake = site(3, 1);
    let (report, ()) = tokio::join!(roll(&fake, spec(3)), async {
        fake.wait_for_host(MS * 10, "web1", |host| host.commands.len() == 2 && host.forward).await;
        fake.site.with_host("web1", |host| host.is_healthy = false);
    });
    assert_eq!(ends(&report.unwrap())[0], (StepState::Failed, Some(HostOutcome::NotUp)));
    assert!(fake.site.with_host("web1", |host| host.forward));
}

#[tokio::test(start_paused = true)]
async fn flapping_main_vhost_is_not_restored() {
    let fake = site(3, 1);
    fake.site.with_host("web1", |host| {
        host.is_flapping = true;
        host.command_status = 1;
    });
    let report = tokio::time::timeout(Duration::from_mins(5), roll(&fake, spec(3))).await;
    assert_eq!(ends(&report.unwrap().unwrap())[0], (StepState::Failed, Some(HostOutcome::LeftInMaintenance)));
}

#[tokio::test(start_paused = true)]
async fn resume_keeps_min_up_with_stale_balancer_state() {
    let mut fake = site(4, 1);
    fake.fleet.limits.min_up = 3;
    fake.site.with_host("web1", |host| host.command_status = 1);
    let work = RollSpec { max_failures: 1, ..spec(4) };
    fake.kill_when(roll(&fake, work), fake.wait_for_host(MS, "web3", |host| !host.forward)).await;
    // The balancers still report web3 as UP; web1, which failed and is back in service, is to be tried again.
    fake.site.with_host("web1", |host| host.command_status = 0);
    assert!(resume(&fake.world, &fake.fleet, &actor()).await.unwrap().is_complete());
    assert_eq!(fake.site.lock().min_up_observed, 3);
}

#[tokio::test(start_paused = true)]
async fn abort_waits_for_command_of_killed_roll_or_keeps_host_in_maintenance() {
    let minute = Duration::from_mins(1);
    for (takes, left) in [(MS * 5000, None), (minute, Some(HostOutcome::LeftInMaintenance))] {
        let fake = site(3, 1);
        fake.site.with_host("web1", |host| host.command_duration = takes);
        fake.kill_when(roll(&fake, spec(3)), fake.wait_for_host(MS, "web1", |host| host.running)).await;
        let report = abort(&fake.world, &fake.fleet, &actor()).await.unwrap();
        assert!(!fake.site.with_host("web1", |host| host.is_disturbed), "in service while it was worked on");
        assert_eq!(report.progress.hosts[0].end, left.or(Some(HostOutcome::Restored)));
        assert_eq!(in_service(&fake), [left.is_none(), true, true]);
    }
}

#[tokio::test(start_paused = true)]
async fn roll_keeps_switch_of_another_command() {
    for (on, end) in [(false, HostOutcome::LeftInMaintenance), (true, HostOutcome::Restored)] {
        let fake = site(3, 1);
        // Off while it comes back; on while it drains.
        let (report, ()) = tokio::join!(roll(&fake, spec(3)), async {
            fake.wait_for_host(MS * 10, "web1", |host| host.forward != on && host.commands.is_empty() == on)
                .await;
            fake.site.with_host("web1", |host| host.switch_by_other(on));
        });
        let report = report.unwrap();
        assert_eq!(ends(&report)[0], (StepState::Failed, Some(end)));
        assert!(
            fake.site.with_host("web1", |host| host.is_switched_by_other && host.forward == on),
            "no command switched it since"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn capacity_is_checked_again_after_hooks() {
    let mut fake = site(4, 1);
    fake.fleet.limits.min_up = 3;
    fake.fleet.hooks.before_host.push("./warm.sh".to_owned());
    fake.site.lock().hook_duration = Duration::from_secs(30);
    let (report, ()) = tokio::join!(roll(&fake, spec(4)), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        fake.site.with_host("web4", |host| host.switch_by_other(false));
    });
    let report = report.unwrap();
    assert_eq!(ends(&report)[0], (StepState::Failed, Some(HostOutcome::Restored)));
    assert!(
        report.progress.hosts[0].detail.contains("the capacity floor would break"),
        "{:?}",
        report.progress
    );
    assert_eq!(in_service(&fake), [true, true, true, false]);
    assert_eq!(fake.site.lock().min_up_observed, usize::MAX, "nothing was switched off");
}

#[tokio::test(start_paused = true)]
async fn raised_min_up_does_not_prevent_restore() {
    let mut fake = site(3, 1);
    fake.site.with_host("web2", |host| host.command_breaks_health = true);
    roll(&fake, spec(3)).await.unwrap();
    assert_eq!(in_service(&fake), [true, false, true]);
    fake.site.with_host("web2", |host| host.is_healthy = true);
    fake.fleet.limits.min_up = 3;
    assert!(matches!(roll(&fake, spec(3)).await, Err(RollError::Plan(_))));
    assert!(abort(&fake.world, &fake.fleet, &actor()).await.unwrap().is_complete());
    assert_eq!(in_service(&fake), [true; 3]);
}

/// Every host is looked at before the first one: the last one is named in no balancer.
#[tokio::test(start_paused = true)]
async fn host_without_server_lines_is_refused_before_the_first_host() {
    let mut fake = site(3, 1);
    fake.fleet.hosts.push(example::host("www4", "10.0.0.4"));
    let hosts = ["web1", "web2", "web3", "www4"];
    let refused = roll(&fake, example::make_roll_spec(&hosts)).await.unwrap_err();
    let RollError::Refused { refusals } = &refused else { panic!("{refused:?}") };
    assert!(refusals.iter().all(|refusal| matches!(refusal, Refusal::NoServer { .. })), "{refusals:?}");
    assert!(refused.to_string().contains("has no server `main-www4`"), "{refused}");
    assert_eq!(ready(read_last(&fake.world)), Ok(None), "nothing began");
    assert_eq!(in_service(&fake), [true; 3]);
}

#[tokio::test(start_paused = true)]
async fn missing_program_is_found_before_the_first_host() {
    for remote in [false, true] {
        let fake = site(2, 1);
        fake.site.lock().has_no_programs = true;
        let work = Work::Command { argv: vec!["./missing.sh".into()], remote, timeout: None };
        let refused = roll(&fake, RollSpec { work, ..spec(2) }).await.unwrap_err().to_string();
        let place = if remote { " on `web1`" } else { "" };
        assert_eq!(
            refused,
            format!(
                "cannot start the roll: the command{place} cannot run: there is no program file `./missing.sh`"
            )
        );
        assert_eq!(ready(read_last(&fake.world)), Ok(None), "nothing began");
        let mut fake = site(2, 1);
        fake.fleet.hooks.on_failure = vec!["./page.sh".into()];
        fake.site.lock().has_no_programs = true;
        let refused = roll(&fake, spec(2)).await.unwrap_err().to_string();
        assert!(
            refused.contains("hook on_failure `./page.sh` cannot run: `sh` is not installed"),
            "{refused}"
        );
    }
}

/// A host that was never touched may have had a wrong name, which was corrected since.
#[tokio::test(start_paused = true)]
async fn abort_ignores_hosts_that_were_never_touched() {
    let mut fake = site(3, 1);
    fake.site.with_host("web1", |host| host.command_status = 9);
    let report = roll(&fake, spec(3)).await.unwrap();
    assert!(!report.is_complete());
    fake.fleet.hosts.retain(|host| host.name.as_str() != "web3");
    let refused = resume(&fake.world, &fake.fleet, &actor()).await.unwrap_err();
    assert!(matches!(&refused, RollError::UnknownHost(host) if host.as_str() == "web3"), "{refused:?}");
    let aborted = abort(&fake.world, &fake.fleet, &actor()).await.unwrap();
    assert_eq!(aborted.progress.result, Some(RollResult::Aborted));
}
