use super::*;
use crate::model::deployment::Access;
use crate::model::example::{self, port, roll};
use crate::model::forward::{Forward, KernelForward, Recorded};
use crate::model::history::Actor;
use crate::model::journal::{HostEnd, Row, What};
use crate::model::promote::{Judged, RolloutResult, RolloutRow, RolloutWhat, Sample, Verdict};
use crate::model::proxy::Layer7;
use crate::model::roll::Step;
use crate::model::rules::{Family as Addresses, Variant};
use crate::model::socket::SocketCount;
use crate::plan::metrics::tests::read;
use crate::plan::roll::progress::standing;

const GOLDEN: &str = include_str!("../../../../tests/golden/metrics/fleet.prom");

fn forward() -> Forward {
    Forward { service: "shop".parse().unwrap(), check: port(8888), target: port(8080) }
}

fn record(is_on: bool) -> Recorded {
    Recorded {
        forward: forward(),
        switch: if is_on { Switch::On } else { Switch::Off },
        from_self: false,
        generation: 1,
        changed_at: jiff::Timestamp::UNIX_EPOCH,
        routes: None,
        access: Access::Public,
        trial: None,
        layer7: Layer7::default(),
    }
}

fn view(is_on: bool) -> HostView {
    let in_kernel = |family| KernelForward {
        family,
        variant: Variant::NfTables,
        forward: is_on.then(forward),
        hooked: true,
    };
    HostView {
        recorded: Ok(Some(record(is_on))),
        kernel: Ok(vec![in_kernel(Addresses::V4), in_kernel(Addresses::V6)]),
        drift: vec![],
        main_sockets: Ok(SocketCount::default()),
        main_health: Ok(()),
        last: None,
    }
}

fn seen(host: &str, views: Vec<(&str, HostView)>) -> HostSeen {
    let named = |(service, view): (&str, HostView)| (service.parse().unwrap(), view);
    let is_up = !views.is_empty();
    HostSeen { host: host.parse().unwrap(), is_up, views: views.into_iter().map(named).collect() }
}

/// Rows of one roll over web1 to web3, a second apart.
fn rolled(rows: Vec<(Option<&str>, What)>) -> Standing {
    let actor = Actor { user: "ops".into(), pid: 7 };
    let began = (None, What::Began { spec: roll(&["web1", "web2", "web3"]), actor });
    let rows = std::iter::once(began).chain(rows).zip(1_000..).map(|((host, what), at)| Row {
        roll: "r19700101-001640-beef".parse().unwrap(),
        at: jiff::Timestamp::from_second(at).unwrap(),
        host: host.map(|host| host.parse().unwrap()),
        what,
    });
    standing(&rows.collect::<Vec<_>>()).unwrap()
}

/// web1 done, web2 failed and left out, web3 never begun.
fn half() -> Vec<(Option<&'static str>, What)> {
    let end = HostEnd::LeftOut;
    vec![
        (Some("web1"), What::StepBegan { step: Step::ForwardOff }),
        (Some("web1"), What::Done),
        (Some("web2"), What::StepBegan { step: Step::Command }),
        (Some("web2"), What::StepFailed { step: Step::Command, why: "status 1".into() }),
        (Some("web2"), What::Settled { end, detail: String::new() }),
        (None, What::Stopped { why: "1 failed".into() }),
    ]
}

/// Rows of one roll-out of 2.0.0, a second apart.
fn rolled_out(rows: Vec<RolloutWhat>) -> promote::Standing {
    let actor = Actor { user: "ops".into(), pid: 7 };
    let spec = Box::new(example::rollout(&["web1"]));
    let began = RolloutWhat::Began { spec, target: example::rollout_target(), actor };
    let rows = std::iter::once(began).chain(rows).zip(1..).map(|(what, number)| RolloutRow {
        number,
        rollout: "o19700101-003320-beef".parse().unwrap(),
        at: jiff::Timestamp::from_second(2_000 + i64::try_from(number).unwrap()).unwrap(),
        what,
    });
    promote::standing(&rows.collect::<Vec<_>>()).unwrap()
}

/// The first step has passed; in the second too few requests came.
fn holding() -> Vec<RolloutWhat> {
    let judged = |verdict| Judged { verdict, canary: Sample::default(), main: Sample::default() };
    vec![
        RolloutWhat::StepBegan { step: 0 },
        RolloutWhat::StepSet { step: 0 },
        RolloutWhat::Judged { step: 0, judged: judged(Verdict::Advance) },
        RolloutWhat::StepPassed { step: 0, main: None },
        RolloutWhat::StepBegan { step: 1 },
        RolloutWhat::StepSet { step: 1 },
        RolloutWhat::Judged { step: 1, judged: judged(Verdict::Hold { reason: "5 requests of 100".into() }) },
    ]
}

fn of(service: &str, journal: Result<Journaled, String>) -> ServiceNumbers {
    ServiceNumbers { service: service.parse().unwrap(), journal }
}

fn journaled(roll: Option<Standing>) -> Journaled {
    Journaled { roll, rollout: None, is_held: false, is_alive: false }
}

#[test]
fn a_fleet_tells_all_of_this() {
    let mut off = view(false);
    off.drift = vec!["IPv4 (nf_tables): the kernel's rules differ".into()];
    off.main_health = Err("refused".into());
    let unread = HostView { kernel: Err("no iptables".into()), ..view(true) };
    let numbers = FleetNumbers {
        hosts: vec![
            seen("web1", vec![("shop", view(true)), ("blog", view(false))]),
            seen("web2", vec![("shop", off), ("blog", unread)]),
            seen("web3", vec![]),
        ],
        services: vec![
            of(
                "shop",
                Ok(Journaled { rollout: Some(rolled_out(holding())), ..journaled(Some(rolled(half()))) }),
            ),
            of("blog", Err("the journal is damaged".into())),
        ],
    };
    let page = numbers.page();
    assert!(page == GOLDEN, "{page}");
}

/// The one state that a roll is in.
fn state_of(roll: Standing, is_alive: bool) -> String {
    let journaled = Journaled { roll: Some(roll), rollout: None, is_held: is_alive, is_alive };
    let numbers = FleetNumbers { hosts: vec![], services: vec![of("shop", Ok(journaled))] };
    let page = read(&numbers.page());
    let states = &page["switchman_roll_state"].samples;
    let now: Vec<&str> =
        states.iter().filter(|one| one.value == "1").map(|one| one.labels.as_str()).collect();
    assert_eq!((states.len(), now.len()), (STATES.len(), 1), "{states:?}");
    now[0].split('"').nth(3).unwrap().to_owned()
}

#[test]
fn a_roll_is_in_one_state() {
    let with = |last: What| rolled([half(), vec![(None, last)]].concat());
    let ended = |result| with(What::Ended { result });
    assert_eq!(state_of(rolled(half()), true), "stopped");
    assert_eq!(
        state_of(with(What::Resumed { actor: Actor { user: "ops".into(), pid: 8 } }), true),
        "running"
    );
    assert_eq!(
        state_of(with(What::Resumed { actor: Actor { user: "ops".into(), pid: 8 } }), false),
        "cut-off"
    );
    for (result, name) in [
        (RollResult::Done, "done"),
        (RollResult::DoneWithFailures, "done-with-failures"),
        (RollResult::Aborted, "aborted"),
        (RollResult::AbortedInPart, "aborted-in-part"),
    ] {
        assert_eq!(state_of(ended(result), false), name);
    }
}

#[test]
fn a_fleet_that_was_never_rolled_has_no_last_roll() {
    let numbers = FleetNumbers { hosts: vec![], services: vec![of("shop", Ok(journaled(None)))] };
    let page = read(&numbers.page());
    assert_eq!(page["switchman_roll_in_progress"].samples[0].value, "0");
    assert!(!page.contains_key("switchman_roll_state"));
}

/// The one state that a roll-out is in, and the share it has set.
fn rollout_of(more: Vec<RolloutWhat>, is_alive: bool) -> (String, String) {
    let rollout = Some(rolled_out([holding(), more].concat()));
    let journaled = Journaled { roll: None, rollout, is_held: is_alive, is_alive };
    let numbers = FleetNumbers { hosts: vec![], services: vec![of("shop", Ok(journaled))] };
    let page = read(&numbers.page());
    let states = &page["switchman_rollout_state"].samples;
    let now: Vec<&str> =
        states.iter().filter(|one| one.value == "1").map(|one| one.labels.as_str()).collect();
    assert_eq!((states.len(), now.len()), (promotions::STATES.len(), 1), "{states:?}");
    let share = page["switchman_rollout_share_ratio"].samples[0].value.clone();
    (now[0].split('"').nth(5).unwrap().to_owned(), share)
}

#[test]
fn a_roll_out_is_in_one_state_with_the_share_it_has_set() {
    let ended = |result| vec![RolloutWhat::Ended { result, why: String::new() }];
    let stopped = RolloutWhat::Stopped { why: "interrupted".into(), untold: vec![] };
    let returning = RolloutWhat::Returning { result: RolloutResult::Returned, why: "slow".into() };
    for (more, is_alive, state, share) in [
        (vec![], true, "running", "0.05"),
        (vec![], false, "cut-off", "0.05"),
        (vec![RolloutWhat::Waiting { step: 1 }], true, "waiting", "0.05"),
        (vec![RolloutWhat::Promoting], true, "promoting", "0.05"),
        (vec![returning], true, "returning", "0.05"),
        (vec![stopped], false, "stopped", "0"),
        (ended(RolloutResult::Promoted), false, "promoted", "1"),
        (ended(RolloutResult::Returned), false, "returned", "0"),
        (ended(RolloutResult::Aborted), false, "aborted", "0"),
    ] {
        assert_eq!(rollout_of(more, is_alive), (state.to_owned(), share.to_owned()));
    }
}
