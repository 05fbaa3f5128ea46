//! The proxy's place in a service's data path: it is inserted for the first shadow or canary, and removed with the last of
//! them.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use self::configure::{push_config, reconcile_config, start};
use super::deployments::error::HostDeployError;
use super::rules::{self, ChangeError};
use super::warn::warn;
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::evidence::Evidence;
use crate::model::forward::ServiceRecord;
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::proxy::{Layer7, ProxyPlacement, ProxyStats, TrafficSplit};
use crate::model::traffic_split::{TrafficSplitChange, TrafficSplitRequest, TrafficSplitResponse};
use crate::plan::traffic_split::{self, DesiredPlacement};
use crate::plan::versions::{self, DeployRefusal};
use crate::world::HostWorld;
use crate::world::proxy::ProxyError;

mod backoff;
mod configure;
mod reconciler;
mod warn_once;

pub use reconciler::{bypass_dead_proxy, run};

/// The interval between two tries of the self-test.
const SELF_TEST_INTERVAL: Duration = Duration::from_millis(50);
/// The timeout of one look at what the proxy listens on.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// Gives copies and shares as requested, and inserts the proxy before main exactly where a deployment gets any. On failure
/// everything is as before.
pub async fn apply_split(
    world: &HostWorld,
    service: &ServiceName,
    request: &TrafficSplitRequest,
) -> Result<TrafficSplitResponse, HostDeployError> {
    let adds = matches!(request.change, TrafficSplitChange::SetMirror(_) | TrafficSplitChange::SetCanary(_));
    if adds && !world.proxy.is_watched() {
        return Err(ProxyError::NotWatched.into());
    }
    rules::check_actor(world, service, &request.actor)?;
    if request.dry_run {
        return preview_split(world, service, request);
    }
    let change = record_split(world, service, request).await?;
    let known = change.is_none();
    // Also where it is so already: an earlier request may have died before it configured the proxy.
    let settled = if adds {
        reconcile_service(world, service, &request.actor).await
    } else {
        // Removing copies or a share needs no proxy.
        reconcile_after_change(world, service, &request.actor).await
    };
    if let Err(error) = settled {
        if let Some(change) = change {
            restore_splits(world, service, &change, &request.actor).await?;
        }
        return Err(error);
    }
    let record = rules::read_record(world, service)?.ok_or_else(|| DeployRefusal::NoMain(service.clone()))?;
    Ok(TrafficSplitResponse {
        inserted: record.layer7.inserted().is_some(),
        traffic_split: record.layer7.traffic_split,
        known,
    })
}

/// Returns the split that a request comes to. Nothing is recorded.
fn preview_split(
    world: &HostWorld,
    service: &ServiceName,
    request: &TrafficSplitRequest,
) -> Result<TrafficSplitResponse, HostDeployError> {
    let record = rules::read_record(world, service)?.ok_or_else(|| DeployRefusal::NoMain(service.clone()))?;
    let after = traffic_split::apply_change(&record, &world.deployments.all()?, request)?;
    Ok(TrafficSplitResponse {
        inserted: record.layer7.inserted().is_some(),
        known: after == record.layer7.traffic_split,
        traffic_split: after,
    })
}

/// The record before and after a change.
struct SplitDiff {
    before: TrafficSplit,
    after: TrafficSplit,
}

/// Records the request. Returns `None` where the record already matches.
async fn record_split(
    world: &HostWorld,
    service: &ServiceName,
    request: &TrafficSplitRequest,
) -> Result<Option<SplitDiff>, HostDeployError> {
    let mut change = None;
    rules::change_if_needed(world, traffic_split::name_action(&request.change), |records| {
        let record =
            versions::find_record(records, service).ok_or_else(|| DeployRefusal::NoMain(service.clone()))?;
        // Read again: a kill may have begun since.
        let existing = world.deployments.all()?;
        let after = traffic_split::apply_change(record, &existing, request)?;
        let settled = match traffic_split::derive_placement(record) {
            DesiredPlacement::Inserted(_) => record.layer7.inserted().is_some(),
            DesiredPlacement::Unallocated => false,
            DesiredPlacement::Bypassed(_) => record.layer7.inserted().is_none(),
            DesiredPlacement::Unneeded => true,
        };
        if after == record.layer7.traffic_split && settled {
            return Ok(None);
        }
        change = Some(SplitDiff { before: record.layer7.traffic_split.clone(), after: after.clone() });
        let place = match record.layer7.place {
            Some(place) => Some(place),
            None if after.is_empty() => None,
            None => Some(ProxyPlacement {
                port: choose_port(world, records, &existing, request)?,
                inserted: false,
            }),
        };
        let details = [traffic_split::describe_change(&request.change, &existing), request.detail.clone()];
        let details: Vec<String> = details.into_iter().filter(|part| !part.is_empty()).collect();
        let layer7 = Layer7 { traffic_split: after, place };
        let action = traffic_split::name_action(&request.change);
        Ok::<_, HostDeployError>(Some(traffic_split::build_intent(
            record,
            layer7,
            &request.actor,
            action,
            details.join(", "),
        )))
    })
    .await?;
    Ok(change)
}

/// Chooses a port that no instance and no other process has.
fn choose_port(
    world: &HostWorld,
    records: &[ServiceRecord],
    existing: &[Deployment],
    request: &TrafficSplitRequest,
) -> Result<Port, HostDeployError> {
    let instances = existing.iter().flat_map(Deployment::instances).map(|instance| instance.port);
    let taken =
        instances.chain(records.iter().flat_map(ServiceRecord::ports)).chain(traffic_split::gateway_port());
    let taken: BTreeSet<Port> = taken.collect();
    let (first, last) = request.port_range;
    let free = |port: &Port| {
        !taken.contains(port) && world.machine.list_listeners(*port).is_ok_and(|found| found.is_empty())
    };
    // From the end: instances get theirs from the beginning.
    let found = (first.get()..=last.get()).rev().filter_map(Port::new).find(free);
    Ok(found.ok_or(DeployRefusal::NoPort { first, last })?)
}

/// Takes a change back. What another process has changed since then stays.
async fn restore_splits(
    world: &HostWorld,
    service: &ServiceName,
    SplitDiff { before, after }: &SplitDiff,
    actor: &Actor,
) -> Result<(), HostDeployError> {
    let existing = world.deployments.of(service)?;
    rules::change_if_needed(world, "splits", |records| {
        let Some(record) = versions::find_record(records, service) else { return Ok(None) };
        let splits = traffic_split::revert_change(&record.layer7.traffic_split, before, after, &existing);
        let place = record.layer7.place.map(|place| ProxyPlacement { inserted: false, ..place });
        let layer7 = Layer7 { traffic_split: splits, place };
        let detail = "refused: it is as before".to_owned();
        Ok::<_, ChangeError>(Some(traffic_split::build_intent(record, layer7, actor, "splits", detail)))
    })
    .await?;
    Ok(())
}

/// Brings rules and proxy to what is recorded of one service. What cannot be done leaves the rules routing directly to
/// main.
pub(super) async fn reconcile_service(
    world: &HostWorld,
    service: &ServiceName,
    actor: &Actor,
) -> Result<(), HostDeployError> {
    let Some(record) = rules::read_record(world, service)? else { return Ok(()) };
    match traffic_split::derive_placement(&record) {
        DesiredPlacement::Unneeded | DesiredPlacement::Unallocated => Ok(()),
        DesiredPlacement::Inserted(port) => {
            let done = insert_proxy(world, &record, port, actor).await;
            if done.is_err() {
                set_inserted(world, service, port, false, actor).await?;
            }
            done
        }
        DesiredPlacement::Bypassed(port) => {
            set_inserted(world, service, port, false, actor).await?;
            // A proxy that has exited has nothing to drain; the agent configures one that does not answer when it answers
            // again.
            let _ = push_config(world).await;
            Ok(())
        }
    }
}

/// Inserts the proxy: it answers for main before a rule routes to it, and gives copies and shares only after that.
async fn insert_proxy(
    world: &HostWorld,
    record: &ServiceRecord,
    port: Port,
    actor: &Actor,
) -> Result<(), HostDeployError> {
    start(world).await?;
    if record.layer7.inserted().is_none() {
        check_listening(world, record, port).await?;
        check_answers(world, record, port).await?;
        set_inserted(world, &record.forward.service, port, true, actor).await?;
        push_config(world).await?;
    }
    Ok(())
}

/// Checks that the proxy listens on its port: another process may have it.
async fn check_listening(
    world: &HostWorld,
    record: &ServiceRecord,
    port: Port,
) -> Result<(), HostDeployError> {
    match world.proxy.check_health(HEALTH_TIMEOUT).await?.missing.remove(&port) {
        Some(reason) => Err(ProxyError::NoPort { service: record.forward.service.clone(), reason }.into()),
        None => Ok(()),
    }
}

/// Main's own health check, through the proxy.
async fn check_answers(world: &HostWorld, record: &ServiceRecord, port: Port) -> Result<(), HostDeployError> {
    let Some(routes) = &record.routes else { return Ok(()) };
    let existing = world.deployments.all()?;
    let which = crate::model::api::deployments::DeploymentRef::Id(routes.main.deployment.clone());
    let main = versions::find_deployment(&existing, &which)?;
    let deadline = Instant::now() + versions::compute_health_timeout(&main.health);
    let mut passed = 0;
    loop {
        let failure = match world.probe.check((main.address, port.get()).into(), &main.health).await {
            Ok(()) if passed + 1 >= main.health.rise => return Ok(()),
            Ok(()) => {
                passed += 1;
                None
            }
            Err(error) => {
                passed = 0;
                Some(error.to_string())
            }
        };
        if world.stop.is_requested() {
            return Err(HostDeployError::Interrupted);
        }
        if let Some(reason) = failure.filter(|_| Instant::now() >= deadline) {
            return Err(
                ProxyError::NotReachable { service: record.forward.service.clone(), port, reason }.into()
            );
        }
        tokio::time::sleep(SELF_TEST_INTERVAL).await;
    }
}

/// Routes main's rules to the proxy, or directly to main. Does nothing where they are so already.
async fn set_inserted(
    world: &HostWorld,
    service: &ServiceName,
    port: Port,
    inserted: bool,
    actor: &Actor,
) -> Result<(), HostDeployError> {
    let action = if inserted { "proxy: in" } else { "proxy: out" };
    rules::change_if_needed(world, action, |records| {
        let Some(record) = versions::find_record(records, service) else { return Ok(None) };
        let layer7 = traffic_split::set_inserted(record, port, inserted);
        Ok::<_, ChangeError>(
            layer7.map(|layer7| traffic_split::build_intent(record, layer7, actor, action, String::new())),
        )
    })
    .await?;
    Ok(())
}

/// Follows a change of versions: clients connected through the proxy are routed as the rules route. A proxy that cannot be
/// configured is bypassed, which is a warning and no failure of the change.
pub(super) async fn reconcile_after_change(
    world: &HostWorld,
    service: &ServiceName,
    actor: &Actor,
) -> Result<(), HostDeployError> {
    if rules::read_record(world, service)?.is_none_or(|record| record.layer7.place.is_none()) {
        return Ok(());
    }
    let Err(error) = reconcile_service(world, service, actor).await else { return Ok(()) };
    match rules::read_record(world, service)? {
        Some(record) if record.layer7.inserted().is_some() => Err(error),
        _ => {
            warn(world, format!("{service}: the rules bypass the proxy: {error}"));
            Ok(())
        }
    }
}

/// Before a deployment is taken away: it gets neither copies nor a share. Gives back what was recorded, where it got any.
pub(super) async fn remove_from_splits(
    world: &HostWorld,
    deployment: &Deployment,
    actor: &Actor,
) -> Result<Option<Layer7>, HostDeployError> {
    let service = &deployment.service;
    let mut before = None;
    rules::change_if_needed(world, "kill", |records| {
        let Some(record) = versions::find_record(records, service) else { return Ok(None) };
        let splits = record.layer7.traffic_split.without_deployment(&deployment.id);
        if splits == record.layer7.traffic_split {
            return Ok(None);
        }
        before = Some(record.layer7.clone());
        let layer7 = Layer7 { traffic_split: splits, ..record.layer7.clone() };
        let detail = format!("{service} {} gets neither copies nor a share", deployment.version);
        Ok::<_, ChangeError>(Some(traffic_split::build_intent(
            record,
            layer7,
            actor,
            versions::KILL_BEGUN,
            detail,
        )))
    })
    .await?;
    if rules::read_record(world, service)?.is_none_or(|record| record.layer7.place.is_none()) {
        // The place went with its main. The agent configures a proxy that does not answer when it answers again.
        let _ = reconcile_config(world).await;
    }
    if let Err(error) = reconcile_after_change(world, service, actor).await {
        // Nothing is killed: it gets again what it got.
        if let Some(before) = &before {
            restore_to_splits(world, deployment, before, actor).await?;
        }
        return Err(error);
    }
    Ok(before)
}

/// The kill is refused: it gets again what it got.
pub(super) async fn restore_to_splits(
    world: &HostWorld,
    deployment: &Deployment,
    before: &Layer7,
    actor: &Actor,
) -> Result<(), HostDeployError> {
    let service = &deployment.service;
    rules::change_if_needed(world, "kill", |records| {
        let Some(record) = versions::find_record(records, service) else { return Ok(None) };
        let layer7 = traffic_split::restore_deployment(record, before, &deployment.id);
        let detail = format!("{service} {}: copies and share are back", deployment.version);
        Ok::<_, ChangeError>(
            layer7.map(|layer7| {
                traffic_split::build_intent(record, layer7, actor, versions::KILL_REFUSED, detail)
            }),
        )
    })
    .await?;
    reconcile_after_change(world, service, actor).await
}

/// Reads the proxy's counters, or `None` where it has no place in any service's data path.
pub async fn read_stats(world: &HostWorld) -> Result<Option<ProxyStats>, HostDeployError> {
    if world.store.places()?.is_empty() {
        return Ok(None);
    }
    Ok(Some(world.proxy.read_stats().await?))
}

/// Reads the comparison of a shadow's answers with main's, or `None` if nothing was compared.
pub async fn read_evidence(
    world: &HostWorld,
    service: &ServiceName,
    deployment: &DeploymentId,
) -> Result<Option<Evidence>, HostDeployError> {
    if world.store.places()?.is_empty() {
        return Ok(None);
    }
    Ok(world.proxy.read_evidence(service, deployment).await?)
}
