//! Values for tests: a pair of hosts behind one balancer, as in the README.

use std::collections::BTreeMap;
use std::time::Duration;

use super::api::HostView;
use super::api::deployments::{DeployRequest, HostNetwork};
use super::balancer::{
    BalancerSpec, CheckTiming, ServerCounters, ServerNames, ServerState, ServerView, StatsEndpoint,
};
use super::deployment::{Access, Deployment, DeploymentId, Digest, Instance, RunSpec, Stage, Workload};
use super::fleet::{DeployPolicy, Fleet, FleetLimits, Hooks, RollPolicy};
use super::forward::{Intent, RouteChange, ServiceRecord};
use super::health::Health;
use super::history::Actor;
use super::host::{ConnectConfig, Host, Transport};
use super::journal::{RollEntry, RollEntryKind};
use super::journal_location::JournalLocation;
use super::lock::{Holder, LockPurpose};
use super::native_rule::{NativeEffect, NativeRule};
use super::percent::Percent;
use super::port_forward::{Forward, Switch};
use super::ports::{Port, Ports};
use super::promote::{PromotionEntry, PromotionEntryKind, PromotionId, PromotionSpec, PromotionTarget};
use super::proxy::{Canary, Latencies, Layer7, Mirror, ProxyStats, ServiceStats, ShadowStats, UpstreamStats};
use super::roll::{Batch, OnFailure, RollSpec, Work};
use super::rules::{Rule, Table};
use super::socket::SocketCount;
use super::traffic_split::{TrafficSplitChange, TrafficSplitRequest};

pub fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

pub fn make_ports() -> Ports {
    Ports { check: port(8888), main: port(8080), backup: port(80) }
}

pub fn host(name: &str, address: &str) -> Host {
    Host { name: name.parse().unwrap(), address: Some(address.parse().unwrap()), transport: Transport::Local }
}

/// No hosts and no balancers: each test adds its own.
pub fn fleet() -> Fleet {
    let ms = Duration::from_millis;
    Fleet {
        service: "shop".parse().unwrap(),
        ports: make_ports(),
        hosts: vec![],
        discovery: vec![],
        balancers: vec![],
        health: Health {
            path: "/health".into(),
            status: 200,
            host: Some("shop.example".into()),
            timeout: ms(500),
            interval: ms(100),
            rise: 2,
        },
        limits: FleetLimits { min_up: 1, drain_timeout: ms(5000) },
        reach: ConnectConfig::default(),
        roll: RollPolicy {
            batch: Batch::Hosts(1),
            max_failures: 0,
            on_failure: OnFailure::Stop,
            health_timeout: ms(10_000),
        },
        hooks: Hooks { timeout: ms(60_000), ..Hooks::default() },
        webhooks: vec![],
        journal: JournalLocation::Beside,
        versions: DeployPolicy {
            port_range: (port(20000), port(29999)),
            keep_releases: 5,
            watch: ms(2000),
            health_timeout: ms(10_000),
        },
        additional_services: BTreeMap::new(),
    }
}

/// A version that is ready, with an instance at a port.
pub fn deployment(service: &str, version: &str, at: u16) -> Deployment {
    let salt = version.bytes().fold(0u64, |sum, byte| sum * 31 + u64::from(byte));
    let runs = RunSpec::new(Workload::Command { argv: vec!["./serve".into()] });
    let how = RunSpec { grace: Duration::from_secs(1), ..runs };
    Deployment {
        id: DeploymentId::new(jiff::Timestamp::UNIX_EPOCH, salt),
        started_as: None,
        service: service.parse().unwrap(),
        version: version.parse().unwrap(),
        revision: 1,
        metadata: BTreeMap::new(),
        stage: Stage::Ready,
        instance: Instance { build: 1, number: 1, port: port(at), how, digest: Some(Digest("d".into())) },
        more_instances: vec![],
        other_instance: None,
        health: fleet().health,
        address: "127.0.0.1".parse().unwrap(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        updated_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

/// A balancer with HAProxy's default check timing.
pub fn balancer(name: &str, access: Option<StatsEndpoint>) -> BalancerSpec {
    BalancerSpec {
        name: name.parse().unwrap(),
        stats_endpoint: access,
        backend: "servers".into(),
        servers: ServerNames::default(),
        check: CheckTiming::default(),
        is_on_host: false,
    }
}

/// A server line at rest; `backup` by its name.
pub fn make_server(name: &str, verdict: ServerState) -> ServerView {
    ServerView {
        name: name.to_owned(),
        address: None,
        state: verdict,
        status: verdict.to_string(),
        backup: name.starts_with("backup"),
        admin_state: None,
        weight: 100,
        last_check: "L7OK/200".into(),
        work: ServerCounters::default(),
    }
}

/// Makes a spec with one host at a time, no failure allowed, `./deploy.sh` where the operator is.
pub fn make_roll_spec(hosts: &[&str]) -> RollSpec {
    let ms = Duration::from_millis;
    RollSpec {
        service: "shop".parse().unwrap(),
        hosts: hosts.iter().map(|name| name.parse().unwrap()).collect(),
        found_hosts: vec![],
        batch: Batch::Hosts(1),
        max_failures: 0,
        on_failure: OnFailure::Stop,
        drain_timeout: ms(5000),
        health_timeout: ms(10_000),
        force: false,
        work: make_command(false),
    }
}

/// Makes a command without a timeout, which runs on the host or where the operator is.
pub fn make_command(remote: bool) -> Work {
    Work::Command { argv: vec!["./deploy.sh".into()], remote, timeout: None }
}

/// 2.0.0 beside 1.0.0, judged for a minute a step.
pub fn make_promotion_spec(hosts: &[&str]) -> PromotionSpec {
    PromotionSpec {
        service: "shop".parse().unwrap(),
        version: "2.0.0".parse().unwrap(),
        hosts: hosts.iter().map(|name| name.parse().unwrap()).collect(),
        steps: "1,5,25,50,100".parse().unwrap(),
        interval: Duration::from_mins(1),
        max_error_rate: "0.5%".parse().unwrap(),
        max_p99_ratio: Some("1.2".parse().unwrap()),
        require_match: None,
        ignore: vec![],
        min_samples: 100,
        sticky: None,
        require_approval: false,
        watch: Duration::from_secs(2),
    }
}

pub fn make_promotion_target() -> PromotionTarget {
    let of = |version| deployment("shop", version, 20000);
    PromotionTarget {
        deployment: of("2.0.0").id,
        main: of("1.0.0").id,
        main_version: "1.0.0".parse().unwrap(),
    }
}

/// A native rule that redirects ports.
pub fn make_native_rule(ports: &[(u16, u16)]) -> NativeRule {
    NativeRule {
        family: "inet".into(),
        table: "fw".into(),
        chain: "pre".into(),
        handle: 3,
        hook: "prerouting".into(),
        priority: -110,
        chain_type: "nat".into(),
        text: "tcp dport @web redirect to :9000".into(),
        ports: ports.to_vec(),
        effect: NativeEffect::Translate,
        is_conditional: false,
        is_translated_only: false,
    }
}

pub fn make_actor() -> Actor {
    Actor::new("ops", 7)
}

/// Makes the journal of a roll of these hosts: its beginning at a second, and an entry for every second that follows.
pub fn make_roll_entries(
    hosts: &[&str],
    began_at: i64,
    entries: Vec<(Option<&str>, RollEntryKind)>,
) -> Vec<RollEntry> {
    let began =
        (None, RollEntryKind::Began { spec: make_roll_spec(hosts), actor: make_actor(), overridden: vec![] });
    let entries = std::iter::once(began).chain(entries).zip(began_at..);
    let entry = |((host, kind), second): ((Option<&str>, RollEntryKind), i64)| RollEntry {
        roll: "r20261121-085642-7e99".parse().unwrap(),
        at: jiff::Timestamp::from_second(second).unwrap(),
        host: host.map(|host| host.parse().unwrap()),
        kind,
    };
    entries.map(entry).collect()
}

/// Makes the journal of a promotion on web1: its beginning and further entries, each at one of these seconds.
pub fn make_promotion_entries(
    seconds: impl IntoIterator<Item = i64>,
    kinds: Vec<PromotionEntryKind>,
) -> Vec<PromotionEntry> {
    let (spec, target) = (Box::new(make_promotion_spec(&["web1"])), make_promotion_target());
    let began = PromotionEntryKind::Began { spec, target, actor: make_actor() };
    let entry = |(kind, second)| PromotionEntry {
        promotion: PromotionId::new(jiff::Timestamp::UNIX_EPOCH, 7),
        at: jiff::Timestamp::from_second(second).unwrap(),
        kind,
    };
    std::iter::once(began).chain(kinds).zip(seconds).map(entry).collect()
}

/// Makes a table of these chains, each with its policy if it is built in, and these rules.
pub fn make_table(chains: &[(&str, Option<&str>)], rules: &[&str]) -> Table {
    let mut table = Table::default();
    for (chain, policy) in chains {
        table.chains.insert((*chain).into(), policy.map(Into::into));
    }
    table.rules = rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect();
    table
}

/// A process of the operator that holds the lock of the fleet.
pub fn make_holder(purpose: LockPurpose) -> Holder {
    Holder {
        user: "ops".into(),
        machine: "desk".into(),
        boot_id: "boot".into(),
        pid: 1,
        start_ticks: 1,
        pid_namespace: "pid:[4026531836]".into(),
        purpose,
        since: jiff::Timestamp::UNIX_EPOCH,
    }
}

pub fn make_forward(service: &str) -> Forward {
    let ports = make_ports();
    Forward { service: service.parse().unwrap(), check: ports.check, target: ports.main }
}

/// Makes the record of a service whose vhosts listen on the data ports themselves.
pub fn make_record(service: &str, switch: Switch) -> ServiceRecord {
    ServiceRecord {
        owner: None,
        forward: make_forward(service),
        switch,
        balancer_is_local: false,
        generation: 1,
        changed_at: jiff::Timestamp::UNIX_EPOCH,
        routes: None,
        access: Access::Public,
        trial: None,
        layer7: Layer7::default(),
    }
}

pub fn make_intent(switch: Switch, action: &str) -> Intent {
    Intent {
        forward: make_forward("shop"),
        switch,
        balancer_is_local: false,
        actor: make_actor(),
        action: action.to_owned(),
        detail: String::new(),
        route_change: RouteChange::Keep,
        access: None,
        layer7: None,
    }
}

/// Makes the view of a host on which all is well, without the kernel's part.
pub fn make_host_view(switch: Switch) -> HostView {
    HostView {
        record: Ok(Some(make_record("shop", switch))),
        kernel: Ok(vec![]),
        drift: vec![],
        main_sockets: Ok(SocketCount::default()),
        main_health: Ok(()),
        main_version: None,
        last_entry: None,
        packet: None,
        registration: None,
    }
}

/// Makes a mirror that copies every request and compares nothing.
pub fn make_mirror(deployment: &DeploymentId) -> Mirror {
    Mirror {
        deployment: deployment.clone(),
        percent: Percent::FULL,
        methods: vec![],
        paths: vec![],
        without_headers: vec![],
        compare: false,
        control: Percent::ZERO,
    }
}

/// Makes a canary that answers a share of the requests, regardless of their sender.
pub fn make_canary(deployment: &DeploymentId, percent: &str) -> Canary {
    let (deployment, percent) = (deployment.clone(), Some(percent.parse().unwrap()));
    Canary { deployment, percent, sticky: None, header: None, cookie: None }
}

pub fn make_split_request(change: TrafficSplitChange) -> TrafficSplitRequest {
    let port_range = (port(20000), port(29999));
    TrafficSplitRequest {
        change,
        port_range,
        forwarded: None,
        actor: make_actor(),
        detail: String::new(),
        dry_run: false,
    }
}

/// Makes the counters of a version that has answered nothing.
pub fn make_upstream_stats(of: &Deployment) -> UpstreamStats {
    UpstreamStats {
        deployment: of.id.clone(),
        version: of.version.clone(),
        answers: BTreeMap::new(),
        errors: BTreeMap::new(),
        latency: Latencies::default(),
        fallbacks: 0,
    }
}

/// Makes the counters of a shadow that has got no copy.
pub fn make_shadow_stats(of: &Deployment) -> ShadowStats {
    ShadowStats {
        deployment: of.id.clone(),
        version: of.version.clone(),
        selected: 0,
        answered: 0,
        in_flight: 0,
        dropped: BTreeMap::new(),
        aborted: BTreeMap::new(),
        failed: BTreeMap::new(),
        statuses: BTreeMap::new(),
        latency: Latencies::default(),
    }
}

/// Makes the counters of a service without connections.
pub fn make_service_stats(service: &str, upstreams: Vec<UpstreamStats>) -> ServiceStats {
    ServiceStats {
        service: service.parse().unwrap(),
        connections: 0,
        upgraded: 0,
        in_flight: 0,
        upstreams,
        shadows: vec![],
        rejected: BTreeMap::new(),
    }
}

pub fn make_proxy_stats(pid: u32, services: Vec<ServiceStats>) -> ProxyStats {
    ProxyStats { services, pid, resident_bytes: 0, is_suspended: false, gateway: None }
}

/// Makes a network with this many ports for instances, from 20000 on.
pub fn make_network(ports_for_instances: u16) -> HostNetwork {
    HostNetwork {
        ports: make_ports(),
        address: "127.0.0.1".parse().unwrap(),
        balancer_is_local: false,
        port_range: (port(20000), port(19999 + ports_for_instances)),
        keep_releases: 1,
    }
}

pub fn make_deploy_request(version: &str, site: HostNetwork) -> DeployRequest {
    let new = deployment("shop", version, 20000);
    DeployRequest {
        id: new.id,
        service: new.service,
        version: new.version,
        revision: None,
        metadata: BTreeMap::new(),
        how: new.instance.how,
        digest: new.instance.digest,
        port: None,
        instances: None,
        health: new.health,
        health_timeout: Duration::from_secs(2),
        site,
        actor: make_actor(),
        dry_run: false,
    }
}
