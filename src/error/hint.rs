//! The next action for every kind of error, printed after `next:`.

use crate::config::ConfigError;
use crate::lab::LabError;
use crate::model::failure::ErrorCode;
use crate::model::lock::LockPurpose;
use crate::model::name::{HostName, ServiceName};
use crate::model::port_forward::Switch;
use crate::model::version::Version;
use crate::ops::fleet::balancer_wait::BalancerWaitError;
use crate::ops::fleet::deployments::FleetDeployError;
use crate::ops::fleet::drain::DrainError;
use crate::ops::fleet::forward::SwitchError;
use crate::ops::fleet::lock::LockError;
use crate::ops::fleet::promote::PromotionError;
use crate::ops::fleet::roll::RollError;
use crate::plan::compare::ComparisonVerdict;
use crate::plan::host_selection::SelectionError;
use crate::plan::roll::PlanError;
use crate::plan::switch::Refusal;
use crate::plan::weights::WeightsError;
use crate::world::archives::ArchiveError;
use crate::world::journal::JournalError;
use crate::world::link::LinkError;

/// The hint for a finished roll, which can neither be resumed nor aborted.
pub(super) const FINISHED_ROLL_HINT: &str = "`switchman status` shows every host: repair one that is out, then `switchman \
                                             enable-forward --host NAME`, or roll those that failed again with `--host NAME`";
pub(super) const ANSWERS_DIFFER_HINT: &str = "`switchman mirror NAME VERSION --control P` finds what main answers differently by \
                                              itself; leave out what is meant to differ with `--ignore FIELD`";
pub(super) const INSUFFICIENT_SAMPLES_HINT: &str =
    "`switchman mirror NAME VERSION` sends it copies, and each answer is compared";
const UNKNOWN_HOST_HINT: &str = "put it back into the configuration, then run the command again";

pub(super) const fn config_hint(error: &ConfigError) -> &'static str {
    match error {
        ConfigError::NotFound => "write one with `switchman init`, or name it with `--config FILE`",
        ConfigError::ReadFailed { .. } => {
            "check the path and who may read it; `switchman init` writes a new configuration"
        }
        ConfigError::Invalid { .. } => "`switchman schema` prints the shape of the file for your editor",
    }
}

pub(super) const fn selection_hint(error: &SelectionError) -> &'static str {
    match error {
        SelectionError::Unknown { .. } => {
            "name one of its hosts with `--host NAME`, or add it under `hosts:`"
        }
        SelectionError::NotAHost { .. } => {
            "name one with `--host NAME`, or all with `--all`; add `--local` if this machine is that host"
        }
        SelectionError::BadName { .. } => "name it with `--host NAME`",
    }
}

pub(super) const fn lab_hint(error: &LabError) -> &'static str {
    match error {
        LabError::NoPrivilege { .. } => "run it as root: `sudo switchman lab ...`",
        LabError::Exec(_) => {
            "the lab needs iproute2, iptables, haproxy and nginx: `make setup` installs them"
        }
        LabError::InUse { .. } => "wait for it, or take another name: `switchman lab up --name NAME`",
        LabError::Process(_)
        | LabError::Command { .. }
        | LabError::Files { .. }
        | LabError::Template(_)
        | LabError::TimedOut { .. }
        | LabError::Load { .. }
        | LabError::Interrupted => "`switchman lab down` removes what is left; then run it again",
    }
}

pub(super) fn switch_hint(error: &SwitchError) -> String {
    match error {
        SwitchError::Refused { refusals, .. } => refusal_hint(refusals).into(),
        SwitchError::NotChanged { source, .. } => link_hint(source),
        SwitchError::NotObserved { source: BalancerWaitError::TimedOut { .. }, switch: Switch::Off, .. } => {
            "the host still answers, so nothing is lost; `switchman check --haproxy-cfg FILE` looks for the reason, \
             `switchman enable-forward` puts the host back into service"
                .into()
        }
        SwitchError::NotObserved { source: BalancerWaitError::TimedOut { .. }, switch: Switch::On, .. } => {
            "its users stay on its backup vhost; `switchman check --haproxy-cfg FILE` looks for the reason (MAINT was set \
             on HAProxy's side: `set server BACKEND/SERVER state ready`)"
                .into()
        }
        SwitchError::NotDrained { source: DrainError::TimedOut { .. }, is_restored: true, .. } => {
            "`switchman status --watch` shows what is in flight; raise `roll.drain_timeout`, or add `--force` to leave \
             the host in maintenance with these requests still running"
                .into()
        }
        SwitchError::NotDrained { is_restored: false, .. } => {
            "`switchman status` shows its state; `switchman enable-forward` puts the host back".into()
        }
        SwitchError::NotObserved { .. } | SwitchError::NotDrained { .. } => {
            "`switchman status` shows its state".into()
        }
    }
}

fn refusal_hint(refusals: &[Refusal]) -> &'static str {
    match refusals.first() {
        Some(Refusal::BalancerUnreadable { .. }) => {
            "`switchman check` shows details; `--force` switches without knowing that balancer's state"
        }
        Some(Refusal::NoServer { .. }) => {
            "name the server lines as in haproxy.cfg with `load_balancers[].servers`, or the host with `--host`"
        }
        Some(Refusal::BackupNotUp { .. }) => {
            "start the backup vhost first; `--force` switches all the same, and this host's users go elsewhere"
        }
        Some(Refusal::CapacityFloor { .. }) => {
            "bring the others back first, or lower `roll.min_up`; `--force` switches all the same"
        }
        Some(Refusal::CapacityFloorByConfig { .. }) => {
            "take fewer hosts at once, or lower `roll.min_up`; `--force` switches all the same"
        }
        Some(Refusal::AllHosts { .. }) => {
            "name some with `--host`, or do it host by host with `switchman roll`; `--force` switches all the same"
        }
        Some(Refusal::Unhealthy { .. }) | None => {
            "repair the main vhost first; `--force` switches all the same, and HAProxy's own check decides"
        }
    }
}

/// `roll --force` is about drains: no refusal to begin is overridden.
fn roll_refusal_hint(refusals: &[Refusal]) -> &'static str {
    match refusals.first() {
        Some(Refusal::BalancerUnreadable { .. }) => {
            "`switchman check` shows details; remove a retired load balancer from `load_balancers`"
        }
        Some(Refusal::BackupNotUp { .. }) => "start the backup vhost first",
        Some(Refusal::CapacityFloor { .. }) => "bring the others back first, or lower `roll.min_up`",
        _ => "`switchman check` shows details",
    }
}

fn link_hint(error: &LinkError) -> String {
    match error {
        LinkError::Unreachable { via, .. } if via.starts_with("ssh ") => format!(
            "try it: `{via} switchman agent --stdio </dev/null`; ssh needs a key, because switchman does not prompt for a password"
        ),
        LinkError::Unreachable { .. } => {
            "nothing was changed; start the agent there: `systemctl start switchman`, or `switchman agent` without systemd"
                .into()
        }
        LinkError::Broken { .. } | LinkError::TimedOut { .. } => {
            "it may have been done or not: `switchman status` shows it, the same command again is safe".into()
        }
        LinkError::VersionMismatch { .. } => "nothing was changed; install the same switchman on both".into(),
        LinkError::Refused { code, .. } => error_code_hint(*code).into(),
    }
}

pub(super) fn lock_hint(error: &LockError) -> String {
    match error {
        LockError::Locked { lock } | LockError::OtherHolder { lock, .. } => match &lock.holder.purpose {
            LockPurpose::Operator { .. } => format!(
                "contact {}, or force it: `switchman lock release --force --reason TEXT`",
                lock.holder.user
            ),
            LockPurpose::Roll { .. } => "wait for it: `switchman roll --status` shows how far it is".into(),
            LockPurpose::Promotion { service, .. } => format!(
                "`switchman promote {service} --status` shows how far it is, `switchman promote {service} --abort` ends it"
            ),
            LockPurpose::Command { .. } => "wait for it; it takes seconds".into(),
        },
        LockError::Journal(error) => journal_hint(error),
        LockError::Interrupted { .. } => "nothing was changed; run the command again".into(),
        LockError::NotLocked => {
            "there is nothing to release; if you expected a lock, check `--service NAME` and `--journal-dir DIR`".into()
        }
    }
}

pub(super) fn roll_hint(error: &RollError) -> String {
    match error {
        RollError::Lock(error) => lock_hint(error),
        RollError::Unfinished { standing } => {
            let service = &standing.spec.service;
            format!(
                "`switchman roll --service {service} --status` shows its progress, `--resume` continues it, `--abort` \
                 puts back every host it took out"
            )
        }
        RollError::Refused { refusals } => roll_refusal_hint(refusals).into(),
        RollError::Unreachable { .. } => {
            "nothing was changed; restore the connection to them, omit them with `--host`, or allow failures with `--max-failures`".into()
        }
        RollError::Hook(_) => "nothing was changed; repair the hook, then run the command again".into(),
        RollError::Journal(error) => journal_hint(error),
        RollError::Plan(PlanError::CapacityFloor { .. }) => "take a smaller `--batch`, or lower `roll.min_up`".into(),
        RollError::Plan(PlanError::NoHosts) => "add `hosts:` to switchman.yaml, or name one with `--host NAME`".into(),
        RollError::Plan(PlanError::NoCommand) => "write it after `--`: `switchman roll -- CMD`".into(),
        RollError::UnknownHost(_) => UNKNOWN_HOST_HINT.into(),
        RollError::Finished { .. } => FINISHED_ROLL_HINT.into(),
        RollError::NotFound { .. } => {
            "`switchman roll -- CMD` starts one; `--service NAME` and `--journal-dir DIR` select another journal".into()
        }
    }
}

pub(super) fn not_promoted_hint(
    service: &ServiceName,
    version: &Version,
    unreached: &[HostName],
    finished: bool,
) -> String {
    match (finished, unreached.is_empty()) {
        (true, _) => {
            format!("main answers everything; `switchman logs {service} {version}` shows what it wrote")
        }
        (false, true) => format!(
            "main answers everything; `switchman promote {service} --resume` continues at the step where it was, `switchman \
             promote {service} --abort` ends it"
        ),
        (false, false) => format!("`switchman promote {service} --abort` retries those hosts"),
    }
}

pub(super) fn promotion_hint(error: &PromotionError) -> String {
    match error {
        PromotionError::Lock(error) => lock_hint(error),
        PromotionError::Unfinished { standing } => {
            let service = &standing.spec.service;
            format!(
                "its canary may have a share: `switchman promote {service} --status` shows its progress, `--resume` continues, \
                 `--abort` leaves main to answer everything"
            )
        }
        PromotionError::NotReady { .. } => "nothing was changed; `switchman ls --wide` shows every host".into(),
        PromotionError::NotWaitingForApproval { .. } | PromotionError::NotEnded { .. } => {
            "`switchman promote NAME --status` shows its progress".into()
        }
        PromotionError::NotRunning { .. } => {
            "`switchman promote NAME --resume` continues, and judges its step again".into()
        }
        PromotionError::Journal(error) => journal_hint(error),
        PromotionError::UnknownHost(_) => UNKNOWN_HOST_HINT.into(),
        PromotionError::NotFound { .. } => "`switchman promote NAME VERSION` starts one".into(),
        PromotionError::Finished { .. } => {
            "`switchman promote NAME --status` shows its result, `switchman promote NAME VERSION` starts another one".into()
        }
    }
}

pub(super) fn deployments_hint(error: &FleetDeployError) -> String {
    let text = match error {
        FleetDeployError::Hosts(failed) | FleetDeployError::Partial { failed, .. } => match failed.first() {
            Some((_, error)) => return link_hint(error),
            None => "`switchman ls --wide` shows every host",
        },
        FleetDeployError::Lock(error) => return lock_hint(error),
        FleetDeployError::Roll(RollError::Plan(PlanError::CapacityFloor { .. })) => {
            "take a smaller `--batch`, or lower `roll.min_up`; `--strategy flip` takes no host out"
        }
        FleetDeployError::Roll(error) => return roll_hint(error),
        FleetDeployError::RollIncomplete { finished: false, .. } => {
            "`switchman roll --resume` continues it (with `--service NAME` where it is not the first), `switchman rollback \
             NAME` makes the last good main main again"
        }
        FleetDeployError::NoVersion { .. } | FleetDeployError::NoMain(_) | FleetDeployError::NoMatch => {
            "`switchman ls` lists the versions"
        }
        FleetDeployError::MatchNotProven { verdict: ComparisonVerdict::Insufficient, .. } => {
            INSUFFICIENT_SAMPLES_HINT
        }
        FleetDeployError::MatchNotProven { .. } => "`switchman compare NAME VERSION` shows what differs",
        FleetDeployError::WeightNotSet { .. } => {
            "weights set before it stay: the same command sets all of them, `--off` sets 100"
        }
        FleetDeployError::RolledBack { .. } => "`switchman logs NAME VERSION` shows what it wrote",
        FleetDeployError::RollIncomplete { .. } | FleetDeployError::Overtaken { .. } => {
            "`switchman ls --wide` shows every host"
        }
        FleetDeployError::MissingOnHosts { .. } => {
            "deploy it there first, or name the hosts that have it with `--host NAME`"
        }
        FleetDeployError::Unread(_) => "`switchman check` shows why a host cannot be read",
        FleetDeployError::Archive(error) => archive_hint(error),
        FleetDeployError::NoBalancer => "add `haproxy:` to an entry of `load_balancers` in switchman.yaml",
        FleetDeployError::NoWeights(WeightsError::NoCanary | WeightsError::NoMain) => {
            "`switchman assign NAME VERSION --host HOST` makes a version main on some hosts only"
        }
        FleetDeployError::NoWeights(WeightsError::TooFine { .. }) => {
            "give a larger share, make it main on fewer hosts, or share by request without `--via haproxy`"
        }
        FleetDeployError::WeightsNotAllowed(_) => {
            "write `level admin` at its stats socket in haproxy.cfg, or share by request without `--via haproxy`"
        }
        FleetDeployError::TaskFailed(_) => "run the command again; `-vv` logs every step",
    };
    text.to_owned()
}

const fn archive_hint(error: &ArchiveError) -> &'static str {
    match error {
        ArchiveError::Missing { .. } | ArchiveError::UnsupportedFormat { .. } => {
            "give a directory, a .tar.gz file or an address that starts with http://"
        }
        ArchiveError::Refused { .. } => "nothing was changed; remove it from the source, then deploy again",
        ArchiveError::Full { .. } => "nothing was changed; free some space, then deploy again",
        ArchiveError::Failed { .. } => "nothing was changed; check who may read the source",
    }
}

pub(super) fn journal_hint(error: &JournalError) -> String {
    let text = match error {
        JournalError::Full { .. } => {
            "free disk space, then `switchman roll --status` shows the progress and `switchman roll --resume` continues"
        }
        JournalError::Newer { .. } => "use the switchman that wrote it, or a newer one",
        JournalError::Open { .. } | JournalError::Failed { .. } => {
            "name a writable directory with `--journal-dir DIR`, the same for every operator of this fleet"
        }
        JournalError::Damaged { path, .. } => {
            return format!(
                "move `{}` away with its `-wal` and `-shm` files; past rolls are lost, `switchman status` shows the hosts as they are",
                path.display()
            );
        }
        JournalError::LockLost { .. } => {
            "another operator took the lock by force: `switchman history` shows who and why; when the lock is free, `switchman roll --resume` continues"
        }
    };
    text.to_owned()
}

pub(super) const fn error_code_hint(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::ProgramMissing => "install it: `apt-get install iptables`",
        ErrorCode::NoPrivilege => "run it as root, or with the capability: `sudo switchman ...`",
        ErrorCode::RulesLocked => {
            "nothing was changed; see who holds it with `fuser -v /run/xtables.lock`, then run the command again"
        }
        ErrorCode::RulesFailed => "nothing was changed; `switchman check` shows details",
        ErrorCode::RulesContested => {
            "find who: `iptables-save -t nat | grep SWITCHMAN`, then run the command again"
        }
        ErrorCode::ForwardContradicted => {
            "remove the cause, then run the command again; `switchman check` lists the rules of other programs"
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
        ErrorCode::DiskFull => "nothing was changed; free some space, then run the command again",
        ErrorCode::StateDamaged => {
            "stop the agent, then move `state.db`, `state.db-wal` and `state.db-shm` away: the forwards of the kernel are kept and \
             recorded again with the next switch, the record of versions and the history are lost"
        }
        ErrorCode::Busy => "nothing was changed; wait for it, then run the command again",
        ErrorCode::Interrupted => "nothing was changed; run the command again",
        ErrorCode::BadArchive => "nothing was changed; `tar -tvzf FILE` lists the members of an archive",
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
            "nothing was changed: `switchman ls --wide` shows every version, `switchman kill ID` removes one, `switchman \
             update` replaces its code (`deploy` has no --force)"
        }
        ErrorCode::NotAllowed => {
            "nothing was changed; assign another version, end a mirror or canary with `--off`, or kill the shadows first"
        }
        ErrorCode::NotFound => "`switchman ls --wide` shows every version of every host",
        ErrorCode::Unprocessable => "nothing was changed; correct the cause, then run the command again",
        ErrorCode::BadRequest => {
            "nothing was changed; `switchman help COMMAND` lists the arguments of a command"
        }
        ErrorCode::RunnerFailed => {
            "`switchman logs NAME VERSION` shows what the instance wrote, `journalctl -u switchman` the agent's log"
        }
        ErrorCode::CommandFailed => "check that the program exists on that host and may be run",
        ErrorCode::SocketsFailed => "run it as root; `modprobe tcp_diag` loads what the kernel needs",
        ErrorCode::RulesMalformed => {
            "nothing was changed; `switchman check` and `iptables-save -t nat` show the rules"
        }
        ErrorCode::Other => "`switchman status` shows the host; install the same switchman on both",
    }
}
