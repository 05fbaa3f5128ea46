//! The next action for errors of locks, journals, rolls and promotions.

use super::host::link_hint;
use crate::model::journal::RollResult;
use crate::model::lock::LockPurpose;
use crate::model::name::{HostName, ServiceName};
use crate::model::shell::quote_word;
use crate::model::version::Version;
use crate::ops::fleet::journal_move::MoveError;
use crate::ops::fleet::lock::LockError;
use crate::ops::fleet::promote::{NotReadyError, PromotionError};
use crate::ops::fleet::roll::RollError;
use crate::plan::promote::PreflightError;
use crate::plan::roll::PlanError;
use crate::plan::switch::Refusal;
use crate::world::journal_store::JournalError;

/// The hint for a finished roll, which can neither be resumed nor aborted.
pub const FINISHED_ROLL_HINT: &str = "`switchman status` shows every host: repair one that is out, then `switchman \
                                             enable-forward --host NAME`, or roll those that failed again with `--host NAME`";
/// The hint for a port that is not the same everywhere.
pub const OTHER_PORT_HINT: &str = "write the same `ports:` into switchman.yaml on both sides and into haproxy.cfg, or select the right service with `--service`; \
                                   `--force` goes on with the ports of this configuration";
pub const OTHER_ADDRESS_HINT: &str = "write the address that the load balancer uses into `address:` of the host, or correct the \
                                      server line in haproxy.cfg; `--force` goes on all the same";
pub const PRIVATE_HINT: &str =
    "`switchman access NAME public --host HOST` makes the service public there, then run the command again";
const UNKNOWN_HOST_HINT: &str = "put it back into the configuration, then run the command again";

pub fn lock_hint(error: &LockError) -> String {
    match error {
        LockError::Locked { lock, .. } | LockError::OtherHolder { lock, .. } => match &lock.holder.purpose {
            LockPurpose::Operator { .. } => format!(
                "contact {} on {}, or force it: `switchman lock release --force --reason TEXT`",
                lock.holder.user, lock.holder.machine
            ),
            LockPurpose::Roll { .. } => "wait for it: `switchman roll --status` shows how far it is".into(),
            LockPurpose::Promotion { service, .. } => format!(
                "`switchman promote {service} --status` shows how far it is, `switchman promote {service} --abort` ends it"
            ),
            LockPurpose::Command { .. } => {
                "wait for it, then run the command again; `switchman lock status` shows whether it still runs".into()
            },
        },
        LockError::Journal(error) => journal_hint(error),
        LockError::Interrupted { .. } => "nothing was changed; run the command again".into(),
        LockError::NotLocked => {
            "there is nothing to release; if you expected a lock, check `--service NAME` and `--journal-dir DIR`".into()
        }
    }
}

pub fn roll_hint(error: &RollError) -> String {
    match error {
        RollError::Lock(error) => lock_hint(error),
        RollError::Unfinished { progress } => {
            let service = &progress.spec.service;
            format!(
                "`switchman roll --service {service} --status` shows its progress, `--resume` continues it, `--abort` \
                 puts back every host it took out"
            )
        }
        RollError::Refused { refusals } => roll_refusal_hint(refusals).into(),
        RollError::Owned { .. } => {
            "no host was touched; `switchman status` shows every owner; `roll --force --reason TEXT` takes the hosts over, or leave them out with `--host NAME`".into()
        }
        RollError::Unreachable { .. } => {
            "nothing was changed; restore the connection to them, omit them with `--host`, or allow failures with `--max-failures`".into()
        }
        RollError::NotStartable { .. } => {
            "no host was touched; correct its path, which starts at the working directory, install it, or make it executable: `chmod +x FILE`".into()
        }
        RollError::Hook(_) => "nothing was changed; repair the hook, then run the command again".into(),
        RollError::Journal(error) => journal_hint(error),
        RollError::Plan(PlanError::CapacityFloor { .. }) => "take a smaller `--batch`, or lower `roll.min_up`".into(),
        RollError::Plan(PlanError::NoHosts) => "add `hosts:` to switchman.yaml, or name one with `--host NAME`".into(),
        RollError::Plan(PlanError::NoCommand) => "write it after `--`: `switchman roll -- CMD`".into(),
        RollError::UnknownHost(_) => {
            format!("{UNKNOWN_HOST_HINT}; `switchman roll --abort` needs only the hosts that are out")
        }
        RollError::PortsChanged { .. } => {
            "no host was touched; write the ports and addresses that hosts and load balancers have into switchman.yaml, or into haproxy.cfg, \
             then run the command again".into()
        }
        RollError::MainChanged { service, version, .. } => format!(
            "nothing was changed; `switchman history {service}` shows who changed it; `switchman roll --service {service} --abort` ends \
             the roll, then `switchman assign {service} {version}` makes {version} main on every host"
        ),
        RollError::Finished { result: RollResult::Done | RollResult::Aborted, verb, .. } => format!(
            "no host is left out by it; in a script, `switchman roll --{verb} --if-any` succeeds where no roll is unfinished"
        ),
        RollError::Finished { .. } => FINISHED_ROLL_HINT.into(),
        RollError::NotFound { .. } => {
            "`switchman roll -- CMD` starts one; `--service NAME` and `--journal-dir DIR` select another journal".into()
        }
    }
}

/// `roll --force` is about drains: no refusal to begin is overridden.
fn roll_refusal_hint(refusals: &[Refusal]) -> &'static str {
    match refusals.first() {
        Some(Refusal::BalancerUnreadable { .. }) => {
            "`switchman check` shows details; remove a retired load balancer from `load_balancers`"
        }
        Some(Refusal::NoServer { .. }) => {
            "name the server lines as in haproxy.cfg with `load_balancers[].servers` in switchman.yaml"
        }
        Some(Refusal::OtherLine { .. }) => {
            "add `check port PORT` to that line, or `track BACKEND/SERVER` with the main line; `roll --force` goes on all the same"
        }
        Some(Refusal::OtherPort { .. }) => OTHER_PORT_HINT,
        Some(Refusal::OtherAddress { .. }) => OTHER_ADDRESS_HINT,
        Some(Refusal::Private { .. }) => PRIVATE_HINT,
        Some(Refusal::BackupNotUp { .. }) => "start the backup vhost first",
        Some(Refusal::CapacityFloor { .. }) => "bring the others back first, or lower `roll.min_up`",
        Some(Refusal::CapacityFloorByConfig { .. } | Refusal::AllHosts { .. }) => {
            "take a smaller `--batch`, or lower `roll.min_up`"
        }
        Some(Refusal::Unhealthy { .. }) | None => {
            "repair the main vhost first, or omit this host: `--host` names the hosts of the roll"
        }
    }
}

pub fn not_promoted_hint(
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

pub fn promotion_hint(error: &PromotionError) -> String {
    match error {
        PromotionError::Lock(error) => lock_hint(error),
        PromotionError::Unfinished { progress } => {
            let service = &progress.spec.service;
            format!(
                "its canary may have a share: `switchman promote {service} --status` shows its progress, `--resume` continues, \
                 `--abort` leaves main to answer everything"
            )
        }
        PromotionError::NotReady { hosts } => match hosts.first() {
            Some((host, error)) => not_ready_hint(host, error),
            None => "nothing was changed; `switchman ls --wide` shows every host".into(),
        },
        PromotionError::NotWaitingForApproval { service, .. } | PromotionError::NotEnded { service, .. } => {
            format!("`switchman promote {service} --status` shows its progress")
        }
        PromotionError::NotRunning { service, .. } => {
            format!("`switchman promote {service} --resume` continues, and judges its step again")
        }
        PromotionError::Journal(error) => journal_hint(error),
        PromotionError::UnknownHost(_) => UNKNOWN_HOST_HINT.into(),
        PromotionError::NotFound { service, .. } => {
            format!("`switchman promote {service} VERSION` starts one")
        }
        PromotionError::Finished { service, .. } => format!(
            "`switchman promote {service} --status` shows its result, `switchman promote {service} VERSION` starts another one"
        ),
    }
}

/// Every text but that of an unreadable host begins with what to type.
fn not_ready_hint(host: &HostName, error: &NotReadyError) -> String {
    match error {
        NotReadyError::Refused(refused) => preflight_hint(host, refused),
        NotReadyError::Unhealthy { service, version, .. } => format!(
            "nothing was changed; `switchman logs {service} {version}` shows what it wrote, `switchman update {service} \
             {version} SOURCE` replaces its code"
        ),
        NotReadyError::Unread(error) => link_hint(error),
    }
}

fn preflight_hint(host: &HostName, refused: &PreflightError) -> String {
    let action = match refused {
        PreflightError::NotDeployed { service, version } => {
            format!("add it: `switchman deploy {service} {version} SOURCE --host {host}`")
        }
        PreflightError::IsMain { service, .. } => format!(
            "`switchman ls {service} --wide` shows main of every host; name the hosts with another main with `--host`"
        ),
        PreflightError::NoMain(service) => format!(
            "there is no main to compare it with: `switchman assign {service} VERSION` makes a version main at once"
        ),
        PreflightError::NotRunning { service, version } => format!(
            "`switchman logs {service} {version}` shows why it ended, `switchman update {service} {version} SOURCE` starts it again"
        ),
        PreflightError::InProgress { service, .. } => format!(
            "wait for the other command, then run this one again: `switchman ls {service}` shows its state"
        ),
        PreflightError::Private(service) => format!("make it public: `switchman access {service} public`"),
        PreflightError::HasCanary { service, .. } => {
            format!("end the canary: `switchman canary {service} --off`")
        }
        PreflightError::IsShadow { service, version } => format!(
            "end its copies with `switchman mirror {service} {version} --off`, or let the promotion compare its answers first \
             with `--require-match P`"
        ),
        PreflightError::NotCompared { service, version } => format!(
            "send it copies: `switchman mirror {service} {version}`; or promote it without `--require-match`"
        ),
        PreflightError::OtherMain(version) => format!(
            "the hosts have different mains: `switchman assign NAME {version}` makes {version} main on all, `--host` names some"
        ),
    };
    format!("nothing was changed; {action}")
}

pub fn journal_move_hint(error: &MoveError) -> String {
    match error {
        MoveError::Lock(error) => lock_hint(error),
        MoveError::Journal(error) => format!(
            "{}; the old journal is unchanged, and the same command continues the move",
            journal_hint(error)
        ),
        MoveError::SameStore { .. } => "name another store with `--to`".into(),
        MoveError::NotEmpty { .. } => {
            "name a store that has no journal of this service, or remove that journal with the store's own tools".into()
        }
        MoveError::Differs { .. } => {
            "the old journal is unchanged: use it, remove what is in the other store, and move it again".into()
        }
    }
}

pub fn journal_hint(error: &JournalError) -> String {
    let text = match error {
        JournalError::Full { .. } => {
            "free disk space, then `switchman roll --status` shows the progress and `switchman roll --resume` continues"
        }
        JournalError::Newer { .. } => "use the switchman that wrote it, or a newer one",
        JournalError::Open { .. } | JournalError::Failed { .. } => {
            "name a writable directory with `--journal-dir DIR`, the same for every operator of this fleet"
        }
        JournalError::Refused { .. } => {
            "correct `journal` in switchman.yaml, or the rights of its user on the server; then `switchman roll --status` shows the progress"
        }
        JournalError::Unreachable { .. } => {
            "when the store answers again, `switchman roll --status` shows the progress and `switchman roll --resume` continues, on this machine or another one"
        }
        JournalError::NotConnected { advice, .. } => {
            return format!("{advice}; then `switchman roll --status` shows the progress");
        }
        JournalError::OtherVersion { .. } => "install the same version of switchman on both machines",
        JournalError::Denied { user, .. } => {
            return format!(
                "let switchman run as root there, `ssh: {{switchman: sudo -n switchman}}` in switchman.yaml; or as root there `install -d \
                 -m 0700 -o {} DIR`, and name it for every operator: `journal: {{host: NAME, path: DIR}}`",
                quote_word(user)
            );
        }
        JournalError::Damaged { store, .. } => {
            return format!(
                "move {store} away with its `-wal` and `-shm` files; past rolls are lost, `switchman status` shows the hosts as they are"
            );
        }
        JournalError::LockLost { .. } => {
            "another operator took the lock, or it ended because this machine did not renew it in time: `switchman history` shows who and why; when the lock is free, `switchman roll --resume` continues"
        }
    };
    text.to_owned()
}
