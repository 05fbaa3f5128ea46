use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::model::example;
use crate::model::history::Actor;
use crate::model::percent::Percent;
use crate::model::promote::{Ask, RolloutResult, RolloutRow, RolloutWhat};
use crate::model::proxy::{Latencies, LegStats, ServiceStats};

const MINUTE: Duration = Duration::from_mins(1);

fn spec() -> RolloutSpec {
    RolloutSpec { max_error_rate: "1%".parse().unwrap(), ..example::rollout(&["web1", "web2"]) }
}

fn target() -> Target {
    example::rollout_target()
}

/// All answers took as long; so many of them are 500s.
fn leg(version: &str, answers: u64, failed: u64, us: u64) -> LegStats {
    let deployment = example::deployment("shop", version, 20000);
    LegStats {
        deployment: deployment.id,
        version: deployment.version,
        answers: [("2".to_owned(), answers - failed), ("5".to_owned(), failed)].into(),
        errors: [("client".to_owned(), 9)].into(),
        latency: Latencies([(us, answers)].into()),
        fallbacks: 0,
    }
}

fn stats(pid: u32, legs: Vec<LegStats>) -> ProxyStats {
    let service = ServiceStats {
        service: "shop".parse().unwrap(),
        connections: 0,
        upgraded: 0,
        in_flight: 0,
        legs,
        shadows: vec![],
        rejected: [].into(),
    };
    ProxyStats { services: vec![service], pid, resident_bytes: 0, suspended: false, gateway: None }
}

fn host(number: usize) -> HostName {
    format!("web{number}").parse().unwrap()
}

fn none() -> ProxyStats {
    stats(7, vec![])
}

/// One host, one interval of a minute.
fn interval(spec: &RolloutSpec, step: usize, base: Option<Counts>, legs: Vec<LegStats>) -> Judged {
    let target = target();
    let mut judge = Judge::begin(spec, &target, step, base, Duration::ZERO);
    judge.saw(&host(1), &none());
    judge.saw(&host(1), &stats(7, legs));
    judge.judge(MINUTE).unwrap()
}

/// (answers, failed, microseconds) of the canary and of main.
fn found(canary: (u64, u64, u64), main: (u64, u64, u64)) -> Verdict {
    let legs = vec![leg("2.0.0", canary.0, canary.1, canary.2), leg("1.0.0", main.0, main.1, main.2)];
    interval(&spec(), 1, None, legs).verdict
}

fn holds(verdict: &Verdict, with: &str) {
    assert!(matches!(verdict, Verdict::Hold { reason } if reason.contains(with)), "{verdict:?}");
}

fn breaches(verdict: &Verdict, with: &str) {
    assert!(matches!(verdict, Verdict::Breach { reason } if reason.contains(with)), "{verdict:?}");
}

#[test]
fn as_good_as_main_goes_on_and_after_the_last_share_is_done() {
    assert_eq!(found((500, 0, 20_000), (9_500, 0, 20_000)), Verdict::Advance);
    assert_eq!(found((500, 5, 20_000), (9_500, 0, 20_000)), Verdict::Advance, "1% may fail");
    assert_eq!(found((500, 0, 24_000), (9_500, 0, 20_000)), Verdict::Advance, "1.2 times is allowed");
    let base = Counts::of(&leg("1.0.0", 5_000, 0, 20_000));
    let last = interval(&spec(), 4, Some(base), vec![leg("2.0.0", 10_000, 0, 20_000)]);
    assert_eq!(last.verdict, Verdict::Done);
}

#[test]
fn errors_are_a_breach_where_they_are_surely_over_the_limit_and_worse_than_mains() {
    breaches(
        &found((500, 15, 20_000), (9_500, 2, 20_000)),
        "15 of 500 requests to the canary failed: 3%, at most 1% may; of main's 0.02%",
    );
    holds(&found((500, 6, 20_000), (9_500, 2, 20_000)), "not sure yet");
    holds(&found((500, 100, 20_000), (9_500, 1_900, 20_000)), "main is as bad");
}

#[test]
fn one_error_of_three_is_no_proof_and_neither_is_all_of_three() {
    for failed in [0, 1, 3] {
        holds(
            &found((3, failed, 20_000), (9_500, 0, 20_000)),
            "3 requests to the canary in 1m, 100 are needed",
        );
    }
    holds(&found((5, 4, 20_000), (9_500, 0, 20_000)), "; 4 of them failed");
}

/// A canary that takes no connection at all has not one answer.
#[test]
fn requests_that_the_canary_does_not_take_are_its_failures() {
    let dead = LegStats { fallbacks: 400, ..leg("2.0.0", 0, 0, 1) };
    let judged = interval(&spec(), 1, None, vec![dead, leg("1.0.0", 9_500, 0, 20_000)]);
    breaches(
        &judged.verdict,
        "400 of 400 requests to the canary failed (400 were not taken, main answered them): 100%",
    );
    assert_eq!((judged.canary.requests, judged.canary.failed), (400, 400));
}

#[test]
fn twice_as_slow_is_a_breach_and_a_few_slow_answers_are_not_sure() {
    breaches(
        &found((500, 0, 40_000), (9_500, 0, 20_000)),
        "the canary's p99 is 40.0ms, 2.00 times main's 20.0ms, at most 1.2 times is allowed",
    );
    let mut some = leg("2.0.0", 500, 0, 20_000);
    some.latency = Latencies([(20_000, 494), (40_000, 6)].into());
    let judged = interval(&spec(), 1, None, vec![some, leg("1.0.0", 9_500, 0, 20_000)]);
    holds(&judged.verdict, "not sure yet");
    let unjudged = RolloutSpec { max_p99_ratio: None, ..spec() };
    let legs = vec![leg("2.0.0", 500, 0, 40_000), leg("1.0.0", 9_500, 0, 20_000)];
    assert_eq!(interval(&unjudged, 1, None, legs).verdict, Verdict::Advance);
}

#[test]
fn a_p99_needs_answers_of_both_and_of_few_it_is_the_slowest() {
    let legs = |canary, main| vec![leg("2.0.0", canary, 0, 20_000), leg("1.0.0", main, 0, 20_000)];
    let found = |min_samples, canary, main| {
        interval(&RolloutSpec { min_samples, ..spec() }, 1, None, legs(canary, main)).verdict
    };
    holds(&found(200, 500, 50), "50 answers of main in 1m, 100 are needed for a p99");
    holds(&found(20, 500, 9), "9 answers of main in 1m, 20 are needed for a p99");
    assert_eq!(found(20, 20, 20), Verdict::Advance);
    // Not one with an answer.
    let silent = LegStats { errors: [("reset".to_owned(), 1)].into(), ..leg("2.0.0", 0, 0, 1) };
    let few = RolloutSpec { min_samples: 1, max_error_rate: Percent::ALL, ..spec() };
    holds(
        &interval(&few, 1, None, vec![silent, leg("1.0.0", 500, 0, 20_000)]).verdict,
        "0 answers of the canary",
    );

    let few = RolloutSpec { min_samples: 20, ..spec() };
    let mut slow_one = leg("2.0.0", 20, 0, 20_000);
    slow_one.latency = Latencies([(20_000, 19), (60_000, 1)].into());
    let judged = interval(&few, 1, None, vec![slow_one, leg("1.0.0", 500, 0, 20_000)]);
    holds(
        &judged.verdict,
        "the canary's p99 is 60.0ms, 3.00 times main's 20.0ms, at most 1.2 times is allowed: not sure",
    );
    breaches(
        &interval(&few, 1, None, vec![leg("2.0.0", 20, 0, 60_000), leg("1.0.0", 500, 0, 20_000)]).verdict,
        "3.00 times",
    );
}

/// Nine slow answers of 300, and of 20 of main's none: that may be main's way too.
#[test]
fn mains_own_p99_is_not_sure_where_it_answered_few() {
    let few = RolloutSpec { min_samples: 20, ..spec() };
    let mut canary = leg("2.0.0", 300, 0, 20_000);
    canary.latency = Latencies([(20_000, 291), (60_000, 9)].into());
    let against = |main| interval(&few, 1, None, vec![canary.clone(), leg("1.0.0", main, 0, 20_000)]).verdict;
    holds(&against(20), "not sure yet");
    breaches(&against(5_000), "3.00 times");
}

/// At 100 % main answers nothing.
#[test]
fn where_main_answers_too_few_its_last_good_interval_is_compared_with() {
    let base = || Some(Counts::of(&leg("1.0.0", 5_000, 100, 10_000)));
    let legs = |failed, us| vec![leg("2.0.0", 10_000, failed, us), leg("1.0.0", 3, 3, 900_000)];
    assert_eq!(interval(&spec(), 4, base(), legs(0, 10_000)).verdict, Verdict::Done);
    breaches(&interval(&spec(), 4, base(), legs(0, 20_000)).verdict, "2.00 times main's 10.0ms");
    breaches(&interval(&spec(), 4, base(), legs(400, 10_000)).verdict, "of main's 2%");
    // Nothing to compare with at all: the limit alone, and no word on latency.
    holds(&interval(&spec(), 4, None, vec![leg("2.0.0", 10_000, 0, 10)]).verdict, "0 answers of main");
    breaches(&interval(&spec(), 4, None, vec![leg("2.0.0", 10_000, 400, 10)]).verdict, "of main's -");
}

#[test]
fn a_gross_breach_ends_an_interval_early_and_nothing_else_does() {
    let (spec, target) = (spec(), target());
    let early = |failed: u64| {
        let mut judge = Judge::begin(&spec, &target, 1, None, Duration::ZERO);
        judge.saw(&host(1), &none());
        judge.saw(
            &host(1),
            &stats(7, vec![leg("2.0.0", 200, failed, 20_000), leg("1.0.0", 4_000, 0, 20_000)]),
        );
        judge.judge(Duration::from_secs(5)).map(|judged| judged.verdict)
    };
    breaches(&early(100).unwrap(), "50%");
    // 2.5 %: surely over 1 % for who looks once, not for who looks all the time.
    assert_eq!((early(6), early(0)), (None, None));
}

#[test]
fn hosts_add_up_and_only_what_came_in_the_interval_counts() {
    let (spec, target) = (spec(), target());
    let mut judge = Judge::begin(&spec, &target, 1, None, Duration::ZERO);
    for number in [1, 2] {
        judge.saw(
            &host(number),
            &stats(7, vec![leg("2.0.0", 700, 700, 90_000), leg("1.0.0", 900, 0, 20_000)]),
        );
    }
    for number in [1, 2] {
        let mut canary = leg("2.0.0", 760, 700, 20_000);
        canary.latency.0.insert(20_000, 60);
        canary.latency.0.insert(90_000, 700);
        judge.saw(&host(number), &stats(7, vec![canary, leg("1.0.0", 2_900, 0, 20_000)]));
    }
    let judged = judge.judge(MINUTE).unwrap();
    assert_eq!((judged.canary.requests, judged.canary.failed, judged.main.requests), (120, 0, 4_000));
    assert_eq!(judged.verdict, Verdict::Advance);
}

#[test]
fn a_proxy_that_was_restarted_begins_anew_and_the_interval_passes_nothing() {
    for pid in [7, 8] {
        let (spec, target) = (spec(), target());
        let mut judge = Judge::begin(&spec, &target, 1, None, Duration::ZERO);
        let legs = |canary, main| vec![leg("2.0.0", canary, 0, 20_000), leg("1.0.0", main, 0, 20_000)];
        for (pid, canary, main) in [(7, 1_000, 9_000), (7, 1_500, 9_900), (pid, 200, 300), (pid, 400, 700)] {
            judge.saw(&host(1), &stats(pid, legs(canary, main)));
        }
        let judged = judge.judge(MINUTE).unwrap();
        holds(&judged.verdict, "web1: its proxy was restarted");
        assert_eq!((judged.canary.requests, judged.main.requests), (700, 1_300), "never less than nothing");
        judge.saw(&host(1), &stats(pid, legs(600, 2_700)));
        assert_eq!(judge.judge(MINUTE * 2).unwrap().verdict, Verdict::Advance);
    }
}

#[test]
fn a_host_that_is_not_heard_holds_and_the_others_may_show_a_breach() {
    let (spec, target) = (spec(), target());
    for failed in [0, 300] {
        let mut judge = Judge::begin(&spec, &target, 1, None, Duration::ZERO);
        judge.saw(&host(1), &none());
        judge.missed(&host(2), "its proxy is gone".to_owned());
        judge.saw(&host(1), &stats(7, vec![leg("2.0.0", 600, failed, 9), leg("1.0.0", 900, 0, 9)]));
        let verdict = judge.judge(MINUTE).unwrap().verdict;
        match failed {
            0 => holds(&verdict, "web2: its proxy is gone"),
            _ => breaches(&verdict, "300 of 600"),
        }
    }
}

/// What may be chance goes on until it is sure; a trickle never adds up.
#[test]
fn doubt_goes_on_and_too_few_begin_anew() {
    let (spec, target) = (spec(), target());
    let run = |a_minute: u64, failed: u64, minutes: u32| {
        let mut judge = Judge::begin(&spec, &target, 1, None, Duration::ZERO);
        judge.saw(&host(1), &none());
        (1..=minutes)
            .map(|minute| {
                let n = u64::from(minute);
                let legs = vec![leg("2.0.0", n * a_minute, n * failed, 9), leg("1.0.0", n * 9_000, 0, 9)];
                judge.saw(&host(1), &stats(7, legs));
                judge.judge(MINUTE * minute).unwrap().verdict
            })
            .collect::<Vec<_>>()
    };
    let doubt = run(200, 4, 9);
    holds(&doubt[0], "4 of 200 requests");
    assert!(doubt.iter().any(|verdict| matches!(verdict, Verdict::Breach { .. })), "{doubt:?}");
    for verdict in run(5, 0, 60) {
        holds(&verdict, "5 requests to the canary in 1m, 100 are needed");
    }
}

#[derive(Debug, Clone)]
enum Look {
    Grew { host: usize, canary: u64, failed: u64, main: u64, us: u64 },
    Restarted(usize),
    Missed(usize),
    Time(u64),
}

fn look() -> impl Strategy<Value = Look> {
    prop_oneof![
        4 => (1usize..3, 0u64..400, 0u64..40, 0u64..4_000, 1u64..90_000).prop_map(
            |(host, canary, failed, main, us)| Look::Grew { host, canary, failed: failed.min(canary), main, us }
        ),
        1 => (1usize..3).prop_map(Look::Restarted),
        1 => (1usize..3).prop_map(Look::Missed),
        3 => (0u64..90).prop_map(Look::Time),
    ]
}

proptest! {
    #[test]
    fn nothing_advances_without_samples_and_nothing_is_counted_that_did_not_come(
        looks in prop::collection::vec(look(), 0..60),
        min_samples in 0u64..300,
    ) {
        let (spec, target) = (RolloutSpec { min_samples, ..spec() }, target());
        let mut judge = Judge::begin(&spec, &target, 1, None, Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut hosts = [(1, leg("2.0.0", 0, 0, 1), leg("1.0.0", 0, 0, 1)), (1, leg("2.0.0", 0, 0, 1), leg("1.0.0", 0, 0, 1))];
        for (at, (pid, canary, main)) in hosts.iter().enumerate() {
            judge.saw(&host(at + 1), &stats(*pid, vec![canary.clone(), main.clone()]));
        }
        let mut came = 0;
        let mut missed = false;
        for look in looks {
            match look {
                Look::Grew { host: number, canary, failed, main, us } => {
                    let (pid, canaries, mains) = &mut hosts[number - 1];
                    for (leg, more, bad) in [(canaries, canary, failed), (mains, main, 0)] {
                        *leg.answers.get_mut("2").unwrap() += more - bad;
                        *leg.answers.get_mut("5").unwrap() += bad;
                        *leg.latency.0.entry(us).or_default() += more;
                    }
                    came += canary;
                    let (pid, legs) = (*pid, vec![hosts[number - 1].1.clone(), hosts[number - 1].2.clone()]);
                    judge.saw(&host(number), &stats(pid, legs));
                }
                Look::Restarted(number) => {
                    let (pid, _, _) = hosts[number - 1];
                    hosts[number - 1] = (pid + 1, leg("2.0.0", 0, 0, 1), leg("1.0.0", 0, 0, 1));
                    judge.saw(&host(number), &stats(pid + 1, vec![]));
                    missed = true;
                }
                Look::Missed(number) => {
                    judge.missed(&host(number), "away".to_owned());
                    missed = true;
                }
                Look::Time(seconds) => now += Duration::from_secs(seconds),
            }
            let due = judge.is_due(now);
            let Some(judged) = judge.judge(now) else { continue };
            prop_assert!(judged.canary.requests <= came);
            let breach = matches!(judged.verdict, Verdict::Breach { .. });
            prop_assert!(due || breach);
            if judged.verdict.passes() {
                prop_assert!(judged.canary.requests >= min_samples.max(1) && !missed);
                prop_assert!(judged.canary.p99_us.is_some() && judged.main.p99_us.is_some());
            }
            if breach {
                break;
            }
            if !judged.verdict.reason().contains("not sure yet") {
                (came, missed) = (0, false);
            }
        }
    }

    /// Whatever order rows come in, what has passed is not ahead again, and what is on its way back has no step to come.
    #[test]
    fn a_standing_never_goes_a_step_back(steps in prop::collection::vec((0u8..6, 0usize..5), 0..30)) {
        let mut rows = vec![row(1, began())];
        let mut at = 0;
        for (kind, _) in &steps {
            let what = match kind {
                0 => RolloutWhat::StepBegan { step: at },
                1 => RolloutWhat::StepSet { step: at },
                2 if at < 4 => { at += 1; RolloutWhat::StepPassed { step: at - 1, main: None } }
                3 => RolloutWhat::Waiting { step: at },
                4 => RolloutWhat::Stopped { why: "x".into(), untold: vec![] },
                _ => RolloutWhat::Resumed { actor: actor() },
            };
            let before = standing(&rows).unwrap().step;
            rows.push(row(rows.len() as u64 + 1, what));
            let after = standing(&rows).unwrap();
            prop_assert!(after.step >= before && after.step == at);
            let passed = after.steps.iter().filter(|step| step.reached == Reached::Passed).count();
            prop_assert_eq!(passed, at);
        }
    }
}

fn actor() -> Actor {
    Actor { user: "ops".into(), pid: 7 }
}

fn began() -> RolloutWhat {
    RolloutWhat::Began { spec: Box::new(spec()), target: target(), actor: actor() }
}

fn row(number: u64, what: RolloutWhat) -> RolloutRow {
    let rollout = crate::model::promote::RolloutId::new(Timestamp::UNIX_EPOCH, 1);
    RolloutRow { number, rollout, at: Timestamp::from_second(i64::try_from(number).unwrap()).unwrap(), what }
}

#[test]
fn a_standing_says_what_was_asked_since_it_was_taken_up() {
    let ask = |ask| RolloutWhat::Asked { ask, actor: actor() };
    let whats = [
        began(),
        RolloutWhat::StepBegan { step: 0 },
        RolloutWhat::StepSet { step: 0 },
        RolloutWhat::Waiting { step: 0 },
        ask(Ask::Promote { step: 0 }),
    ];
    let mut rows: Vec<RolloutRow> = (1..).zip(whats).map(|(number, what)| row(number, what)).collect();
    assert!(!standing(&rows[..1]).unwrap().has_shared());
    let stands = standing(&rows).unwrap();
    assert!(stands.has_shared() && !stands.is_aborted());
    assert_eq!((stands.waiting, stands.steps[0].reached), (Some(0), Reached::Waiting));
    assert_eq!(
        (stands.steps[0].share, stands.steps[1].reached),
        ("1%".parse::<Percent>().unwrap(), Reached::Ahead)
    );
    rows.push(row(
        6,
        RolloutWhat::Stopped { why: "interrupted".into(), untold: vec![(host(2), "cut".into())] },
    ));
    let stands = standing(&rows).unwrap();
    assert_eq!((stands.stopped.as_deref(), stands.untold.len()), (Some("interrupted"), 1));
    rows.push(row(7, ask(Ask::Abort)));
    assert!(standing(&rows).unwrap().is_aborted());
    rows.push(row(8, RolloutWhat::Resumed { actor: actor() }));
    let stands = standing(&rows).unwrap();
    assert!(
        !stands.is_aborted() && stands.has_shared() && stands.stopped.is_none() && stands.waiting.is_none()
    );
    rows.push(row(9, RolloutWhat::Ended { result: RolloutResult::Aborted, why: "aborted by ops".into() }));
    let stands = standing(&rows).unwrap();
    assert!(stands.is_finished() && stands.untold.is_empty() && stands.why == "aborted by ops");
}
