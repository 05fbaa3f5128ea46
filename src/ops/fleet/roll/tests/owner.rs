//! Two operator machines and one host: an operator who is not the owner is refused, or takes over with a reason.

use super::*;
use crate::model::failure::ErrorCode;
use crate::model::port_forward::Switch;
use crate::ops::fleet::forward::{self, SwitchError, SwitchOptions};
use crate::ops::fleet::owner;
use crate::world::fake::paused::ready;
use crate::world::link::LinkError;

fn operator(user: &str, machine: &str) -> Actor {
    Actor { machine: machine.to_owned(), ..Actor::new(user, 7) }
}

fn alice() -> Actor {
    operator("alice", "ops1")
}

fn bob() -> Actor {
    operator("bob", "ops2")
}

fn with_force(actor: Actor) -> Actor {
    actor.with_reason(Some("alice is ill"), true)
}

/// Switches a host by hand, from an operator machine whose journal has none of the rolls here.
async fn switch(fake: &FakeSite, switch: Switch, actor: Actor) -> Result<(), SwitchError> {
    let strange = site(0, 0).world;
    let world = FleetWorld { journal: strange.journal, lock: strange.lock, ..fake.world.clone() };
    let force = actor.takes_over;
    let options = SwitchOptions { actor, wait: false, drain: false, force, timeout: None };
    let host = &fake.fleet.hosts[0];
    match switch {
        Switch::On => forward::enable(&world, &fake.fleet, host, &options).await.map(drop),
        Switch::Off => forward::disable(&world, &fake.fleet, host, &options).await.map(drop),
    }
}

async fn last_history_detail(fake: &FakeSite) -> String {
    let link = &fake.world.links[&fake.fleet.hosts[0].name];
    let entries = link.load_history(None, 100).await.unwrap();
    let began = entries.into_iter().rfind(|entry| entry.phase == crate::model::history::Phase::Began);
    began.unwrap().detail
}

fn is_refused(result: &Result<(), SwitchError>, words: &str) -> bool {
    let Err(SwitchError::NotChanged { source, .. }) = result else { return false };
    matches!(source, LinkError::Refused { code: ErrorCode::Owned, .. }) && source.to_string().contains(words)
}

#[tokio::test(start_paused = true)]
async fn roll_over_maintenance_of_another_operator_is_refused() {
    let fake = site(3, 1);
    switch(&fake, Switch::Off, alice().with_reason(Some("new disk"), false)).await.unwrap();
    let error = run(&fake.world, &fake.fleet, &spec(3), &bob()).await.unwrap_err();
    assert!(matches!(&error, RollError::Owned { hosts } if hosts.len() == 1), "{error}");
    let text = error.to_string();
    assert!(text.contains("`web1` was taken out of service by alice on ops1, by hand"), "{text}");
    assert!(text.ends_with(": new disk"), "{text}");
    assert!(fake.site.lock().hosts.values().all(|host| host.commands.is_empty()), "nothing is touched");
    assert!(
        fake.journal.rolls.lock().unwrap().is_empty() && ready(fake.world.lock.read_holder()) == Ok(None)
    );

    let report = run(&fake.world, &fake.fleet, &spec(3), &with_force(bob())).await.unwrap();
    assert_eq!(ends(&report), [DONE; 3]);
    assert_eq!(in_service(&fake), [true; 3]);
}

#[tokio::test(start_paused = true)]
async fn operator_may_roll_over_maintenance_of_their_own() {
    let fake = site(2, 1);
    switch(&fake, Switch::Off, alice()).await.unwrap();
    let report = run(&fake.world, &fake.fleet, &spec(2), &alice()).await.unwrap();
    assert_eq!(ends(&report), [DONE; 2]);
}

/// Runs a roll of alice's; as soon as its command is at work on web1, `act` runs.
async fn while_command_works<T>(
    fake: &FakeSite,
    act: impl Future<Output = T>,
) -> (Result<RollReport, RollError>, T) {
    fake.site.with_host("web1", |host| host.command_duration = MS * 5000);
    let acts = async {
        fake.wait_for_host(MS * 10, "web1", |host| host.running).await;
        act.await
    };
    let (spec, alice) = (spec(2), alice());
    tokio::join!(run(&fake.world, &fake.fleet, &spec, &alice), acts)
}

#[tokio::test(start_paused = true)]
async fn host_of_a_running_roll_refuses_every_other_operation() {
    let fake = site(2, 1);
    let (report, refused) = while_command_works(&fake, async {
        let by_bob = switch(&fake, Switch::On, bob()).await;
        let off_by_bob = switch(&fake, Switch::Off, bob()).await;
        let by_alice = switch(&fake, Switch::On, alice()).await;
        [by_bob, off_by_bob, by_alice]
    })
    .await;
    for result in refused {
        assert!(is_refused(&result, "alice on ops1, roll r"), "{result:?}");
    }
    assert_eq!(ends(&report.unwrap()), [DONE; 2]);
    assert!(!fake.site.with_host("web1", |host| host.is_disturbed));
}

#[tokio::test(start_paused = true)]
async fn roll_stops_at_a_host_that_was_taken_over_and_names_the_operator() {
    for to in [Switch::On, Switch::Off] {
        let fake = site(2, 1);
        let (report, taken) = while_command_works(&fake, async {
            let taken = switch(&fake, to, with_force(bob())).await;
            (taken, last_history_detail(&fake).await)
        })
        .await;
        assert!(taken.0.is_ok(), "{taken:?}");
        assert!(taken.1.contains("took over from alice on ops1, roll r"), "{}", taken.1);
        assert!(taken.1.ends_with("reason: alice is ill"), "{}", taken.1);
        let report = report.unwrap();
        let first = &report.progress.hosts[0];
        assert_eq!(first.state, StepState::Failed, "{first:?}");
        assert!(first.detail.contains("bob on ops2"), "{first:?}");
        let is_on = fake.site.with_host("web1", |host| host.forward);
        assert_eq!(is_on, to == Switch::On, "the last word is bob's");
        if to == Switch::Off {
            assert_eq!(first.end, Some(HostOutcome::TakenOver), "{first:?}");
        }
        assert_eq!(ends(&report)[1], WAITING);
    }
}

#[tokio::test(start_paused = true)]
async fn roll_is_resumed_from_another_operator_machine() {
    let fake = site(2, 1);
    fake.site.with_host("web1", |host| host.command_breaks_health = true);
    let report = run(&fake.world, &fake.fleet, &spec(2), &alice()).await.unwrap();
    assert_eq!(ends(&report)[0], (StepState::Failed, Some(HostOutcome::LeftInMaintenance)));
    fake.site.with_host("web1", |host| host.is_healthy = true);
    let refused = switch(&fake, Switch::On, bob()).await;
    assert!(is_refused(&refused, "roll r"), "{refused:?}");
    let report = resume(&fake.world, &fake.fleet, &bob()).await.unwrap();
    assert_eq!(ends(&report), [DONE; 2]);
}

/// The journal knows that the roll is finished.
#[tokio::test(start_paused = true)]
async fn host_left_by_a_finished_roll_is_open_to_its_journal() {
    let fake = site(3, 1);
    fake.site.with_host("web1", |host| host.command_breaks_health = true);
    let spec = RollSpec { max_failures: 1, ..spec(3) };
    let report = run(&fake.world, &fake.fleet, &spec, &alice()).await.unwrap();
    assert_eq!(report.progress.result, Some(RollResult::DoneWithFailures));
    fake.site.with_host("web1", |host| {
        host.is_healthy = true;
        host.command_breaks_health = false;
    });
    let refused = switch(&fake, Switch::On, bob()).await;
    assert!(is_refused(&refused, "alice on ops1"), "another journal: {refused:?}");
    let report = run(&fake.world, &fake.fleet, &spec, &bob()).await.unwrap();
    assert_eq!(ends(&report), [DONE; 3]);
}

/// The operator forced the owners that were there at the start, and no later one.
#[tokio::test(start_paused = true)]
async fn forced_roll_leaves_a_host_to_an_owner_who_came_later() {
    let fake = site(2, 1);
    fake.site.with_host("web1", |host| host.command_duration = MS * 5000);
    let carol = operator("carol", "ops3").with_reason(Some("new disk"), true);
    let takes_web2 = async {
        while !fake.site.with_host("web1", |host| host.running) {
            tokio::time::sleep(MS * 10).await;
        }
        let strange = site(0, 0).world;
        let world = FleetWorld { journal: strange.journal, lock: strange.lock, ..fake.world.clone() };
        let options = SwitchOptions { actor: carol, wait: false, drain: false, force: true, timeout: None };
        forward::disable(&world, &fake.fleet, &fake.fleet.hosts[1], &options).await.unwrap();
    };
    let (spec, actor) = (spec(2), with_force(bob()));
    let (report, ()) = tokio::join!(run(&fake.world, &fake.fleet, &spec, &actor), takes_web2);
    let report = report.unwrap();
    assert_eq!(ends(&report)[0], DONE);
    let second = &report.progress.hosts[1];
    assert!(second.detail.contains("carol on ops3"), "{second:?}");
    assert!(!fake.site.with_host("web2", |host| host.forward), "carol's maintenance goes on");
    assert!(fake.site.with_host("web2", |host| host.commands.is_empty()));
}

/// One host was switched, the other refused, and the error was: nothing was changed.
#[tokio::test(start_paused = true)]
async fn command_over_several_hosts_changes_none_if_one_belongs_to_another() {
    let fake = site(3, 1);
    switch(&fake, Switch::Off, alice()).await.unwrap();
    let options = SwitchOptions { actor: bob(), wait: false, drain: false, force: true, timeout: None };
    let hosts = &fake.fleet.hosts[..2];
    let refused = forward::switch_many(&fake.world, &fake.fleet, hosts, Switch::Off, &options).await;
    assert!(refused.unwrap_err().to_string().contains("`web1`"));
    assert!(fake.site.with_host("web2", |host| host.forward));
}

/// web1 was left by a finished roll and web2 by carol, in the moment between the command's look and its switch: the first is taken
/// over by itself, the second is not.
#[tokio::test(start_paused = true)]
async fn host_of_a_finished_roll_opens_no_other_host() {
    let fake = site(3, 1);
    fake.site.with_host("web1", |host| host.command_breaks_health = true);
    let first = RollSpec { max_failures: 1, ..spec(3) };
    run(&fake.world, &fake.fleet, &first, &alice()).await.unwrap();
    fake.site.with_host("web1", |host| host.is_healthy = true);
    let hosts = fake.fleet.hosts[..2].to_vec();
    let actors = owner::require_owned(&fake.world, &fake.fleet, &hosts, &bob()).await.ok().unwrap();
    assert_eq!(actors.find(&hosts[0].name).replaces.len(), 1);
    let on_second = actors.find(&hosts[1].name);
    assert!(on_second.replaces.is_empty() && !on_second.takes_over && on_second.roll.is_none());

    let options = SwitchOptions {
        actor: operator("carol", "ops3"),
        wait: false,
        drain: false,
        force: true,
        timeout: None,
    };
    forward::disable(&fake.world, &fake.fleet, &hosts[1], &options).await.unwrap();
    let late = SwitchOptions { actor: on_second, ..options };
    let refused = forward::enable(&fake.world, &fake.fleet, &hosts[1], &late).await.map(drop);
    assert!(is_refused(&refused, "carol on ops3"), "{refused:?}");
}

/// The roll asks its operator to repair the host: the person who started it may.
#[tokio::test(start_paused = true)]
async fn operator_of_a_stopped_roll_may_repair_its_host() {
    let fake = site(2, 1);
    fake.site.with_host("web1", |host| host.command_breaks_health = true);
    run(&fake.world, &fake.fleet, &spec(2), &alice()).await.unwrap();
    fake.site.with_host("web1", |host| host.is_healthy = true);
    let host = &fake.fleet.hosts[0];
    let by = |actor| SwitchOptions { actor, wait: false, drain: false, force: false, timeout: None };
    assert!(forward::enable(&fake.world, &fake.fleet, host, &by(bob())).await.is_err());
    forward::enable(&fake.world, &fake.fleet, host, &by(alice())).await.unwrap();
    assert!(fake.site.with_host("web1", |host| host.forward));
}

/// A variable that a roll left in a shell makes no operator a roll.
#[tokio::test(start_paused = true)]
async fn maintenance_by_hand_never_belongs_to_a_roll_of_the_environment() {
    let fake = site(2, 1);
    let leftover = Actor { roll: "r20261121-071503-5f3a".parse().ok(), ..alice() };
    switch(&fake, Switch::Off, leftover).await.unwrap();
    switch(&fake, Switch::On, alice()).await.unwrap();
}

/// The hint of the abort names this command.
#[tokio::test(start_paused = true)]
async fn host_of_an_aborted_roll_may_be_enabled() {
    for by in [alice(), bob()] {
        let fake = site(3, 1);
        fake.site.with_host("web2", |host| host.command_breaks_health = true);
        run(&fake.world, &fake.fleet, &spec(3), &alice()).await.unwrap();
        let aborted = abort(&fake.world, &fake.fleet, &alice()).await.unwrap();
        assert!(aborted.progress.is_finished(), "{:?}", aborted.progress);
        fake.site.with_host("web2", |host| host.is_healthy = true);
        let options = SwitchOptions { actor: by, wait: false, drain: false, force: false, timeout: None };
        forward::enable(&fake.world, &fake.fleet, &fake.fleet.hosts[1], &options).await.unwrap();
        assert!(fake.site.with_host("web2", |host| host.forward));
    }
}
