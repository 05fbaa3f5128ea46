//! Tests of the differences reported for two answers.

use super::*;

#[test]
fn json_is_compared_by_path() {
    let main =
        json!({"a": 1, "items": [{"price": 1, "n": "x"}, {"price": 2, "n": "y"}], "lost": null, "t": "1"});
    let shadow =
        json!({"a": 1.0, "items": [{"price": 1, "n": "x"}, {"price": 3, "n": "z"}], "new": [1], "t": 1});
    assert_eq!(
        json_differences(&main, &shadow),
        [
            "$.lost Missing: null | (absent)",
            "$.new Extra: (absent) | (array of 1)",
            "$.t Type: \"1\" | 1",
            "$.items[].n Value: \"y\" | \"z\"",
            "$.items[].price Value: 2 | 3",
        ]
    );
    let longer = json!({"items": [1, 2, 3]});
    assert_eq!(
        json_differences(&json!({"items": [1, 2]}), &longer),
        ["$.items Length: (array of 2) | (array of 3)"]
    );
}

#[test]
fn field_is_counted_once_per_request() {
    let main = json_answer(&json!({"items": [{"price": 1}, {"price": 2}, {"price": 3}]}));
    let shadow = json_answer(&json!({"items": [{"price": 9}, {"price": 9}, {"price": 3}]}));
    let other = json_answer(&json!({"error": "none"}));
    let evidence = evidence(&[pair(main, shadow), pair(other.clone(), other)]);
    let price = &evidence.fields.entries[&"$.items[].price".parse().unwrap()];
    assert_eq!((price.compared, price.differing), (1, 1));
    assert_eq!(price.examples.0.len(), 1);
    let error = &evidence.fields.entries[&"$.error".parse().unwrap()];
    assert_eq!((error.compared, error.differing), (1, 0));
    assert_eq!(evidence.fields.entries[&Field::Status].compared, 2);
}

#[test]
fn id_keys_collapse_into_one_field() {
    let id = "3f2a91c0-7d1e-4c55-9a70-5f2f0cf3a111";
    let main = json!({"users": {"17": {"n": 1}, id: {"n": 1}}, "a.b": 1, "\u{1b}[31m": 1});
    let shadow = json!({"users": {"17": {"n": 2}, id: {"n": 2}}, "a.b": 2, "\u{1b}[31m": 2});
    assert_eq!(
        json_differences(&main, &shadow),
        ["$[\"\\u{1b}[31m\"] Value: 1 | 2", "$[\"a.b\"] Value: 1 | 2", "$.users.{id}.n Value: 1 | 2"]
    );
}

#[test]
fn duplicate_keys_are_compared() {
    let raw = |text: &str| raw_json(text.as_bytes());
    let (twice, once) = (raw(r#"{"a":1,"a":2}"#), raw(r#"{"a":2}"#));
    assert_eq!(differences(&twice, &once), ["$.a Type: (the key 2 times) | 2"]);
    assert_eq!(differences(&twice, &raw(r#"{"a":1, "a":3}"#)), ["$.a Value: 2 | 3"]);
}

#[test]
fn big_whole_numbers_are_not_rounded() {
    let of = |text: &str| raw_json(text.as_bytes());
    assert_eq!(differences(&of("9007199254740993"), &of("9007199254740992")).len(), 1);
    assert_eq!(differences(&of("9007199254740993"), &of("9007199254740992.0")).len(), 1);
    assert_eq!(differences(&of("1e2"), &of("100")), Vec::<String>::new());
}

#[test]
fn different_statuses_skip_other_fields() {
    let (main, shadow) = (json_answer(&json!({"a": 1})), answer(500, &[], b"oops"));
    assert_eq!(differences(&main, &shadow), ["status Value: 200 | 500"]);
    let evidence = evidence(&[pair(main, shadow)]);
    assert_eq!(evidence.statuses.entries["200/500"], 1);
    assert_eq!(evidence.fields.entries.len(), 1);
}

#[test]
fn headers_are_compared_by_their_rules() {
    let of = |headers: &[(&str, &str)]| answer(200, headers, b"");
    for (main, shadow, wanted) in [
        (("date", "Mon"), ("date", "Tue"), ""),
        (("x-request-id", "1"), ("x-request-id", "2"), ""),
        (("content-type", "text/html; charset=utf-8"), ("content-type", "text/html;charset=UTF-8"), ""),
        (
            ("content-type", "text/html"),
            ("content-type", "text/css"),
            "header content-type Value: text/html | text/css",
        ),
        (("cache-control", "no-store, private"), ("cache-control", "private,no-store"), ""),
        (("etag", "\"1\""), ("etag", "\"2\""), ""),
        (("etag", "\"1\""), ("date", "x"), "header etag Missing: (there) | (absent)"),
        (("set-cookie", "sid=1; Path=/"), ("set-cookie", "sid=2"), ""),
        (
            ("set-cookie", "sid=hunter2; Path=/"),
            ("set-cookie", "uid=hunter3"),
            "header set-cookie Value: cookies sid | cookies uid",
        ),
        (
            ("location", "/login?token=hunter2&a=1"),
            ("location", "/login?token=hunter3&a=2"),
            "header location Value: /login?token=(hidden)&a=1 | /login?token=(hidden)&a=2",
        ),
    ] {
        let found = differences(&of(&[main]), &of(&[shadow])).join("; ");
        assert_eq!(found, wanted, "{main:?} {shadow:?}");
    }
}

#[test]
fn other_bodies_are_compared_by_their_bytes() {
    let text = |body: &str| answer(200, &[("content-type", "text/html")], body.as_bytes());
    assert!(differences(&text("<b>"), &text("<b>")).is_empty());
    assert_eq!(
        differences(&text("<b>"), &text("<i>")),
        ["body Value: 3 bytes | 3 bytes, other from byte 1 on"]
    );
    let found = differences(&json_answer(&json!([1])), &raw_json(b"<html>"));
    assert_eq!(found, ["body Type: JSON, 3 bytes | not JSON, 6 bytes"]);
}

#[test]
fn truncated_bodies_are_compared_by_hash() {
    let of = |last: u8| {
        let mut capture = crate::model::compare::BodyCapture::new(10);
        capture.push(&[1; 30]);
        capture.push(&[last]);
        CapturedResponse { body: capture.finish(true), ..answer(200, &[], b"") }
    };
    assert!(differences(&of(1), &of(1)).is_empty());
    let found = differences(&of(1), &of(2));
    assert!(found.len() == 1 && found[0].starts_with("body Value: 31 bytes, sha256 "), "{found:?}");
}

#[test]
fn incomplete_body_is_neither_match_nor_difference() {
    let of = |bytes: &[u8], ended| {
        let body = CapturedBody { ended, ..CapturedBody::from_bytes(bytes.to_vec()) };
        CapturedResponse { body, ..answer(200, &[], b"") }
    };
    let stream = pair(of(b"data: 1", false), of(b"data: 1", false));
    let evidence = evidence(&[stream]);
    assert_eq!((evidence.bodies_unread, evidence.fields.entries.contains_key(&Field::Body)), (1, false));
    assert_eq!(differences(&of(b"ab", false), &of(b"ac", false)).len(), 1);
    assert_eq!(differences(&of(b"a", true), &of(b"ab", false)).len(), 1);
    assert!(differences(&of(b"abc", true), &of(b"ab", false)).is_empty());
}

#[test]
fn compressed_bodies_are_compared_decoded() {
    let json = |coding: &str, body: &[u8]| {
        answer(200, &[("content-type", "application/json"), ("content-encoding", coding)], body)
    };
    let (main, shadow) = (json("gzip", &gzip(br#"{"a":1}"#)), json("gzip", &gzip(br#"{"a":2}"#)));
    assert_eq!(differences(&main, &shadow), ["$.a Value: 1 | 2"]);
    let spaced = json("gzip", &gzip(br#"{ "a": 1 }"#));
    assert!(differences(&main, &spaced).is_empty());
    let plain = raw_json(br#"{"a":1}"#);
    assert_eq!(differences(&main, &plain), ["header content-encoding Missing: gzip | (absent)"]);
    let brotli = json("br", b"\x0b\x02\x80");
    assert!(differences(&brotli, &brotli).is_empty());
    assert_eq!(differences(&brotli, &json("br", b"\x0b\x02\x81")).len(), 1);
    let unlike = compare_responses(&brotli, &plain, &ComparisonRules::default());
    assert!(unlike.body_unread && !unlike.differing.contains_key(&Field::Body));
}

#[test]
fn conditional_requests_are_skipped_and_counted() {
    let mut one = pair(json_answer(&json!(1)), json_answer(&json!(2)));
    one.request.conditional = true;
    let evidence = evidence(&[one]);
    assert_eq!((evidence.compared, evidence.skipped["conditional"]), (0, 1));
    assert!(evidence.fields.entries.is_empty());
}

#[test]
fn examples_hide_secrets() {
    let secret = "hunter2correcthorsebatterystaple99";
    let main = json!({
        "password": "hunter2", "apiKey": "hunter2", "auth": {"deep": [{"x": "hunter2"}]}, "pin_token": 4711,
        "text": format!("see {secret} for"), "mail": "write to jane.doe@example.com now", "card": "4111111111111111",
        "number": "4111111111111111", "scheme": "Bearer hunter2", "list": [secret],
    });
    let shadow = json!({
        "password": "hunter3", "apiKey": "hunter3", "auth": {"deep": [{"x": "hunter3"}]}, "pin_token": 4712,
        "text": "see", "mail": "write to john@example.com now", "card": "1", "number": "1", "scheme": "Bearer x", "list": ["x"],
    });
    let shown = json_differences(&main, &shadow).join("\n");
    // Where the path is cut, or the key is left out.
    let mut deep = (json!("hunter2"), json!("hunter3"));
    for key in ["x", "token", "a_key_of_twenty_char"].into_iter().chain(["a_long_name_of_twentyfive"; 8]) {
        deep = (json!({ key: deep.0 }), json!({ key: deep.1 }));
    }
    let long = format!("secret{}", "x".repeat(80));
    let cut = json_differences(&deep.0, &deep.1).join("\n");
    assert!(cut.contains("... Value: (text, hidden)"), "{cut}");
    let long = json_differences(&json!({long.clone(): "hunter2"}), &json!({long: "hunter3"})).join("\n");
    assert!(long.contains("{id} Value: (text, hidden)"), "{long}");
    for bad in ["hunter", "4711", "4712", "jane", "john", "4111", "correcthorse"] {
        assert!(!shown.contains(bad), "{bad} in {shown}");
    }
    assert!(shown.contains("\"write to (e-mail) now\""), "{shown}");
    let target = "/u/jane%40example.com/reset?access_token=hunter2&code=hunter2&q=tea#id_token=hunter2";
    let request = redact::redact_request("GET", target);
    assert_eq!(request, "GET /u/(e-mail)/reset?access_token=(hidden)&code=(hidden)&q=tea#id_token=(hidden)");
    assert_eq!(redact::redact_target("https://user:hunter2@host/a"), "https://host/a");
}

#[test]
fn long_texts_are_cut_around_the_difference() {
    let words = "the quick brown fox jumps over the lazy dog and then ";
    let found =
        json_differences(&json!(format!("{words}eats {words}")), &json!(format!("{words}naps {words}")));
    assert_eq!(
        found,
        [
            "$ Value: \"...eats the quick brown fox jumps over the ...\" | \"...naps the quick brown fox jumps over the ...\""
        ]
    );
    let one_word = "x".repeat(5_000);
    let found = json_differences(&json!(format!("{one_word}a")), &json!(format!("{one_word}bc")));
    let shown =
        "(text of 5001 bytes, the same up to byte 5000) | (text of 5002 bytes, the same up to byte 5000)";
    assert_eq!(found, [format!("$ Value: {shown}")]);
}
