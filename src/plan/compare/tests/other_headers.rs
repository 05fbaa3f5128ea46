//! Headers that no rule compares: named where they differ, and compared where the operator chooses them.

use super::verdicts::report_with_headers;
use super::*;

/// Answers that differ in `x-build` each time, and in `server` now and then.
fn answers(count: u64) -> Evidence {
    let pairs: Vec<ResponsePair> = (0..count)
        .map(|at| {
            let server = if at % 10 == 0 { "b" } else { "a" };
            let main = answer(200, &[("x-build", "1"), ("server", "a"), ("vary", "accept")], b"ok");
            let shadow = answer(200, &[("x-build", "2"), ("server", server), ("vary", "accept")], b"ok");
            pair(main, shadow)
        })
        .collect();
    evidence(&pairs)
}

#[test]
fn verdict_names_headers_that_differ_and_are_not_compared() {
    let report = report_with_headers(&answers(1_000), ComparedHeaders::Usual);
    assert_eq!(report.verdict, ComparisonVerdict::Same);
    assert_eq!(
        report.reason,
        "all of 1,000 answers match; headers that differ and are not compared: x-build (1,000), server (100)"
    );
    assert!(
        report.headers_compared.contains("content-type, cache-control, vary"),
        "{}",
        report.headers_compared
    );
    let shown: Vec<_> = report.fields.iter().map(|field| (field.field.as_str(), field.verdict)).collect();
    assert_eq!(shown[0], ("header x-build", FieldVerdict::LeftOut));
    assert_eq!(report.fields[0].examples[0].main, "(there)", "a value may be a secret");
}

#[test]
fn chosen_headers_decide_the_verdict() {
    let report = report_with_headers(&answers(1_000), "server".parse().unwrap());
    assert_eq!(report.verdict, ComparisonVerdict::Differs);
    assert!(report.reason.starts_with("100 of 1,000 answers do not match"), "{}", report.reason);
    assert!(report.reason.ends_with("not compared: x-build (1,000)"), "{}", report.reason);
    assert_eq!(report.headers_compared, "server");
    let report = report_with_headers(&answers(1_000), ComparedHeaders::All);
    assert_eq!((report.verdict, report.matching.part), (ComparisonVerdict::Differs, 0));
    assert!(!report.reason.contains("not compared"), "{}", report.reason);
}
