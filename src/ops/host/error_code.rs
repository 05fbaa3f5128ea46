//! The code on the wire for each error of a host's own parts.

use super::rules::ChangeError;
use crate::model::failure::ErrorCode;
use crate::world::firewall::FirewallError;
use crate::world::releases::ReleaseError;
use crate::world::store::StoreError;

pub fn release_code(error: &ReleaseError) -> ErrorCode {
    match error {
        ReleaseError::Refused(_) | ReleaseError::Damaged(_) => ErrorCode::BadArchive,
        ReleaseError::NameTaken { .. } => ErrorCode::ReleaseExists,
        ReleaseError::Altered { .. } => ErrorCode::ReleaseAltered,
        ReleaseError::Full { .. } => ErrorCode::DiskFull,
        ReleaseError::Failed { .. } => ErrorCode::ReleasesFailed,
    }
}

pub fn change_code(error: &ChangeError) -> ErrorCode {
    match error {
        ChangeError::Firewall(error) => firewall_code(error),
        ChangeError::Store(error) => store_code(error),
        ChangeError::Owned(_) => ErrorCode::Owned,
        ChangeError::Interrupted => ErrorCode::Interrupted,
        ChangeError::Contradicted { .. } => ErrorCode::ForwardContradicted,
        ChangeError::Contested { .. } => ErrorCode::RulesContested,
        ChangeError::HalfDone { .. } => ErrorCode::RevertFailed,
    }
}

fn firewall_code(error: &FirewallError) -> ErrorCode {
    match error {
        FirewallError::Missing { .. } => ErrorCode::ProgramMissing,
        FirewallError::NoPrivilege { .. } => ErrorCode::NoPrivilege,
        FirewallError::Locked { .. } => ErrorCode::RulesLocked,
        FirewallError::TimedOut { .. }
        | FirewallError::Failed { .. }
        | FirewallError::StartFailed { .. }
        | FirewallError::NoNat { .. } => ErrorCode::RulesFailed,
        FirewallError::Malformed { .. } => ErrorCode::RulesMalformed,
    }
}

pub fn store_code(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::Open { .. } | StoreError::Failed { .. } => ErrorCode::StateFailed,
        StoreError::Newer { .. } => ErrorCode::StateNewer,
        StoreError::Full { .. } => ErrorCode::DiskFull,
        StoreError::Damaged { .. } => ErrorCode::StateDamaged,
        StoreError::Busy { .. } => ErrorCode::Busy,
    }
}
