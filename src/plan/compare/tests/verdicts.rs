//! Tests of the verdicts.

use std::collections::BTreeMap;

use super::ComparisonVerdict::{Differs, Insufficient, Same};
use super::*;
use crate::model::percent::Percent;

/// Generates the same numbers on every run.
struct Dice(u64);

impl Dice {
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.0 >> 32).unwrap()) / f64::from(u32::MAX)
    }
}

fn report(evidence: &Evidence, min_samples: u64, require: Option<&str>) -> ComparisonReport {
    with(evidence, Coverage::from_evidence(evidence, &[]), min_samples, require, &[])
}

fn with(
    evidence: &Evidence,
    mut coverage: Coverage,
    min_samples: u64,
    require: Option<&str>,
    ignore: &[&str],
) -> ComparisonReport {
    coverage.selected = coverage.selected.max(evidence.compared);
    let of = ComparedVersions {
        service: "shop".parse().unwrap(),
        main: "1.0.0".parse().unwrap(),
        shadow: "1.1.0".parse().unwrap(),
    };
    let asked = Criteria {
        require_match: require.map(|text| text.parse::<Percent>().unwrap()),
        min_samples,
        ignore: ignore.iter().map(|field| field.parse().unwrap()).collect(),
        headers: ComparedHeaders::default(),
    };
    ComparisonReport::build(of, evidence, coverage, UserImpact::default(), asked)
}

/// No samples are required.
pub(super) fn report_with_headers(evidence: &Evidence, headers: ComparedHeaders) -> ComparisonReport {
    let mut coverage = Coverage::from_evidence(evidence, &[]);
    coverage.selected = evidence.compared;
    let of = ComparedVersions {
        service: "shop".parse().unwrap(),
        main: "1.0.0".parse().unwrap(),
        shadow: "1.1.0".parse().unwrap(),
    };
    let asked = Criteria { require_match: None, min_samples: 0, ignore: vec![], headers };
    ComparisonReport::build(of, evidence, coverage, UserImpact::default(), asked)
}

/// Evidence from this many orders, each with a time of its own; `wrong` selects those whose price the shadow gets wrong. Every
/// `control`th is sent to main twice.
fn orders(count: u64, control: u64, wrong: impl Fn(u64) -> bool) -> Evidence {
    let pairs: Vec<ResponsePair> = (0..count)
        .map(|at| {
            let of = |price: f64, who: &str| json_answer(&order(at, price, &format!("12:00:{at} {who}")));
            let price = if wrong(at) { 9.5 } else { 1.5 };
            let control = (at % control == 0).then(|| of(1.5, "again"));
            ResponsePair {
                request: asked(i64::try_from(at).unwrap()),
                control,
                ..pair(of(1.5, "main"), of(price, "shadow"))
            }
        })
        .collect();
    evidence(&pairs)
}

fn assert_says(report: &ComparisonReport, verdict: ComparisonVerdict, reason: &str) {
    assert_eq!((report.verdict, report.reason.as_str()), (verdict, reason));
}

fn field<'a>(report: &'a ComparisonReport, name: &str) -> &'a FieldFinding {
    report.fields.iter().find(|field| field.field == name).unwrap()
}

#[test]
fn noise_of_main_is_not_counted() {
    let report = report(&orders(500, 10, |_| false), 100, None);
    assert_says(&report, Same, "all of 500 answers match");
    assert_eq!(field(&report, "$.time").verdict, FieldVerdict::Noise);
    assert_eq!(report.fields.len(), 1);
    assert_eq!(report.remarks.len(), 1);
}

#[test]
fn every_difference_counts_without_controls() {
    let report = report(&orders(500, 501, |at| at == 1), 100, None);
    // One control, the first, is no proof of noise.
    assert_says(&report, Differs, "500 of 500 answers do not match; most differ in $.time (500)");
}

#[test]
fn report_finds_one_wrong_answer_in_a_hundred() {
    let evidence = orders(1_400, 10, |at| at % 100 == 7);
    let found = report(&evidence, 1_000, Some("99.9%"));
    assert_says(
        &found,
        Differs,
        "99% of 1,400 answers match, 99.9% are wanted; most differ in $.items[].price (14)",
    );
    let price = field(&found, "$.items[].price");
    assert_eq!((price.verdict, price.shadow.part, price.shadow.of), (FieldVerdict::Differs, 14, 1_400));
    assert!(price.shadow.low < 0.01 && price.shadow.high > 0.01);
    assert_eq!(price.examples[0].request, "GET /items?page=2");
    assert_eq!((price.examples[0].main.as_str(), price.examples[0].shadow.as_str()), ("1.5", "9.5"));
    let enough = report(&evidence, 1_000, Some("99%"));
    assert_says(&enough, Same, "99% of 1,400 answers match, 99% are wanted");
    let without =
        with(&evidence, Coverage::from_evidence(&evidence, &[]), 1_000, Some("99.9%"), &["$.items"]);
    assert_eq!(without.verdict, Same);
    assert_eq!(field(&without, "$.items[].price").verdict, FieldVerdict::Ignored);
}

#[test]
fn too_few_samples_are_insufficient() {
    let evidence = orders(212, 10, |_| false);
    let few = report(&evidence, 1_000, Some("99.9%"));
    assert_says(&few, Insufficient, "only 212 of 1,000 answers compared");
    for require in [None, Some("0%"), Some("99.9%")] {
        let none = report(&Evidence::default(), 0, require);
        assert_says(&none, Insufficient, "no request was copied to it yet");
    }
    let bad = report(&orders(50, 10, |at| at % 2 == 0), 100, None);
    assert_eq!(bad.reason, "only 50 of 100 answers compared; so far 50% of them match");
}

#[test]
fn unanswered_copies_do_not_match() {
    let evidence = orders(990, 10, |_| false);
    let failed = BTreeMap::from([("timeout".to_owned(), 8), ("reset".to_owned(), 2)]);
    let coverage = Coverage { failed, ..Coverage::from_evidence(&evidence, &[]) };
    let report = with(&evidence, coverage, 100, Some("99.9%"), &[]);
    assert_says(
        &report,
        Differs,
        "99% of 1,000 answers match, 99.9% are wanted; 10 were not answered (timeout 8, reset 2)",
    );
}

#[test]
fn match_share_is_rounded_down() {
    let evidence = orders(10_000, 1_000, |at| at < 11);
    let report = report(&evidence, 1, Some("99.9%"));
    let reason = report.reason;
    assert!(reason.starts_with("99.89% of 10,000 answers match, 99.9% are wanted"), "{reason}");
}

/// Twenty fields that each flicker in 30 of 100 answers, the shadow's like main's.
#[test]
fn many_flickering_fields_are_noise() {
    for seed in 0..8 {
        let mut dice = Dice(seed);
        let mut flicker = |share: f64| {
            let entries = (0..20).map(|key| (format!("f{key}"), json!(dice.share() < share)));
            json_answer(&Value::Object(entries.collect()))
        };
        let pairs: Vec<ResponsePair> = (0..600)
            .map(|at| ResponsePair {
                control: (at % 3 == 0).then(|| flicker(0.3)),
                ..pair(flicker(0.3), flicker(0.3))
            })
            .collect();
        let evidence = evidence(&pairs);
        assert!(evidence.patterns.overflow_count > 0, "more sets than are kept");
        let ComparisonReport { verdict, matching, reason, .. } = report(&evidence, 100, None);
        assert_eq!((verdict, matching.part), (Same, 600), "seed {seed}: {reason}");
    }
}

/// A field that main answers differently in 1 of 20, and the shadow in 1 of 4.
#[test]
fn differences_above_noise_are_found() {
    let of = |at: u64, every: u64| json_answer(&json!({"rank": u64::from(at.is_multiple_of(every))}));
    let pairs: Vec<ResponsePair> = (1..=2_000u64)
        .map(|at| ResponsePair {
            control: at.is_multiple_of(5).then(|| of(at / 5, 20)),
            ..pair(of(1, 2), of(at, 4))
        })
        .collect();
    let report = report(&evidence(&pairs), 100, None);
    let rank = field(&report, "$.rank");
    assert_eq!((rank.verdict, rank.control.part, rank.control.of), (FieldVerdict::Differs, 20, 400));
    assert_eq!(report.verdict, Differs);
}

#[test]
fn latency_is_compared_per_request() {
    let pairs: Vec<ResponsePair> = (0..100u64)
        .map(|at| {
            let mut one = pair(json_answer(&json!(1)), json_answer(&json!(1)));
            one.main.latency_us = 1_000 + 100 * at;
            one.shadow.latency_us = one.main.latency_us + if at < 10 { 0 } else { 500 };
            one
        })
        .collect();
    let latency = report(&evidence(&pairs), 1, None).latency.unwrap();
    assert!((500..=508).contains(&latency.median_difference_us), "{latency:?}");
    assert_eq!((latency.slower_requests.part, latency.slower_requests.of), (90, 100));
    assert!(
        latency.low_us <= latency.median_difference_us && latency.median_difference_us <= latency.high_us
    );
    assert!(latency.p50_ratio > 1.05 && latency.p50_ratio < 1.15);
}

#[test]
fn overflow_field_is_never_noise() {
    let pairs: Vec<ResponsePair> = (0..40)
        .map(|_| {
            let body = |value: u64| {
                let entries = (0..600).map(|key| (format!("f{key:03}"), json!(value)));
                json_answer(&Value::Object(entries.collect()))
            };
            ResponsePair { control: Some(body(2)), ..pair(body(0), body(1)) }
        })
        .collect();
    let report = report(&evidence(&pairs), 1, None);
    assert_eq!((report.verdict, report.matching.part), (Differs, 0));
    assert_eq!(report.fields[0].field, "other");
    assert!(report.remarks.iter().any(|remark| remark.contains("more than 500 fields")));
}
