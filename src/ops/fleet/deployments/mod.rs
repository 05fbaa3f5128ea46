//! Versions side by side over a fleet, from the operator machine: every host does its own part.

mod access;
mod assign;
mod assign_options;
mod backup_connections;
mod compare;
mod deploy;
mod deploy_options;
mod deployment_name;
mod drain_progress;
mod each_host;
mod error;
mod haproxy_weights;
mod identity;
mod idle_connections;
mod kill;
mod list;
mod logs;
mod merge;
mod rollback;
mod traffic_split;
mod trial;
mod update;
mod verify;

pub use access::{check_access, set_access};
pub(super) use assign::flip_under_lock;
pub use assign::{assign, check_assign};
pub use assign_options::{AssignOptions, AssignReport, HostAssigned, Strategy};
pub use compare::{CompareOptions, compare, require_match};
pub use deploy::{DeployReport, HostDeployPlan, deploy};
pub use deploy_options::{DeployOptions, Source};
pub use deployment_name::{DeploymentName, parse_id};
pub(super) use each_host::{PerHost, for_each_host};
pub use error::{FleetDeployError, OvertakenHost};
pub use haproxy_weights::{AppliedWeights, ServerWeight, set_canary_weights};
pub(super) use idle_connections::FLUSH_TIMEOUT;
pub use kill::{KillOptions, KilledDeployment, check_kill, describe_remaining, find_unserved_backups, kill};
pub use list::{FleetDeployment, Listing, VersionStatus, list_answered, list_deployments};
pub use logs::{HostHistories, read_histories, stream_logs};
pub use merge::merge;
pub use rollback::{RollbackReport, rollback};
pub use traffic_split::{HostSplit, SplitOptions, split};
pub(super) use traffic_split::{apply_split_under_lock, wait_until_inserted};
pub use update::{UpdateOptions, update};
pub use verify::{Verification, VerifiedRelease, verify};

#[cfg(test)]
mod tests;
