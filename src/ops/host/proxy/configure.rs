//! Configuration of the proxy as recorded. Every change pushes it, one push at a time, and the agent pushes it again where
//! the proxy runs another one.

use std::time::Duration;

use crate::model::proxy::ProxyConfig;
use crate::ops::host::deployments::error::HostDeployError;
use crate::plan::traffic_split;
use crate::world::HostWorld;
use crate::world::store::LockGuard;

/// How long to wait for another switchman process of this host: as long as a proxy may take to start, and to be configured.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts the proxy and pushes its configuration.
pub(super) async fn start(world: &HostWorld) -> Result<(), HostDeployError> {
    let _held = lock_proxy(world).await?;
    world.proxy.start().await?;
    Ok(world.proxy.configure(&build_config(world)?).await?)
}

/// Pushes the recorded configuration. With no service left the proxy ends.
pub(super) async fn push_config(world: &HostWorld) -> Result<(), HostDeployError> {
    let _held = lock_proxy(world).await?;
    let config = build_config(world)?;
    if world.store.places()?.is_empty() {
        return Ok(world.proxy.stop().await?);
    }
    Ok(world.proxy.configure(&config).await?)
}

/// Pushes the configuration again where the proxy runs another one than is recorded, as when a switchman process died
/// before its push. Whether a proxy that does not answer is needed is not checked here.
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
        held = world.store.lock_proxy("configure the proxy", LOCK_TIMEOUT) => Ok(held?),
        () = world.stop.wait() => Err(HostDeployError::Interrupted),
    }
}

/// Reads the record while no other process pushes: the last push carries what is recorded last.
fn build_config(world: &HostWorld) -> Result<ProxyConfig, HostDeployError> {
    let places = world.store.places()?;
    let mut existing = Vec::new();
    for record in &places {
        existing.extend(world.deployments.of(&record.forward.service)?);
    }
    Ok(traffic_split::build_config(&places, &existing))
}
