//! Outcome -> message, hint, exit code: the only such table.

use crate::config::ConfigError;
use crate::lab::LabError;
use crate::model::failure::ErrorCode;
use crate::model::forward::Switch;
use crate::model::lock::Purpose;
use crate::model::name::{HostName, ServiceName};
use crate::model::roll::RollId;
use crate::model::version::Version;
use crate::ops::fleet::balancer_wait::NotSeen;
use crate::ops::fleet::deployments::VersionsError;
use crate::ops::fleet::drain::NotDrained;
use crate::ops::fleet::forward::{ManyError, SwitchError};
use crate::ops::fleet::lock::LockError;
use crate::ops::fleet::promote::RolloutError;
use crate::ops::fleet::roll::RollError;
use crate::ops::host::api::{change_code, store_code};
use crate::ops::host::rules::ChangeError;
use crate::ops::init::InitError;
use crate::plan::compare::Verdict;
use crate::plan::roll::PlanError;
use crate::plan::switch::Refusal;
use crate::plan::this_host::PickError;
use crate::world::journal::JournalError;
use crate::world::link::LinkError;
use crate::world::machine::MachineError;
use crate::world::store::StoreError;

/// 0 done or already so; 1 refused or failed; 2 usage, or too little is known to say (`compare`); 3 partly done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Partly = 3,
}

/// Everything a command can end with that is not success.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Pick(#[from] PickError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
    #[error("cannot bring the kernel to the recorded state: {0}")]
    Restore(#[source] ChangeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Many(#[from] ManyError),
    /// The hosts that were switched are printed already.
    #[error("the forwards of {done} of {of} hosts are {switch}: {}", .failed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NotAll { switch: Switch, done: usize, of: usize, failed: Vec<SwitchError> },
    #[error(transparent)]
    Roll(#[from] RollError),
    /// The roll's report is printed already. `flag`: what a command line about it has besides.
    #[error("{done} of {of} hosts are done: {why}")]
    NotRolled { roll: RollId, done: usize, of: usize, why: String, finished: bool, flag: String },
    #[error(transparent)]
    Rollout(#[from] RolloutError),
    /// The roll-out's report is printed already. `untold`: hosts that may have their canary still.
    #[error("{service} {version} did not become main: {why}{}", untold_text(.untold))]
    NotPromoted { service: ServiceName, version: Version, why: String, untold: Vec<HostName>, finished: bool },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("stopped at once")]
    AtOnce,
    /// `check` found problems, which are printed already.
    #[error("{problems} problem{} found", if *.problems == 1 { "" } else { "s" })]
    Unsound { problems: usize },
    /// `compare`; the report is printed already.
    #[error("{reason}")]
    Unlike { reason: String },
    /// `compare`; the report is printed already.
    #[error("{reason}")]
    Unproven { reason: String },
    #[error(transparent)]
    Init(InitError),
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The rehearsal's report is printed already.
    #[error("the rehearsal failed: {}", .faults.join("; "))]
    Demo { faults: Vec<String> },
    #[error("the configuration has no service `{asked}`; it has {}", .known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))]
    NoService { asked: ServiceName, known: Vec<ServiceName> },
    #[error(transparent)]
    Versions(#[from] VersionsError),
    /// R20: a question was answered with no.
    #[error("{0}")]
    Declined(&'static str),
    /// D17
    #[error("Include the name or name and version of the service(s) to kill or -a/--all to kill all.")]
    NothingNamed,
    /// End of input at a question.
    #[error("Aborted!")]
    Aborted,
    /// Arguments that clap lets pass and that make no sense together.
    #[error("cannot {what}: {why}")]
    Usage { what: String, why: &'static str },
    #[error("cannot {what}: {why}")]
    Other { what: String, why: String },
}

impl Failure {
    pub const fn code(&self) -> Code {
        match self {
            Self::Unproven { .. }
            | Self::NoService { .. }
            | Self::Usage { .. }
            | Self::Config(_)
            | Self::Pick(_)
            | Self::Roll(RollError::Plan(_)) => Code::Usage,
            Self::Versions(VersionsError::Partly { .. } | VersionsError::NotRolled { done: 1.., .. })
            | Self::NotAll { done: 1.., .. }
            | Self::NotRolled { done: 1.., .. } => Code::Partly,
            _ => Code::Failed,
        }
    }

    /// What to do next; a full sentence or none.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config(ConfigError::Nowhere) => {
                Some("write one with `switchman init`, or name it with `--config FILE`".into())
            }
            Self::Config(_) => Some("`switchman schema` prints the shape of the file for your editor".into()),
            Self::Pick(PickError::NotAHost { .. }) => Some(
                "name one with `--host NAME`, or all with `--all`; add `--local` if this machine is that host".into(),
            ),
            Self::Pick(PickError::BadName { .. }) => Some("name it with `--host NAME`".into()),
            Self::Init(InitError::InTheWay { .. }) => {
                Some("nothing was written; name another directory, or replace them with `--force`".into())
            }
            Self::Init(_) => Some("nothing is left of it".into()),
            Self::Lab(LabError::NoPrivilege { .. }) => {
                Some("run it as root: `sudo switchman lab ...`".into())
            }
            Self::Lab(LabError::Exec(_) | LabError::Process(_)) => {
                Some("the lab needs iproute2, iptables, haproxy and nginx: `make setup` installs them".into())
            }
            Self::NoService { .. } => Some("add it under `services:`, with three ports of its own".into()),
            Self::Unlike { .. } => Some(UNLIKE.into()),
            Self::Unproven { .. } => Some(UNPROVEN.into()),
            Self::Versions(error) => versions_hint(error),
            Self::Rollout(error) => rollout_hint(error),
            Self::NotPromoted { service, version, untold, finished, .. } => {
                Some(not_promoted_hint(service, version, untold, *finished))
            }
            Self::Pick(PickError::Unknown { .. })
            | Self::Declined(_)
            | Self::NothingNamed
            | Self::Lab(_)
            | Self::Demo { .. }
            | Self::Aborted
            | Self::Machine(_)
            | Self::Unsound { .. }
            | Self::Usage { .. }
            | Self::Other { .. } => None,
            Self::Switch(error) | Self::Many(ManyError::Switch(error)) => switch_hint(error),
            Self::Many(ManyError::Lock(error)) | Self::Lock(error) => lock_hint(error),
            Self::Roll(error) => roll_hint(error),
            Self::NotRolled { finished: false, flag, .. } => Some(format!(
                "`switchman roll{flag} --resume` goes on from there, `switchman roll{flag} --abort` puts back every host it took out"
            )),
            Self::NotRolled { finished: true, .. } => Some(ENDED_ROLL.into()),
            Self::NotAll { .. } => Some("`switchman status` shows every host".into()),
            Self::Journal(error) => Some(journal_hint(error)),
            Self::AtOnce => Some(
                "the journal knows how far a roll was: `switchman roll --status`; `switchman status` shows a single host"
                    .into(),
            ),
            Self::Restore(error) => code_hint(change_code(error)),
            Self::Store(error) => code_hint(store_code(error)),
        }
    }
}

fn switch_hint(error: &SwitchError) -> Option<String> {
    match error {
        SwitchError::Refused { refusals, .. } => Some(refusal_hint(refusals)),
        SwitchError::NotChanged { source, .. } => link_hint(source),
        SwitchError::NotSeen { source: NotSeen::Late { .. }, switch: Switch::Off, .. } => Some(
            "the host still answers, so nothing is lost; `switchman check --haproxy-cfg FILE` looks for the reason, \
             `switchman enable-forward` takes it back"
                .into(),
        ),
        SwitchError::NotSeen { source: NotSeen::Late { .. }, switch: Switch::On, .. } => Some(
            "its users stay on its backup vhost; `switchman check --haproxy-cfg FILE` looks for the reason (MAINT was set \
             on HAProxy's side: `set server BACKEND/SERVER state ready`)"
                .into(),
        ),
        SwitchError::NotSeen { .. } => Some("`switchman status` shows where it stands".into()),
        SwitchError::NotDrained { source: NotDrained::Late { .. }, returned: true, .. } => Some(
            "`switchman status --watch` shows what is in flight; raise `roll.drain_timeout`, or add `--force` to leave \
             the host out and cut what is left"
                .into(),
        ),
        SwitchError::NotDrained { returned: false, .. } => {
            Some("`switchman status` shows where it stands; `switchman enable-forward` puts the host back".into())
        }
        SwitchError::NotDrained { .. } => None,
    }
}

fn refusal_hint(refusals: &[Refusal]) -> String {
    match refusals.first() {
        Some(Refusal::Unread { .. }) => {
            "`switchman check` looks closer; `--force` switches without knowing what that balancer sees".into()
        }
        Some(Refusal::NoServer { .. }) => {
            "name the server lines as in haproxy.cfg with `load_balancers[].servers`, or the host with `--host`".into()
        }
        Some(Refusal::BackupNotUp { .. }) => {
            "start the backup vhost first; `--force` switches all the same, and this host's users go elsewhere".into()
        }
        Some(Refusal::Floor { .. }) => {
            "bring the others back first, or lower `roll.min_up`; `--force` switches all the same".into()
        }
        Some(Refusal::FloorByConfig { .. }) => {
            "take fewer hosts at once, or lower `roll.min_up`; `--force` switches all the same".into()
        }
        Some(Refusal::Everything { .. }) => {
            "name some with `--host`, or do it host by host with `switchman roll`; `--force` switches all the same".into()
        }
        Some(Refusal::Unhealthy { .. }) | None => {
            "mend the main vhost first; `--force` switches all the same, and HAProxy's own check decides".into()
        }
    }
}

/// `roll --force` is about drains: no refusal to begin is overridden.
fn no_roll_hint(refusals: &[Refusal]) -> String {
    match refusals.first() {
        Some(Refusal::Unread { .. }) => {
            "`switchman check` looks closer; take one that is gone for good out of `load_balancers`".into()
        }
        Some(Refusal::BackupNotUp { .. }) => "start the backup vhost first".into(),
        Some(Refusal::Floor { .. }) => "bring the others back first, or lower `roll.min_up`".into(),
        _ => "`switchman check` looks closer".into(),
    }
}

pub fn link_hint(error: &LinkError) -> Option<String> {
    match error {
        LinkError::Unreachable { via, .. } if via.starts_with("ssh ") => Some(format!(
            "try it: `{via} switchman agent --stdio </dev/null`; a key must be at hand, for nobody is asked for a password"
        )),
        LinkError::Unreachable { .. } => Some("nothing was changed; is the agent running there?".into()),
        LinkError::Broken { .. } | LinkError::Silent { .. } => Some(
            "it may have been done or not: `switchman status` shows it, the same command again is safe"
                .into(),
        ),
        LinkError::Skew { .. } => Some("nothing was changed; install the same switchman on both".into()),
        LinkError::Refused { code, .. } => code_hint(*code),
    }
}

fn lock_hint(error: &LockError) -> Option<String> {
    match error {
        LockError::Held { held } | LockError::NotYours { held, .. } => match &held.holder.purpose {
            Purpose::Person { .. } => Some(format!(
                "ask {}; if it must be: `switchman lock release --force --reason TEXT`",
                held.holder.user
            )),
            Purpose::Roll { .. } => Some("wait for it: `switchman roll --status` shows how far it is".into()),
            Purpose::Rollout { service, .. } => Some(format!(
                "`switchman rollout {service} --status` shows how far it is, `switchman rollout {service} --abort` ends it"
            )),
            Purpose::Command { .. } => Some("wait for it; it takes seconds".into()),
        },
        LockError::Journal(error) => Some(journal_hint(error)),
        LockError::Interrupted { .. } => Some("nothing was changed".into()),
        LockError::NotHeld => None,
    }
}

fn roll_hint(error: &RollError) -> Option<String> {
    match error {
        RollError::Lock(error) => lock_hint(error),
        RollError::Unfinished { standing } => {
            let service = &standing.spec.service;
            Some(format!(
                "`switchman roll --service {service} --status` shows where it stands, `--resume` goes on with it, `--abort` \
                 puts back every host it took out"
            ))
        }
        RollError::Refused { refusals } => Some(no_roll_hint(refusals)),
        RollError::Unreachable { .. } => {
            Some("nothing was touched; mend the way to them, leave them out with `--host`, or allow it with `--max-failures`".into())
        }
        RollError::Hook(_) => Some("nothing was touched".into()),
        RollError::Journal(error) => Some(journal_hint(error)),
        RollError::Plan(PlanError::Floor { .. }) => Some("take a smaller `--batch`, or lower `roll.min_up`".into()),
        RollError::UnknownHost(_) => Some("put it back into the configuration, then run the command again".into()),
        RollError::Finished { .. } => Some(ENDED_ROLL.into()),
        RollError::Plan(_) | RollError::None { .. } => None,
    }
}

/// Such a roll is neither resumed nor aborted.
const ENDED_ROLL: &str = "`switchman status` shows every host: mend one that is out, then `switchman enable-forward --host NAME`, or \
                          roll those that failed again with `--host NAME`";
const UNLIKE: &str = "what main answers differently by itself is left out after `switchman mirror NAME VERSION --control P`; \
                      leave out what is meant to differ with `--ignore FIELD`";
const UNPROVEN: &str =
    "`switchman mirror NAME VERSION` sends it copies, and each that is answered is compared";
fn untold_text(untold: &[HostName]) -> String {
    let names: Vec<&str> = untold.iter().map(HostName::as_str).collect();
    match names.as_slice() {
        [] => String::new(),
        names => format!("; {} could not be told and may have its canary still", names.join(", ")),
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
            "main answers everything; `switchman rollout {service} --resume` goes on at the step where it was, `switchman \
             rollout {service} --abort` ends it"
        ),
        (false, false) => format!("`switchman rollout {service} --abort` tells those hosts again"),
    }
}

fn rollout_hint(error: &RolloutError) -> Option<String> {
    match error {
        RolloutError::Lock(error) => lock_hint(error),
        RolloutError::Unfinished { standing } => {
            let service = &standing.spec.service;
            Some(format!(
                "its canary may have a share: `switchman rollout {service} --status` shows where it stands, `--resume` goes on, \
                 `--abort` leaves main to answer everything"
            ))
        }
        RolloutError::NotReady { .. } => {
            Some("nothing was touched; `switchman ls --wide` shows every host".into())
        }
        RolloutError::NotWaiting { .. } | RolloutError::NotEnded { .. } => {
            Some("`switchman rollout NAME --status` shows where it stands".into())
        }
        RolloutError::NotRunning { .. } => {
            Some("`switchman rollout NAME --resume` goes on, and judges its step anew".into())
        }
        RolloutError::Journal(error) => Some(journal_hint(error)),
        RolloutError::UnknownHost(_) => {
            Some("put it back into the configuration, then run the command again".into())
        }
        RolloutError::None { .. } | RolloutError::Finished { .. } => None,
    }
}

fn versions_hint(error: &VersionsError) -> Option<String> {
    match error {
        VersionsError::Hosts(failed) | VersionsError::Partly { failed, .. } => {
            failed.first().and_then(|(_, error)| link_hint(error))
        }
        VersionsError::Lock(error) => lock_hint(error),
        VersionsError::Roll(RollError::Plan(PlanError::Floor { .. })) => Some(
            "take a smaller `--batch`, or lower `roll.min_up`; `--strategy flip` takes no host out".into(),
        ),
        VersionsError::Roll(error) => roll_hint(error),
        VersionsError::NotRolled { finished: false, .. } => Some(
            "`switchman roll --resume` goes on from there (with `--service NAME` where it is not the first), `switchman \
             rollback NAME` goes back to the last good main"
                .into(),
        ),
        VersionsError::NoVersion { .. } | VersionsError::NoMain(_) | VersionsError::NoMatch => {
            Some("`switchman ls` shows what there is".into())
        }
        VersionsError::NotAlike { verdict: Verdict::Insufficient, .. } => Some(UNPROVEN.into()),
        VersionsError::NotAlike { .. } => Some("`switchman compare NAME VERSION` shows what differs".into()),
        VersionsError::NotWeighed { .. } => {
            Some("what was set before it stays: the same command sets all of them, `--off` sets 100".into())
        }
        VersionsError::PutBack { .. } => Some("`switchman logs NAME VERSION` shows what it wrote".into()),
        VersionsError::NotRolled { .. } | VersionsError::Overtaken { .. } => Some("`switchman ls --wide` shows every host".into()),
        VersionsError::NotEverywhere { .. }
        | VersionsError::Unread(_)
        | VersionsError::Archive(_)
        | VersionsError::NoBalancer
        | VersionsError::NoWeights(_)
        | VersionsError::WeightsNotAllowed(_)
        | VersionsError::Task(_) => None,
    }
}

fn journal_hint(error: &JournalError) -> String {
    match error {
        JournalError::Full { .. } => {
            "free some room, then `switchman roll --status` shows where it stands and `switchman roll --resume` goes on".into()
        }
        JournalError::Newer { .. } => "use the switchman that wrote it, or a newer one".into(),
        JournalError::Open { .. } | JournalError::Failed { .. } => {
            "name a place you may write to with `--journal-dir DIR`, the same for everybody who rolls this fleet".into()
        }
        JournalError::Damaged { path, .. } => {
            format!("move `{}` away; `switchman status` shows the hosts as they are", path.display())
        }
        JournalError::LockLost { .. } => {
            "somebody took the lock by force: `switchman history` tells who and why, `switchman roll --status` how far it was".into()
        }
    }
}

fn code_hint(code: ErrorCode) -> Option<String> {
    let text = match code {
        ErrorCode::ProgramMissing => "install it: `apt-get install iptables`",
        ErrorCode::NoPrivilege => "run it as root, or with the capability: `sudo switchman ...`",
        ErrorCode::RulesLocked => {
            "nothing was changed; see who holds it with `fuser -v /run/xtables.lock`, then run the command again"
        }
        ErrorCode::RulesFailed => "nothing was changed; `switchman check` looks closer",
        ErrorCode::RulesContested => {
            "find who: `iptables-save -t nat | grep SWITCHMAN`, then run the command again"
        }
        ErrorCode::HalfDone => {
            "kernel and record may disagree: `switchman status` shows it, `switchman restore` mends it"
        }
        ErrorCode::StateFailed => {
            "nothing was changed; run it as root, or name another place with `--state-dir DIR`"
        }
        ErrorCode::StateNewer => {
            "nothing was changed; install a switchman at least as new as the one that wrote it"
        }
        ErrorCode::DiskFull => "nothing was changed; free some room, then run the command again",
        ErrorCode::StateDamaged => {
            "move it away; the forwards the kernel holds are kept and recorded anew with the next switch"
        }
        ErrorCode::Busy => "nothing was changed; wait for it, then run the command again",
        ErrorCode::Interrupted => "nothing was changed",
        ErrorCode::BadArchive => "nothing was changed; `tar -tvzf FILE` shows what is in an archive",
        ErrorCode::ReleasesFailed => {
            "see who may write there, or name another place on the host with `--releases-dir DIR`"
        }
        ErrorCode::Unauthorized => "the agent wants another key: see `agents:` in switchman.yaml",
        ErrorCode::NotDrained => {
            "`--drain-timeout 1m` waits for it; `--force` cuts what is in flight and counts it"
        }
        ErrorCode::Unhealthy => "mend it first; nothing was led to it",
        ErrorCode::NoAgent => {
            "nothing was changed; start it there: `systemctl start switchman`, or `switchman agent` without systemd"
        }
        ErrorCode::ProxyFailed => {
            "the rules lead straight at main; `proxy.log` in the state directory, or `journalctl -u switchman-proxy`, says more"
        }
        ErrorCode::Exists => {
            "nothing was changed: `switchman ls --wide` shows what is there, `switchman kill ID` takes it away, `switchman \
             update` replaces its code (`deploy` has no --force)"
        }
        ErrorCode::NotAllowed => "assign another version first, or kill the others first",
        ErrorCode::RunnerFailed
        | ErrorCode::Unprocessable
        | ErrorCode::RulesGarbled
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
        Failure::NotRolled { roll, done, of: 4, why: "1 failed".into(), finished, flag: flag.into() }
    }

    #[test]
    fn a_roll_that_stopped_names_its_service_and_one_that_ended_is_not_resumed() {
        let hint = |flag| not_rolled(2, false, flag).hint().unwrap();
        assert_eq!(
            hint(" --service blog"),
            "`switchman roll --service blog --resume` goes on from there, `switchman roll --service blog --abort` puts \
             back every host it took out"
        );
        assert!(hint("").starts_with("`switchman roll --resume` goes on"));
        let ended = not_rolled(2, true, "").hint().unwrap();
        assert!(ended.contains("enable-forward --host NAME") && !ended.contains("--resume"), "{ended}");
        assert_eq!(not_rolled(2, true, "").code(), Code::Partly);
        assert_eq!(not_rolled(0, false, "").code(), Code::Failed);
    }

    #[test]
    fn what_makes_no_sense_is_wrong_usage() {
        let missing = Failure::Usage { what: "compare".into(), why: "the VERSION is missing" };
        assert_eq!((missing.code(), missing.hint()), (Code::Usage, None));
    }
}
