//! The proxy's place in a service's data path: it comes when a shadow or a canary is asked for, and goes with the last of them.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use self::configure::{begin, converge, tell};
use super::deployments::VersionError;
use super::rules::{self, ChangeError};
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::evidence::Evidence;
use crate::model::forward::Recorded;
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::proxy::{Layer7, Place, ProxyStats, Splits};
use crate::model::traffic_split::{Split, SplitChange, SplitRequest};
use crate::plan::traffic_split::{self, Wanted};
use crate::plan::versions::{self, Refused};
use crate::world::HostWorld;
use crate::world::proxy::ProxyError;
use crate::world::reporter::Event;

mod backoff;
mod configure;
mod reconciler;
mod warn_once;

pub use reconciler::{keep, straighten};

/// Between two tries of the self-test.
const PAUSE: Duration = Duration::from_millis(50);
/// For one look at what it listens on.
const LOOK: Duration = Duration::from_secs(5);

/// Who gets copies or a share is as asked, and the proxy stands before main exactly where somebody does. On failure everything
/// is as before.
pub async fn split(
    world: &HostWorld,
    service: &ServiceName,
    request: &SplitRequest,
) -> Result<Split, VersionError> {
    let adds = matches!(request.change, SplitChange::Mirror(_) | SplitChange::Canary(_));
    if adds && !world.proxy.is_kept() {
        return Err(ProxyError::NotKept.into());
    }
    let change = record(world, service, request).await?;
    let known = change.is_none();
    // Also where it is so already: whoever asked before may have died before he told the proxy.
    let settled = if adds {
        settle(world, service, &request.actor).await
    } else {
        // Whoever gets nothing more needs no proxy for that.
        follow(world, service, &request.actor).await
    };
    if let Err(error) = settled {
        if let Some(change) = change {
            put_back(world, service, &change, &request.actor).await?;
        }
        return Err(error);
    }
    let record = rules::record(world, service)?.ok_or_else(|| Refused::NoMain(service.clone()))?;
    Ok(Split { inserted: record.layer7.inserted().is_some(), splits: record.layer7.splits, known })
}

/// What was recorded, and what is since.
struct Change {
    before: Splits,
    after: Splits,
}

/// Records what is asked; `None` where it is so already.
async fn record(
    world: &HostWorld,
    service: &ServiceName,
    request: &SplitRequest,
) -> Result<Option<Change>, VersionError> {
    let mut change = None;
    rules::change_where(world, traffic_split::action(&request.change), |records| {
        let record = versions::of(records, service).ok_or_else(|| Refused::NoMain(service.clone()))?;
        // Read again: a kill may have begun since.
        let existing = world.deployments.all()?;
        let after = traffic_split::change(record, &existing, request)?;
        let settled = match traffic_split::wanted(record) {
            Wanted::Inserted(_) => record.layer7.inserted().is_some(),
            Wanted::Placed => false,
            Wanted::Straight(_) => record.layer7.inserted().is_none(),
            Wanted::Nothing => true,
        };
        if after == record.layer7.splits && settled {
            return Ok(None);
        }
        change = Some(Change { before: record.layer7.splits.clone(), after: after.clone() });
        let place = match record.layer7.place {
            Some(place) => Some(place),
            None if after.is_empty() => None,
            None => Some(Place { port: port(world, records, &existing, request)?, inserted: false }),
        };
        let told = [traffic_split::told(&request.change, &existing), request.detail.clone()];
        let told: Vec<String> = told.into_iter().filter(|part| !part.is_empty()).collect();
        let layer7 = Layer7 { splits: after, place };
        let action = traffic_split::action(&request.change);
        Ok::<_, VersionError>(Some(traffic_split::intent(
            record,
            layer7,
            &request.actor,
            action,
            told.join(", "),
        )))
    })
    .await?;
    Ok(change)
}

/// One that nobody has.
fn port(
    world: &HostWorld,
    records: &[Recorded],
    existing: &[Deployment],
    request: &SplitRequest,
) -> Result<Port, VersionError> {
    let instances = existing.iter().flat_map(Deployment::instances).map(|instance| instance.port);
    let taken = instances.chain(records.iter().flat_map(Recorded::ports)).chain(traffic_split::gateway());
    let taken: BTreeSet<Port> = taken.collect();
    let (first, last) = request.range;
    let free = |port: &Port| {
        !taken.contains(port) && world.machine.listeners(*port).is_ok_and(|found| found.is_empty())
    };
    // From the end: instances get theirs from the beginning.
    let found = (first.get()..=last.get()).rev().filter_map(Port::new).find(free);
    Ok(found.ok_or(Refused::NoPort { first, last })?)
}

/// What somebody else has changed meanwhile stays as he left it.
async fn put_back(
    world: &HostWorld,
    service: &ServiceName,
    Change { before, after }: &Change,
    actor: &Actor,
) -> Result<(), VersionError> {
    let existing = world.deployments.of(service)?;
    rules::change_where(world, "splits", |records| {
        let Some(record) = versions::of(records, service) else { return Ok(None) };
        let splits = traffic_split::undone(&record.layer7.splits, before, after, &existing);
        let place = record.layer7.place.map(|place| Place { inserted: false, ..place });
        let layer7 = Layer7 { splits, place };
        let detail = "refused: it is as before".to_owned();
        Ok::<_, ChangeError>(Some(traffic_split::intent(record, layer7, actor, "splits", detail)))
    })
    .await?;
    Ok(())
}

/// Brings rules and proxy to what is recorded of one service. What cannot be done leaves the rules leading straight at main.
pub(super) async fn settle(
    world: &HostWorld,
    service: &ServiceName,
    actor: &Actor,
) -> Result<(), VersionError> {
    let Some(record) = rules::record(world, service)? else { return Ok(()) };
    match traffic_split::wanted(&record) {
        Wanted::Nothing | Wanted::Placed => Ok(()),
        Wanted::Inserted(port) => {
            let done = insert(world, &record, port, actor).await;
            if done.is_err() {
                lead(world, service, port, false, actor).await?;
            }
            done
        }
        Wanted::Straight(port) => {
            lead(world, service, port, false, actor).await?;
            // A proxy that is gone has nothing to drain; one that does not answer is told by the agent when it does.
            let _ = tell(world).await;
            Ok(())
        }
    }
}

/// The proxy answers for main before a rule leads to it, and copies and shares after.
async fn insert(world: &HostWorld, record: &Recorded, port: Port, actor: &Actor) -> Result<(), VersionError> {
    begin(world).await?;
    if record.layer7.inserted().is_none() {
        listens(world, record, port).await?;
        answers(world, record, port).await?;
        lead(world, &record.forward.service, port, true, actor).await?;
        tell(world).await?;
    }
    Ok(())
}

/// Somebody else may have its port.
async fn listens(world: &HostWorld, record: &Recorded, port: Port) -> Result<(), VersionError> {
    match world.proxy.health(LOOK).await?.missing.remove(&port) {
        Some(why) => Err(ProxyError::NoPort { service: record.forward.service.clone(), why }.into()),
        None => Ok(()),
    }
}

/// Main's own health check, through the proxy.
async fn answers(world: &HostWorld, record: &Recorded, port: Port) -> Result<(), VersionError> {
    let Some(routes) = &record.routes else { return Ok(()) };
    let existing = world.deployments.all()?;
    let which = crate::model::api::deployments::Which::Id(routes.main.deployment.clone());
    let main = versions::find(&existing, &which)?;
    let deadline = Instant::now() + versions::patience(&main.health);
    let mut passed = 0;
    loop {
        let why = match world.probe.ask((main.address, port.get()).into(), &main.health).await {
            Ok(()) if passed + 1 >= main.health.rise => return Ok(()),
            Ok(()) => {
                passed += 1;
                None
            }
            Err(why) => {
                passed = 0;
                Some(why.to_string())
            }
        };
        if world.stop.is_requested() {
            return Err(VersionError::Interrupted);
        }
        if let Some(why) = why.filter(|_| Instant::now() >= deadline) {
            return Err(ProxyError::NotThrough { service: record.forward.service.clone(), port, why }.into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The rules of main lead to the proxy, or straight at main. Nothing is done where it is so.
async fn lead(
    world: &HostWorld,
    service: &ServiceName,
    port: Port,
    inserted: bool,
    actor: &Actor,
) -> Result<(), VersionError> {
    let action = if inserted { "proxy: in" } else { "proxy: out" };
    rules::change_where(world, action, |records| {
        let Some(record) = versions::of(records, service) else { return Ok(None) };
        let layer7 = traffic_split::moved(record, port, inserted);
        Ok::<_, ChangeError>(
            layer7.map(|layer7| traffic_split::intent(record, layer7, actor, action, String::new())),
        )
    })
    .await?;
    Ok(())
}

/// After a change of versions: whoever is connected through the proxy is led as the rules lead. A proxy that cannot be told is
/// out of the way, which is told and no failure of the change.
pub(super) async fn follow(
    world: &HostWorld,
    service: &ServiceName,
    actor: &Actor,
) -> Result<(), VersionError> {
    if rules::record(world, service)?.is_none_or(|record| record.layer7.place.is_none()) {
        return Ok(());
    }
    let Err(error) = settle(world, service, actor).await else { return Ok(()) };
    match rules::record(world, service)? {
        Some(record) if record.layer7.inserted().is_some() => Err(error),
        _ => {
            let text = format!("{service}: the rules lead straight at main: {error}");
            world.reporter.report(&Event::Warning { text });
            Ok(())
        }
    }
}

/// Before a deployment is taken away: it gets neither copies nor a share. Gives back what was recorded, where it got any.
pub(super) async fn leave(
    world: &HostWorld,
    deployment: &Deployment,
    actor: &Actor,
) -> Result<Option<Layer7>, VersionError> {
    let service = &deployment.service;
    let mut before = None;
    rules::change_where(world, "kill", |records| {
        let Some(record) = versions::of(records, service) else { return Ok(None) };
        let splits = record.layer7.splits.without(&deployment.id);
        if splits == record.layer7.splits {
            return Ok(None);
        }
        before = Some(record.layer7.clone());
        let layer7 = Layer7 { splits, ..record.layer7.clone() };
        let detail = format!("{service} {} gets neither copies nor a share", deployment.version);
        Ok::<_, ChangeError>(Some(traffic_split::intent(record, layer7, actor, "kill", detail)))
    })
    .await?;
    if rules::record(world, service)?.is_none_or(|record| record.layer7.place.is_none()) {
        // The place went with its main. One that does not answer is told by the agent when it does.
        let _ = converge(world).await;
    }
    if let Err(error) = follow(world, service, actor).await {
        // Nothing is killed: it gets again what it got.
        if let Some(before) = &before {
            rejoin(world, deployment, before, actor).await?;
        }
        return Err(error);
    }
    Ok(before)
}

/// The kill is refused: it gets again what it got.
pub(super) async fn rejoin(
    world: &HostWorld,
    deployment: &Deployment,
    before: &Layer7,
    actor: &Actor,
) -> Result<(), VersionError> {
    let service = &deployment.service;
    rules::change_where(world, "kill", |records| {
        let Some(record) = versions::of(records, service) else { return Ok(None) };
        let layer7 = traffic_split::rejoined(record, before, &deployment.id);
        let detail = "refused: copies and share are back".to_owned();
        Ok::<_, ChangeError>(
            layer7.map(|layer7| traffic_split::intent(record, layer7, actor, "kill", detail)),
        )
    })
    .await?;
    follow(world, service, actor).await
}

/// What the proxy counted; `None` where it has no place in any service's data path.
pub async fn counted(world: &HostWorld) -> Result<Option<ProxyStats>, VersionError> {
    if world.store.places()?.is_empty() {
        return Ok(None);
    }
    Ok(Some(world.proxy.stats().await?))
}

/// What a shadow's answers have shown; `None`: nothing was compared.
pub async fn evidence(
    world: &HostWorld,
    service: &ServiceName,
    deployment: &DeploymentId,
) -> Result<Option<Evidence>, VersionError> {
    if world.store.places()?.is_empty() {
        return Ok(None);
    }
    Ok(world.proxy.evidence(service, deployment).await?)
}
