use super::*;
use crate::model::deployment::Workload;
use crate::model::example::{self, deployment, port};
use crate::model::forward::{Route, Routes};
use crate::model::proxy::{
    Latencies, Layer7, Mirror, ProxyPlacement, ServiceStats, ShadowStats, TrafficSplit, UpstreamStats,
};
use crate::plan::metrics::tests::{ParsedFamily, parse};

const GOLDEN: &str = include_str!("../../../../tests/golden/metrics/host.prom");

fn build_record(service: &str, switch: Switch) -> ServiceRecord {
    ServiceRecord { generation: 7, ..example::make_record(service, switch) }
}

fn build_route(to: &Deployment) -> Route {
    Route::new(port(8080), to.id.clone(), to.instance.port)
}

fn build_snapshot(deployment: Deployment, process: ProcessState, busy: u64, idle: u64) -> DeploymentSnapshot {
    DeploymentSnapshot {
        deployment,
        process: Ok(process),
        sockets: Ok(SocketCount { busy, idle, ambiguous: 0, silent: 0 }),
    }
}

fn build_running_state(restarts: u32) -> ProcessState {
    ProcessState::Running { pid: 1, since: jiff::Timestamp::UNIX_EPOCH, restarts }
}

fn build_counts(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
    of.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect()
}

fn build_upstream_stats(of: &Deployment) -> UpstreamStats {
    UpstreamStats {
        answers: build_counts(&[("2", 9), ("5", 1)]),
        errors: build_counts(&[("reset", 2)]),
        latency: [400, 500, 501, 1_000_000, 40_000_000].into_iter().collect(),
        fallbacks: 3,
        ..example::make_upstream_stats(of)
    }
}

fn build_shadow_stats(of: &Deployment) -> ShadowStats {
    ShadowStats {
        selected: 10,
        answered: 6,
        in_flight: 1,
        dropped: build_counts(&[("breaker", 4)]),
        aborted: build_counts(&[("backlog", 1)]),
        failed: build_counts(&[("timeout", 2)]),
        statuses: build_counts(&[("2/2", 5), ("2/5", 1)]),
        latency: Latencies([(2_000_000, 6)].into()),
        ..example::make_shadow_stats(of)
    }
}

/// `shop`: 1.0.0 is main, 2.0.0 the canary, 3.0.0 a shadow, 4.0.0 runs elsewhere. `blog` is in maintenance and has no versions.
fn build_host_metrics() -> HostMetrics {
    let one = deployment("shop", "1.0.0", 20000);
    let two = deployment("shop", "2.0.0", 20001);
    let three = deployment("shop", "3.0.0", 20002);
    let mut four = deployment("shop", "4.0.0", 20003);
    four.instance.how.workload = Workload::External { uri: "http://127.0.0.1:20003".into() };
    let mut shop = build_record("shop", Switch::On);
    shop.routes = Some(Routes::new(build_route(&one), build_route(&one)));
    shop.layer7 = Layer7 {
        traffic_split: TrafficSplit {
            mirrors: vec![Mirror { percent: "12.5".parse().unwrap(), ..example::make_mirror(&three.id) }],
            canary: Some(example::make_canary(&two.id, "25")),
            ..TrafficSplit::default()
        },
        place: Some(ProxyPlacement { port: port(29999), inserted: true }),
    };
    let stats = ServiceStats {
        connections: 5,
        upgraded: 1,
        in_flight: 2,
        shadows: vec![build_shadow_stats(&three)],
        rejected: build_counts(&[("connect", 1)]),
        ..example::make_service_stats("shop", vec![build_upstream_stats(&one), build_upstream_stats(&two)])
    };
    let ended = ProcessState::Waiting {
        since: jiff::Timestamp::UNIX_EPOCH,
        restarts: 4,
        last_exit: "status 1".into(),
    };
    HostMetrics {
        version: "0.1.0".into(),
        services: Ok(vec![build_record("blog", Switch::Off), shop]),
        deployments: Ok(vec![
            build_snapshot(one, build_running_state(0), 3, 4),
            build_snapshot(two, build_running_state(1), 1, 0),
            build_snapshot(three, ended, 0, 0),
            build_snapshot(four, ProcessState::External, 0, 2),
        ]),
        repairs: Ok([("shop".parse().unwrap(), 2)].into()),
        proxy: Some(Ok(ProxyStats {
            resident_bytes: 12_345_678,
            ..example::make_proxy_stats(1, vec![stats])
        })),
    }
}

#[test]
fn host_page_matches_golden_file() {
    let page = build_host_metrics().render();
    assert!(page == GOLDEN, "{page}");
}

#[test]
fn host_without_services_exports_build_info() {
    let numbers = HostMetrics {
        version: "0.1.0".into(),
        services: Ok(vec![]),
        deployments: Ok(vec![]),
        repairs: Ok(BTreeMap::new()),
        proxy: None,
    };
    let read = parse(&numbers.render());
    let names: Vec<&str> = read.keys().map(String::as_str).collect();
    assert_eq!(names, ["switchman_build_info", "switchman_collector_success"]);
}

#[test]
fn read_failure_is_exported_and_other_metrics_remain() {
    let mut numbers = build_host_metrics();
    numbers.repairs = Err("no history".into());
    numbers.proxy = Some(Err("it is dead".into()));
    numbers.deployments.as_mut().unwrap()[0].sockets = Err("no sockets".into());
    assert_eq!(numbers.collect_errors(), ["no history", "it is dead", "no sockets"]);
    let page = parse(&numbers.render());
    let value = |family: &str, labels: &str| page[family].value(family, labels);
    assert_eq!(value("switchman_proxy_up", ""), Some("0"));
    for (collector, is_read) in [("record", "1"), ("history", "0"), ("instances", "0")] {
        let labels = format!("collector=\"{collector}\"");
        assert_eq!(value("switchman_collector_success", &labels), Some(is_read), "{collector}");
    }
    assert_eq!(value("switchman_forward_on", "service=\"shop\""), Some("1"));
    for absent in ["switchman_rule_repairs_total", "switchman_requests_total", "switchman_proxy_connections"]
    {
        assert!(!page.contains_key(absent), "{absent}");
    }
}

/// The versions of a page, as labels.
fn list_versions(family: Option<&ParsedFamily>) -> Vec<String> {
    let labels = family.into_iter().flat_map(|family| &family.samples).map(|sample| &sample.labels);
    let mut versions: Vec<String> = labels
        .filter_map(|labels| Some(labels.split("version=\"").nth(1)?.split('"').next()?.to_owned()))
        .collect();
    versions.dedup();
    versions
}

#[test]
fn version_metrics_are_limited_to_deployed_versions_and_the_cap() {
    let mut numbers = build_host_metrics();
    let removed = deployment("shop", "0.9.0", 20009);
    if let Some(Ok(stats)) = &mut numbers.proxy {
        stats.services[0].upstreams.push(build_upstream_stats(&removed));
        stats.services[0].shadows.push(build_shadow_stats(&removed));
    }
    assert_eq!(list_versions(parse(&numbers.render()).get("switchman_requests_total")), ["1.0.0", "2.0.0"]);

    for revision in 5..100 {
        let mut more = deployment("shop", &format!("5.0.{revision}"), 21000 + revision);
        more.revision = revision.into();
        numbers.deployments.as_mut().unwrap().push(build_snapshot(more, build_running_state(0), 0, 0));
    }
    let page = parse(&numbers.render());
    let listed = list_versions(page.get("switchman_instance_running"));
    assert_eq!(listed.len(), MAX_VERSIONS);
    // Main and the canary first, then the youngest.
    for kept in ["1.0.0", "2.0.0", "5.0.99"] {
        assert!(listed.iter().any(|one| one == kept), "{kept}: {listed:?}");
    }
    assert_eq!(page["switchman_versions_left_out"].samples[0].value, "49");
}

#[test]
fn redeployed_version_is_counted_once() {
    let mut numbers = build_host_metrics();
    if let Some(Ok(stats)) = &mut numbers.proxy {
        let mut before = deployment("shop", "1.0.0", 20000);
        before.id = "dp_00000000000".parse().unwrap();
        stats.services[0].upstreams.push(build_upstream_stats(&before));
        let mut shadow = deployment("shop", "3.0.0", 20002);
        shadow.id = "dp_00000000001".parse().unwrap();
        stats.services[0].shadows.push(build_shadow_stats(&shadow));
    }
    let page = parse(&numbers.render());
    let main = "service=\"shop\",version=\"1.0.0\",role=\"main\"";
    let value = |family: &str, name: &str, labels: &str| page[family].value(name, labels).unwrap().to_owned();
    let answered = format!("{main},class=\"2xx\"");
    assert_eq!(value("switchman_requests_total", "switchman_requests_total", &answered), "18");
    let duration = "switchman_request_duration_seconds";
    assert_eq!(value(duration, &format!("{duration}_count"), main), "10");
    let shadow = "service=\"shop\",version=\"3.0.0\"";
    assert_eq!(value("switchman_shadow_selected_total", "switchman_shadow_selected_total", shadow), "20");
}
