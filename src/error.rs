//! The table of outcomes with their message, hint and exit code: the only one.

use crate::config::ConfigError;
use crate::lab::LabError;
use crate::model::name::{HostName, ServiceName};
use crate::model::port_forward::Switch;
use crate::model::roll::RollId;
use crate::model::version::Version;
use crate::ops::fleet::deployments::FleetDeployError;
use crate::ops::fleet::forward::{SwitchError, SwitchManyError};
use crate::ops::fleet::lock::LockError;
use crate::ops::fleet::promote::PromotionError;
use crate::ops::fleet::roll::RollError;
use crate::ops::host::api::{change_code, store_code};
use crate::ops::host::rules::ChangeError;
use crate::ops::init::InitError;
use crate::plan::host_selection::SelectionError;
use crate::world::journal::JournalError;
use crate::world::machine::MachineError;
use crate::world::store::StoreError;

mod hint;
mod message;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod snapshots;

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
    #[error("{}", message::describe_store(.0))]
    Store(#[from] StoreError),
    #[error("{}", message::describe_switch_many(.0))]
    SwitchMany(#[from] SwitchManyError),
    /// The hosts that were switched are printed already.
    #[error("{}", message::describe_switches(*.switch, *.done, *.of, .failed))]
    SwitchedPartially { switch: Switch, done: usize, of: usize, failed: Vec<SwitchError> },
    #[error("{}", message::describe_roll(.0))]
    Roll(#[from] RollError),
    /// The roll's report is printed already. `service_flag`: the ` --service NAME` that a command line about it needs.
    #[error("cannot complete the roll: {done} of {of} hosts are done: {why}")]
    RollIncomplete { roll: RollId, done: usize, of: usize, why: String, finished: bool, service_flag: String },
    #[error("{}", message::describe_promotion(.0))]
    Promotion(#[from] PromotionError),
    /// The promotion's report is printed already. `unreached_hosts`: hosts that may still have their canary.
    #[error("cannot promote {service} {version}: {why}{}", message::describe_unreached_hosts(.unreached_hosts))]
    NotPromoted {
        service: ServiceName,
        version: Version,
        why: String,
        unreached_hosts: Vec<HostName>,
        finished: bool,
    },
    #[error("{}", message::describe_journal(.0))]
    Journal(#[from] JournalError),
    #[error("{}", message::describe_lock(.0))]
    Lock(#[from] LockError),
    #[error("cannot finish the command: a second signal stopped it at once")]
    ForcedStop,
    /// `check` found problems, which are printed already.
    #[error("cannot pass the check: {problems} problem{} found", if *.problems == 1 { "" } else { "s" })]
    ProblemsFound { problems: usize },
    /// `compare`; the report is printed already.
    #[error("cannot pass the comparison: {reason}")]
    AnswersDiffer { reason: String },
    /// `compare`; the report is printed already.
    #[error("cannot compare the answers: {reason}")]
    InsufficientSamples { reason: String },
    #[error(transparent)]
    Init(InitError),
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The rehearsal's report is printed already.
    #[error("cannot complete the rehearsal: {}", .faults.join("; "))]
    DemoFailed { faults: Vec<String> },
    #[error("cannot select the service `{requested}`: the configuration has {}", .known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))]
    UnknownService { requested: ServiceName, known: Vec<ServiceName> },
    #[error("{}", message::describe_deployments(.0))]
    Deployments(#[from] FleetDeployError),
    /// A question was answered with no: seed row R20 (docs/design/seed-systems.md#restate).
    #[error("{0}")]
    Declined(&'static str),
    /// Seed row D17 (docs/design/seed-systems.md#mvi-and-daeploy).
    #[error("Include the name or name and version of the service(s) to kill or -a/--all to kill all.")]
    NoTargetNamed,
    /// End of input at a question: seed row D12 (docs/design/seed-systems.md#mvi-and-daeploy).
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

    /// Returns the next action. `None`: the operator gave no consent, or the message itself is the action.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Declined(_) | Self::NoTargetNamed | Self::Aborted => return None,
            Self::Config(error) => hint::config_hint(error).into(),
            Self::HostSelection(error) => hint::selection_hint(error).into(),
            Self::Machine(_) => "run it as root, and with `/proc` mounted".into(),
            Self::Init(InitError::AlreadyExists { .. }) => {
                "nothing was written; name another directory, or replace them with `--force`".into()
            }
            Self::Init(_) => {
                "nothing was left in the directory; correct the cause, then run `switchman init` again".into()
            }
            Self::Lab(error) => hint::lab_hint(error).into(),
            Self::DemoFailed { .. } => {
                "the report shows every step; `switchman -vv lab demo` logs what they do".into()
            }
            Self::ProblemsFound { .. } => {
                "repair each problem as its `fix:` describes, then run `switchman check` again".into()
            }
            Self::UnknownService { .. } => "name one of these with `--service NAME`, or add it under `services:` with three ports of its own".into(),
            Self::AnswersDiffer { .. } => hint::ANSWERS_DIFFER_HINT.into(),
            Self::InsufficientSamples { .. } => hint::INSUFFICIENT_SAMPLES_HINT.into(),
            Self::Deployments(error) => hint::deployments_hint(error),
            Self::Promotion(error) => hint::promotion_hint(error),
            Self::NotPromoted { service, version, unreached_hosts, finished, .. } => {
                hint::not_promoted_hint(service, version, unreached_hosts, *finished)
            }
            Self::Switch(error) | Self::SwitchMany(SwitchManyError::Switch(error)) => {
                hint::switch_hint(error)
            }
            Self::SwitchMany(SwitchManyError::Lock(error)) | Self::Lock(error) => hint::lock_hint(error),
            Self::SwitchedPartially { .. } => "`switchman status` shows every host".into(),
            Self::Roll(error) => hint::roll_hint(error),
            Self::RollIncomplete { finished: true, .. } => hint::FINISHED_ROLL_HINT.into(),
            Self::RollIncomplete { finished: false, service_flag: flag, .. } => format!(
                "`switchman roll{flag} --resume` continues it, `switchman roll{flag} --abort` puts back every host it took out"
            ),
            Self::Journal(error) => hint::journal_hint(error),
            Self::ForcedStop => {
                "`switchman roll --status` shows how far a roll was, `switchman status` shows every host"
                    .into()
            }
            Self::Restore(error) => hint::error_code_hint(change_code(error)).into(),
            Self::Store(error) => hint::error_code_hint(store_code(error)).into(),
            Self::Usage { .. } => "`switchman help COMMAND` lists the arguments of a command".into(),
            Self::Other { .. } => {
                "remove the cause, then run the command again; `-vv` logs every step".into()
            }
        })
    }
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
            "`switchman roll --service blog --resume` continues it, `switchman roll --service blog --abort` puts back \
             every host it took out"
        );
        assert!(hint("").starts_with("`switchman roll --resume` continues it"));
        let ended = not_rolled(2, true, "").hint().unwrap();
        assert!(ended.contains("enable-forward --host NAME") && !ended.contains("--resume"), "{ended}");
        assert_eq!(not_rolled(2, true, "").code(), ExitStatus::Partial);
        assert_eq!(not_rolled(0, false, "").code(), ExitStatus::Failed);
    }

    #[test]
    fn usage_failure_exits_with_2() {
        let missing = Failure::Usage { what: "compare".into(), why: "the VERSION is missing" };
        assert_eq!(missing.code(), ExitStatus::Usage);
    }
}
