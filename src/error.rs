//! The table of outcomes with their message, hint and exit code: the only one.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::ConfigError;
use crate::config::host_edit::HostEditError;
use crate::lab::LabError;
use crate::lint::AdoptionError;
use crate::model::client_list::ClientListError;
use crate::model::duration;
use crate::model::failure::ErrorCode;
use crate::model::name::{HostName, ServiceName};
use crate::model::plural::Count;
use crate::model::port_forward::Switch;
use crate::model::private_file::Exposure;
use crate::model::roll::RollId;
use crate::model::version::Version;
use crate::ops::fleet::deployments::FleetDeployError;
use crate::ops::fleet::discovery::DiscoveryError;
use crate::ops::fleet::forward::{SwitchError, SwitchManyError};
use crate::ops::fleet::journal_move::MoveError;
use crate::ops::fleet::lock::LockError;
use crate::ops::fleet::promote::PromotionError;
use crate::ops::fleet::roll::RollError;
use crate::ops::fleet::withdraw::WithdrawError;
use crate::ops::host::deployments::error::HostDeployError;
use crate::ops::host::error_code::{change_code, store_code};
use crate::ops::host::rules::ChangeError;
use crate::ops::init::InitError;
use crate::plan::host_selection::SelectionError;
use crate::world::journal_store::JournalError;
use crate::world::link::LinkError;
use crate::world::machine::MachineError;
use crate::world::store::StoreError;
use hint::deployments::{ANSWERS_DIFFER_HINT, INSUFFICIENT_SAMPLES_HINT, deployments_hint};
use hint::fleet::{
    FINISHED_ROLL_HINT, journal_hint, journal_move_hint, lock_hint, not_promoted_hint, promotion_hint,
    roll_hint,
};
use hint::host::error_code_hint;
use hint::init::{adoption_hint, host_edit_hint, init_hint};
pub use subject::Subject;

mod hint;
mod message;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod snapshots;
mod subject;

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
    Discovery(#[from] DiscoveryError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
    #[error(transparent)]
    Withdraw(#[from] WithdrawError),
    #[error("cannot bring the kernel to the recorded state: {0}")]
    Restore(#[source] ChangeError),
    #[error("{}", message::describe_store(.0))]
    Store(#[from] StoreError),
    #[error("{}", message::describe_switch_many(.0))]
    SwitchMany(#[from] SwitchManyError),
    /// The hosts that were switched are printed already.
    #[error("{}", message::describe_switches(*.switch, *.done, *.of, .failed))]
    SwitchedPartially { switch: Switch, done: usize, of: usize, failed: Vec<SwitchError> },
    /// `disable-forward --deregister`: `of` hosts were switched, which is printed already.
    #[error("{}", message::describe_withdrawals(*.done, *.of, .failed))]
    WithdrawnPartially { done: usize, of: usize, failed: Vec<WithdrawError> },
    #[error("{}", message::describe_roll(.0))]
    Roll(#[from] RollError),
    /// The roll's report is printed already. `service_flag`: the ` --service NAME` that a command line about it needs.
    #[error("cannot complete the roll: {done} of {} done: {reason}", Count(.of, "host"))]
    RollIncomplete {
        roll: RollId,
        done: usize,
        of: usize,
        reason: String,
        finished: bool,
        service_flag: String,
    },
    #[error("{}", message::describe_promotion(.0))]
    Promotion(#[from] PromotionError),
    /// The promotion's report is printed already. `unreached_hosts`: hosts that may still have their canary.
    #[error("cannot promote {service} {version}: {reason}{}", message::describe_unreached_hosts(.unreached_hosts))]
    NotPromoted {
        service: ServiceName,
        version: Version,
        reason: String,
        unreached_hosts: Vec<HostName>,
        finished: bool,
    },
    #[error("{}", message::describe_journal(.0))]
    Journal(#[from] JournalError),
    #[error("{}", message::describe_lock(.0))]
    Lock(#[from] LockError),
    #[error("{}", message::describe_journal_move(.0))]
    JournalMove(#[from] MoveError),
    /// A command that changes nothing received a signal.
    #[error("cannot finish the command: a signal stopped it")]
    Interrupted,
    #[error("cannot finish the command: a second signal stopped it at once")]
    ForcedStop { recovery: &'static str },
    /// `check` found problems, which are printed already.
    #[error("cannot pass the check: {} found", Count(.problems, "problem"))]
    ProblemsFound { problems: usize },
    /// `compare`; the report is printed already.
    #[error("cannot pass the comparison: {reason}")]
    AnswersDiffer { reason: String, subject: Subject },
    /// `compare`; the report is printed already.
    #[error("cannot compare the answers: {reason}")]
    InsufficientSamples { reason: String, subject: Subject },
    #[error(transparent)]
    Init(InitError),
    /// `init --from`.
    #[error("cannot take the configuration from haproxy.cfg: {0}")]
    Adoption(AdoptionError),
    /// `init --add-host`.
    #[error("cannot add a host to `{}`: {error}", .file.display())]
    AddHost { file: PathBuf, error: HostEditError },
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The rehearsal's report is printed already.
    #[error("cannot complete the rehearsal: {}", .faults.join("; "))]
    DemoFailed { faults: Vec<String> },
    /// `--service NAME`, and the NAME of `deploy`.
    #[error("cannot {action} `{requested}`: the configuration has {}", message::join_services(.known))]
    UnknownService { action: &'static str, requested: ServiceName, known: Vec<ServiceName> },
    /// The NAME of every other command: seed row D13 (docs/design/seed-systems.md#mvi-and-daeploy).
    #[error("No main service matching {requested}")]
    NoSuchService { requested: ServiceName, known: Vec<ServiceName> },
    /// `action`: what the command was to do, for causes that do not name it.
    #[error("{}", message::describe_deployments(.action, .error))]
    Deployments { action: String, subject: Option<Subject>, error: FleetDeployError },
    /// `kill` of several versions stopped; those that were killed are printed already.
    #[error("{cause}; {} killed before", Count(.killed, "version"))]
    KilledPartially { killed: usize, cause: Box<Self> },
    /// A question was answered with no: seed row R20 (docs/design/seed-systems.md#restate).
    #[error("{0}")]
    Declined(&'static str),
    /// Seed row D17 (docs/design/seed-systems.md#mvi-and-daeploy).
    #[error("Include the name or name and version of the service(s) to kill or -a/--all to kill all.")]
    NoTargetNamed,
    /// End of input at a question: seed row D12 (docs/design/seed-systems.md#mvi-and-daeploy).
    #[error("Aborted!")]
    Aborted,
    /// Arguments that clap accepts, and that contradict each other or cannot be parsed.
    #[error("cannot {action}: {reason}")]
    Usage { command: &'static str, action: String, reason: String },
    /// A command about one version was given the name of a service alone.
    #[error("cannot {action}: the VERSION is missing")]
    MissingVersion { action: String, name: String },
    /// `history --roll`.
    #[error("cannot show roll {roll}: the journal has no such roll")]
    UnknownRoll { roll: RollId },
    /// `promote --abort` came too late.
    #[error("cannot abort the promotion: {service} {version} became main before the abort took effect")]
    AlreadyPromoted { service: ServiceName, version: Version },
    #[error("cannot write to stdout: {source}")]
    Output { source: io::Error },
    #[error("cannot read the answer: {source}")]
    Input { source: io::Error },
    /// A question without a terminal, and no answer on standard input.
    #[error("cannot read the answer: standard input is no terminal, and nothing was written to it for {}", duration::format(*.waited))]
    NoAnswer { waited: Duration },
    /// ssh would refuse it.
    #[error("cannot use the ssh key `{}`: its mode is {mode:04o}, and ssh refuses a key that others may read", .path.display())]
    LooseKey { path: PathBuf, mode: u32 },
    #[error("cannot {action} `{}`: {source}", .path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot use the {what} `{}`: {exposure}", .path.display())]
    ExposedSecret { what: &'static str, path: PathBuf, exposure: Exposure },
    #[error("cannot use the token `{}`: it has about {bits} bits, and {required} are needed", .path.display())]
    WeakToken { path: PathBuf, bits: u32, required: u32 },
    /// `--token-file` or `--clients` of the agent.
    #[error("cannot read the clients of `{}`: {source}", .path.display())]
    ClientList { path: PathBuf, source: ClientListError },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    /// `agent` or `proxy`: another process of the same kind serves the socket.
    #[error("cannot serve: another {server} serves `{}`", .path.display())]
    SocketInUse { server: ServerKind, path: PathBuf },
    #[error("cannot {}: {reason}", .server.describe_start())]
    Serve { server: ServerKind, reason: String },
    #[error("cannot start the instances of this host: {0}")]
    InstanceStart(#[source] HostDeployError),
    #[error("cannot route the rules around a dead proxy: {0}")]
    ProxyBypass(#[source] HostDeployError),
    #[error("cannot supervise the instance: {reason}")]
    Supervision { reason: String },
    /// The system refuses a thread, a signal handler or a file descriptor.
    #[error("cannot {action}: {source}")]
    System { action: &'static str, source: io::Error },
}

/// The servers that switchman runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    Agent,
    Proxy,
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Agent => "agent",
            Self::Proxy => "proxy",
        })
    }
}

impl ServerKind {
    const fn describe_start(self) -> &'static str {
        match self {
            Self::Agent => "serve",
            Self::Proxy => "run the proxy",
        }
    }
}

impl Failure {
    pub fn code(&self) -> ExitStatus {
        match self {
            Self::InsufficientSamples { .. }
            | Self::NoTargetNamed
            | Self::MissingVersion { .. }
            | Self::Usage { .. }
            | Self::Config(_)
            | Self::HostSelection(_)
            | Self::Roll(RollError::Plan(_)) => ExitStatus::Usage,
            Self::Deployments { error: FleetDeployError::Hosts(failed), .. } if is_bad_request(failed) => {
                ExitStatus::Usage
            }
            Self::Deployments {
                error:
                    FleetDeployError::Partial { .. }
                    | FleetDeployError::PartlyRead { .. }
                    | FleetDeployError::RollIncomplete { done: 1.., .. },
                ..
            }
            | Self::SwitchedPartially { done: 1.., .. }
            | Self::WithdrawnPartially { .. }
            | Self::KilledPartially { .. }
            | Self::RollIncomplete { done: 1.., .. } => ExitStatus::Partial,
            _ => ExitStatus::Failed,
        }
    }

    /// Returns the next action.
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownService { requested, known, .. } | Self::NoSuchService { requested, known } => {
                hint::service_hint(requested, known)
            }
            Self::MissingVersion { name, .. } => format!("`switchman ls {name}` lists its versions"),
            Self::Usage { command, .. } => format!("`switchman help {command}` describes its arguments"),
            Self::Config(error) => hint::config_hint(error).into(),
            Self::HostSelection(error) => hint::selection_hint(error).into(),
            Self::Discovery(error) => hint::discovery_hint(error).into(),
            Self::Withdraw(error) => hint::withdraw_hint(error),
            Self::Lab(error) => hint::lab_hint(error),
            Self::AnswersDiffer { subject, .. } => subject.fill(ANSWERS_DIFFER_HINT),
            Self::InsufficientSamples { subject, .. } => subject.fill(INSUFFICIENT_SAMPLES_HINT),
            Self::Deployments { error, subject, .. } => {
                let hint = deployments_hint(error);
                subject.as_ref().map_or_else(|| hint.clone(), |subject| subject.fill(&hint))
            }
            Self::Promotion(error) => promotion_hint(error),
            Self::NotPromoted { service, version, unreached_hosts, finished, .. } => {
                not_promoted_hint(service, version, unreached_hosts, *finished)
            }
            Self::Switch(error) | Self::SwitchMany(SwitchManyError::Switch(error)) => {
                hint::switch_hint(error)
            }
            Self::SwitchMany(SwitchManyError::Lock(error)) | Self::Lock(error) => lock_hint(error),
            Self::Roll(error) => roll_hint(error),
            Self::RollIncomplete { finished: false, service_flag: flag, .. } => format!(
                "`switchman roll{flag} --resume` continues it, `switchman roll{flag} --abort` puts back every host it took out"
            ),
            Self::Journal(error) => journal_hint(error),
            Self::JournalMove(error) => journal_move_hint(error),
            Self::Restore(error) => error_code_hint(change_code(error)).into(),
            Self::Store(error) => error_code_hint(store_code(error)).into(),
            Self::InstanceStart(error) | Self::ProxyBypass(error) => error_code_hint(error.code()).into(),
            Self::AlreadyPromoted { service, .. } => {
                format!("`switchman rollback {service}` makes the version before it main again")
            }
            Self::SocketInUse { server: ServerKind::Proxy, path } => {
                format!(
                    "the agent starts the proxy by itself; `fuser -v {}` shows which one runs",
                    path.display()
                )
            }
            Self::File { action: "write", path, .. } => {
                format!("check the free space and who may write to `{}`", path.display())
            }
            Self::File { path, .. } => format!("check that `{}` exists, and who may read it", path.display()),
            Self::WeakToken { path, .. } => {
                format!("write a random one: `openssl rand -hex 32 >{}`", path.display())
            }
            Self::ClientList { path, .. } => {
                format!(
                    "`{}` has one client a line: `NAME TOKEN [ROLE]` with --token-file, `NAME [ROLE]` with --clients",
                    path.display()
                )
            }
            Self::ExposedSecret { path, exposure: Exposure::Owner(_), .. } => {
                format!("`chown root {}`, then run the command again", path.display())
            }
            Self::LooseKey { path, .. } | Self::ExposedSecret { path, exposure: Exposure::Mode(_), .. } => {
                format!("`chmod 600 {}`, then run the command again", path.display())
            }
            Self::Listen { address, .. } => {
                format!(
                    "`ss -ltnp` shows which program listens on port {}; give another address",
                    address.port()
                )
            }
            Self::Adoption(error) => adoption_hint(error).into(),
            failure => failure.constant_hint().into(),
        }
    }

    /// Returns the next action that is the same for every value of the failure.
    const fn constant_hint(&self) -> &'static str {
        match self {
            Self::Machine(_) => "run it as root, and with `/proc` mounted",
            Self::Init(error) => init_hint(error),
            Self::AddHost { error, .. } => host_edit_hint(error),
            Self::DemoFailed { .. } => {
                "the report shows every step; `switchman -vv lab demo` logs what they do"
            }
            Self::ProblemsFound { .. } => {
                "repair each problem as its `fix:` describes, then run `switchman check` again"
            }
            Self::Declined(_) | Self::Aborted => {
                "nothing was changed; `--yes` answers every question with yes"
            }
            Self::NoTargetNamed => {
                "`switchman kill NAME VERSION` kills one version, `switchman kill NAME` all of a service, `switchman kill --all` \
                 everything"
            }
            Self::SwitchedPartially { .. } => "`switchman status` shows every host",
            Self::WithdrawnPartially { .. } => {
                "the hosts stay in maintenance; correct the causes, and run the command again"
            }
            Self::KilledPartially { .. } => {
                "`switchman ls` shows what is left; correct the cause, and run the command again"
            }
            Self::RollIncomplete { .. } => FINISHED_ROLL_HINT,
            Self::Interrupted => "nothing was changed; run the command again",
            Self::ForcedStop { recovery } => recovery,
            Self::UnknownRoll { .. } => {
                "`switchman history` lists the rolls; `--service NAME` and `--journal-dir DIR` select another journal"
            }
            Self::Output { .. } => {
                "free some space where its output goes, or send it elsewhere; `switchman status` shows what was done"
            }
            Self::Input { .. } | Self::NoAnswer { .. } => "`--yes` answers every question with yes",
            Self::SocketInUse { .. } => {
                "one agent per host is enough; `systemctl stop switchman` ends it, `--socket PATH` serves on another socket"
            }
            Self::Serve { server: ServerKind::Agent, .. } => {
                "run it as root, and check that path; `--socket PATH` names another socket"
            }
            Self::Serve { server: ServerKind::Proxy, .. } => {
                "the agent starts the proxy by itself; `systemctl status switchman` shows the agent"
            }
            Self::Supervision { .. } => {
                "switchman starts this command by itself; `switchman logs NAME VERSION` shows the instance"
            }
            Self::System { .. } => {
                "the system refuses threads or open files: `ulimit -a` shows the limits of this shell"
            }
            _ => "`switchman help COMMAND` lists the arguments of a command",
        }
    }
}

/// Whether every host refuses an argument, such as the name of a header: only a host parses some of them.
fn is_bad_request(failed: &[(HostName, LinkError)]) -> bool {
    let is_bad = |error: &LinkError| matches!(error, LinkError::Refused { code: ErrorCode::BadRequest, .. });
    !failed.is_empty() && failed.iter().all(|(_, error)| is_bad(error))
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
            reason: "1 failed".into(),
            finished,
            service_flag: flag.into(),
        }
    }

    #[test]
    fn roll_hint_names_service_and_omits_resume_when_finished() {
        let hint = |flag| not_rolled(2, false, flag).hint();
        assert_eq!(
            hint(" --service blog"),
            "`switchman roll --service blog --resume` continues it, `switchman roll --service blog --abort` puts back \
             every host it took out"
        );
        assert!(hint("").starts_with("`switchman roll --resume` continues it"));
        let ended = not_rolled(2, true, "").hint();
        assert!(ended.contains("enable-forward --host NAME") && !ended.contains("--resume"), "{ended}");
        assert_eq!(not_rolled(2, true, "").code(), ExitStatus::Partial);
        assert_eq!(not_rolled(0, false, "").code(), ExitStatus::Failed);
    }

    #[test]
    fn usage_failure_exits_with_2() {
        let missing = Failure::MissingVersion { action: "compare".into(), name: "shop".into() };
        assert_eq!(missing.code(), ExitStatus::Usage);
    }
}
