//! This host in numbers, for whoever watches it.
//!
//! The kernel's rules are not read for it: the agent puts them back as recorded, and counts that. Nor is conntrack, which takes
//! long on a busy host. What is read is a few rows, the sockets of each version's port, and what the proxy has counted.

use super::deployments::VersionError;
use super::deployments::kill;
use super::deployments::list;
use super::proxy;
use crate::plan::metrics::host::{HostNumbers, Placed};
use crate::world::HostWorld;
use crate::world::store::StoreError;

/// What the keeper calls its rows.
const REPAIR: &str = "repair";

/// Everything, at one moment. A part that could not be read says why.
pub async fn numbers(world: &HostWorld) -> HostNumbers {
    HostNumbers {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        services: world.store.recorded().map_err(said),
        deployments: placed(world).await.map_err(said),
        repairs: world.store.done(REPAIR).map_err(said),
        proxy: proxy::counted(world).await.map_err(|error: VersionError| error.to_string()).transpose(),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "what map_err hands over")]
fn said(error: StoreError) -> String {
    error.to_string()
}

async fn placed(world: &HostWorld) -> Result<Vec<Placed>, StoreError> {
    let mut placed = Vec::new();
    for deployment in world.deployments.all()? {
        let sockets = kill::count(world, &deployment).await.map_err(|error| error.to_string());
        let process = list::process(world, &deployment).await;
        placed.push(Placed { deployment, process, sockets });
    }
    Ok(placed)
}
