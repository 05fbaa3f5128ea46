//! Answers that mean harm: nothing panics, and everything stays bounded.

use proptest::prelude::*;

use super::*;
use crate::model::evidence::{MAX_FIELDS, MAX_PATTERNS, MAX_STATUSES};

#[test]
fn oversized_json_is_compared_as_bytes() {
    let deep = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    let wide = |items: usize| format!("[{}0]", "0,".repeat(items)).into_bytes();
    for (body, by_path) in [
        (deep(60), true),
        (deep(70), false),
        (deep(200_000), false),
        (vec![b'['; 200_000], false),
        (wide(19_000), true),
        (wide(20_001), false),
        (b"1e400".to_vec(), false),
        (b"-1e400".to_vec(), false),
        ("9".repeat(100_000).into_bytes(), false),
        (b"0.00000000000000000000000000001".to_vec(), true),
        (br#""\ud800""#.to_vec(), false),
        (b"\"\xff\xfe\"".to_vec(), false),
        (b"\xff\xfe\x00".to_vec(), false),
        (b"{\"a\":1}{\"a\":1}".to_vec(), false),
        (b"".to_vec(), false),
        (b"nul".to_vec(), false),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let compared = compare_responses(&raw_json(&body), &raw_json(&body), &ComparisonRules::default());
        assert!(compared.differing.is_empty(), "{shown}");
        assert_eq!(
            compared.into_fields().any(|(field, _)| matches!(field, Field::Json(_))),
            by_path,
            "{shown}"
        );
        let other = differences(&raw_json(&body), &raw_json(b"{}"));
        assert_eq!(other.len(), 1, "{shown}: {other:?}");
    }
}

#[test]
fn long_text_is_redacted_at_bounded_cost() {
    let long = |last: &str| json!({"a": format!("{}{last}", "word 1\u{1b}[2J\u{202e} ".repeat(80_000))});
    let found = json_differences(&long("x"), &long("y"));
    assert!(found.len() == 1 && found[0].len() < 300, "{found:?}");
    assert!(!found[0].contains('\u{1b}') && !found[0].contains('\u{202e}'));
    let key = json!({"k".repeat(1 << 20): 1});
    assert_eq!(json_differences(&key, &json!({})), ["$.{id} Missing: 1 | (absent)"]);
}

#[test]
fn compression_bomb_is_not_decoded() {
    let bomb = gzip(&vec![b' '; 64 << 20]);
    let of = |bytes: &[u8]| {
        answer(200, &[("content-type", "application/json"), ("content-encoding", "gzip")], bytes)
    };
    assert!(differences(&of(&bomb), &of(&bomb)).is_empty());
    assert!(
        compare_responses(&of(&bomb), &of(&gzip(b"1")), &ComparisonRules::default())
            .differing
            .contains_key(&Field::Body)
    );
    // Broken and cut ones as well.
    assert!(differences(&of(b"\x1f\x8b\x08"), &of(b"\x1f\x8b\x08")).is_empty());
}

#[test]
fn evidence_size_is_bounded_with_new_fields() {
    let mut evidence = Evidence::default();
    for round in 0..400u64 {
        let object = |value: u64| {
            let keys = (0..50).map(|key| (format!("k{round}x{key}_{}", "y".repeat(50)), json!(value)));
            Value::Object(keys.collect())
        };
        let mut one = pair(json_answer(&object(round)), json_answer(&object(round + 1)));
        one.main.status = 200 + u16::try_from(round).unwrap();
        one.shadow.status = one.main.status;
        if round % 3 == 0 {
            one.shadow.status = 1000 + u16::try_from(round).unwrap();
        }
        record_pair(&mut evidence, &one, &ComparisonRules::default());
    }
    assert_eq!(evidence.fields.entries.len(), MAX_FIELDS);
    assert!(
        evidence.patterns.counts.len() <= MAX_PATTERNS && evidence.statuses.entries.len() <= MAX_STATUSES
    );
    let size = serde_json::to_vec(&evidence).unwrap().len();
    assert!(size < 1 << 20, "{size} bytes");
    let twice = evidence.clone().merge(evidence);
    assert!(serde_json::to_vec(&twice).unwrap().len() < 1 << 20);
}

#[test]
fn json_path_length_is_limited() {
    let mut value = json!(1);
    for _ in 0..50 {
        value = json!({ "a_key_of_twenty_char": value });
    }
    let compared = compare_responses(&json_answer(&value), &json_answer(&value), &ComparisonRules::default());
    let longest = compared.into_fields().map(|(field, _)| field.to_string().len()).max().unwrap();
    assert!(longest <= 163, "{longest}");
}

proptest! {
    #[test]
    fn compare_never_panics_on_any_bytes(
        main in prop::collection::vec(any::<u8>(), 0..200),
        shadow in prop::collection::vec(any::<u8>(), 0..200),
        coding in prop::sample::select(vec!["", "gzip", "deflate", "br"]),
        kind in prop::sample::select(vec!["", "application/json", "text/html"]),
    ) {
        let of = |body: &[u8]| answer(200, &[("content-type", kind), ("content-encoding", coding)], body);
        let _ = differences(&of(&main), &of(&shadow));
    }

    /// Texts that are nearly JSON.
    #[test]
    fn compare_never_panics_on_any_text(main in "[\\[\\]{}\":,0-9a\\\\eE+.u -]{0,60}", shadow in "[\\[\\]{}\":,0-9a\\\\eE+.u -]{0,60}") {
        let _ = differences(&raw_json(main.as_bytes()), &raw_json(shadow.as_bytes()));
    }

    #[test]
    fn redaction_never_panics_on_any_text(main in "\\PC{0,300}", shadow in "\\PC{0,300}") {
        let (main_shown, shadow_shown) = redact::redact_pair(&main, &shadow);
        for shown in [redact::quote_redacted(&main), redact::redact_request("GET", &main), main_shown, shadow_shown] {
            prop_assert!(shown.chars().count() <= 130 && !shown.chars().any(char::is_control), "{}", shown);
        }
    }
}
