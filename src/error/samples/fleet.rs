//! Samples of the errors of rolls, promotions and deployments.

use std::time::Duration;

use super::host::make_owner;
use super::{
    Sample, host, list_balancer_errors, list_journal_errors, list_link_errors, list_refusals, make_lock,
    name, samples, secs, wrap,
};
use crate::model::deployment::Digest;
use crate::model::example;
use crate::model::example::make_actor as ops;
use crate::model::host_main::HostMain;
use crate::model::journal::RollResult;
use crate::model::lock::LockPurpose;
use crate::model::name::HostName;
use crate::model::port_conflict::{PortConflict, PortSetting, PortSide};
use crate::model::promote::PromotionId;
use crate::ops::fleet::deployments::{FleetDeployError, OvertakenHost};
use crate::ops::fleet::journal_move::{JournalCounts, MoveError};
use crate::ops::fleet::lock::LockError;
use crate::ops::fleet::promote::{NotReadyError, PromotionError};
use crate::ops::fleet::roll::RollError;
use crate::plan::compare::ComparisonVerdict;
use crate::plan::promote;
use crate::plan::roll::PlanError;
use crate::plan::roll::progress::{RollProgress, build_progress};
use crate::plan::rollback::{AssignRecovery, HostRollback};
use crate::plan::switch::Refusal;
use crate::plan::versions::{HealthPaths, ReleaseDifference};
use crate::plan::weights::WeightsError;
use crate::world::archives::ArchiveError;

fn make_roll_progress() -> RollProgress {
    build_progress(&example::make_roll_entries(&["web1", "web2"], 0, vec![])).unwrap()
}

pub(super) fn list_roll_errors() -> Vec<Sample<RollError>> {
    let plans = samples!(PlanError {
        NoHosts: [PlanError::NoHosts],
        NoCommand: [PlanError::NoCommand],
        CapacityFloor: [PlanError::CapacityFloor { batch: 2, left: 1, all: 3, min_up: 2 }],
    });
    let finished = |result, verb| {
        let at = jiff::Timestamp::UNIX_EPOCH;
        RollError::Finished { roll: name("r20261121-085642-7e99"), at, result, verb }
    };
    let web2 = || vec![(name("web2"), list_link_errors().remove(0).1.to_string())];
    let mut all = samples!(RollError {
        Plan: [PlanError::NoCommand.into()],
        Lock: [list_lock_errors().remove(0).1.into()],
        Unfinished: [RollError::Unfinished { progress: Box::new(make_roll_progress()) }],
        NotFound: [RollError::NotFound { verb: "resume" }],
        Finished: [finished(RollResult::Done, "resume"), finished(RollResult::DoneWithFailures, "abort")],
        Refused: [RollError::Refused {
            refusals: list_refusals().into_iter().map(|(_, refusal)| refusal).take(3).collect()
        }],
        Unreachable: [RollError::Unreachable { hosts: web2() }],
        Owned: [RollError::Owned { hosts: vec![(name("web2"), make_owner())] }],
        NotStartable: [
            RollError::NotStartable {
                what: "the command".into(),
                reason: "there is no program file `./deploy.sh`".into()
            },
            RollError::NotStartable {
                what: "the command on `web1`".into(),
                reason: "`ansible` is not installed".into()
            },
        ],
        Hook: [RollError::Hook("hook before_roll `./notify.sh` exited with 1".into())],
        Journal: [list_journal_errors().remove(0).1.into()],
        UnknownHost: [RollError::UnknownHost(name("web3"))],
        PortsChanged: [RollError::PortsChanged {
            verb: "resume",
            refusals: vec![Refusal::OtherPort {
                conflict: PortConflict {
                    side: PortSide::Host(name("web1")),
                    setting: PortSetting::Check,
                    configured: example::port(8889),
                    found: 8888,
                },
            }],
        }],
        MainChanged: [RollError::MainChanged {
            roll: name("r20261121-085642-7e99"),
            service: name("shop"),
            version: name("2.0.0"),
            hosts: vec![HostMain { host: name("web1"), version: Some(name("1.0.0")) }],
        }],
    });
    all.extend(wrap(plans, RollError::Plan));
    all.extend(wrap(list_refusals(), |refusal| RollError::Refused { refusals: vec![refusal] }));
    all
}

pub(super) fn list_promotion_errors() -> Vec<Sample<PromotionError>> {
    let promotion = || PromotionId::new(jiff::Timestamp::UNIX_EPOCH, 7);
    let progress = promote::build_progress(&example::make_promotion_entries([0], vec![])).unwrap();
    let mut all = samples!(PromotionError {
        Lock: [list_lock_errors().remove(0).1.into()],
        Unfinished: [PromotionError::Unfinished { progress: Box::new(progress) }],
        NotFound: [PromotionError::NotFound { service: name("shop"), verb: "resume" }],
        Finished: [PromotionError::Finished { service: name("shop"), promotion: promotion(), verb: "abort" }],
        NotReady: [PromotionError::NotReady {
            hosts: vec![(name("web1"), list_link_errors().remove(0).1.into())]
        }],
        NotWaitingForApproval: [PromotionError::NotWaitingForApproval {
            service: name("shop"),
            promotion: promotion()
        }],
        NotRunning: [PromotionError::NotRunning { service: name("shop"), promotion: promotion() }],
        NotEnded: [PromotionError::NotEnded {
            service: name("shop"),
            promotion: promotion(),
            waited: std::time::Duration::from_mins(2)
        }],
        Journal: [list_journal_errors().remove(0).1.into()],
        UnknownHost: [PromotionError::UnknownHost(name("web3"))],
    });
    let not_ready = |error: NotReadyError| PromotionError::NotReady { hosts: vec![(name("web1"), error)] };
    let not_ready_errors = samples!(NotReadyError {
        Refused: [host::list_preflight_errors().remove(0).1.into()],
        Unhealthy: [NotReadyError::Unhealthy {
            service: name("shop"),
            version: name("2.0.0"),
            reason: "10.0.0.1:20001/health answered 503, expected 200".into(),
        }],
        Unread: [list_link_errors().remove(1).1.into()],
    });
    all.extend(wrap(not_ready_errors, not_ready));
    all.extend(wrap(host::list_preflight_errors(), |error| not_ready(error.into())));
    all
}

#[allow(clippy::too_many_lines, reason = "a table with a row for each variant")]
pub(super) fn list_deploy_errors() -> Vec<Sample<FleetDeployError>> {
    let (service, version) = (|| name("shop"), || name("2.0.0"));
    let unreachable = || list_link_errors().remove(0).1;
    let (web1, web2) = (|| name::<HostName>("web1"), || name::<HostName>("web2"));
    let match_not_proven = |verdict, reason: &str| FleetDeployError::MatchNotProven {
        service: service(),
        version: version(),
        verdict,
        reason: reason.into(),
    };
    let overtaken = |main, actor| OvertakenHost { host: web2(), main, actor };
    let mut all = samples!(FleetDeployError {
        NoVersion: [FleetDeployError::NoVersion { service: service(), version: version() }],
        NoMain: [FleetDeployError::NoMain(service())],
        Unread: [
            FleetDeployError::Unread { hosts: vec![(web2(), unreachable())], missing: vec![] },
            FleetDeployError::Unread { hosts: vec![(web2(), unreachable())], missing: vec![web1()] },
        ],
        PartlyRead: [FleetDeployError::PartlyRead { read: 2, unread: vec![(web2(), unreachable())] }],
        AlteredReleases: [
            FleetDeployError::AlteredReleases {
                releases: vec![(web1(), "shop/2.0.0".into()), (web2(), "shop/2.0.0~2".into())],
                unread: vec![],
            },
            FleetDeployError::AlteredReleases {
                releases: vec![(web1(), "shop/2.0.0".into())],
                unread: vec![(web2(), unreachable())],
            },
        ],
        NoMatch: [FleetDeployError::NoMatch],
        Hosts: [FleetDeployError::Hosts(vec![(web1(), unreachable()), (web2(), unreachable())])],
        Partial: [FleetDeployError::Partial { done: 2, failed: vec![(web2(), unreachable())] }],
        MissingOnHosts: [FleetDeployError::MissingOnHosts {
            service: service(),
            version: version(),
            hosts: vec![web1(), web2()],
        }],
        MainWithShadows: [FleetDeployError::MainWithShadows {
            service: service(),
            version: version(),
            hosts: vec![web2()],
        }],
        OtherRelease: [
            FleetDeployError::OtherRelease {
                service: service(),
                version: version(),
                host: web1(),
                difference: ReleaseDifference::Digest {
                    there: Some(Digest("3b2e6f0c9d1a47".into())),
                    given: Some(Digest("91c04fae55b7d2".into())),
                },
            },
            FleetDeployError::OtherRelease {
                service: service(),
                version: version(),
                host: web1(),
                difference: ReleaseDifference::RunSpec("command"),
            },
            FleetDeployError::OtherRelease {
                service: service(),
                version: version(),
                host: web1(),
                difference: ReleaseDifference::HealthCheck(Box::new(HealthPaths {
                    there: "/a".into(),
                    given: "/b".into()
                })),
            },
        ],
        SplitVersion: [FleetDeployError::SplitVersion {
            service: service(),
            version: version(),
            parts: vec![(name("dp_0s3k5mqz8v"), vec![web1()]), (name("dp_0s3k5mqz9w"), vec![web2()])],
        }],
        CannotMerge: [FleetDeployError::CannotMerge {
            service: service(),
            version: version(),
            host: web2(),
            other: web1(),
            difference: ReleaseDifference::RunSpec("environment"),
        }],
        Archive: [list_archive_errors().remove(0).1.into()],
        Lock: [list_lock_errors().remove(0).1.into()],
        Roll: [
            RollError::Plan(PlanError::CapacityFloor { batch: 2, left: 1, all: 3, min_up: 2 }).into(),
            list_roll_errors().remove(1).1.into(),
        ],
        Owned: [FleetDeployError::Owned { hosts: vec![(name("web2"), make_owner())] }],
        RollIncomplete: [
            FleetDeployError::RollIncomplete {
                done: 1,
                total: 3,
                reason: "1 failed, at most 0 may".into(),
                finished: false,
                service: service(),
                recovery: AssignRecovery { returns: vec![(name("1.0.0"), vec![web1()])] },
            },
            FleetDeployError::RollIncomplete {
                done: 0,
                total: 3,
                reason: "1 failed, at most 0 may".into(),
                finished: false,
                service: service(),
                recovery: AssignRecovery::default(),
            },
            FleetDeployError::RollIncomplete {
                done: 2,
                total: 3,
                reason: "1 failed".into(),
                finished: true,
                service: service(),
                recovery: AssignRecovery::default(),
            },
        ],
        SecondMain: [FleetDeployError::SecondMain {
            service: service(),
            version: version(),
            hosts: vec![name("web3")],
            main: name("1.0.0"),
            others: vec![web1(), name("web2")],
        },],
        RolledBack: [
            FleetDeployError::RolledBack {
                service: service(),
                version: version(),
                reason: "web2: 10.0.0.2:20001/health answered 503, expected 200".into(),
                restored: Some(name("1.0.0")),
            },
            FleetDeployError::RolledBack {
                service: service(),
                version: version(),
                reason: "web2: it ended 3 times".into(),
                restored: None,
            },
        ],
        Overtaken: [FleetDeployError::Overtaken {
            service: service(),
            version: version(),
            hosts: vec![overtaken(Some(name("0.9.0")), Some(ops())), overtaken(None, None)],
        }],
        MatchNotProven: [
            match_not_proven(
                ComparisonVerdict::Differs,
                "98% of 100 answers match, 99.9% are wanted; most differ in status (2)"
            ),
            match_not_proven(ComparisonVerdict::Insufficient, "only 12 of 100 answers compared"),
        ],
        NoBalancer: [FleetDeployError::NoBalancer],
        NoWeights: [FleetDeployError::NoWeights(WeightsError::NoCanary)],
        WeightsNotAllowed: [FleetDeployError::WeightsNotAllowed(name("lb1"))],
        WeightNotSet: [FleetDeployError::WeightNotSet {
            balancer: name("lb1"),
            server: "main-web1".into(),
            source: list_balancer_errors().remove(0).1,
        }],
        RollbackSplit: [FleetDeployError::RollbackSplit {
            service: name("shop"),
            hosts: vec![
                HostRollback { host: name("web1"), main: Some(name("2.0.0")), target: Some(name("1.1.0")) },
                HostRollback { host: name("web2"), main: Some(name("2.0.0")), target: Some(name("1.0.0")) },
                HostRollback { host: name("web3"), main: Some(name("2.0.0")), target: None },
            ],
        }],
        Interrupted: [FleetDeployError::Interrupted],
        TaskFailed: [FleetDeployError::TaskFailed("task 7 panicked".into())],
    });
    let weights = samples!(WeightsError {
        NoCanary: [WeightsError::NoCanary],
        NoMain: [WeightsError::NoMain],
        TooFine: [WeightsError::TooFine { share: name("0.01%"), canaries: 1, all: 3 }],
    });
    all.extend(wrap(weights, FleetDeployError::NoWeights));
    all.extend(wrap(list_archive_errors(), FleetDeployError::Archive));
    let not_set =
        |source| FleetDeployError::WeightNotSet { balancer: name("lb1"), server: "main-web1".into(), source };
    all.extend(wrap(list_balancer_errors(), not_set));
    all.extend(wrap(list_link_errors(), |error| FleetDeployError::Hosts(vec![(web1(), error)])));
    all
}

fn list_archive_errors() -> Vec<Sample<ArchiveError>> {
    samples!(ArchiveError {
        Missing: [ArchiveError::Missing { path: "dist".into() }],
        UnsupportedFormat: [ArchiveError::UnsupportedFormat { path: "shop.zip".into() }],
        Refused: [ArchiveError::Refused {
            path: "dist/etc".into(),
            reason: "is a link that points outside of the release"
        }],
        Full: [ArchiveError::Full { path: "/tmp/switchman.tar.gz".into() }],
        Failed: [ArchiveError::Failed {
            action: "read",
            path: "dist/key.pem".into(),
            reason: "Permission denied (os error 13)".into()
        }],
    })
}

pub(super) fn list_move_errors() -> Vec<Sample<MoveError>> {
    let store = || "PostgreSQL at db1:5432".to_owned();
    samples!(MoveError {
        Lock: [list_lock_errors().remove(0).1.into()],
        Journal: [list_journal_errors().remove(0).1.into()],
        SameStore: [MoveError::SameStore { store: store() }],
        NotEmpty: [MoveError::NotEmpty {
            store: store(),
            found: JournalCounts { rolls: 2, promotions: 1, entries: 57, notes: 0 },
        }],
        Differs: [MoveError::Differs { store: store() }],
    })
}

pub(super) fn list_lock_errors() -> Vec<Sample<LockError>> {
    let command = || make_lock(LockPurpose::Command { name: "assign".into() });
    let purposes = samples!(LockPurpose {
        Roll: [LockPurpose::Roll { roll: name("r20261121-085642-7e99") }],
        Promotion: [LockPurpose::Promotion { service: name("shop"), version: name("2.0.0") }],
        Command: [LockPurpose::Command { name: "assign".into() }],
        Operator: [LockPurpose::Operator { message: "database migration".into() }],
    });
    let operator = || make_lock(LockPurpose::Operator { message: "database migration".into() });
    let mut all =
        wrap(purposes, |purpose| LockError::Locked { lock: make_lock(purpose), waited: Duration::ZERO });
    all.extend(samples!(LockError {
        Locked: [LockError::Locked { lock: command(), waited: secs(600) }],
        Journal: [list_journal_errors().remove(0).1.into()],
        Interrupted: [LockError::Interrupted { lock: command() }],
        NotLocked: [LockError::NotLocked],
        OtherHolder: [LockError::OtherHolder { lock: operator(), user: "ops on ops2".into() }],
    }));
    all
}
