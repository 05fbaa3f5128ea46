use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::model::example::{self, make_actor as actor};
use crate::model::percent::Percent;
use crate::model::promote::{OperatorRequest, PromotionEntry, PromotionEntryKind, PromotionResult};
use crate::model::proxy::{Latencies, UpstreamStats};

const MINUTE: Duration = Duration::from_mins(1);

fn spec() -> PromotionSpec {
    PromotionSpec { max_error_rate: "1%".parse().unwrap(), ..example::make_promotion_spec(&["web1", "web2"]) }
}

fn target() -> PromotionTarget {
    example::make_promotion_target()
}

/// Stats in which all answers took `us`, and `failed` of them are 500s.
fn leg(version: &str, answers: u64, failed: u64, us: u64) -> UpstreamStats {
    UpstreamStats {
        answers: [("2".to_owned(), answers - failed), ("5".to_owned(), failed)].into(),
        errors: [("client".to_owned(), 9)].into(),
        latency: Latencies([(us, answers)].into()),
        ..example::make_upstream_stats(&example::deployment("shop", version, 20000))
    }
}

fn stats(pid: u32, legs: Vec<UpstreamStats>) -> ProxyStats {
    example::make_proxy_stats(pid, vec![example::make_service_stats("shop", legs)])
}

fn host(number: usize) -> HostName {
    format!("web{number}").parse().unwrap()
}

fn none() -> ProxyStats {
    stats(7, vec![])
}

/// Judges one host in one interval of a minute.
fn interval(
    spec: &PromotionSpec,
    step: usize,
    base: Option<RequestCounts>,
    legs: Vec<UpstreamStats>,
) -> Judgement {
    let target = target();
    let mut judge = Judge::start(spec, &target, step, base, Duration::ZERO);
    judge.record_stats(&host(1), &none());
    judge.record_stats(&host(1), &stats(7, legs));
    judge.judge(MINUTE).unwrap()
}

/// (answers, failed, microseconds) of the canary and of main.
fn found(canary: (u64, u64, u64), main: (u64, u64, u64)) -> StepVerdict {
    let legs = vec![leg("2.0.0", canary.0, canary.1, canary.2), leg("1.0.0", main.0, main.1, main.2)];
    interval(&spec(), 1, None, legs).verdict
}

fn holds(verdict: &StepVerdict, with: &str) {
    assert!(matches!(verdict, StepVerdict::Hold { reason } if reason.contains(with)), "{verdict:?}");
}

fn breaches(verdict: &StepVerdict, with: &str) {
    assert!(matches!(verdict, StepVerdict::Breach { reason } if reason.contains(with)), "{verdict:?}");
}

#[test]
fn equal_canary_advances_and_finishes_after_the_last_step() {
    assert_eq!(found((500, 0, 20_000), (9_500, 0, 20_000)), StepVerdict::Advance);
    assert_eq!(found((500, 5, 20_000), (9_500, 0, 20_000)), StepVerdict::Advance, "1% may fail");
    assert_eq!(found((500, 0, 24_000), (9_500, 0, 20_000)), StepVerdict::Advance, "1.2 times is allowed");
    let base = RequestCounts::from_stats(&leg("1.0.0", 5_000, 0, 20_000));
    let last = interval(&spec(), 4, Some(base), vec![leg("2.0.0", 10_000, 0, 20_000)]);
    assert_eq!(last.verdict, StepVerdict::Done);
}

#[test]
fn error_rate_breaches_when_significantly_above_limit_and_main() {
    breaches(
        &found((500, 15, 20_000), (9_500, 2, 20_000)),
        "15 of 500 requests to the canary failed: 3%, at most 1% may; of main's 0.02%",
    );
    holds(&found((500, 6, 20_000), (9_500, 2, 20_000)), "not sure yet");
    holds(&found((500, 100, 20_000), (9_500, 1_900, 20_000)), "main is as bad");
}

#[test]
fn few_samples_never_prove_a_breach() {
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
fn canary_fallbacks_count_as_failures() {
    let dead = UpstreamStats { fallbacks: 400, ..leg("2.0.0", 0, 0, 1) };
    let judged = interval(&spec(), 1, None, vec![dead, leg("1.0.0", 9_500, 0, 20_000)]);
    breaches(
        &judged.verdict,
        "400 of 400 requests to the canary failed (400 were not taken, main answered them): 100%",
    );
    assert_eq!((judged.canary.requests, judged.canary.failed), (400, 400));
}

#[test]
fn latency_breach_needs_enough_slow_answers() {
    breaches(
        &found((500, 0, 40_000), (9_500, 0, 20_000)),
        "the canary's p99 is 40.0ms, 2.00 times main's 20.0ms, at most 1.2 times is allowed",
    );
    let mut some = leg("2.0.0", 500, 0, 20_000);
    some.latency = Latencies([(20_000, 494), (40_000, 6)].into());
    let judged = interval(&spec(), 1, None, vec![some, leg("1.0.0", 9_500, 0, 20_000)]);
    holds(&judged.verdict, "not sure yet");
    let unjudged = PromotionSpec { max_p99_ratio: None, ..spec() };
    let legs = vec![leg("2.0.0", 500, 0, 40_000), leg("1.0.0", 9_500, 0, 20_000)];
    assert_eq!(interval(&unjudged, 1, None, legs).verdict, StepVerdict::Advance);
}

#[test]
fn p99_needs_samples_of_both_versions() {
    let legs = |canary, main| vec![leg("2.0.0", canary, 0, 20_000), leg("1.0.0", main, 0, 20_000)];
    let found = |min_samples, canary, main| {
        interval(&PromotionSpec { min_samples, ..spec() }, 1, None, legs(canary, main)).verdict
    };
    holds(&found(200, 500, 50), "50 answers of main in 1m, 100 are needed for a p99");
    holds(&found(20, 500, 9), "9 answers of main in 1m, 20 are needed for a p99");
    assert_eq!(found(20, 20, 20), StepVerdict::Advance);
    // Not one with an answer.
    let silent = UpstreamStats { errors: [("reset".to_owned(), 1)].into(), ..leg("2.0.0", 0, 0, 1) };
    let few = PromotionSpec { min_samples: 1, max_error_rate: Percent::FULL, ..spec() };
    holds(
        &interval(&few, 1, None, vec![silent, leg("1.0.0", 500, 0, 20_000)]).verdict,
        "0 answers of the canary",
    );

    let few = PromotionSpec { min_samples: 20, ..spec() };
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
fn main_p99_is_uncertain_with_few_samples() {
    let few = PromotionSpec { min_samples: 20, ..spec() };
    let mut canary = leg("2.0.0", 300, 0, 20_000);
    canary.latency = Latencies([(20_000, 291), (60_000, 9)].into());
    let against = |main| interval(&few, 1, None, vec![canary.clone(), leg("1.0.0", main, 0, 20_000)]).verdict;
    holds(&against(20), "not sure yet");
    breaches(&against(5_000), "3.00 times");
}

/// At 100 % main answers nothing.
#[test]
fn baseline_is_the_last_interval_with_enough_main_samples() {
    let base = || Some(RequestCounts::from_stats(&leg("1.0.0", 5_000, 100, 10_000)));
    let legs = |failed, us| vec![leg("2.0.0", 10_000, failed, us), leg("1.0.0", 3, 3, 900_000)];
    assert_eq!(interval(&spec(), 4, base(), legs(0, 10_000)).verdict, StepVerdict::Done);
    breaches(&interval(&spec(), 4, base(), legs(0, 20_000)).verdict, "2.00 times main's 10.0ms");
    breaches(&interval(&spec(), 4, base(), legs(400, 10_000)).verdict, "of main's 2%");
    // Nothing to compare with at all: the limit alone, and no word on latency.
    holds(&interval(&spec(), 4, None, vec![leg("2.0.0", 10_000, 0, 10)]).verdict, "0 answers of main");
    breaches(&interval(&spec(), 4, None, vec![leg("2.0.0", 10_000, 400, 10)]).verdict, "of main's -");
}

#[test]
fn only_a_gross_breach_ends_an_interval_early() {
    let (spec, target) = (spec(), target());
    let early = |failed: u64| {
        let mut judge = Judge::start(&spec, &target, 1, None, Duration::ZERO);
        judge.record_stats(&host(1), &none());
        judge.record_stats(
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
fn interval_sums_hosts_and_excludes_earlier_counts() {
    let (spec, target) = (spec(), target());
    let mut judge = Judge::start(&spec, &target, 1, None, Duration::ZERO);
    for number in [1, 2] {
        judge.record_stats(
            &host(number),
            &stats(7, vec![leg("2.0.0", 700, 700, 90_000), leg("1.0.0", 900, 0, 20_000)]),
        );
    }
    for number in [1, 2] {
        let mut canary = leg("2.0.0", 760, 700, 20_000);
        canary.latency.0.insert(20_000, 60);
        canary.latency.0.insert(90_000, 700);
        judge.record_stats(&host(number), &stats(7, vec![canary, leg("1.0.0", 2_900, 0, 20_000)]));
    }
    let judged = judge.judge(MINUTE).unwrap();
    assert_eq!((judged.canary.requests, judged.canary.failed, judged.main.requests), (120, 0, 4_000));
    assert_eq!(judged.verdict, StepVerdict::Advance);
}

#[test]
fn proxy_restart_resets_counts_and_holds_the_interval() {
    for pid in [7, 8] {
        let (spec, target) = (spec(), target());
        let mut judge = Judge::start(&spec, &target, 1, None, Duration::ZERO);
        let legs = |canary, main| vec![leg("2.0.0", canary, 0, 20_000), leg("1.0.0", main, 0, 20_000)];
        for (pid, canary, main) in [(7, 1_000, 9_000), (7, 1_500, 9_900), (pid, 200, 300), (pid, 400, 700)] {
            judge.record_stats(&host(1), &stats(pid, legs(canary, main)));
        }
        let judged = judge.judge(MINUTE).unwrap();
        holds(&judged.verdict, "web1: its proxy was restarted");
        assert_eq!((judged.canary.requests, judged.main.requests), (700, 1_300), "never less than nothing");
        judge.record_stats(&host(1), &stats(pid, legs(600, 2_700)));
        assert_eq!(judge.judge(MINUTE * 2).unwrap().verdict, StepVerdict::Advance);
    }
}

#[test]
fn unreachable_host_holds_but_other_hosts_can_breach() {
    let (spec, target) = (spec(), target());
    for failed in [0, 300] {
        let mut judge = Judge::start(&spec, &target, 1, None, Duration::ZERO);
        judge.record_stats(&host(1), &none());
        judge.record_gap(&host(2), "its proxy is not running".to_owned());
        judge.record_stats(&host(1), &stats(7, vec![leg("2.0.0", 600, failed, 9), leg("1.0.0", 900, 0, 9)]));
        let verdict = judge.judge(MINUTE).unwrap().verdict;
        match failed {
            0 => holds(&verdict, "web2: its proxy is not running"),
            _ => breaches(&verdict, "300 of 600"),
        }
    }
}

/// A result that may be chance continues until it is sure; a trickle never adds up.
#[test]
fn inconclusive_interval_accumulates_and_too_few_samples_reset() {
    let (spec, target) = (spec(), target());
    let run = |a_minute: u64, failed: u64, minutes: u32| {
        let mut judge = Judge::start(&spec, &target, 1, None, Duration::ZERO);
        judge.record_stats(&host(1), &none());
        (1..=minutes)
            .map(|minute| {
                let n = u64::from(minute);
                let legs = vec![leg("2.0.0", n * a_minute, n * failed, 9), leg("1.0.0", n * 9_000, 0, 9)];
                judge.record_stats(&host(1), &stats(7, legs));
                judge.judge(MINUTE * minute).unwrap().verdict
            })
            .collect::<Vec<_>>()
    };
    let doubt = run(200, 4, 9);
    holds(&doubt[0], "4 of 200 requests");
    assert!(doubt.iter().any(|verdict| matches!(verdict, StepVerdict::Breach { .. })), "{doubt:?}");
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
    fn judge_never_advances_without_samples_or_counts_extra(
        looks in prop::collection::vec(look(), 0..60),
        min_samples in 0u64..300,
    ) {
        let (spec, target) = (PromotionSpec { min_samples, ..spec() }, target());
        let mut judge = Judge::start(&spec, &target, 1, None, Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut hosts = [(1, leg("2.0.0", 0, 0, 1), leg("1.0.0", 0, 0, 1)), (1, leg("2.0.0", 0, 0, 1), leg("1.0.0", 0, 0, 1))];
        for (at, (pid, canary, main)) in hosts.iter().enumerate() {
            judge.record_stats(&host(at + 1), &stats(*pid, vec![canary.clone(), main.clone()]));
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
                    judge.record_stats(&host(number), &stats(pid, legs));
                }
                Look::Restarted(number) => {
                    let (pid, _, _) = hosts[number - 1];
                    hosts[number - 1] = (pid + 1, leg("2.0.0", 0, 0, 1), leg("1.0.0", 0, 0, 1));
                    judge.record_stats(&host(number), &stats(pid + 1, vec![]));
                    missed = true;
                }
                Look::Missed(number) => {
                    judge.record_gap(&host(number), "away".to_owned());
                    missed = true;
                }
                Look::Time(seconds) => now += Duration::from_secs(seconds),
            }
            let due = judge.is_due(now);
            let Some(judged) = judge.judge(now) else { continue };
            prop_assert!(judged.canary.requests <= came);
            let breach = matches!(judged.verdict, StepVerdict::Breach { .. });
            prop_assert!(due || breach);
            if judged.verdict.is_passed() {
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

    /// In any order of entries, a step that has passed is never pending again, and a promotion that is rolled back has no
    /// pending step.
    #[test]
    fn promotion_progress_never_goes_back_a_step(steps in prop::collection::vec((0u8..6, 0usize..5), 0..30)) {
        let mut rows = vec![row(1, began())];
        let mut at = 0;
        for (kind, _) in &steps {
            let what = match kind {
                0 => PromotionEntryKind::StepBegan { step: at },
                1 => PromotionEntryKind::StepSet { step: at },
                2 if at < 4 => { at += 1; PromotionEntryKind::StepPassed { step: at - 1, main: None } }
                3 => PromotionEntryKind::AwaitingApproval { step: at },
                4 => PromotionEntryKind::Stopped { why: "x".into(), unreachable_hosts: vec![] },
                _ => PromotionEntryKind::Resumed { actor: actor() },
            };
            let before = build_progress(&rows).unwrap().step;
            rows.push(row(rows.len() as u64 + 1, what));
            let after = build_progress(&rows).unwrap();
            prop_assert!(after.step >= before && after.step == at);
            let passed = after.steps.iter().filter(|step| step.state == PromotionStepState::Passed).count();
            prop_assert_eq!(passed, at);
        }
    }
}

fn began() -> PromotionEntryKind {
    PromotionEntryKind::Began { spec: Box::new(spec()), target: target(), actor: actor() }
}

fn row(number: u64, what: PromotionEntryKind) -> PromotionEntry {
    let promotion = crate::model::promote::PromotionId::new(Timestamp::UNIX_EPOCH, 1);
    PromotionEntry {
        promotion,
        at: Timestamp::from_second(i64::try_from(number).unwrap()).unwrap(),
        kind: what,
    }
}

#[test]
fn promotion_progress_keeps_requests_since_resume() {
    let ask = |ask| PromotionEntryKind::Requested { ask, actor: actor() };
    let whats = [
        began(),
        PromotionEntryKind::StepBegan { step: 0 },
        PromotionEntryKind::StepSet { step: 0 },
        PromotionEntryKind::AwaitingApproval { step: 0 },
        ask(OperatorRequest::Approve { step: 0 }),
    ];
    let mut rows: Vec<PromotionEntry> = (1..).zip(whats).map(|(number, what)| row(number, what)).collect();
    assert!(!build_progress(&rows[..1]).unwrap().has_shared());
    let stands = build_progress(&rows).unwrap();
    assert!(stands.has_shared() && !stands.is_abort_requested());
    assert_eq!(
        (stands.awaiting_approval, stands.steps[0].state),
        (Some(0), PromotionStepState::AwaitingApproval)
    );
    assert_eq!(
        (stands.steps[0].share, stands.steps[1].state),
        ("1%".parse::<Percent>().unwrap(), PromotionStepState::Pending)
    );
    rows.push(row(
        6,
        PromotionEntryKind::Stopped {
            why: "interrupted".into(),
            unreachable_hosts: vec![(host(2), "cut".into())],
        },
    ));
    let stands = build_progress(&rows).unwrap();
    assert_eq!((stands.stop_reason.as_deref(), stands.unreachable_hosts.len()), (Some("interrupted"), 1));
    rows.push(row(7, ask(OperatorRequest::Abort)));
    assert!(build_progress(&rows).unwrap().is_abort_requested());
    rows.push(row(8, PromotionEntryKind::Resumed { actor: actor() }));
    let stands = build_progress(&rows).unwrap();
    assert!(
        !stands.is_abort_requested()
            && stands.has_shared()
            && stands.stop_reason.is_none()
            && stands.awaiting_approval.is_none()
    );
    rows.push(row(
        9,
        PromotionEntryKind::Ended { result: PromotionResult::Aborted, why: "aborted by ops".into() },
    ));
    let stands = build_progress(&rows).unwrap();
    assert!(stands.is_finished() && stands.unreachable_hosts.is_empty() && stands.why == "aborted by ops");
}
