//! The proxy does what is recorded: told by whoever changes that, one at a time, and again where it was not.

use std::time::Duration;

use super::HostDeployError;
use crate::model::proxy::ProxyConfig;
use crate::plan::traffic_split;
use crate::world::HostWorld;
use crate::world::store::LockGuard;

/// How long another switchman of this host is waited for: as long as a process may take to start, and to be told.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// It runs, and was told.
pub(super) async fn start(world: &HostWorld) -> Result<(), HostDeployError> {
    let _held = lock_proxy(world).await?;
    world.proxy.start().await?;
    Ok(world.proxy.configure(&build_config(world)?).await?)
}

/// It was told; with no service left it ends.
pub(super) async fn push_config(world: &HostWorld) -> Result<(), HostDeployError> {
    let _held = lock_proxy(world).await?;
    let config = build_config(world)?;
    if world.store.places()?.is_empty() {
        return Ok(world.proxy.stop().await?);
    }
    Ok(world.proxy.configure(&config).await?)
}

/// Told again where it does something else than is recorded, as when a switchman died before it told it. Whether one that does not
/// answer is needed is not asked here.
pub(super) async fn reconcile_config(world: &HostWorld) -> Result<(), HostDeployError> {
    match world.proxy.read_config().await {
        Ok(does) if does != build_config(world)? || world.store.places()?.is_empty() => {
            push_config(world).await
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

async fn lock_proxy(world: &HostWorld) -> Result<Box<dyn LockGuard>, HostDeployError> {
    tokio::select! {
        biased;
        held = world.store.lock_proxy("tell the proxy", LOCK_TIMEOUT) => Ok(held?),
        () = world.stop.wait() => Err(HostDeployError::Interrupted),
    }
}

/// Read while nobody else tells it: whoever comes last tells what is recorded last.
fn build_config(world: &HostWorld) -> Result<ProxyConfig, HostDeployError> {
    let places = world.store.places()?;
    let mut existing = Vec::new();
    for record in &places {
        existing.extend(world.deployments.of(&record.forward.service)?);
    }
    Ok(traffic_split::build_config(&places, &existing))
}
