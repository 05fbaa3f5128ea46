//! Health checks of versions with several instances: one that fails gets no new connection until it is healthy again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::error::HostDeployError;
use crate::model::deployment::Deployment;
use crate::model::forward::ServiceRecord;
use crate::model::health::Health;
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::ops::host::proxy;
use crate::ops::host::rules::{self, ChangeError};
use crate::ops::host::warn::warn;
use crate::plan::instance_health::{PassedChecks, decide_unhealthy, list_checked_ports};
use crate::plan::versions;
use crate::world::HostWorld;
use crate::world::probe::ProbeError;

/// The interval between two looks for versions with several instances.
const LIST_INTERVAL: Duration = Duration::from_millis(500);

/// An instance that is checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct CheckedInstance {
    service: ServiceName,
    address: SocketAddr,
}

/// Checks every instance by itself, so that one that does not answer delays no other. Runs until a stop is requested.
pub(super) async fn watch_instances(world: &HostWorld, actor: &Actor) {
    let actor = &Actor { is_host: true, ..actor.clone() };
    let mut passed: BTreeMap<ServiceName, PassedChecks> = BTreeMap::new();
    let (mut checks, mut checked) = (FuturesUnordered::new(), BTreeSet::new());
    let mut last_warning = None;
    while !world.stop.is_requested() {
        let wanted = list_instances(world);
        for checks in passed.values_mut() {
            checks.retain(|port, _| wanted.keys().any(|one| one.address.port() == port.get()));
        }
        for (instance, (health, pause)) in &wanted {
            if checked.insert(instance.clone()) {
                checks.push(check_after(world, instance.clone(), health.clone(), *pause));
            }
        }
        let due = tokio::time::sleep(LIST_INTERVAL);
        tokio::pin!(due);
        loop {
            let (instance, result) = tokio::select! {
                biased;
                () = world.stop.wait() => return,
                () = &mut due => break,
                Some(ended) = checks.next() => ended,
            };
            let of_service = passed.entry(instance.service.clone()).or_default();
            record_check(of_service, &instance, &result);
            let applied = apply_health(world, &instance, of_service, &result, actor).await;
            let warning = applied.err().map(|error| format!("{}: {error}", instance.service));
            if let Some(text) = warning.clone().filter(|_| warning != last_warning) {
                warn(world, format!("health of instances: {text}"));
            }
            last_warning = warning;
            match wanted.get(&instance) {
                Some((health, _)) => {
                    checks.push(check_after(world, instance, health.clone(), health.interval));
                }
                None => _ = checked.remove(&instance),
            }
        }
    }
}

/// Lists the instances to check. The first check of an instance follows at once.
fn list_instances(world: &HostWorld) -> BTreeMap<CheckedInstance, (Health, Duration)> {
    // A record that cannot be read is reported by the reconciler of the rules.
    let deployments = world.deployments.all().unwrap_or_default();
    if !deployments.iter().any(Deployment::has_several_instances) {
        return BTreeMap::new();
    }
    let records = world.store.load_records().unwrap_or_default();
    let mut found = BTreeMap::new();
    for one in &deployments {
        let record = versions::find_record(&records, &one.service);
        let Some(routes) = record.and_then(|record| record.routes.as_ref()) else { continue };
        for port in list_checked_ports(one, routes) {
            let address = SocketAddr::new(one.address, port.get());
            let instance = CheckedInstance { service: one.service.clone(), address };
            found.insert(instance, (one.health.clone(), Duration::ZERO));
        }
    }
    found
}

async fn check_after(
    world: &HostWorld,
    instance: CheckedInstance,
    health: Health,
    pause: Duration,
) -> (CheckedInstance, Result<(), ProbeError>) {
    tokio::time::sleep(pause).await;
    let result = world.probe.check(instance.address, &health).await;
    (instance, result)
}

fn record_check(passed: &mut PassedChecks, instance: &CheckedInstance, result: &Result<(), ProbeError>) {
    let Some(port) = Port::new(instance.address.port()) else { return };
    let count = passed.entry(port).or_default();
    *count = if result.is_ok() { count.saturating_add(1) } else { 0 };
}

/// Changes rules, record and proxy where a check decides so.
async fn apply_health(
    world: &HostWorld,
    instance: &CheckedInstance,
    passed: &PassedChecks,
    result: &Result<(), ProbeError>,
    actor: &Actor,
) -> Result<(), HostDeployError> {
    let service = &instance.service;
    // Without the lock: most checks change nothing, and wait for no switch under way.
    let record = rules::read_record(world, service)?;
    if record.is_none_or(|record| decide(world, &record, passed).is_ok_and(|change| change.is_none())) {
        return Ok(());
    }
    let mut text = String::new();
    let changed = rules::change_if_needed(world, "health", |records| {
        let Some(record) = versions::find_record(records, service) else { return Ok(None) };
        let Some(unhealthy) = decide(world, record, passed)? else { return Ok(None) };
        text = describe_change(record, &unhealthy, result);
        Ok::<_, HostDeployError>(versions::set_unhealthy(record, unhealthy, actor, text.clone()))
    })
    .await?;
    if changed.is_some() {
        warn(world, format!("{service}: {text}"));
        proxy::reconcile_after_change(world, service, actor).await?;
    }
    Ok(())
}

/// Decides which ports are to get no connection; `None`: those that are recorded.
fn decide(
    world: &HostWorld,
    record: &ServiceRecord,
    passed: &PassedChecks,
) -> Result<Option<BTreeSet<Port>>, ChangeError> {
    let Some(routes) = &record.routes else { return Ok(None) };
    let deployments = world.deployments.of(&record.forward.service)?;
    let unhealthy = decide_unhealthy(&deployments, routes, passed);
    Ok((unhealthy != routes.unhealthy).then_some(unhealthy))
}

fn describe_change(
    record: &ServiceRecord,
    unhealthy: &BTreeSet<Port>,
    result: &Result<(), ProbeError>,
) -> String {
    let before = record.routes.as_ref().map(|routes| routes.unhealthy.clone()).unwrap_or_default();
    let format_ports = |ports: &mut dyn Iterator<Item = &Port>| {
        ports.map(|port| format!("the instance on port {port}")).collect::<Vec<_>>().join(", ")
    };
    let mut parts = Vec::new();
    let removed = format_ports(&mut unhealthy.difference(&before));
    if !removed.is_empty() {
        let reason = result.as_ref().err().map(|error| format!(": {error}")).unwrap_or_default();
        parts.push(format!("{removed} gets no new connections{reason}"));
    }
    let added = format_ports(&mut before.difference(unhealthy));
    if !added.is_empty() {
        parts.push(format!("{added} gets connections again"));
    }
    parts.join("; ")
}
