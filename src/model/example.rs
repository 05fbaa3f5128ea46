//! Values for tests: a pair of hosts behind one balancer, as in the README.

use std::collections::BTreeMap;
use std::time::Duration;

use super::balancer::{Access, BalancerSpec, CheckTiming, ServerNames, ServerView, ServerWork, Verdict};
use super::deployment::{Deployment, DeploymentId, Digest, HowToRun, Instance, Resources, Runs, Stage};
use super::fleet::{Fleet, Hooks, Limits, RollPolicy, VersionPolicy};
use super::health::Health;
use super::host::{Host, Reach, Way};
use super::ports::{Port, Ports};
use super::promote::{RolloutSpec, Target};
use super::roll::{Batch, OnFailure, RollSpec};

pub fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

pub fn ports() -> Ports {
    Ports { check: port(8888), main: port(8080), backup: port(80) }
}

pub fn host(name: &str, address: &str) -> Host {
    Host { name: name.parse().unwrap(), address: Some(address.parse().unwrap()), way: Way::Here }
}

/// No hosts and no balancers: each test adds its own.
pub fn fleet() -> Fleet {
    let ms = Duration::from_millis;
    Fleet {
        service: "shop".parse().unwrap(),
        ports: ports(),
        hosts: vec![],
        balancers: vec![],
        health: Health {
            path: "/health".into(),
            status: 200,
            host: Some("shop.example".into()),
            timeout: ms(500),
            interval: ms(100),
            rise: 2,
        },
        limits: Limits { min_up: 1, drain_timeout: ms(5000) },
        reach: Reach::default(),
        roll: RollPolicy {
            batch: Batch::Hosts(1),
            max_failures: 0,
            on_failure: OnFailure::Stop,
            health_timeout: ms(10_000),
        },
        hooks: Hooks { timeout: ms(60_000), ..Hooks::default() },
        webhooks: vec![],
        versions: VersionPolicy {
            ports: (port(20000), port(29999)),
            keep_releases: 5,
            watch: ms(2000),
            health_timeout: ms(10_000),
        },
        others: BTreeMap::new(),
    }
}

/// A version that is ready, with an instance at a port.
pub fn deployment(service: &str, version: &str, at: u16) -> Deployment {
    let salt = version.bytes().fold(0u64, |sum, byte| sum * 31 + u64::from(byte));
    let runs = Runs::Command { argv: vec!["./serve".into()] };
    let how = HowToRun {
        runs,
        env: BTreeMap::new(),
        user: None,
        resources: Resources::default(),
        grace: Duration::from_secs(1),
    };
    Deployment {
        id: DeploymentId::new(jiff::Timestamp::UNIX_EPOCH, salt),
        service: service.parse().unwrap(),
        version: version.parse().unwrap(),
        revision: 1,
        stage: Stage::Ready,
        instance: Instance { build: 1, port: port(at), how, digest: Some(Digest("d".into())) },
        next: None,
        health: fleet().health,
        address: "127.0.0.1".parse().unwrap(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        updated_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

/// A balancer with HAProxy's default check timing.
pub fn balancer(name: &str, access: Option<Access>) -> BalancerSpec {
    BalancerSpec {
        name: name.parse().unwrap(),
        access,
        backend: "servers".into(),
        servers: ServerNames::default(),
        check: CheckTiming::default(),
        on_host: false,
    }
}

/// A server line at rest; `backup` by its name.
pub fn server(name: &str, verdict: Verdict) -> ServerView {
    ServerView {
        name: name.to_owned(),
        verdict,
        status: verdict.to_string(),
        backup: name.starts_with("backup"),
        admin: None,
        weight: 100,
        check: "L7OK/200".into(),
        work: ServerWork::default(),
    }
}

/// One host at a time, no failure allowed, `./deploy.sh` where the operator is.
pub fn roll(hosts: &[&str]) -> RollSpec {
    let ms = Duration::from_millis;
    RollSpec {
        service: "shop".parse().unwrap(),
        hosts: hosts.iter().map(|name| name.parse().unwrap()).collect(),
        batch: Batch::Hosts(1),
        max_failures: 0,
        on_failure: OnFailure::Stop,
        drain_timeout: ms(5000),
        health_timeout: ms(10_000),
        command: vec!["./deploy.sh".into()],
        remote: false,
        command_timeout: Duration::ZERO,
        force: false,
        assign: None,
    }
}

/// 2.0.0 beside 1.0.0, judged for a minute a step.
pub fn rollout(hosts: &[&str]) -> RolloutSpec {
    RolloutSpec {
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
        approve: false,
        watch: Duration::from_secs(2),
    }
}

pub fn rollout_target() -> Target {
    let of = |version| deployment("shop", version, 20000);
    Target { deployment: of("2.0.0").id, main: of("1.0.0").id, main_version: "1.0.0".parse().unwrap() }
}
