use std::collections::BTreeMap;

use jiff::Timestamp;

use super::*;
use crate::model::compare::{CapturedBody, CapturedResponse, ComparisonRules, RequestSummary, ResponsePair};
use crate::model::example;
use crate::ops::fleet::deployments::list::list_deployments;
use crate::ops::testing::site::{FakeSite, site};
use crate::plan::compare::{ComparedHeaders, record_pair};

fn options(min_samples: u64, require_match: Option<&str>) -> CompareOptions {
    CompareOptions {
        service: "shop".parse().unwrap(),
        version: "2.0.0".parse().unwrap(),
        criteria: Criteria {
            require_match: require_match.map(|text| text.parse().unwrap()),
            min_samples,
            ignore: vec![],
            headers: ComparedHeaders::default(),
        },
    }
}

/// `wrong` of `all` answers are 500.
fn seen(all: u64, wrong: u64) -> Evidence {
    let mut evidence = Evidence::default();
    for at in 0..all {
        let answer = |status| CapturedResponse {
            status,
            headers: vec![],
            body: CapturedBody::from_bytes(b"ok".to_vec()),
            latency_us: 100,
        };
        let request = RequestSummary {
            method: "GET".into(),
            path_and_query: "/".into(),
            conditional: false,
            at: Timestamp::UNIX_EPOCH,
        };
        let shadow = answer(if at < wrong { 500 } else { 200 });
        record_pair(
            &mut evidence,
            &ResponsePair { request, main: answer(200), shadow, control: None },
            &ComparisonRules::default(),
        );
    }
    evidence
}

/// The counters of a proxy for 2.0.0, and for a shadow and a service that are not compared.
fn stats(answered: u64, failed: u64) -> ProxyStats {
    let shadow = |version: &str| ShadowStats {
        selected: answered + failed,
        answered,
        failed: BTreeMap::from([("reset".to_owned(), failed)]),
        ..example::make_shadow_stats(&example::deployment("shop", version, 1))
    };
    let leg = UpstreamStats {
        answers: BTreeMap::from([("2".to_owned(), 90), ("5".to_owned(), 10)]),
        ..example::make_upstream_stats(&example::deployment("shop", "1.0.0", 1))
    };
    let service = |name: &str| ServiceStats {
        shadows: vec![shadow("2.0.0"), shadow("0.9.0")],
        ..example::make_service_stats(name, vec![leg.clone()])
    };
    example::make_proxy_stats(1, vec![service("cart"), service("shop")])
}

fn with(of: &[(Evidence, ProxyStats)]) -> FakeSite {
    let fake = site(of.len() + 1, 1);
    for (number, (evidence, stats)) in of.iter().enumerate() {
        fake.site.with_host(&format!("web{}", number + 1), |host| {
            host.evidence = Some(evidence.clone());
            host.proxy = Some(stats.clone());
        });
    }
    fake
}

async fn compare_hosts(
    fake: &FakeSite,
    hosts: &[Host],
    options: &CompareOptions,
) -> Result<ComparisonReport, FleetDeployError> {
    compare(&fake.world, hosts, &list_deployments(&fake.world, hosts).await, options).await
}

async fn require_match_on_all(
    fake: &FakeSite,
    options: &CompareOptions,
) -> Result<ComparisonReport, FleetDeployError> {
    let hosts = &fake.fleet.hosts;
    require_match(&fake.world, hosts, &list_deployments(&fake.world, hosts).await, options).await
}

#[tokio::test(start_paused = true)]
async fn compare_judges_all_hosts_together() {
    let fake = with(&[(seen(600, 0), stats(600, 0)), (seen(600, 3), stats(600, 1))]);
    let report = compare_hosts(&fake, &fake.fleet.hosts, &options(1_000, Some("99.9%"))).await.unwrap();
    assert_eq!(
        (report.verdict, report.reason.as_str()),
        (
            ComparisonVerdict::Differs,
            "99.66% of 1,201 answers match, 99.9% are wanted; most differ in status (3)"
        )
    );
    assert_eq!((report.coverage.selected, report.coverage.answered), (1_201, 1_200));
    assert_eq!((report.harm.answers, report.harm.server_errors), (200, 20));
    assert_eq!(report.of.main.to_string(), "1.0.0");
    let first = compare_hosts(&fake, &fake.fleet.hosts[..1], &options(100, None)).await.unwrap();
    assert_eq!((first.verdict, first.matching.of), (ComparisonVerdict::Same, 600));
    let few = compare_hosts(&fake, &fake.fleet.hosts[..1], &options(1_000, None)).await.unwrap();
    assert_eq!(few.reason, "only 600 of 1,000 answers compared");
}

#[tokio::test(start_paused = true)]
async fn assign_refuses_unproven_version() {
    let none = with(&[]);
    let error = require_match_on_all(&none, &options(0, Some("99.9%"))).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot make shop 2.0.0 main: no request was copied to it yet");
    let bad = with(&[(seen(100, 2), stats(100, 0))]);
    let error = require_match_on_all(&bad, &options(100, Some("99.9%"))).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot make shop 2.0.0 main: 98% of 100 answers match, 99.9% are wanted; most differ in status (2)"
    );
    require_match_on_all(&bad, &options(100, Some("98%"))).await.unwrap();
}

/// The unreachable host may be the one where answers differ.
#[tokio::test(start_paused = true)]
async fn compare_fails_when_a_host_is_unreachable() {
    let fake = with(&[(seen(600, 0), stats(600, 0)), (seen(600, 3), stats(600, 1))]);
    fake.site.with_host("web2", |host| host.is_reachable = false);
    let error = require_match_on_all(&fake, &options(100, None)).await.unwrap_err();
    assert!(matches!(error, FleetDeployError::Unread { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn compare_skips_hosts_where_version_is_main() {
    let fake = with(&[(seen(600, 3), stats(600, 0)), (seen(600, 0), stats(600, 0))]);
    fake.site.with_host("web1", |host| host.main = "2.0.0".to_owned());
    let report = compare_hosts(&fake, &fake.fleet.hosts, &options(100, None)).await.unwrap();
    assert_eq!((report.verdict, report.matching.of), (ComparisonVerdict::Same, 600));
}
