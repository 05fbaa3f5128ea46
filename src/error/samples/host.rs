//! Samples of the reasons for which a host refuses or fails: they reach the operator through a link.

use super::{Failure, Sample, name, not_found, samples, secs, wrap};
use crate::model::api::deployments::DeploymentRef;
use crate::model::deployment::{DeploymentId, InstanceId};
use crate::model::example::port;
use crate::model::history::Actor;
use crate::model::owner::Owner;
use crate::model::port_forward::Switch;
use crate::model::private_file::Exposure;
use crate::model::rules::Family;
use crate::ops::host::deployments::error::HostDeployError;
use crate::ops::host::rules::ChangeError;
use crate::plan::owner::OwnedByOther;
use crate::plan::promote::PreflightError;
use crate::plan::traffic_split::TrafficSplitError;
use crate::plan::versions::{DeployRefusal, UriError};
use crate::world::firewall::FirewallError;
use crate::world::proxy::ProxyError;
use crate::world::releases::ReleaseError;
use crate::world::runner::RunnerError;
use crate::world::sockets::SocketsError;
use crate::world::store::StoreError;

fn make_id() -> DeploymentId {
    DeploymentId::new(jiff::Timestamp::UNIX_EPOCH, 7)
}

fn list_firewall_errors() -> Vec<Sample<FirewallError>> {
    let command = || "iptables-restore".to_owned();
    samples!(FirewallError {
        Missing: [FirewallError::Missing { command: command() }],
        NoPrivilege: [FirewallError::NoPrivilege {
            command: command(),
            stderr: "Permission denied (you must be root)".into(),
        }],
        Locked: [FirewallError::Locked { command: command(), waited: secs(5) }],
        TimedOut: [FirewallError::TimedOut { command: command(), waited: secs(10) }],
        Failed: [FirewallError::Failed { command: command(), status: 2, stderr: "line 4 failed".into() }],
        NoNat: [FirewallError::NoNat {
            family: crate::model::rules::Family::V6,
            cause: "ip6tables-save: Cannot initialize: Table does not exist".into(),
        }],
        Malformed: [FirewallError::Malformed { command: command(), line: 4, found: "-A".into() }],
        StartFailed: [FirewallError::StartFailed { command: command(), reason: not_found().to_string() }],
    })
}

pub(super) fn list_store_errors() -> Vec<Sample<StoreError>> {
    let path = || "/var/lib/switchman/state.db".into();
    samples!(StoreError {
        Open: [StoreError::Open {
            path: "/var/lib/switchman".into(),
            reason: "Permission denied (os error 13)".into(),
        }],
        Newer: [StoreError::Newer { path: path(), found: 99, known: 5 }],
        Full: [StoreError::Full { path: path() }],
        Damaged: [StoreError::Damaged { path: path(), reason: "file is not a database".into() }],
        Busy: [StoreError::Busy { holder: "restore, pid 4711".into(), waited: secs(5) }],
        Failed: [StoreError::Failed {
            action: "record a change",
            path: path(),
            reason: "disk I/O error".into(),
        }],
    })
}

pub(super) fn list_change_errors() -> Vec<Sample<ChangeError>> {
    let boxed = |error: ChangeError| Box::new(error);
    let firewall = |at: usize| list_firewall_errors().remove(at).1.into();
    let mut all = samples!(ChangeError {
        Firewall: [firewall(0)],
        Store: [list_store_errors().remove(0).1.into()],
        Owned: [OwnedByOther { owner: Box::new(make_owner()) }.into()],
        Interrupted: [ChangeError::Interrupted],
        Contested: [ChangeError::Contested { family: Family::V4 }],
        Contradicted: [
            ChangeError::Contradicted {
                switch: Switch::Off,
                found: "the forward is off, but a packet to port 8888 is answered by `10.9.0.5:9000` (IPv4): the native rule `inet fw pre: \
                 tcp dport 8888 redirect to :9000 (handle 4, prerouting priority -110)` takes the port first"
                    .into(),
            },
            ChangeError::Contradicted {
                switch: Switch::On,
                found: "a packet to the data port 8080 is refused (IPv4): the native rule `inet firewalld filter_INPUT: reject with icmpx \
                 admin-prohibited (handle 9, input priority 10)` refuses the packet"
                    .into(),
            }
        ],
        HalfDone: [ChangeError::HalfDone { change: boxed(firewall(4)), undo: boxed(firewall(3)) }],
    });
    all.extend(wrap(list_firewall_errors(), ChangeError::Firewall));
    all.extend(wrap(list_store_errors(), ChangeError::Store));
    all
}

/// The owner of a host that a roll of another operator machine took out.
pub(super) fn make_owner() -> Owner {
    let alice = Actor {
        machine: "ops1".into(),
        roll: "r20261121-071503-5f3a".parse().ok(),
        purpose: "./deploy.sh 2.0.0".into(),
        ..Actor::new("alice", 7)
    };
    alice.become_owner("", jiff::Timestamp::UNIX_EPOCH)
}

fn list_refusals() -> Vec<Sample<DeployRefusal>> {
    let (service, version) = (|| name("shop"), || "2.0.0".to_owned());
    let other_host = UriError::OtherHost { host: "10.0.0.9".into() };
    samples!(DeployRefusal {
        Exists: [DeployRefusal::Exists { service: service(), version: version() }],
        IdTaken: [DeployRefusal::IdTaken { id: make_id(), service: service(), version: version() }],
        EndpointTaken: [DeployRefusal::EndpointTaken { id: make_id() }],
        NoVersion: [
            DeployRefusal::NoVersion(DeploymentRef::Id(make_id())),
            DeployRefusal::NoVersion(DeploymentRef::Version { service: service(), version: name("2.0.0") }),
        ],
        NoMain: [DeployRefusal::NoMain(service())],
        MainWithShadows: [DeployRefusal::MainWithShadows],
        NotDrained: [DeployRefusal::NotDrained { invocations: 3 }],
        IdleConnections: [DeployRefusal::IdleConnections { idle: 2 }],
        InProgress: [DeployRefusal::InProgress { service: service(), version: version() }],
        InstancesNeedAgent: [DeployRefusal::InstancesNeedAgent],
        NoPort: [DeployRefusal::NoPort { first: port(20000), last: port(20009) }],
        PortTaken: [
            DeployRefusal::PortTaken { port: port(20000), owner: Some("nginx (pid 4711)".into()) },
            DeployRefusal::PortTaken { port: port(20000), owner: None },
        ],
        ServicePort: [DeployRefusal::ServicePort { port: port(8080), service: service() }],
        Uri: [
            UriError::Invalid { uri: "http//x".into(), reason: "it has no host" }.into(),
            other_host.into()
        ],
        NoRelease: [DeployRefusal::NoRelease { service: service(), release: "2.0.0".into() }],
        OtherRelease: [DeployRefusal::OtherRelease { service: service(), release: "2.0.0".into() }],
        AlteredRelease: [DeployRefusal::AlteredRelease {
            service: service(),
            release: "2.0.0".into(),
            changes: "`app.py` has other contents".into(),
        }],
        NoBackup: [DeployRefusal::NoBackup(service())],
        NotMain: [DeployRefusal::NotMain { service: service(), version: name("2.0.0") }],
        Overtaken: [DeployRefusal::Overtaken(service())],
        MixedKinds: [DeployRefusal::MixedKinds],
        NoProgram: [DeployRefusal::NoProgram],
        NoNetwork: [DeployRefusal::NoNetwork],
        BadValue: [DeployRefusal::BadValue {
            subject: "the variable `A=B`".into(),
            reason: "a name has letters, digits and `_`",
        }],
    })
}

fn list_runner_errors() -> Vec<Sample<RunnerError>> {
    let instance = || InstanceId { deployment: make_id(), build: 1, number: 1 };
    samples!(RunnerError {
        Missing: [RunnerError::Missing { program: "./serve".into() }],
        NoUser: [RunnerError::NoUser { user: "shop".into() }],
        Unknown: [RunnerError::Unknown { instance: instance() }],
        Failed: [RunnerError::Failed {
            action: "start",
            instance: instance(),
            reason: "systemd-run exited with 1".into(),
        }],
        WriteFailed: [RunnerError::WriteFailed {
            path: "/run/systemd/system/x.service".into(),
            reason: not_found().to_string(),
        }],
        ReadFailed: [RunnerError::ReadFailed {
            path: "/var/lib/switchman/instances".into(),
            reason: not_found().to_string(),
        }],
    })
}

fn list_release_errors() -> Vec<Sample<ReleaseError>> {
    samples!(ReleaseError {
        Refused: [ReleaseError::Refused("`../etc/passwd` points outside of the release".into())],
        Altered: [ReleaseError::Altered {
            release: "2.0.0".into(),
            changes: "`app.py` has other contents".into(),
        }],
        NameTaken: [ReleaseError::NameTaken { release: "2.0.0".into() }],
        Damaged: [ReleaseError::Damaged("unexpected end of file".into())],
        Full: [ReleaseError::Full { path: "/srv/switchman/shop".into() }],
        Failed: [ReleaseError::Failed {
            action: "write",
            path: "/srv/switchman/shop".into(),
            reason: "Read-only file system (os error 30)".into(),
        }],
    })
}

fn list_proxy_errors() -> Vec<Sample<ProxyError>> {
    samples!(ProxyError {
        StartFailed: [ProxyError::StartFailed { reason: "it ended at once".into() }],
        Unresponsive: [ProxyError::Unresponsive { reason: "no answer within 1s".into() }],
        Refused: [ProxyError::Refused { reason: "it has no memory left".into() }],
        NoPort: [ProxyError::NoPort { service: name("shop"), reason: "listens on none of its ports".into() }],
        NotReachable: [ProxyError::NotReachable {
            service: name("shop"),
            port: port(21000),
            reason: "connection refused".into(),
        }],
        NotWatched: [ProxyError::NotWatched],
    })
}

fn list_split_errors() -> Vec<Sample<TrafficSplitError>> {
    let (service, version) = (|| name("shop"), || name("2.0.0"));
    samples!(TrafficSplitError {
        Deployment: [DeployRefusal::NoMain(service()).into()],
        IsMain: [TrafficSplitError::IsMain { service: service(), version: version() }],
        RoleConflict: [TrafficSplitError::RoleConflict {
            service: service(),
            version: version(),
            now: "a canary",
        }],
        Private: [TrafficSplitError::Private(service())],
        EmptyCanary: [TrafficSplitError::EmptyCanary],
        BadText: [TrafficSplitError::BadText { text: "X Beta".into(), subject: "the name of a header" }],
    })
}

pub(super) fn list_preflight_errors() -> Vec<Sample<PreflightError>> {
    let (service, version) = (|| name("shop"), || name("2.0.0"));
    samples!(PreflightError {
        NotDeployed: [PreflightError::NotDeployed { service: service(), version: version() }],
        IsMain: [PreflightError::IsMain { service: service(), version: version() }],
        NoMain: [PreflightError::NoMain(service())],
        NotRunning: [PreflightError::NotRunning { service: service(), version: version() }],
        InProgress: [PreflightError::InProgress { service: service(), version: version() }],
        Private: [PreflightError::Private(service())],
        HasCanary: [PreflightError::HasCanary { service: service(), canary: make_id() }],
        IsShadow: [PreflightError::IsShadow { service: service(), version: version() }],
        NotCompared: [PreflightError::NotCompared { service: service(), version: version() }],
        OtherMain: [PreflightError::OtherMain(name("0.9.0"))],
    })
}

pub(super) fn list_host_errors() -> Vec<Sample<HostDeployError>> {
    let sockets = SocketsError { port: port(20000), reason: "Operation not permitted".into() };
    let mut all = samples!(HostDeployError {
        Refused: [DeployRefusal::MainWithShadows.into()],
        Unhealthy: [HostDeployError::Unhealthy {
            service: name("shop"),
            version: "2.0.0".into(),
            waited: secs(60),
            reason: "it ended 3 times, last with status 1".into(),
            log: vec!["Error: no such table: orders".into()],
        }],
        HalfUpdated: [HostDeployError::HalfUpdated {
            update: Box::new(HostDeployError::Interrupted),
            undo: Box::new(ChangeError::Interrupted.into()),
        }],
        Change: [ChangeError::Interrupted.into()],
        Store: [list_store_errors().remove(0).1.into()],
        Runner: [list_runner_errors().remove(0).1.into()],
        Release: [list_release_errors().remove(0).1.into()],
        Sockets: [sockets.into()],
        Split: [TrafficSplitError::EmptyCanary.into()],
        Proxy: [ProxyError::NotWatched.into()],
        Vhost: [HostDeployError::Vhost("the path `/srv/a b` does not fit into a vhost".into())],
        Interrupted: [HostDeployError::Interrupted],
        TaskFailed: [crate::ops::host::completion::TaskFailed("task 7 panicked".into()).into()],
    });
    all.extend(wrap(list_refusals(), HostDeployError::Refused));
    all.extend(wrap(list_change_errors(), HostDeployError::Change));
    all.extend(wrap(list_runner_errors(), HostDeployError::Runner));
    all.extend(wrap(list_release_errors(), HostDeployError::Release));
    all.extend(wrap(list_split_errors(), HostDeployError::Split));
    all.extend(wrap(list_proxy_errors(), HostDeployError::Proxy));
    all
}

/// A token that other users may read.
pub(super) fn expose_token() -> Failure {
    let exposure = Exposure::Mode(0o644);
    Failure::ExposedSecret { what: "token", path: "/etc/switchman/token".into(), exposure }
}

/// A key of another user.
pub(super) fn expose_key() -> Failure {
    let exposure = Exposure::Owner(1000);
    Failure::ExposedSecret { what: "key", path: "/etc/switchman/web1.key".into(), exposure }
}

pub(super) fn fail_to_write_report() -> Failure {
    let source = std::io::Error::other("Read-only file system (os error 30)");
    Failure::File { action: "write", path: "report.html".into(), source }
}
