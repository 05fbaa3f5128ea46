//! The proxy does what is recorded: told by whoever changes that, one at a time, and again where it was not.

use std::time::Duration;

use super::VersionError;
use crate::model::proxy::ProxyConfig;
use crate::plan::traffic_split;
use crate::world::HostWorld;
use crate::world::store::Exclusive;

/// How long another switchman of this host is waited for: as long as a process may take to start, and to be told.
const PATIENCE: Duration = Duration::from_secs(30);

/// It runs, and was told.
pub(super) async fn begin(world: &HostWorld) -> Result<(), VersionError> {
    let _held = held(world).await?;
    world.proxy.start().await?;
    Ok(world.proxy.configure(&recorded(world)?).await?)
}

/// It was told; with no service left it ends.
pub(super) async fn tell(world: &HostWorld) -> Result<(), VersionError> {
    let _held = held(world).await?;
    let config = recorded(world)?;
    if world.store.places()?.is_empty() {
        return Ok(world.proxy.stop().await?);
    }
    Ok(world.proxy.configure(&config).await?)
}

/// Told again where it does something else than is recorded, as when a switchman died before it told it. Whether one that does not
/// answer is needed is not asked here.
pub(super) async fn converge(world: &HostWorld) -> Result<(), VersionError> {
    match world.proxy.config().await {
        Ok(does) if does != recorded(world)? || world.store.places()?.is_empty() => tell(world).await,
        Ok(_) | Err(_) => Ok(()),
    }
}

async fn held(world: &HostWorld) -> Result<Box<dyn Exclusive>, VersionError> {
    tokio::select! {
        biased;
        held = world.store.lock_proxy("tell the proxy", PATIENCE) => Ok(held?),
        () = world.stop.requested() => Err(VersionError::Interrupted),
    }
}

/// Read while nobody else tells it: whoever comes last tells what is recorded last.
fn recorded(world: &HostWorld) -> Result<ProxyConfig, VersionError> {
    let places = world.store.places()?;
    let mut existing = Vec::new();
    for record in &places {
        existing.extend(world.deployments.of(&record.forward.service)?);
    }
    Ok(traffic_split::config(&places, &existing))
}
