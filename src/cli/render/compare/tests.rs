use std::collections::BTreeMap;

use jiff::Timestamp;

use super::*;
use crate::model::compare::{CapturedBody, CapturedResponse, ComparisonRules, RequestSummary, ResponsePair};
use crate::model::evidence::Evidence;
use crate::plan::compare::{ComparedHeaders, ComparedVersions, Coverage, Criteria, UserImpact, record_pair};

fn answer(body: &str, status: u16, latency_us: u64) -> CapturedResponse {
    CapturedResponse {
        status,
        headers: vec![("content-type".into(), "application/json".into())],
        body: CapturedBody::from_bytes(body.into()),
        latency_us,
    }
}

/// 200 orders, of which 4 have another price and 1 is not answered well; the time is main's own noise.
fn report(name: &str) -> ComparisonReport {
    let mut evidence = Evidence::default();
    for at in 0..200i64 {
        let body = |price: &str, time: i64| format!(r#"{{"price":"{price}","time":{time}}}"#);
        let price = if at % 50 == 0 { name } else { "1" };
        let (status, shadow) = if at == 7 { (500, "{}".to_owned()) } else { (200, body(price, at + 1)) };
        let request = RequestSummary {
            method: "GET".into(),
            path_and_query: "/orders?q=<script>alert(1)</script>&token=hunter2".into(),
            conditional: false,
            at: Timestamp::from_second(1_750_000_000 + at).unwrap(),
        };
        let control = (at % 4 == 0).then(|| answer(&body("1", at + 2), 200, 1_000));
        let pair = ResponsePair {
            request,
            main: answer(&body("1", at), 200, 1_000),
            shadow: answer(&shadow, status, 1_500),
            control,
        };
        record_pair(&mut evidence, &pair, &ComparisonRules::default());
    }
    let coverage = Coverage {
        selected: 203,
        answered: 200,
        failed: BTreeMap::from([("timeout".into(), 2)]),
        dropped: BTreeMap::from([("sampled_out".into(), 1_800)]),
        ..Coverage::from_evidence(&evidence, &[])
    };
    let harm = UserImpact { answers: 2_003, ..UserImpact::default() };
    build_report(&evidence, coverage, harm, 100)
}

fn build_report(
    evidence: &Evidence,
    coverage: Coverage,
    harm: UserImpact,
    min_samples: u64,
) -> ComparisonReport {
    let of = ComparedVersions {
        service: "shop".parse().unwrap(),
        main: "1.0.0".parse().unwrap(),
        shadow: "1.1.0".parse().unwrap(),
    };
    let criteria =
        Criteria { require_match: None, min_samples, ignore: vec![], headers: ComparedHeaders::default() };
    ComparisonReport::build(of, evidence, coverage, harm, criteria)
}

#[test]
fn text_shows_differences_with_intervals() {
    let text =
        anstream::adapter::strip_str(&format_comparison(&report("2"), TimeFormat::Iso8601)).to_string();
    let wanted = "\
shop 1.1.0 beside main 1.0.0: differs
because   7 of 202 answers do not match; most differ in $.price (4)
headers   content-encoding, content-language, content-disposition, location, content-type, cache-control, vary, allow, access-control-allow-origin, etag, last-modified, www-authenticate, retry-after, strict-transport-security, content-security-policy, set-cookie
match     96.53% of 202, surely 93.02% to 98.31%
copies    203 begun, 200 answered, 200 compared, 50 of them sent to main twice
dropped   sampled_out 1,800
failed    timeout 2
main      2,003 answers to users, 0 of them 5xx, none ended without an answer
when      2025-06-15T15:06:40Z to 2025-06-15T15:09:59Z
note      1 field is noise: main answers it differently by itself, so the shadow's cannot be judged.

FIELD    FINDING  DIFFERS     SURELY             MAIN ITSELF
$.price  differs  4 of 199    0.78% to 5.05%     0 of 50
status   differs  1 of 200    0.09% to 2.78%     0 of 50
$.time   noise    199 of 199  98.11% to 100.00%  50 of 50

$.price (other value) in GET /orders?q=<script>alert(1)</script>&token=(hidden)
  main    \"1\"
  shadow  \"2\"
status (other value) in GET /orders?q=<script>alert(1)</script>&token=(hidden)
  main    200
  shadow  500

MAIN  SHADOW  ANSWERS
200   200     199
200   500     1

LATENCY  P50      P90      P99      MAX
main     1.00 ms  1.00 ms  1.00 ms  1.00 ms
shadow   1.50 ms  1.50 ms  1.50 ms  1.50 ms
ratio    1.49x             1.49x
request by request the shadow takes +0.50 ms (surely +0.50 ms to +0.50 ms), and is the slower one in 100%
";
    assert_eq!(text, wanted);
}

#[test]
fn page_escapes_answers() {
    let page = format_html_page(&report("<script>alert(2)</script>\\\"'&"));
    assert!(!page.contains("<script") && !page.contains("hunter2"));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "of the request");
    assert!(page.contains("&lt;script&gt;alert(2)&lt;/script&gt;"), "of the answer");
    for outside in ["http://", "https://", "src=", "href=", "url(", "@import", "onclick"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(escape_of("<a b=\"c\" d='e'>&"), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;");
}

fn escape_of(text: &str) -> String {
    html::escape(text)
}

#[test]
fn page_closes_every_tag() {
    let page = format_html_page(&report("2"));
    for tag in
        ["html", "head", "body", "table", "tr", "td", "th", "div", "details", "code", "p", "h2", "span"]
    {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert!(opened > 0, "{tag}");
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn empty_report_renders_as_page_and_text() {
    let empty = build_report(&Evidence::default(), Coverage::default(), UserImpact::default(), 0);
    let shown = anstream::adapter::strip_str(&format_comparison(&empty, TimeFormat::Human)).to_string();
    let wanted = "\
shop 1.1.0 beside main 1.0.0: insufficient
because   no request was copied to it yet
headers   content-encoding, content-language, content-disposition, location, content-type, cache-control, vary, allow, access-control-allow-origin, etag, last-modified, www-authenticate, retry-after, strict-transport-security, content-security-policy, set-cookie
copies    0 begun, 0 answered, 0 compared, 0 of them sent to main twice
";
    assert_eq!(shown, wanted);
    assert!(format_html_page(&empty).contains("insufficient"));
}

#[test]
fn page_size_is_bounded_for_worst_evidence() {
    let mut evidence = Evidence::default();
    let request = |at| RequestSummary {
        method: "GET".into(),
        path_and_query: format!("/{}", "<".repeat(10_000)),
        conditional: false,
        at: Timestamp::from_second(at).unwrap(),
    };
    for at in 0..4 {
        let body = |value: &str| {
            let entries: Vec<String> =
                (0..700).map(|key| format!("\"k{key}\":\"{}\"", value.repeat(300))).collect();
            answer(&format!("{{{}}}", entries.join(",")), 200, 1)
        };
        let pair = ResponsePair { request: request(at), main: body("<a"), shadow: body("<b"), control: None };
        record_pair(&mut evidence, &pair, &ComparisonRules::default());
    }
    let coverage = Coverage::from_evidence(&evidence, &[]);
    let report = build_report(&evidence, coverage, UserImpact::default(), 0);
    // 500, less status, content-type, body and `$`, which are the same; and the sum of the others.
    assert_eq!(report.fields.len(), 497);
    assert!(format_html_page(&report).len() < 3 << 20, "{}", format_html_page(&report).len());
    assert!(
        format_comparison(&report, TimeFormat::Human)
            .contains("and 477 more: see --html FILE or --output json")
    );
}
