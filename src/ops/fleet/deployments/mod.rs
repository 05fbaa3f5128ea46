//! Versions side by side over a fleet, from the operator machine: every host does its own part.

mod access;
mod assign;
mod assign_options;
mod compare;
mod deploy;
mod deployment_name;
mod each_host;
mod error;
mod haproxy_weights;
mod idle_connections;
mod kill;
mod list;
mod logs;
mod rollback;
mod traffic_split;
mod trial;
mod update;

pub use access::set_access;
pub(super) use assign::flip_under_lock;
pub use assign::{assign, check_assign};
pub use assign_options::{AssignOptions, AssignReport, HostAssigned, Strategy};
pub use compare::{CompareOptions, compare, require_match};
pub use deploy::{DeployOptions, DeployReport, HostDeployPlan, Source, deploy, shorten_digest};
pub use deployment_name::{DeploymentName, parse_id};
pub(super) use each_host::{PerHost, for_each_host};
pub use error::{FleetDeployError, OvertakenHost};
pub use haproxy_weights::{AppliedWeights, ServerWeight, set_canary_weights};
pub(super) use idle_connections::FLUSH_TIMEOUT;
pub use kill::{KillOptions, KilledDeployment, check_kill, kill};
pub use list::{FleetDeployment, Listing, list_deployments};
pub use logs::{HostHistories, read_histories, stream_logs};
pub use rollback::rollback;
pub use traffic_split::{HostSplit, SplitOptions, split};
pub(super) use traffic_split::{apply_split_under_lock, wait_until_inserted};
pub use update::{UpdateOptions, update};

#[cfg(test)]
mod tests;
