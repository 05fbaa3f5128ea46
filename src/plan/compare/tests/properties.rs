//! Properties that hold for all answers.

use proptest::prelude::*;

use super::*;

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map("[a-d]|.{0,6}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Few shapes, so that fields meet.
fn any_pair() -> impl Strategy<Value = ResponsePair> {
    let body = || (0u8..3, prop::collection::vec(0u8..4, 0..3), "[a-c]");
    let body =
        move || body().prop_map(|(a, list, key)| json_answer(&json!({"a": a, "list": list, key: {"x": a}})));
    let status = prop::sample::select(vec![200u16, 404, 500]);
    (body(), body(), prop::option::of(body()), status, 0i64..50, 0u64..5_000_000, any::<bool>()).prop_map(
        |(main, mut shadow, control, status, second, latency_us, conditional)| {
            shadow.status = status;
            shadow.latency_us = latency_us;
            ResponsePair { request: RequestSummary { conditional, ..asked(second) }, main, shadow, control }
        },
    )
}

proptest! {
    #[test]
    fn json_body_equals_itself(body in any_json(), zipped in any::<bool>()) {
        let plain = body.to_string().into_bytes();
        let one = if zipped {
            answer(200, &[("content-type", "application/json"), ("content-encoding", "gzip")], &gzip(&plain))
        } else {
            json_answer(&body)
        };
        let compared = compare_responses(&one, &one.clone(), &ComparisonRules::default());
        prop_assert!(compared.differing.is_empty() && !compared.body_unread, "{:?}", compared);
        prop_assert!(compared.into_fields().any(|(field, _)| field == "$".parse().unwrap()));
    }

    #[test]
    fn bytes_body_equals_itself(body in prop::collection::vec(any::<u8>(), 0..100), kind in "[a-z/+]{0,10}") {
        let one = answer(200, &[("content-type", &kind)], &body);
        prop_assert!(differences(&one, &one).is_empty());
    }

    /// Written differently is not different; a different value is.
    #[test]
    fn json_comparison_finds_exactly_the_changed_values(main in any_json(), shadow in any_json()) {
        let pretty = raw_json(serde_json::to_string_pretty(&main).unwrap().as_bytes());
        prop_assert_eq!(differences(&json_answer(&main), &pretty), Vec::<String>::new());
        // serde_json distinguishes 1 from 1.0 and -0.0 from 0, this does not.
        let found = json_differences(&main, &shadow);
        let back = json_differences(&shadow, &main);
        prop_assert!(main != shadow || found.is_empty());
        prop_assert_eq!(found.len(), back.len());
        if let (Value::String(a), Value::String(b)) = (&main, &shadow) {
            prop_assert_eq!(found.is_empty(), a == b);
        }
    }

    /// Merging the evidence of any hosts in any order gives the result of a single host with all requests.
    #[test]
    fn evidence_merge_is_additive(pairs in prop::collection::vec(any_pair(), 0..40), cuts in (0usize..40, 0usize..40)) {
        let (first, second) = (cuts.0.min(cuts.1).min(pairs.len()), cuts.0.max(cuts.1).min(pairs.len()));
        let part = |range: std::ops::Range<usize>| evidence(&pairs[range]);
        let (a, b, c) = (part(0..first), part(first..second), part(second..pairs.len()));
        let whole = evidence(&pairs);
        prop_assert_eq!(&a.clone().merge(b.clone()).merge(c.clone()), &whole);
        prop_assert_eq!(&a.clone().merge(b.clone().merge(c.clone())), &whole);
        prop_assert_eq!(&c.merge(b).merge(a), &whole);
        let text = serde_json::to_string(&whole).unwrap();
        prop_assert_eq!(serde_json::from_str::<Evidence>(&text).unwrap(), whole);
    }
}

/// Merging in any order also gives one result beyond every cap.
#[test]
fn evidence_merge_is_additive_beyond_the_caps() {
    let pairs: Vec<ResponsePair> = (0..300u64)
        .map(|at| {
            let keys = (at * 7 % 90)..(at * 7 % 90 + at % 50);
            let body = |value: u64| {
                let entries = keys.clone().map(|key| (format!("f{key}g{}", at % 13), json!(value)));
                json_answer(&Value::Object(entries.collect()))
            };
            ResponsePair {
                request: asked(i64::try_from(at).unwrap()),
                control: Some(body(at % 2)),
                ..pair(body(0), body(1))
            }
        })
        .collect();
    let whole = evidence(&pairs);
    assert!(
        whole.fields.overflow.is_some()
            && whole.patterns.overflow_count > 0
            && whole.patterns.overflow_fields.overflow.is_some()
    );
    let (a, b, c) = (evidence(&pairs[..80]), evidence(&pairs[80..100]), evidence(&pairs[100..]));
    assert_eq!(a.clone().merge(b.clone()).merge(c.clone()), whole);
    assert_eq!(c.merge(a.merge(b)), whole);
}
