//! Heads of requests, as the proxy and the gateway read them.

#![no_main]

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Version};
use libfuzzer_sys::fuzz_target;
use switchman::model::proxy::{Canary, FieldMatch, Sticky};
use switchman::plan::proxy::canary::{ShareCounters, choose_route};
use switchman::plan::proxy::gateway::parse_target;
use switchman::plan::proxy::headers::{
    append_forwarded, prepare_request, prepare_response, read_connection_options, wants_upgrade,
};

const HOP_BY_HOP: [&str; 4] = ["keep-alive", "proxy-connection", "te", "trailer"];

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let target = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let _ = parse_target(&target, |service| service.as_str().len() < 8);
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (HeaderName::from_bytes(&line[..at]), HeaderValue::from_bytes(&line[at + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let field = |name: &str, value: Option<&str>| {
        Some(FieldMatch { name: name.to_owned(), value: value.map(str::to_owned) })
    };
    let canary = Canary {
        deployment: "shop-1.0.0".parse().unwrap(),
        percent: "25%".parse().ok(),
        sticky: Some(Sticky::Cookie),
        header: field("x-canary", None),
        cookie: field("canary", Some("on")),
    };
    let mut shares = ShareCounters::default();
    let sticky = Canary { sticky: Some(Sticky::Header("x-user".to_owned())), ..canary.clone() };
    for canary in [canary, sticky] {
        let _ = choose_route(&canary, "swm_shop", &headers, &mut shares);
    }
    for method in [Method::GET, Method::POST, Method::CONNECT] {
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            let (mut request, mut response) = (headers.clone(), headers.clone());
            let _ = read_connection_options(&request);
            let is_upgrade = wants_upgrade(&method, &request);
            append_forwarded([10, 0, 0, 9].into(), &mut request);
            prepare_request(&method, version, &mut request);
            if !is_upgrade {
                for name in &HOP_BY_HOP[..2] {
                    assert!(!request.contains_key(*name), "{name} in {request:?}");
                }
            }
            prepare_response(version, false, false, &mut response);
        }
    }
});
