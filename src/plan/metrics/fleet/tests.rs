use super::*;
use crate::model::deployment::Access;
use crate::model::example::{port, roll};
use crate::model::forward::{Forward, KernelForward, Recorded};
use crate::model::history::Actor;
use crate::model::journal::{HostEnd, Row, What};
use crate::model::proxy::Layer7;
use crate::model::roll::Step;
use crate::model::rules::{Family as Addresses, Variant};
use crate::model::socket::SocketCount;
use crate::plan::metrics::tests::read;
use crate::plan::standing::standing;

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

fn of(service: &str, journal: Result<Journaled, String>) -> ServiceNumbers {
    ServiceNumbers { service: service.parse().unwrap(), journal }
}

fn journaled(roll: Option<Standing>) -> Journaled {
    Journaled { roll, is_held: false, is_alive: false }
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
            of("shop", Ok(journaled(Some(rolled(half()))))),
            of("blog", Err("the journal is damaged".into())),
        ],
    };
    let page = numbers.page();
    assert!(page == GOLDEN, "{page}");
}

/// The one state that a roll is in.
fn state_of(roll: Standing, is_alive: bool) -> String {
    let journaled = Journaled { roll: Some(roll), is_held: is_alive, is_alive };
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
