use std::collections::BTreeMap;

use super::*;
use crate::model::example;
use crate::model::forward::KernelForward;
use crate::model::journal::{HostOutcome, RollEntryKind};
use crate::model::observation::ObservationError;
use crate::model::promote::{Judgement, PromotionEntryKind, PromotionResult, RequestSample, StepVerdict};
use crate::model::roll::Step;
use crate::model::rules::{Family as Addresses, Variant};
use crate::plan::metrics::tests::{ParsedFamily, parse};
use crate::plan::promote;
use crate::plan::roll::progress::build_progress;

const GOLDEN: &str = include_str!("../../../../tests/golden/metrics/fleet.prom");

fn build_view(is_on: bool) -> HostView {
    let in_kernel = |family| KernelForward {
        family,
        variant: Variant::NfTables,
        forward: is_on.then(|| example::make_forward("shop")),
        hooked: true,
    };
    HostView {
        kernel: Ok(vec![in_kernel(Addresses::V4), in_kernel(Addresses::V6)]),
        ..example::make_host_view(if is_on { Switch::On } else { Switch::Off })
    }
}

fn build_host_snapshot(host: &str, views: Vec<(&str, HostView)>) -> HostSnapshot {
    let named = |(service, view): (&str, HostView)| (service.parse().unwrap(), view);
    let is_up = !views.is_empty();
    HostSnapshot { host: host.parse().unwrap(), is_up, views: views.into_iter().map(named).collect() }
}

/// Rows of one roll over web1 to web3, a second apart.
fn build_roll(entries: Vec<(Option<&str>, RollEntryKind)>) -> RollProgress {
    build_progress(&example::make_roll_entries(&["web1", "web2", "web3"], 1_000, entries)).unwrap()
}

/// web1 done, web2 failed and left out, web3 never begun.
fn list_half_finished_roll() -> Vec<(Option<&'static str>, RollEntryKind)> {
    let end = HostOutcome::LeftInMaintenance;
    vec![
        (Some("web1"), RollEntryKind::StepBegan { step: Step::ForwardOff }),
        (Some("web1"), RollEntryKind::Done),
        (Some("web2"), RollEntryKind::StepBegan { step: Step::Command }),
        (Some("web2"), RollEntryKind::StepFailed { step: Step::Command, reason: "status 1".into() }),
        (Some("web2"), RollEntryKind::Settled { end, detail: String::new() }),
        (None, RollEntryKind::Stopped { reason: "1 failed".into() }),
    ]
}

/// Rows of one promotion of 2.0.0, a second apart.
fn build_promotion(entries: Vec<PromotionEntryKind>) -> promote::PromotionProgress {
    promote::build_progress(&example::make_promotion_entries(2_001.., entries)).unwrap()
}

/// The first step has passed; in the second too few requests came.
fn list_holding_promotion() -> Vec<PromotionEntryKind> {
    let judged =
        |verdict| Judgement { verdict, canary: RequestSample::default(), main: RequestSample::default() };
    vec![
        PromotionEntryKind::StepBegan { step: 0 },
        PromotionEntryKind::StepSet { step: 0 },
        PromotionEntryKind::Judged { step: 0, judgement: judged(StepVerdict::Advance) },
        PromotionEntryKind::StepPassed { step: 0, main: None },
        PromotionEntryKind::StepBegan { step: 1 },
        PromotionEntryKind::StepSet { step: 1 },
        PromotionEntryKind::Judged {
            step: 1,
            judgement: judged(StepVerdict::Hold { reason: "5 requests of 100".into() }),
        },
    ]
}

fn build_service_snapshot(service: &str, journal: Result<JournalSnapshot, String>) -> ServiceSnapshot {
    ServiceSnapshot { service: service.parse().unwrap(), journal }
}

fn build_journal_snapshot(roll: Option<RollProgress>) -> JournalSnapshot {
    JournalSnapshot { roll, promotion: None, is_locked: false, is_holder_alive: false }
}

#[test]
fn fleet_page_matches_golden_file() {
    let mut off = build_view(false);
    off.drift = vec!["IPv4 (nf_tables): the kernel's rules differ".into()];
    off.main_health = Err(ObservationError::new("refused"));
    let unread = HostView { kernel: Err(ObservationError::new("no iptables")), ..build_view(true) };
    let numbers = FleetMetrics {
        hosts: vec![
            build_host_snapshot("web1", vec![("shop", build_view(true)), ("blog", build_view(false))]),
            build_host_snapshot("web2", vec![("shop", off), ("blog", unread)]),
            build_host_snapshot("web3", vec![]),
        ],
        services: vec![
            build_service_snapshot(
                "shop",
                Ok(JournalSnapshot {
                    promotion: Some(build_promotion(list_holding_promotion())),
                    ..build_journal_snapshot(Some(build_roll(list_half_finished_roll())))
                }),
            ),
            build_service_snapshot("blog", Err("the journal is damaged".into())),
        ],
    };
    let page = numbers.render();
    assert!(page == GOLDEN, "{page}");
}

/// Renders a fleet with one journal, whose lock is held by a process that lives or does not.
fn render_journal(journal: JournalSnapshot, is_alive: bool) -> BTreeMap<String, ParsedFamily> {
    let journal = JournalSnapshot { is_locked: is_alive, is_holder_alive: is_alive, ..journal };
    parse(
        &FleetMetrics { hosts: vec![], services: vec![build_service_snapshot("shop", Ok(journal))] }.render(),
    )
}

/// The labels of the one state of a family that is set.
fn find_state(family: &ParsedFamily, states: usize) -> &str {
    let mut set = family.samples.iter().filter(|one| one.value == "1");
    let now = set.next().unwrap();
    assert_eq!((family.samples.len(), set.next().is_none()), (states, true), "{family:?}");
    &now.labels
}

/// The one state that a roll is in.
fn render_roll_state(roll: RollProgress, is_alive: bool) -> String {
    let page = render_journal(build_journal_snapshot(Some(roll)), is_alive);
    find_state(&page["switchman_roll_state"], STATES.len()).split('"').nth(3).unwrap().to_owned()
}

#[test]
fn roll_has_exactly_one_state() {
    let with = |last: RollEntryKind| build_roll([list_half_finished_roll(), vec![(None, last)]].concat());
    let ended = |result| with(RollEntryKind::Ended { result, reason: String::new() });
    assert_eq!(render_roll_state(build_roll(list_half_finished_roll()), true), "stopped");
    for (is_alive, name) in [(true, "running"), (false, "cut-off")] {
        let resumed = with(RollEntryKind::Resumed { actor: example::make_actor(), overridden: vec![] });
        assert_eq!(render_roll_state(resumed, is_alive), name);
    }
    for (result, name) in [
        (RollResult::Done, "done"),
        (RollResult::DoneWithFailures, "done-with-failures"),
        (RollResult::Aborted, "aborted"),
        (RollResult::PartiallyAborted, "aborted-in-part"),
    ] {
        assert_eq!(render_roll_state(ended(result), false), name);
    }
}

#[test]
fn fleet_without_roll_exports_no_roll_metrics() {
    let page = render_journal(build_journal_snapshot(None), false);
    assert_eq!(page["switchman_roll_in_progress"].samples[0].value, "0");
    assert!(!page.contains_key("switchman_roll_state"));
}

/// The one state that a promotion is in, and the share it has set.
fn render_promotion_state(more: Vec<PromotionEntryKind>, is_alive: bool) -> (String, String) {
    let promotion = Some(build_promotion([list_holding_promotion(), more].concat()));
    let page = render_journal(JournalSnapshot { promotion, ..build_journal_snapshot(None) }, is_alive);
    let state = find_state(&page["switchman_promotion_state"], promotions::STATES.len());
    let share = page["switchman_promotion_share_ratio"].samples[0].value.clone();
    (state.split('"').nth(5).unwrap().to_owned(), share)
}

#[test]
fn promotion_has_exactly_one_state_and_its_share() {
    let ended = |result| vec![PromotionEntryKind::Ended { result, reason: String::new() }];
    let stopped = PromotionEntryKind::Stopped { reason: "interrupted".into(), unreachable_hosts: vec![] };
    let returning =
        PromotionEntryKind::RollingBack { result: PromotionResult::RolledBack, reason: "slow".into() };
    for (more, is_alive, state, share) in [
        (vec![], true, "running", "0.05"),
        (vec![], false, "cut-off", "0.05"),
        (vec![PromotionEntryKind::AwaitingApproval { step: 1 }], true, "waiting", "0.05"),
        (vec![PromotionEntryKind::Promoting], true, "promoting", "0.05"),
        (vec![returning], true, "returning", "0.05"),
        (vec![stopped], false, "stopped", "0.0"),
        (ended(PromotionResult::Promoted), false, "promoted", "1.0"),
        (ended(PromotionResult::RolledBack), false, "returned", "0.0"),
        (ended(PromotionResult::Aborted), false, "aborted", "0.0"),
    ] {
        assert_eq!(render_promotion_state(more, is_alive), (state.to_owned(), share.to_owned()));
    }
}
