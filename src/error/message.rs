//! The messages of failures whose cause does not name what was tried: `cannot VERB OBJECT: CAUSE`.

use crate::model::duration;
use crate::model::name::{HostName, ServiceName};
use crate::model::plural::Count;
use crate::model::port_forward::Switch;
use crate::ops::fleet::deployments::FleetDeployError;
use crate::ops::fleet::forward::{SwitchError, SwitchManyError};
use crate::ops::fleet::journal_move::MoveError;
use crate::ops::fleet::lock::LockError;
use crate::ops::fleet::promote::PromotionError;
use crate::ops::fleet::roll::RollError;
use crate::ops::fleet::withdraw::WithdrawError;
use crate::plan::switch::Refusal;
use crate::world::archives::ArchiveError;
use crate::world::journal_store::JournalError;
use crate::world::store::StoreError;

pub(super) fn describe_store(error: &StoreError) -> String {
    match error {
        StoreError::Open { .. } | StoreError::Failed { .. } => error.to_string(),
        StoreError::Newer { path, found, known } => format!(
            "cannot read the state `{}`: it has schema {found}; this switchman reads up to {known}",
            path.display()
        ),
        StoreError::Damaged { path, reason } => {
            format!("cannot read the state `{}`: it is damaged: {reason}", path.display())
        }
        StoreError::Full { path } => format!("cannot write the state `{}`: the disk is full", path.display()),
        StoreError::Busy { .. } => format!("cannot lock the state: {error}"),
    }
}

pub(super) fn describe_journal(error: &JournalError) -> String {
    match error {
        JournalError::Open { .. }
        | JournalError::Failed { .. }
        | JournalError::Refused { .. }
        | JournalError::Unreachable { .. }
        | JournalError::NotConnected { .. }
        | JournalError::OtherVersion { .. }
        | JournalError::Denied { .. } => error.to_string(),
        JournalError::Newer { store, found, known } => {
            format!(
                "cannot read the journal {store}: it has schema {found}; this switchman reads up to {known}"
            )
        }
        JournalError::Damaged { store, reason } => {
            format!("cannot read the journal {store}: it is damaged: {reason}")
        }
        JournalError::Full { store } => format!("cannot write the journal {store}: the disk is full"),
        JournalError::LockLost { .. } => format!("cannot write the journal: {error}"),
    }
}

pub(super) fn describe_journal_move(error: &MoveError) -> String {
    match error {
        MoveError::Lock(error) => describe_lock(error),
        MoveError::Journal(error) => describe_journal(error),
        error => error.to_string(),
    }
}

pub(super) fn describe_lock(error: &LockError) -> String {
    match error {
        LockError::Locked { .. } | LockError::Interrupted { .. } => {
            format!("cannot acquire the fleet lock: {error}")
        }
        LockError::NotLocked | LockError::OtherHolder { .. } => {
            format!("cannot release the fleet lock: {error}")
        }
        LockError::Journal(error) => describe_journal(error),
    }
}

pub(super) fn describe_switch_many(error: &SwitchManyError) -> String {
    match error {
        SwitchManyError::Lock(error) => describe_lock(error),
        SwitchManyError::Switch(error) => error.to_string(),
    }
}

pub(super) fn describe_switches(switch: Switch, done: usize, of: usize, failed: &[SwitchError]) -> String {
    let causes: Vec<String> = failed.iter().map(describe_switch_cause).collect();
    format!(
        "cannot turn every forward {switch}: done on {done} of {}; {}",
        Count(of, "host"),
        causes.join("; ")
    )
}

pub(super) fn describe_withdrawals(done: usize, of: usize, failed: &[WithdrawError]) -> String {
    let describe = |error: &WithdrawError| match error {
        WithdrawError::NotRequested { host, source } => format!("`{host}`: {source}"),
        WithdrawError::StillUsed { host, users, waited } => {
            format!("`{host}`: after {} {}", duration::format(*waited), users.join("; "))
        }
    };
    let causes: Vec<String> = failed.iter().map(describe).collect();
    format!(
        "cannot take every host out of DNS: done for {done} of {}; {}",
        Count(of, "host"),
        causes.join("; ")
    )
}

/// The host and the cause alone, for a message that names the switch already.
fn describe_switch_cause(error: &SwitchError) -> String {
    match error {
        SwitchError::Refused { host, refusals, .. } => {
            let reasons: Vec<String> = refusals.iter().map(Refusal::to_string).collect();
            format!("`{host}`: {}", reasons.join("; "))
        }
        SwitchError::NotChanged { host, source, .. } | SwitchError::Contradicted { host, source, .. } => {
            format!("`{host}`: {source}")
        }
        SwitchError::NotObserved { host, switch, source } => {
            format!("`{host}`: its forward is {switch}, but {source}")
        }
        SwitchError::NotDrained { host, source, is_restored } => {
            let now = if *is_restored { "its forward is back on" } else { "its forward stays off" };
            format!("`{host}`: {source}; {now}")
        }
    }
}

pub(super) fn describe_roll(error: &RollError) -> String {
    match error {
        RollError::Journal(error) => describe_journal(error),
        error => error.to_string(),
    }
}

pub(super) fn describe_promotion(error: &PromotionError) -> String {
    match error {
        PromotionError::Journal(error) => describe_journal(error),
        error => error.to_string(),
    }
}

pub(super) fn describe_deployments(action: &str, error: &FleetDeployError) -> String {
    match error {
        FleetDeployError::Hosts(_) | FleetDeployError::Partial { .. } | FleetDeployError::Interrupted => {
            format!("cannot {action}: {error}")
        }
        FleetDeployError::Archive(error @ (ArchiveError::Refused { .. } | ArchiveError::Full { .. })) => {
            format!("cannot pack the source: {error}")
        }
        FleetDeployError::TaskFailed(error) => format!("cannot pack the source: {error}"),
        FleetDeployError::Lock(error) => describe_lock(error),
        FleetDeployError::Roll(error) => describe_roll(error),
        error => error.to_string(),
    }
}

pub(super) fn join_services(services: &[ServiceName]) -> String {
    services.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

pub(super) fn describe_unreached_hosts(unreached: &[HostName]) -> String {
    let names: Vec<String> = unreached.iter().map(|host| format!("`{host}`")).collect();
    match names.as_slice() {
        [] => String::new(),
        names => format!("; {} could not be reached and may still have its canary", names.join(", ")),
    }
}
