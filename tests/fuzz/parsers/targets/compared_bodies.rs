//! Answers of main and of a shadow, whose headers and bodies are compared.

#![no_main]

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use switchman::model::compare::{
    CapturedBody, CapturedResponse, ComparisonRules, RequestSummary, ResponsePair,
};
use switchman::model::evidence::Evidence;
use switchman::plan::compare::record_pair;

fn read_response(bytes: &[u8]) -> CapturedResponse {
    let end = bytes.windows(2).position(|two| two == b"\n\n").unwrap_or(0);
    let head = String::from_utf8_lossy(&bytes[..end]);
    let headers = head.lines().filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let bytes = bytes[end..].to_vec();
    let body = CapturedBody { total: bytes.len() as u64, bytes, digest: None, ended: true };
    CapturedResponse { status: 200, headers, body, latency_us: 1 }
}

fuzz_target!(|bytes: &[u8]| {
    let at = bytes.iter().position(|byte| *byte == 0xff).unwrap_or(bytes.len() / 2);
    let (main, shadow) = (read_response(&bytes[..at]), read_response(&bytes[at..]));
    let path_and_query = String::from_utf8_lossy(&bytes[..at.min(64)]).into_owned();
    let request =
        RequestSummary { method: "GET".to_owned(), path_and_query, conditional: false, at: Timestamp::UNIX_EPOCH };
    let rules = ComparisonRules::default();
    let mut evidence = Evidence::default();
    let pair = ResponsePair { request: request.clone(), main, shadow, control: None };
    record_pair(&mut evidence, &pair, &rules);
    // An answer never differs from itself.
    let same = ResponsePair { shadow: pair.main.clone(), ..pair };
    let mut evidence = Evidence::default();
    record_pair(&mut evidence, &same, &rules);
    let patterns = &evidence.patterns;
    assert!(patterns.counts.is_empty() && patterns.overflow_count == 0, "{evidence:?}");
    let written = serde_json::to_string(&evidence).unwrap();
    assert_eq!(serde_json::from_str::<Evidence>(&written).unwrap(), evidence);
});
