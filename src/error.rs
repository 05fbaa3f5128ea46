//! The table of outcomes with their message, hint and exit code: the only one.

use crate::config::ConfigError;
use crate::lab::LabError;
use crate::model::failure::ErrorCode;
use crate::model::lock::LockPurpose;
use crate::model::name::{HostName, ServiceName};
use crate::model::port_forward::Switch;
use crate::model::roll::RollId;
use crate::model::version::Version;
use crate::ops::fleet::balancer_wait::BalancerWaitError;
use crate::ops::fleet::deployments::FleetDeployError;
use crate::ops::fleet::drain::DrainError;
use crate::ops::fleet::forward::{SwitchError, SwitchManyError};
use crate::ops::fleet::lock::LockError;
use crate::ops::fleet::promote::PromotionError;
use crate::ops::fleet::roll::RollError;
use crate::ops::host::api::{change_code, store_code};
use crate::ops::host::rules::ChangeError;
use crate::ops::init::InitError;
use crate::plan::compare::ComparisonVerdict;
use crate::plan::host_selection::SelectionError;
use crate::plan::roll::PlanError;
use crate::plan::switch::Refusal;
use crate::world::journal::JournalError;
use crate::world::link::LinkError;
use crate::world::machine::MachineError;
use crate::world::store::StoreError;

/// 0 done or already so; 1 refused or failed; 2 usage, or too few samples for a verdict (`compare`); 3 partly done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    Success = 0,
    Failed = 1,
    Usage = 2,
    Partial = 3,
}

/// Every outcome of a command that is not success.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    HostSelection(#[from] SelectionError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
    #[error("cannot bring the kernel to the recorded state: {0}")]
    Restore(#[source] ChangeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    SwitchMany(#[from] SwitchManyError),
    /// The hosts that were switched are printed already.
    #[error("the forwards of {done} of {of} hosts are {switch}: {}", .failed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    SwitchedPartially { switch: Switch, done: usize, of: usize, failed: Vec<SwitchError> },
    #[error(transparent)]
    Roll(#[from] RollError),
    /// The roll's report is printed already. `service_flag`: the ` --service NAME` that a command line about it needs.
    #[error("{done} of {of} hosts are done: {why}")]
    RollIncomplete { roll: RollId, done: usize, of: usize, why: String, finished: bool, service_flag: String },
    #[error(transparent)]
    Promotion(#[from] PromotionError),
    /// The promotion's report is printed already. `unreached_hosts`: hosts that may still have their canary.
    #[error("{service} {version} did not become main: {why}{}", format_unreached_hosts(.unreached_hosts))]
    NotPromoted {
        service: ServiceName,
        version: Version,
        why: String,
        unreached_hosts: Vec<HostName>,
        finished: bool,
    },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("stopped at once")]
    ForcedStop,
    /// `check` found problems, which are printed already.
    #[error("{problems} problem{} found", if *.problems == 1 { "" } else { "s" })]
    ProblemsFound { problems: usize },
    /// `compare`; the report is printed already.
    #[error("{reason}")]
    AnswersDiffer { reason: String },
    /// `compare`; the report is printed already.
    #[error("{reason}")]
    InsufficientSamples { reason: String },
    #[error(transparent)]
    Init(InitError),
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The rehearsal's report is printed already.
    #[error("the rehearsal failed: {}", .faults.join("; "))]
    DemoFailed { faults: Vec<String> },
    #[error("the configuration has no service `{requested}`; it has {}", .known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))]
    UnknownService { requested: ServiceName, known: Vec<ServiceName> },
    #[error(transparent)]
    Deployments(#[from] FleetDeployError),
    /// A question was answered with no: seed row R20 (docs/design/seed-systems.md#restate).
    #[error("{0}")]
    Declined(&'static str),
    /// Seed row D17 (docs/design/seed-systems.md#mvi-and-daeploy).
    #[error("Include the name or name and version of the service(s) to kill or -a/--all to kill all.")]
    NoTargetNamed,
    /// End of input at a question.
    #[error("Aborted!")]
    Aborted,
    /// Arguments that clap accepts and that contradict each other.
    #[error("cannot {what}: {why}")]
    Usage { what: String, why: &'static str },
    #[error("cannot {what}: {why}")]
    Other { what: String, why: String },
}

impl Failure {
    pub const fn code(&self) -> ExitStatus {
        match self {
            Self::InsufficientSamples { .. }
            | Self::UnknownService { .. }
            | Self::Usage { .. }
            | Self::Config(_)
            | Self::HostSelection(_)
            | Self::Roll(RollError::Plan(_)) => ExitStatus::Usage,
            Self::Deployments(
                FleetDeployError::Partial { .. } | FleetDeployError::RollIncomplete { done: 1.., .. },
            )
            | Self::SwitchedPartially { done: 1.., .. }
            | Self::RollIncomplete { done: 1.., .. } => ExitStatus::Partial,
            _ => ExitStatus::Failed,
        }
    }

    /// Returns the next action as a full sentence, or `None`.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config(ConfigError::NotFound) => {
                Some("write one with `switchman init`, or name it with `--config FILE`".into())
            }
            Self::Config(_) => Some("`switchman schema` prints the shape of the file for your editor".into()),
            Self::HostSelection(SelectionError::NotAHost { .. }) => Some(
                "name one with `--host NAME`, or all with `--all`; add `--local` if this machine is that host".into(),
            ),
            Self::HostSelection(SelectionError::BadName { .. }) => Some("name it with `--host NAME`".into()),
            Self::Init(InitError::AlreadyExists { .. }) => {
                Some("nothing was written; name another directory, or replace them with `--force`".into())
            }
            Self::Init(_) => Some("nothing was left in the directory".into()),
            Self::Lab(LabError::NoPrivilege { .. }) => {
                Some("run it as root: `sudo switchman lab ...`".into())
            }
            Self::Lab(LabError::Exec(_) | LabError::Process(_)) => {
                Some("the lab needs iproute2, iptables, haproxy and nginx: `make setup` installs them".into())
            }
            Self::UnknownService { .. } => Some("add it under `services:`, with three ports of its own".into()),
            Self::AnswersDiffer { .. } => Some(ANSWERS_DIFFER_HINT.into()),
            Self::InsufficientSamples { .. } => Some(INSUFFICIENT_SAMPLES_HINT.into()),
            Self::Deployments(error) => deployments_hint(error),
            Self::Promotion(error) => promotion_hint(error),
            Self::NotPromoted { service, version, unreached_hosts: untold, finished, .. } => {
                Some(not_promoted_hint(service, version, untold, *finished))
            }
            Self::HostSelection(SelectionError::Unknown { .. })
            | Self::Declined(_)
            | Self::NoTargetNamed
            | Self::Lab(_)
            | Self::DemoFailed { .. }
            | Self::Aborted
            | Self::Machine(_)
            | Self::ProblemsFound { .. }
            | Self::Usage { .. }
            | Self::Other { .. } => None,
            Self::Switch(error) | Self::SwitchMany(SwitchManyError::Switch(error)) => switch_hint(error),
            Self::SwitchMany(SwitchManyError::Lock(error)) | Self::Lock(error) => lock_hint(error),
            Self::Roll(error) => roll_hint(error),
            Self::RollIncomplete { finished: false, service_flag: flag, .. } => Some(format!(
                "`switchman roll{flag} --resume` goes on from there, `switchman roll{flag} --abort` puts back every host it took out"
            )),
            Self::RollIncomplete { finished: true, .. } => Some(FINISHED_ROLL_HINT.into()),
            Self::SwitchedPartially { .. } => Some("`switchman status` shows every host".into()),
            Self::Journal(error) => Some(journal_hint(error)),
            Self::ForcedStop => Some(
                "the journal knows how far a roll was: `switchman roll --status`; `switchman status` shows a single host"
                    .into(),
            ),
            Self::Restore(error) => error_code_hint(change_code(error)),
            Self::Store(error) => error_code_hint(store_code(error)),
        }
    }
}

fn switch_hint(error: &SwitchError) -> Option<String> {
    match error {
        SwitchError::Refused { refusals, .. } => Some(refusal_hint(refusals)),
        SwitchError::NotChanged { source, .. } => link_hint(source),
        SwitchError::NotObserved { source: BalancerWaitError::TimedOut { .. }, switch: Switch::Off, .. } => Some(
            "the host still answers, so nothing is lost; `switchman check --haproxy-cfg FILE` looks for the reason, \
             `switchman enable-forward` takes it back"
                .into(),
        ),
        SwitchError::NotObserved { source: BalancerWaitError::TimedOut { .. }, switch: Switch::On, .. } => Some(
            "its users stay on its backup vhost; `switchman check --haproxy-cfg FILE` looks for the reason (MAINT was set \
             on HAProxy's side: `set server BACKEND/SERVER state ready`)"
                .into(),
        ),
        SwitchError::NotObserved { .. } => Some("`switchman status` shows its state".into()),
        SwitchError::NotDrained { source: DrainError::TimedOut { .. }, is_restored: true, .. } => Some(
            "`switchman status --watch` shows what is in flight; raise `roll.drain_timeout`, or add `--force` to leave \
             the host out and close the remaining requests"
                .into(),
        ),
        SwitchError::NotDrained { is_restored: false, .. } => {
            Some("`switchman status` shows its state; `switchman enable-forward` puts the host back".into())
        }
        SwitchError::NotDrained { .. } => None,
    }
}

fn refusal_hint(refusals: &[Refusal]) -> String {
    match refusals.first() {
        Some(Refusal::BalancerUnreadable { .. }) => {
            "`switchman check` shows details; `--force` switches without knowing that balancer's state".into()
        }
        Some(Refusal::NoServer { .. }) => {
            "name the server lines as in haproxy.cfg with `load_balancers[].servers`, or the host with `--host`".into()
        }
        Some(Refusal::BackupNotUp { .. }) => {
            "start the backup vhost first; `--force` switches all the same, and this host's users go elsewhere".into()
        }
        Some(Refusal::CapacityFloor { .. }) => {
            "bring the others back first, or lower `roll.min_up`; `--force` switches all the same".into()
        }
        Some(Refusal::CapacityFloorByConfig { .. }) => {
            "take fewer hosts at once, or lower `roll.min_up`; `--force` switches all the same".into()
        }
        Some(Refusal::AllHosts { .. }) => {
            "name some with `--host`, or do it host by host with `switchman roll`; `--force` switches all the same".into()
        }
        Some(Refusal::Unhealthy { .. }) | None => {
            "repair the main vhost first; `--force` switches all the same, and HAProxy's own check decides".into()
        }
    }
}

/// `roll --force` is about drains: no refusal to begin is overridden.
fn roll_refusal_hint(refusals: &[Refusal]) -> String {
    match refusals.first() {
        Some(Refusal::BalancerUnreadable { .. }) => {
            "`switchman check` shows details; remove a retired load balancer from `load_balancers`".into()
        }
        Some(Refusal::BackupNotUp { .. }) => "start the backup vhost first".into(),
        Some(Refusal::CapacityFloor { .. }) => "bring the others back first, or lower `roll.min_up`".into(),
        _ => "`switchman check` shows details".into(),
    }
}

pub fn link_hint(error: &LinkError) -> Option<String> {
    match error {
        LinkError::Unreachable { via, .. } if via.starts_with("ssh ") => Some(format!(
            "try it: `{via} switchman agent --stdio </dev/null`; ssh needs a key, because switchman does not prompt for a password"
        )),
        LinkError::Unreachable { .. } => Some("nothing was changed; is the agent running there?".into()),
        LinkError::Broken { .. } | LinkError::TimedOut { .. } => Some(
            "it may have been done or not: `switchman status` shows it, the same command again is safe"
                .into(),
        ),
        LinkError::VersionMismatch { .. } => {
            Some("nothing was changed; install the same switchman on both".into())
        }
        LinkError::Refused { code, .. } => error_code_hint(*code),
    }
}

fn lock_hint(error: &LockError) -> Option<String> {
    match error {
        LockError::Locked { lock } | LockError::OtherHolder { lock, .. } => match &lock.holder.purpose {
            LockPurpose::Operator { .. } => Some(format!(
                "contact {}, or force it: `switchman lock release --force --reason TEXT`",
                lock.holder.user
            )),
            LockPurpose::Roll { .. } => {
                Some("wait for it: `switchman roll --status` shows how far it is".into())
            }
            LockPurpose::Promotion { service, .. } => Some(format!(
                "`switchman promote {service} --status` shows how far it is, `switchman promote {service} --abort` ends it"
            )),
            LockPurpose::Command { .. } => Some("wait for it; it takes seconds".into()),
        },
        LockError::Journal(error) => Some(journal_hint(error)),
        LockError::Interrupted { .. } => Some("nothing was changed".into()),
        LockError::NotLocked => None,
    }
}

fn roll_hint(error: &RollError) -> Option<String> {
    match error {
        RollError::Lock(error) => lock_hint(error),
        RollError::Unfinished { standing } => {
            let service = &standing.spec.service;
            Some(format!(
                "`switchman roll --service {service} --status` shows its progress, `--resume` continues it, `--abort` \
                 puts back every host it took out"
            ))
        }
        RollError::Refused { refusals } => Some(roll_refusal_hint(refusals)),
        RollError::Unreachable { .. } => {
            Some("nothing was changed; restore the connection to them, omit them with `--host`, or allow failures with `--max-failures`".into())
        }
        RollError::Hook(_) => Some("nothing was changed".into()),
        RollError::Journal(error) => Some(journal_hint(error)),
        RollError::Plan(PlanError::CapacityFloor { .. }) => Some("take a smaller `--batch`, or lower `roll.min_up`".into()),
        RollError::UnknownHost(_) => Some("put it back into the configuration, then run the command again".into()),
        RollError::Finished { .. } => Some(FINISHED_ROLL_HINT.into()),
        RollError::Plan(_) | RollError::NotFound { .. } => None,
    }
}

/// The hint for a finished roll, which can neither be resumed nor aborted.
const FINISHED_ROLL_HINT: &str = "`switchman status` shows every host: repair one that is out, then `switchman enable-forward --host NAME`, or \
                          roll those that failed again with `--host NAME`";
const ANSWERS_DIFFER_HINT: &str = "what main answers differently by itself is left out after `switchman mirror NAME VERSION --control P`; \
                      leave out what is meant to differ with `--ignore FIELD`";
const INSUFFICIENT_SAMPLES_HINT: &str =
    "`switchman mirror NAME VERSION` sends it copies, and each answer is compared";
fn format_unreached_hosts(untold: &[HostName]) -> String {
    let names: Vec<&str> = untold.iter().map(HostName::as_str).collect();
    match names.as_slice() {
        [] => String::new(),
        names => format!("; {} could not be reached and may still have its canary", names.join(", ")),
    }
}

fn not_promoted_hint(
    service: &ServiceName,
    version: &Version,
    untold: &[HostName],
    finished: bool,
) -> String {
    match (finished, untold.is_empty()) {
        (true, _) => {
            format!("main answers everything; `switchman logs {service} {version}` shows what it wrote")
        }
        (false, true) => format!(
            "main answers everything; `switchman promote {service} --resume` goes on at the step where it was, `switchman \
             promote {service} --abort` ends it"
        ),
        (false, false) => format!("`switchman promote {service} --abort` retries those hosts"),
    }
}

fn promotion_hint(error: &PromotionError) -> Option<String> {
    match error {
        PromotionError::Lock(error) => lock_hint(error),
        PromotionError::Unfinished { standing } => {
            let service = &standing.spec.service;
            Some(format!(
                "its canary may have a share: `switchman promote {service} --status` shows its progress, `--resume` continues, \
                 `--abort` leaves main to answer everything"
            ))
        }
        PromotionError::NotReady { .. } => {
            Some("nothing was changed; `switchman ls --wide` shows every host".into())
        }
        PromotionError::NotWaitingForApproval { .. } | PromotionError::NotEnded { .. } => {
            Some("`switchman promote NAME --status` shows its progress".into())
        }
        PromotionError::NotRunning { .. } => {
            Some("`switchman promote NAME --resume` continues, and judges its step again".into())
        }
        PromotionError::Journal(error) => Some(journal_hint(error)),
        PromotionError::UnknownHost(_) => {
            Some("put it back into the configuration, then run the command again".into())
        }
        PromotionError::NotFound { .. } | PromotionError::Finished { .. } => None,
    }
}

fn deployments_hint(error: &FleetDeployError) -> Option<String> {
    match error {
        FleetDeployError::Hosts(failed) | FleetDeployError::Partial { failed, .. } => {
            failed.first().and_then(|(_, error)| link_hint(error))
        }
        FleetDeployError::Lock(error) => lock_hint(error),
        FleetDeployError::Roll(RollError::Plan(PlanError::CapacityFloor { .. })) => Some(
            "take a smaller `--batch`, or lower `roll.min_up`; `--strategy flip` takes no host out".into(),
        ),
        FleetDeployError::Roll(error) => roll_hint(error),
        FleetDeployError::RollIncomplete { finished: false, .. } => Some(
            "`switchman roll --resume` goes on from there (with `--service NAME` where it is not the first), `switchman \
             rollback NAME` goes back to the last good main"
                .into(),
        ),
        FleetDeployError::NoVersion { .. } | FleetDeployError::NoMain(_) | FleetDeployError::NoMatch => {
            Some("`switchman ls` shows what there is".into())
        }
        FleetDeployError::MatchNotProven { verdict: ComparisonVerdict::Insufficient, .. } => Some(INSUFFICIENT_SAMPLES_HINT.into()),
        FleetDeployError::MatchNotProven { .. } => Some("`switchman compare NAME VERSION` shows what differs".into()),
        FleetDeployError::WeightNotSet { .. } => {
            Some("what was set before it stays: the same command sets all of them, `--off` sets 100".into())
        }
        FleetDeployError::RolledBack { .. } => Some("`switchman logs NAME VERSION` shows what it wrote".into()),
        FleetDeployError::RollIncomplete { .. } | FleetDeployError::Overtaken { .. } => Some("`switchman ls --wide` shows every host".into()),
        FleetDeployError::MissingOnHosts { .. }
        | FleetDeployError::Unread(_)
        | FleetDeployError::Archive(_)
        | FleetDeployError::NoBalancer
        | FleetDeployError::NoWeights(_)
        | FleetDeployError::WeightsNotAllowed(_)
        | FleetDeployError::TaskFailed(_) => None,
    }
}

fn journal_hint(error: &JournalError) -> String {
    match error {
        JournalError::Full { .. } => {
            "free disk space, then `switchman roll --status` shows the progress and `switchman roll --resume` continues".into()
        }
        JournalError::Newer { .. } => "use the switchman that wrote it, or a newer one".into(),
        JournalError::Open { .. } | JournalError::Failed { .. } => {
            "name a writable directory with `--journal-dir DIR`, the same for every operator of this fleet".into()
        }
        JournalError::Damaged { path, .. } => {
            format!("move `{}` away; `switchman status` shows the hosts as they are", path.display())
        }
        JournalError::LockLost { .. } => {
            "another operator took the lock by force: `switchman history` shows who and why, `switchman roll --status` the progress".into()
        }
    }
}

fn error_code_hint(code: ErrorCode) -> Option<String> {
    let text = match code {
        ErrorCode::ProgramMissing => "install it: `apt-get install iptables`",
        ErrorCode::NoPrivilege => "run it as root, or with the capability: `sudo switchman ...`",
        ErrorCode::RulesLocked => {
            "nothing was changed; see who holds it with `fuser -v /run/xtables.lock`, then run the command again"
        }
        ErrorCode::RulesFailed => "nothing was changed; `switchman check` shows details",
        ErrorCode::RulesContested => {
            "find who: `iptables-save -t nat | grep SWITCHMAN`, then run the command again"
        }
        ErrorCode::RevertFailed => {
            "kernel and record may disagree: `switchman status` shows it, `switchman restore` repairs it"
        }
        ErrorCode::StateFailed => {
            "nothing was changed; run it as root, or name another directory with `--state-dir DIR`"
        }
        ErrorCode::StateNewer => {
            "nothing was changed; install a switchman at least as new as the one that wrote it"
        }
        ErrorCode::DiskFull => "nothing was changed; free some room, then run the command again",
        ErrorCode::StateDamaged => {
            "move it away; the forwards the kernel holds are kept and recorded again with the next switch"
        }
        ErrorCode::Busy => "nothing was changed; wait for it, then run the command again",
        ErrorCode::Interrupted => "nothing was changed",
        ErrorCode::BadArchive => "nothing was changed; `tar -tvzf FILE` shows what is in an archive",
        ErrorCode::ReleasesFailed => {
            "check who may write there, or name another directory on the host with `--releases-dir DIR`"
        }
        ErrorCode::Unauthorized => "the agent requires another key: see `agents:` in switchman.yaml",
        ErrorCode::NotDrained => {
            "`--drain-timeout 1m` waits for it; `--force` cuts what is in flight and counts it"
        }
        ErrorCode::Unhealthy => "repair it first; no traffic was sent to it",
        ErrorCode::NoAgent => {
            "nothing was changed; start it there: `systemctl start switchman`, or `switchman agent` without systemd"
        }
        ErrorCode::ProxyFailed => {
            "the rules bypass the proxy; `proxy.log` in the state directory, or `journalctl -u switchman-proxy`, shows why"
        }
        ErrorCode::Exists => {
            "nothing was changed: `switchman ls --wide` shows what is there, `switchman kill ID` takes it away, `switchman \
             update` replaces its code (`deploy` has no --force)"
        }
        ErrorCode::NotAllowed => "assign another version first, or kill the others first",
        ErrorCode::RunnerFailed
        | ErrorCode::Unprocessable
        | ErrorCode::RulesMalformed
        | ErrorCode::CommandFailed
        | ErrorCode::SocketsFailed
        | ErrorCode::BadRequest
        | ErrorCode::NotFound
        | ErrorCode::Other => return None,
    };
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_rolled(done: usize, finished: bool, flag: &str) -> Failure {
        let roll = "r20261121-085642-7e99".parse().unwrap();
        Failure::RollIncomplete {
            roll,
            done,
            of: 4,
            why: "1 failed".into(),
            finished,
            service_flag: flag.into(),
        }
    }

    #[test]
    fn roll_hint_names_service_and_omits_resume_when_finished() {
        let hint = |flag| not_rolled(2, false, flag).hint().unwrap();
        assert_eq!(
            hint(" --service blog"),
            "`switchman roll --service blog --resume` goes on from there, `switchman roll --service blog --abort` puts \
             back every host it took out"
        );
        assert!(hint("").starts_with("`switchman roll --resume` goes on"));
        let ended = not_rolled(2, true, "").hint().unwrap();
        assert!(ended.contains("enable-forward --host NAME") && !ended.contains("--resume"), "{ended}");
        assert_eq!(not_rolled(2, true, "").code(), ExitStatus::Partial);
        assert_eq!(not_rolled(0, false, "").code(), ExitStatus::Failed);
    }

    #[test]
    fn usage_failure_exits_with_2_without_hint() {
        let missing = Failure::Usage { what: "compare".into(), why: "the VERSION is missing" };
        assert_eq!((missing.code(), missing.hint()), (ExitStatus::Usage, None));
    }
}
