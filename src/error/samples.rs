//! One sample or more of every variant of every error that can reach a [`Failure`]. A new variant does not compile without one.

use std::time::Duration;

use super::{Failure, ServerKind, Subject};
use crate::agent::serve::ServeError;
use crate::config::host_edit::HostEditError;
use crate::config::{ConfigError, ConfigProblem, UntrustedPath};
use crate::model::address_conflict::AddressConflict;
use crate::model::client_list::ClientListError;
use crate::model::example;
use crate::model::failure::ErrorCode;
use crate::model::lock::{Holder, Liveness, LockPurpose, LockView};
use crate::model::port_conflict::{PortConflict, PortSetting, PortSide};
use crate::model::port_forward::Switch;
use crate::model::socket::PeerConnections;
use crate::model::ssh::SshFailure;
use crate::ops::fleet::balancer_wait::{BalancerWaitError, MissingObservation};
use crate::ops::fleet::drain::DrainError;
use crate::ops::fleet::forward::{SwitchError, SwitchManyError};
use crate::plan::drain::NotDrainedReason;
use crate::plan::host_selection::SelectionError;
use crate::plan::switch::Refusal;
use crate::proxy::error::ProxyError;
use crate::world::balancer::BalancerError;
use crate::world::journal_store::JournalError;
use crate::world::link::LinkError;
use crate::world::machine::MachineError;

mod discovery;
mod fleet;
mod host;
mod init;
mod lab;
mod link;
mod partial;

/// The name of a variant, as `RollError::Refused`, with a sample of it.
pub(super) type Sample<E> = (String, E);

/// Lists samples of an enum by their variants.
macro_rules! samples {
    ($error:ident { $($variant:ident: [$($sample:expr),* $(,)?]),+ $(,)? }) => {{
        let name = |sample: &$error| match sample { $($error::$variant { .. } => stringify!($variant)),+ };
        let all = [$(vec![$((stringify!($variant), $sample)),*]),+].into_iter().flatten();
        all
            .map(|(variant, sample)| {
                assert_eq!(name(&sample), variant, "the label of a sample of {}", stringify!($error));
                (format!("{}::{variant}", stringify!($error)), sample)
            })
            .collect::<Vec<Sample<$error>>>()
    }};
}
use samples;

/// Wraps samples of one error into another one, or into a failure.
pub(super) fn wrap<E, W>(samples: Vec<Sample<E>>, into: impl Fn(E) -> W) -> Vec<Sample<W>> {
    samples.into_iter().map(|(label, sample)| (label, into(sample))).collect()
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn not_found() -> std::io::Error {
    std::io::Error::other("No such file or directory (os error 2)")
}

/// Every failure that a command can end with.
pub(super) fn list_failures() -> Vec<Sample<Failure>> {
    [
        wrap(list_config_errors(), Failure::Config),
        wrap(list_selection_errors(), Failure::HostSelection),
        wrap(discovery::list_discovery_errors(), Failure::Discovery),
        wrap(discovery::list_withdraw_errors(), Failure::Withdraw),
        vec![("MachineError".into(), Failure::Machine(make_machine_error()))],
        wrap(list_switch_errors(), Failure::Switch),
        wrap(host::list_change_errors(), Failure::Restore),
        wrap(host::list_store_errors(), Failure::Store),
        wrap(list_switch_many_errors(), Failure::SwitchMany),
        wrap(fleet::list_roll_errors(), Failure::Roll),
        wrap(fleet::list_promotion_errors(), Failure::Promotion),
        wrap(list_journal_errors(), Failure::Journal),
        wrap(fleet::list_lock_errors(), Failure::Lock),
        wrap(fleet::list_move_errors(), Failure::JournalMove),
        wrap(init::list_init_errors(), Failure::Init),
        wrap(init::list_adoption_errors(), Failure::Adoption),
        wrap(lab::list_lab_errors(), Failure::Lab),
        wrap(fleet::list_deploy_errors(), |error| Failure::Deployments {
            action: "deploy shop 2.0.0".into(),
            subject: None,
            error,
        }),
        list_own_failures(),
        list_server_failures(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The variants of `Failure`; those that hold another error have their samples above.
#[allow(clippy::too_many_lines, reason = "a table with a row for each variant")]
fn list_own_failures() -> Vec<Sample<Failure>> {
    let roll = || name("r20261121-085642-7e99");
    let (service, version) = (|| name("shop"), || name("2.0.0"));
    let socket = || "/run/switchman/agent.sock".into();
    let roll_incomplete = |done, reason: &str, finished, service_flag: &str| Failure::RollIncomplete {
        roll: roll(),
        done,
        of: 4,
        reason: reason.into(),
        finished,
        service_flag: service_flag.into(),
    };
    let not_promoted = |reason: &str, unreached_hosts, finished| Failure::NotPromoted {
        service: service(),
        version: version(),
        reason: reason.into(),
        unreached_hosts,
        finished,
    };
    samples!(Failure {
        Config: [],
        HostSelection: [],
        Discovery: [],
        Withdraw: [],
        Machine: [],
        Switch: [],
        Restore: [],
        Store: [],
        SwitchMany: [],
        SwitchedPartially: [partial::make_switched_partially()],
        WithdrawnPartially: [partial::make_withdrawn_partially()],
        KilledPartially: [partial::make_killed_partially()],
        Roll: [],
        RollIncomplete: [
            roll_incomplete(2, "1 failed, at most 0 may", false, ""),
            roll_incomplete(0, "interrupted", false, " --service blog"),
            roll_incomplete(3, "1 failed", true, ""),
        ],
        Promotion: [],
        NotPromoted: [
            not_promoted("2.1% of 1,204 requests failed, 0.5% are allowed", vec![], true),
            not_promoted("interrupted", vec![], false),
            not_promoted("aborted by ops", vec![name("web2"), name("web3")], false),
        ],
        Journal: [],
        Lock: [],
        JournalMove: [],
        Interrupted: [Failure::Interrupted],
        ForcedStop: [Failure::ForcedStop { recovery: "`switchman ls --wide` shows every host" }],
        ProblemsFound: [Failure::ProblemsFound { problems: 1 }, Failure::ProblemsFound { problems: 2 }],
        AnswersDiffer: [Failure::AnswersDiffer {
            subject: Subject { service: service(), version: Some(version()) },
            reason: "14 of 1,000 answers do not match; most differ in $.price (14)".into(),
        }],
        InsufficientSamples: [Failure::InsufficientSamples {
            subject: Subject { service: service(), version: Some(version()) },
            reason: "only 12 of 100 answers compared".into(),
        }],
        Init: [],
        Adoption: [],
        AddHost: [
            Failure::AddHost { file: "/srv/shop/switchman.yaml".into(), error: HostEditError::NoHosts },
            Failure::AddHost {
                file: "/srv/shop/switchman.yaml".into(),
                error: HostEditError::Duplicate("there is a host `web3` already".into()),
            },
        ],
        Lab: [],
        DemoFailed: [Failure::DemoFailed { faults: vec!["3 requests failed in `roll`".into()] }],
        UnknownService: [
            Failure::UnknownService {
                action: "select the service",
                requested: name("web"),
                known: vec![name("shop"), name("blog")],
            },
            Failure::UnknownService {
                action: "deploy",
                requested: name("shopp"),
                known: vec![name("shop"), name("blog")],
            },
        ],
        NoSuchService: [Failure::NoSuchService {
            requested: name("shp"),
            known: vec![name("shop"), name("blog")],
        }],
        Deployments: [],
        // The sentences of the commands: D12, D15 and R27 (docs/design/seed-systems.md).
        Declined: [
            Failure::Declined("Assign cancelled."),
            Failure::Declined("Service(s) not killed"),
            Failure::Declined("No changes were made."),
        ],
        NoTargetNamed: [Failure::NoTargetNamed],
        Aborted: [Failure::Aborted],
        Usage: [Failure::Usage {
            command: "canary",
            action: "share by weights".into(),
            reason: "--via haproxy takes --percent, or --off".into(),
        }],
        MissingVersion: [Failure::MissingVersion {
            action: "make a version of shop main".into(),
            name: "shop".into(),
        }],
        UnknownRoll: [Failure::UnknownRoll { roll: roll() }],
        AlreadyPromoted: [Failure::AlreadyPromoted { service: service(), version: version() }],
        Output: [Failure::Output { source: std::io::Error::other("No space left on device (os error 28)") }],
        Input: [Failure::Input { source: std::io::Error::other("Input/output error (os error 5)") }],
        File: [
            Failure::File { action: "read", path: "haproxy.cfg".into(), source: not_found() },
            host::fail_to_write_report(),
        ],
        NoAnswer: [Failure::NoAnswer { waited: secs(10) }],
        LooseKey: [Failure::LooseKey { path: "/home/ops/.ssh/deploy".into(), mode: 0o644 }],
        ExposedSecret: [host::expose_token(), host::expose_key()],
        WeakToken: [Failure::WeakToken { path: "/etc/switchman/token".into(), bits: 28, required: 80 }],
        ClientList: [Failure::ClientList {
            path: "/etc/switchman/tokens".into(),
            source: ClientListError::SameName { line: 2, name: "ci".into() },
        }],
        Listen: [Failure::Listen {
            address: "10.0.0.1:8443".parse().unwrap(),
            source: std::io::Error::other("Address already in use (os error 98)"),
        }],
        SocketInUse: [Failure::SocketInUse { server: ServerKind::Agent, path: socket() }],
        Serve: [Failure::Serve {
            server: ServerKind::Agent,
            reason: "cannot use `agent.pem`: it is empty".into()
        }],
        InstanceStart: [Failure::InstanceStart(host::list_store_errors().remove(0).1.into())],
        ProxyBypass: [Failure::ProxyBypass(host::list_change_errors().remove(0).1.into())],
        Supervision: [Failure::Supervision { reason: "the directory has no specification".into() }],
        System: [Failure::System {
            action: "start",
            source: std::io::Error::other("Too many open files (os error 24)"),
        }],
    })
}

/// Errors of servers, which their commands turn into failures.
fn list_server_failures() -> Vec<Sample<Failure>> {
    let socket = || "/run/switchman/agent.sock".into();
    let served = samples!(ServeError {
        SocketInUse: [ServeError::SocketInUse { path: socket() }],
        Failed: [ServeError::Failed {
            action: "listen on",
            subject: "/run/switchman/agent.sock".into(),
            reason: not_found().to_string(),
        }],
    });
    let proxied = samples!(ProxyError {
        SocketInUse: [ProxyError::SocketInUse { path: socket() }],
        Socket: [ProxyError::Socket { action: "listen on", path: socket(), reason: not_found() }],
        Thread: [ProxyError::Thread { reason: std::io::Error::other("Resource temporarily unavailable") }],
    });
    wrap(served, Failure::from).into_iter().chain(wrap(proxied, Failure::from)).collect()
}

fn list_config_errors() -> Vec<Sample<ConfigError>> {
    let problems = samples!(ConfigProblem {
        UnknownKey: [ConfigProblem::UnknownKey {
            found: "sevice".into(),
            expected: vec!["service".into(), "hosts".into()],
        }],
        MissingKey: [ConfigProblem::MissingKey { missing: "service".into() }],
        DoubleKey: [ConfigProblem::DoubleKey { key: "hosts".into() }],
        UnknownValue: [ConfigProblem::UnknownValue {
            found: "retrun".into(),
            expected: vec!["stop".into(), "return".into()],
        }],
        WrongValue: [ConfigProblem::WrongValue {
            found: "`8 s`".into(),
            expected: "a number with a unit, such as 500ms, 2s or 1m30s".into(),
        }],
        Other: [ConfigProblem::Other("a host has `ssh` or `agent`, not both".into())],
    });
    let invalid = |problem| ConfigError::Invalid {
        file: "switchman.yaml".into(),
        line: 7,
        key: Some("hosts.web1".into()),
        problem,
    };
    let untrusted = |problem| ConfigError::Untrusted {
        file: "switchman.yaml".into(),
        path: "hooks/notify.sh".into(),
        problem,
    };
    let paths = samples!(UntrustedPath {
        OwnedBy: [UntrustedPath::OwnedBy("bob".into())],
        WritableByGroup: [UntrustedPath::WritableByGroup("staff".into())],
        WritableByAll: [UntrustedPath::WritableByAll],
    });
    let mut all = samples!(ConfigError {
        NotFound: [ConfigError::NotFound],
        ReadFailed: [ConfigError::ReadFailed { file: "shop.yaml".into(), reason: not_found().to_string() }],
        Untrusted: [untrusted(UntrustedPath::OwnedBy("bob".into()))],
        Invalid: [ConfigError::Invalid {
            file: "switchman.yaml".into(),
            line: 1,
            key: None,
            problem: ConfigProblem::MissingKey { missing: "service".into() },
        }],
    });
    all.extend(wrap(problems, invalid));
    all.extend(wrap(paths, untrusted));
    all
}

fn list_selection_errors() -> Vec<Sample<SelectionError>> {
    samples!(SelectionError {
        Unknown: [
            SelectionError::Unknown { requested: name("web9"), known: vec![name("web1"), name("web2")] },
            SelectionError::Unknown { requested: name("web9"), known: vec![] },
        ],
        NotAHost: [SelectionError::NotAHost {
            machine: "bastion".into(),
            known: vec![name("web1"), name("web2")],
        }],
        BadName: [SelectionError::BadName {
            machine: "-web".into(),
            reason: "it starts with `-`: a name starts with a letter or a digit".into(),
        }],
    })
}

fn make_machine_error() -> MachineError {
    MachineError { subject: "/proc/net/tcp".into(), reason: not_found().to_string() }
}

fn list_refusals() -> Vec<Sample<Refusal>> {
    let balancer = || name("lb1");
    samples!(Refusal {
        BalancerUnreadable: [Refusal::BalancerUnreadable {
            balancer: balancer(),
            cause: list_balancer_errors().remove(0).1.to_string(),
        }],
        NoServer: [Refusal::NoServer { balancer: balancer(), server: "main-web1".into(), address: None }],
        OtherLine: [Refusal::OtherLine {
            balancer: name("lb1"),
            line: "websockets/web1".into(),
            check: example::port(8888),
        }],
        OtherPort: [Refusal::OtherPort {
            conflict: PortConflict {
                side: PortSide::Host(name("web1")),
                setting: PortSetting::Check,
                configured: example::port(8889),
                found: 8888,
            },
        }],
        OtherAddress: [Refusal::OtherAddress {
            conflict: AddressConflict {
                host: name("web2"),
                balancer: balancer(),
                line: "shop/main-web2".into(),
                found: [10, 0, 0, 13].into(),
                found_on: Some(name("web3")),
                known: vec![[10, 0, 0, 12].into()],
            },
        }],
        Private: [Refusal::Private { host: name("web1"), service: name("shop") }],
        BackupNotUp: [Refusal::BackupNotUp {
            balancer: balancer(),
            server: "backup-web1".into(),
            status: "DOWN".into(),
        }],
        CapacityFloor: [
            Refusal::CapacityFloor { balancer: balancer(), up: 1, min_up: 2 },
            Refusal::CapacityFloor { balancer: balancer(), up: 0, min_up: 1 },
        ],
        CapacityFloorByConfig: [Refusal::CapacityFloorByConfig { left: 1, min_up: 2 }],
        AllHosts: [Refusal::AllHosts { hosts: 3 }],
        Unhealthy: [Refusal::Unhealthy { cause: "10.0.0.1:8080/health answered 500, expected 200".into() }],
    })
}

pub(super) fn list_balancer_errors() -> Vec<Sample<BalancerError>> {
    let address = || "/run/haproxy/admin.sock".to_owned();
    let (backend, server) = (|| "servers".to_owned(), || "main-web1".to_owned());
    samples!(BalancerError {
        Unreachable: [BalancerError::Unreachable { address: address(), reason: not_found().to_string() }],
        TimedOut: [BalancerError::TimedOut { address: address(), waited: secs(2) }],
        Truncated: [BalancerError::Truncated { address: address(), received: 1204 }],
        Malformed: [BalancerError::Malformed { address: address(), reason: "no column `svname`".into() }],
        Refused: [BalancerError::Refused { address: "http://lb1:8404/stats".into(), status: 401 }],
        MasterCli: [BalancerError::MasterCli { address: "/run/haproxy-master.sock".into() }],
        NoBackend: [BalancerError::NoBackend { address: address(), backend: backend() }],
        NotUpAfterFlush: [BalancerError::NotUpAfterFlush {
            address: address(),
            backend: backend(),
            server: server(),
            waited: secs(13),
        }],
        NoServer: [BalancerError::NoServer { address: address(), backend: backend(), server: server() }],
    })
}

fn list_link_errors() -> Vec<Sample<LinkError>> {
    let ssh = || "ssh web1".to_owned();
    let mut all = samples!(LinkError {
        Unreachable: [
            link::make_ssh_failure(SshFailure::AuthDenied),
            LinkError::Unreachable {
                via: "https://10.0.0.1:8443".into(),
                reason: "Connection refused".into(),
                ssh: None
            },
        ],
        Broken: [LinkError::Broken { via: ssh(), reason: "unexpected end of file".into() }],
        TimedOut: [LinkError::TimedOut { via: ssh(), waited: secs(15) }],
        Abandoned: [LinkError::Abandoned { via: "ssh web1".into() }],
        VersionMismatch: [LinkError::VersionMismatch {
            via: ssh(),
            theirs: "0.3.0".into(),
            their_api: "4..5".into(),
            ours: "0.1.0".into(),
            our_api: "2..2".into(),
        }],
        Refused: [LinkError::Refused {
            code: crate::model::failure::ErrorCode::Other,
            message: "a reason of a newer switchman".into(),
        }],
    });
    all.extend(link::list_ssh_failures());
    all.extend(wrap(host::list_host_errors(), LinkError::from));
    all
}

fn list_switch_errors() -> Vec<Sample<SwitchError>> {
    let host = || "web1".to_owned();
    let (off, on) = (Switch::Off, Switch::On);
    let late = || BalancerWaitError::TimedOut { waited: secs(8), missing: vec![make_missing_observation()] };
    let contradicted = |switch| SwitchError::Contradicted {
        host: host(),
        switch,
        source: LinkError::Refused {
            code: ErrorCode::ForwardContradicted,
            message: format!(
                "kernel and record have the forward {switch}, and packets find otherwise: a packet to the data port 8080 is refused (IPv4)"
            ),
        },
    };
    let mut all = samples!(SwitchError {
        Refused: [SwitchError::Refused {
            host: host(),
            switch: off,
            refusals: list_refusals().into_iter().map(|(_, refusal)| refusal).take(3).collect(),
        }],
        NotChanged: [SwitchError::NotChanged {
            host: host(),
            switch: on,
            source: LinkError::TimedOut { via: "ssh web1".into(), waited: secs(15) },
        }],
        Contradicted: [contradicted(off), contradicted(on)],
        NotObserved: [
            SwitchError::NotObserved { host: host(), switch: off, source: late() },
            SwitchError::NotObserved { host: host(), switch: on, source: late() },
        ],
        NotDrained: [SwitchError::NotDrained {
            host: host(),
            source: list_drain_errors().remove(0).1,
            is_restored: true,
        }],
    });
    let refused = |refusal| SwitchError::Refused { host: host(), switch: off, refusals: vec![refusal] };
    all.extend(wrap(list_refusals(), refused));
    let not_observed = |source| SwitchError::NotObserved { host: host(), switch: off, source };
    all.extend(wrap(list_wait_errors(), not_observed));
    for is_restored in [false, true] {
        let not_drained = |source| SwitchError::NotDrained { host: host(), source, is_restored };
        all.extend(wrap(list_drain_errors(), not_drained));
    }
    all
}

/// One of each form, for a switch of several hosts.
fn make_missing_observation() -> MissingObservation {
    MissingObservation::NotReported {
        balancer: name("lb1"),
        server: "main-web1".into(),
        detail: "UP (L7OK/200)".into(),
    }
}

fn list_wait_errors() -> Vec<Sample<BalancerWaitError>> {
    let missing = || vec![make_missing_observation()];
    samples!(BalancerWaitError {
        TimedOut: [BalancerWaitError::TimedOut { waited: secs(8), missing: missing() }],
        Overtaken: [BalancerWaitError::Overtaken],
        Interrupted: [BalancerWaitError::Interrupted { missing: missing() }],
    })
}

fn list_drain_errors() -> Vec<Sample<DrainError>> {
    samples!(DrainError {
        TimedOut: [
            DrainError::TimedOut {
                senders: vec!["lb1 servers/main-web1 (2)".into(), "lb1 websockets/web1 (1)".into()],
                peers: vec![],
                waited: secs(30),
                in_flight: 3,
                reason: NotDrainedReason::Sessions,
                detail: None,
            },
            DrainError::TimedOut {
                waited: secs(30),
                in_flight: 1,
                reason: NotDrainedReason::UnexplainedConnections { count: 1 },
                senders: vec![],
                peers: vec![PeerConnections {
                    address: [10, 0, 0, 50].into(),
                    connections: 1,
                    busy: 0,
                    quiet_for: secs(42),
                }],
                detail: None,
            }
        ],
        Overtaken: [DrainError::Overtaken],
        Interrupted: [DrainError::Interrupted { in_flight: 3 }],
    })
}

fn list_switch_many_errors() -> Vec<Sample<SwitchManyError>> {
    samples!(SwitchManyError {
        Lock: [fleet::list_lock_errors().remove(0).1.into()],
        Switch: [list_switch_errors().remove(0).1.into()],
    })
}

fn make_lock(purpose: LockPurpose) -> Box<LockView> {
    let holder = example::make_holder(purpose);
    let holder = Holder { user: "anna".into(), machine: "bastion".into(), pid: 4711, ..holder };
    Box::new(LockView { holder, heartbeats: 1, liveness: Liveness::Remote })
}

pub(super) fn list_journal_errors() -> Vec<Sample<JournalError>> {
    let store = || "`.switchman/shop.db`".to_owned();
    let operator = make_lock(LockPurpose::Operator { message: "database migration".into() });
    samples!(JournalError {
        Open: [JournalError::Open {
            path: ".switchman/shop.db".into(),
            reason: "Permission denied (os error 13)".into()
        }],
        Newer: [JournalError::Newer { store: store(), found: 99, known: 3 }],
        Full: [JournalError::Full { store: store() }],
        Damaged: [JournalError::Damaged { store: store(), reason: "file is not a database".into() }],
        Failed: [JournalError::Failed {
            action: "write an entry",
            store: store(),
            reason: "disk I/O error".into()
        }],
        Refused: [JournalError::Refused {
            action: "take the lock",
            store: "PostgreSQL at db1:5432".to_owned(),
            reason: "permission denied for schema switchman".into()
        }],
        Unreachable: [JournalError::Unreachable {
            action: "record a step",
            store: "etcd at 10.0.0.5:2379".to_owned(),
            reason: "connection refused".into()
        }],
        NotConnected: [JournalError::NotConnected {
            action: "take the lock",
            store: "the journal on lb1".into(),
            reason: "ssh reports: ssh: connect to host lb1 port 22: Connection refused (ssh lb1)".into(),
            advice: "start sshd there, or correct its port (`Port` in your ssh configuration); this must connect: `ssh lb1`".into(),
        }],
        OtherVersion: [JournalError::OtherVersion {
            action: "record a step",
            store: "the journal on lb1".into(),
            reason: "switchman 0.1.0 there does not know the operation `append` of switchman 0.2.0 here (there is no such route)"
                .into(),
        }],
        Denied: [JournalError::Denied {
            store: "the journal on lb1".into(),
            directory: "/var/lib/switchman/journals".into(),
            user: "deploy".into(),
            reason: "Permission denied (os error 13)".into(),
        }],
        LockLost: [
            JournalError::LockLost { holder: Some(Box::new(operator.holder)) },
            JournalError::LockLost { holder: None },
        ],
    })
}
