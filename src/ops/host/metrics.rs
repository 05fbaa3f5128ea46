//! Metrics of this host, for monitoring systems.
//!
//! The kernel's rules are not read for it: the agent puts them back as recorded, and counts that. Nor is conntrack, which takes
//! long on a busy host. What is read is a few rows, the sockets of each version's port, and what the proxy has counted.

use super::deployments::error::HostDeployError;
use super::deployments::instance::read_worst_process;
use super::deployments::open_connections::count_sockets;
use super::proxy;
use crate::plan::metrics::host::{DeploymentSnapshot, HostMetrics};
use crate::world::HostWorld;
use crate::world::store::StoreError;

/// The action under which the reconciler records its repairs.
const REPAIR_ACTION: &str = "repair";

/// Collects all metrics at one moment. A part that could not be read carries the reason.
pub async fn collect_numbers(world: &HostWorld) -> HostMetrics {
    HostMetrics {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        services: world.store.load_records().map_err(to_text),
        deployments: read_deployments(world).await.map_err(to_text),
        repairs: world.store.done(REPAIR_ACTION).map_err(to_text),
        proxy: proxy::read_stats(world).await.map_err(|error: HostDeployError| error.to_string()).transpose(),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "what map_err hands over")]
fn to_text(error: StoreError) -> String {
    error.to_string()
}

async fn read_deployments(world: &HostWorld) -> Result<Vec<DeploymentSnapshot>, StoreError> {
    let mut placed = Vec::new();
    for deployment in world.deployments.all()? {
        let sockets = count_sockets(world, &deployment).await.map_err(|error| error.to_string());
        let process = read_worst_process(world, &deployment).await.map_err(|error| error.to_string());
        placed.push(DeploymentSnapshot { deployment, process, sockets });
    }
    Ok(placed)
}
