use super::*;
use crate::model::deployment::{Access, Workload};
use crate::model::example::{deployment, port};
use crate::model::forward::{Route, Routes};
use crate::model::port_forward::Forward;
use crate::model::proxy::{
    Canary, Latencies, Layer7, Mirror, ProxyPlacement, ServiceStats, ShadowStats, TrafficSplit, UpstreamStats,
};
use crate::plan::metrics::tests::{Read, read};

const GOLDEN: &str = include_str!("../../../../tests/golden/metrics/host.prom");

fn record(service: &str, switch: Switch) -> ServiceRecord {
    ServiceRecord {
        forward: Forward { service: service.parse().unwrap(), check: port(8888), target: port(8080) },
        switch,
        balancer_is_local: false,
        generation: 7,
        changed_at: jiff::Timestamp::UNIX_EPOCH,
        routes: None,
        access: Access::Public,
        trial: None,
        layer7: Layer7::default(),
    }
}

fn leg(to: &Deployment) -> Route {
    Route { port: port(8080), deployment: to.id.clone(), target: to.instance.port }
}

fn mirror(to: &Deployment) -> Mirror {
    Mirror {
        deployment: to.id.clone(),
        percent: "12.5".parse().unwrap(),
        methods: vec![],
        paths: vec![],
        without_headers: vec![],
        compare: false,
        control: "0".parse().unwrap(),
    }
}

fn canary(to: &Deployment) -> Canary {
    let percent = Some("25".parse().unwrap());
    Canary { deployment: to.id.clone(), percent, sticky: None, header: None, cookie: None }
}

fn placed(deployment: Deployment, process: ProcessState, busy: u64, idle: u64) -> DeploymentSnapshot {
    DeploymentSnapshot {
        deployment,
        process: Ok(process),
        sockets: Ok(SocketCount { busy, idle, ambiguous: 0 }),
    }
}

fn running(restarts: u32) -> ProcessState {
    ProcessState::Running { pid: 1, since: jiff::Timestamp::UNIX_EPOCH, restarts }
}

fn counts(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
    of.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect()
}

fn leg_stats(of: &Deployment) -> UpstreamStats {
    UpstreamStats {
        deployment: of.id.clone(),
        version: of.version.clone(),
        answers: counts(&[("2", 9), ("5", 1)]),
        errors: counts(&[("reset", 2)]),
        latency: [400, 500, 501, 1_000_000, 40_000_000].into_iter().collect(),
        fallbacks: 3,
    }
}

fn shadow_stats(of: &Deployment) -> ShadowStats {
    ShadowStats {
        deployment: of.id.clone(),
        version: of.version.clone(),
        selected: 10,
        answered: 6,
        in_flight: 1,
        dropped: counts(&[("breaker", 4)]),
        aborted: counts(&[("backlog", 1)]),
        failed: counts(&[("timeout", 2)]),
        statuses: counts(&[("2/2", 5), ("2/5", 1)]),
        latency: Latencies([(2_000_000, 6)].into()),
    }
}

/// `shop`: 1.0.0 is main, 2.0.0 the canary, 3.0.0 a shadow, 4.0.0 runs elsewhere. `blog` is in maintenance and has no versions.
fn scene() -> HostMetrics {
    let one = deployment("shop", "1.0.0", 20000);
    let two = deployment("shop", "2.0.0", 20001);
    let three = deployment("shop", "3.0.0", 20002);
    let mut four = deployment("shop", "4.0.0", 20003);
    four.instance.how.workload = Workload::External { uri: "http://127.0.0.1:20003".into() };
    let mut shop = record("shop", Switch::On);
    shop.routes = Some(Routes { main: leg(&one), backup: leg(&one), previous: None, rollback: None });
    shop.layer7 = Layer7 {
        traffic_split: TrafficSplit {
            mirrors: vec![mirror(&three)],
            canary: Some(canary(&two)),
            ..TrafficSplit::default()
        },
        place: Some(ProxyPlacement { port: port(29999), inserted: true }),
    };
    let stats = ServiceStats {
        service: "shop".parse().unwrap(),
        connections: 5,
        upgraded: 1,
        in_flight: 2,
        upstreams: vec![leg_stats(&one), leg_stats(&two)],
        shadows: vec![shadow_stats(&three)],
        rejected: counts(&[("connect", 1)]),
    };
    let ended = ProcessState::Waiting {
        since: jiff::Timestamp::UNIX_EPOCH,
        restarts: 4,
        last_exit: "status 1".into(),
    };
    HostMetrics {
        version: "0.1.0".into(),
        services: Ok(vec![record("blog", Switch::Off), shop]),
        deployments: Ok(vec![
            placed(one, running(0), 3, 4),
            placed(two, running(1), 1, 0),
            placed(three, ended, 0, 0),
            placed(four, ProcessState::External, 0, 2),
        ]),
        repairs: Ok([("shop".parse().unwrap(), 2)].into()),
        proxy: Some(Ok(ProxyStats {
            services: vec![stats],
            pid: 1,
            resident_bytes: 12_345_678,
            is_suspended: false,
            gateway: None,
        })),
    }
}

#[test]
fn host_page_matches_golden_file() {
    let page = scene().render();
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
    let read = read(&numbers.render());
    let names: Vec<&str> = read.keys().map(String::as_str).collect();
    assert_eq!(names, ["switchman_build_info", "switchman_collector_success"]);
}

#[test]
fn read_failure_is_exported_and_other_metrics_remain() {
    let mut numbers = scene();
    numbers.repairs = Err("no history".into());
    numbers.proxy = Some(Err("it is dead".into()));
    numbers.deployments.as_mut().unwrap()[0].sockets = Err("no sockets".into());
    assert_eq!(numbers.collect_errors(), ["no history", "it is dead", "no sockets"]);
    let page = read(&numbers.render());
    let value = |family: &str, labels: &str| page[family].value(family, labels);
    assert_eq!(value("switchman_proxy_up", ""), Some("0"));
    for (collector, is_read) in [("record", "1"), ("history", "0"), ("instances", "0")] {
        let labels = format!("collector=\"{collector}\"");
        assert_eq!(value("switchman_collector_success", &labels), Some(is_read), "{collector}");
    }
    assert_eq!(value("switchman_forward_on", "service=\"shop\""), Some("1"));
    for gone in ["switchman_rule_repairs_total", "switchman_requests_total", "switchman_proxy_connections"] {
        assert!(!page.contains_key(gone), "{gone}");
    }
}

/// The versions of a page, as labels.
fn versions_of(family: Option<&Read>) -> Vec<String> {
    let labels = family.into_iter().flat_map(|family| &family.samples).map(|sample| &sample.labels);
    let mut versions: Vec<String> = labels
        .filter_map(|labels| Some(labels.split("version=\"").nth(1)?.split('"').next()?.to_owned()))
        .collect();
    versions.dedup();
    versions
}

#[test]
fn version_metrics_are_limited_to_deployed_versions_and_the_cap() {
    let mut numbers = scene();
    let gone = deployment("shop", "0.9.0", 20009);
    if let Some(Ok(stats)) = &mut numbers.proxy {
        stats.services[0].upstreams.push(leg_stats(&gone));
        stats.services[0].shadows.push(shadow_stats(&gone));
    }
    assert_eq!(versions_of(read(&numbers.render()).get("switchman_requests_total")), ["1.0.0", "2.0.0"]);

    for revision in 5..100 {
        let mut more = deployment("shop", &format!("5.0.{revision}"), 21000 + revision);
        more.revision = revision.into();
        numbers.deployments.as_mut().unwrap().push(placed(more, running(0), 0, 0));
    }
    let page = read(&numbers.render());
    let told = versions_of(page.get("switchman_instance_running"));
    assert_eq!(told.len(), MAX_VERSIONS);
    // Main and the canary first, then the youngest.
    for kept in ["1.0.0", "2.0.0", "5.0.99"] {
        assert!(told.iter().any(|one| one == kept), "{kept}: {told:?}");
    }
    assert_eq!(page["switchman_versions_left_out"].samples[0].value, "49");
}

#[test]
fn redeployed_version_is_counted_once() {
    let mut numbers = scene();
    if let Some(Ok(stats)) = &mut numbers.proxy {
        let mut before = deployment("shop", "1.0.0", 20000);
        before.id = "dp_00000000000".parse().unwrap();
        stats.services[0].upstreams.push(leg_stats(&before));
        let mut shadow = deployment("shop", "3.0.0", 20002);
        shadow.id = "dp_00000000001".parse().unwrap();
        stats.services[0].shadows.push(shadow_stats(&shadow));
    }
    let page = read(&numbers.render());
    let main = "service=\"shop\",version=\"1.0.0\",role=\"main\"";
    let value = |family: &str, name: &str, labels: &str| page[family].value(name, labels).unwrap().to_owned();
    let answered = format!("{main},class=\"2xx\"");
    assert_eq!(value("switchman_requests_total", "switchman_requests_total", &answered), "18");
    let duration = "switchman_request_duration_seconds";
    assert_eq!(value(duration, &format!("{duration}_count"), main), "10");
    let shadow = "service=\"shop\",version=\"3.0.0\"";
    assert_eq!(value("switchman_shadow_selected_total", "switchman_shadow_selected_total", shadow), "20");
}
