//! Pairs as a shadow makes them.

use std::io::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::model::compare::{CapturedBody, RequestSummary};

mod hostile;
mod other_headers;
mod pairs;
mod properties;
mod verdicts;

pub(super) fn asked(second: i64) -> RequestSummary {
    RequestSummary {
        method: "GET".into(),
        path_and_query: "/items?page=2".into(),
        conditional: false,
        at: Timestamp::from_second(1_750_000_000 + second).unwrap(),
    }
}

pub(super) fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> CapturedResponse {
    let header = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    CapturedResponse {
        status,
        headers: headers.iter().map(header).collect(),
        body: CapturedBody::from_bytes(body.to_vec()),
        latency_us: 1_000,
    }
}

/// An answer that claims to be JSON.
pub(super) fn raw_json(body: &[u8]) -> CapturedResponse {
    answer(200, &[("content-type", "application/json")], body)
}

pub(super) fn json_answer(body: &Value) -> CapturedResponse {
    raw_json(body.to_string().as_bytes())
}

pub(super) fn pair(main: CapturedResponse, shadow: CapturedResponse) -> ResponsePair {
    ResponsePair { request: asked(0), main, shadow, control: None }
}

pub(super) fn evidence<'a>(pairs: impl IntoIterator<Item = &'a ResponsePair>) -> Evidence {
    let mut evidence = Evidence::default();
    for pair in pairs {
        record_pair(&mut evidence, pair, &ComparisonRules::default());
    }
    evidence
}

/// `FIELD KIND: MAIN | SHADOW` of each difference.
pub(super) fn differences(main: &CapturedResponse, shadow: &CapturedResponse) -> Vec<String> {
    let compared = compare_responses(main, shadow, &ComparisonRules::default());
    let shown = |(field, one): (&Field, &Difference)| {
        format!("{field} {:?}: {} | {}", one.kind, one.main, one.shadow)
    };
    compared.differing.iter().map(shown).collect()
}

pub(super) fn json_differences(main: &Value, shadow: &Value) -> Vec<String> {
    differences(&json_answer(main), &json_answer(shadow))
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

/// An order of a shop, whose time main answers differently each time.
pub(super) fn order(number: u64, price: f64, time: &str) -> Value {
    json!({"order": number, "items": [{"price": price, "name": "tea"}], "time": time})
}
