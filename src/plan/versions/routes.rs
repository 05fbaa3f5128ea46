//! Routes of a service's ports: the changes that a deploy, an assign, a rollback, an update and a kill make to them.

use std::collections::BTreeSet;

use super::{DeployRefusal, find_ready, find_record, find_role};
use crate::model::api::deployments::{
    AssignRequest, AssignScope, DeploymentRef, HostNetwork, RollbackRequest,
};
use crate::model::deployment::{Deployment, DeploymentId, Role};
use crate::model::forward::{Intent, Rollback, Route, RouteChange, Routes, ServiceRecord, Trial};
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::port_forward::{Forward, Switch};
use crate::model::ports::Port;
use crate::model::version::Version;

/// The names in the history of the changes that move main.
pub(super) const DEPLOY: &str = "deploy";
pub(super) const ASSIGN: &str = "assign";
pub(super) const ROLLBACK: &str = "rollback";
pub(super) const KILL: &str = "kill";
/// The name in the history of a change of the instances that get connections.
const HEALTH: &str = "health";
/// The names of the steps of a kill that may still be refused: only a deployment that was removed is in the history as killed.
pub const KILL_BEGUN: &str = "kill: begun";
pub const KILL_REFUSED: &str = "kill: refused";

pub(super) fn build_route(port: Port, deployment: &Deployment) -> Route {
    let more_targets = deployment.more_instances.iter().map(|instance| instance.port).collect();
    Route { port, deployment: deployment.id.clone(), target: deployment.instance.port, more_targets }
}

/// A change of routes as an intent: switch and check port stay as they are recorded.
fn build_intent(
    record: &ServiceRecord,
    route_change: RouteChange,
    actor: &Actor,
    action: &str,
    detail: String,
) -> Intent {
    Intent { route_change, ..record.build_intent(actor, action, detail) }
}

/// The first deployment of a service takes both its ports. A forward that is recorded as off stays off: it is a maintenance.
pub fn plan_first(
    record: Option<&ServiceRecord>,
    deployment: &Deployment,
    site: &HostNetwork,
    actor: &Actor,
) -> Intent {
    let (main, backup) =
        (build_route(site.ports.main, deployment), build_route(site.ports.backup, deployment));
    let routes = Routes::new(main, backup);
    let service = deployment.service.clone();
    let forward = Forward { service, check: site.ports.check, target: deployment.instance.port };
    Intent {
        forward,
        switch: record.map_or(Switch::On, |record| record.switch),
        balancer_is_local: site.balancer_is_local,
        actor: actor.clone(),
        action: DEPLOY.to_owned(),
        detail: format!("{} {} is main", deployment.service, deployment.version),
        route_change: RouteChange::Set { routes, trial: None },
        access: None,
        layer7: None,
    }
}

/// Returns the changes of an assign: the intent, and the main before it.
pub fn plan_assign(
    records: &[ServiceRecord],
    existing: &[Deployment],
    request: &AssignRequest,
    now: jiff::Timestamp,
) -> Result<(Intent, Option<DeploymentId>), DeployRefusal> {
    let target = find_ready(existing, &request.which)?;
    let record =
        find_record(records, &target.service).ok_or_else(|| DeployRefusal::NoMain(target.service.clone()))?;
    let routes = record.routes.as_ref().ok_or_else(|| DeployRefusal::NoMain(target.service.clone()))?;
    let main_before = &routes.main.deployment;
    let already = *main_before == target.id;
    // A main that is on trial has not shown yet that it is good: the one before it stays the backup.
    let good = record.trial.is_none() && existing.iter().any(|one| one.id == *main_before);
    let last_good = if good {
        (&routes.main, Some(main_before.clone()))
    } else {
        (&routes.backup, routes.previous.clone())
    };
    let to_backup = |route: &Route| Route { port: routes.backup.port, ..route.clone() };
    let route_change = match request.scope {
        AssignScope::BackupOnly => {
            let routes = Routes { backup: to_backup(last_good.0), ..routes.clone() };
            RouteChange::Set { routes, trial: record.trial.clone() }
        }
        AssignScope::MainAndBackup if already => {
            RouteChange::Set { routes: routes.clone(), trial: record.trial.clone() }
        }
        AssignScope::MainAndBackup => {
            let main = build_route(routes.main.port, target);
            let trial = start_trial(main_before, request, now);
            // Without a watch window it counts as good at once.
            let backup = if trial.is_some() { to_backup(last_good.0) } else { to_backup(&main) };
            let unhealthy = routes.unhealthy.clone();
            let routes = Routes { main, backup, previous: last_good.1, rollback: None, unhealthy };
            RouteChange::Set { routes, trial }
        }
    };
    let detail = [format!("{} {}", target.service, target.version), request.detail.clone()];
    let detail: Vec<String> = detail.into_iter().filter(|part| !part.is_empty()).collect();
    let action = if request.scope == AssignScope::BackupOnly { "assign: backup" } else { ASSIGN };
    let intent = build_intent(record, route_change, &request.actor, action, detail.join(", "));
    Ok((intent, Some(main_before.clone())))
}

fn start_trial(main_before: &DeploymentId, request: &AssignRequest, now: jiff::Timestamp) -> Option<Trial> {
    let until = now.checked_add(jiff::SignedDuration::try_from(request.trial).ok()?).ok()?;
    (!request.trial.is_zero()).then(|| Trial { until, previous: main_before.clone() })
}

/// The last good main takes both ports back; refused where that is not `to` any more.
pub fn plan_rollback(
    records: &[ServiceRecord],
    existing: &[Deployment],
    service: &ServiceName,
    to: &DeploymentId,
    request: &RollbackRequest,
) -> Result<Intent, DeployRefusal> {
    if find_rollback_target(records, existing, service, request.from.as_ref())? != *to {
        return Err(DeployRefusal::Overtaken(service.clone()));
    }
    let record = find_record(records, service).ok_or_else(|| DeployRefusal::NoMain(service.clone()))?;
    let routes = record.routes.as_ref().ok_or_else(|| DeployRefusal::NoMain(service.clone()))?;
    let target = find_ready(existing, &DeploymentRef::Id(to.clone()))?;
    let (main, backup) = (build_route(routes.main.port, target), build_route(routes.backup.port, target));
    let rollback = Rollback { actor: request.actor.clone(), reason: request.reason.clone() };
    let (rollback, unhealthy) = (Some(Box::new(rollback)), routes.unhealthy.clone());
    let routes = Routes { main, backup, previous: None, rollback, unhealthy };
    let detail = [format!("{service} {}", target.version), request.reason.clone()];
    let detail: Vec<String> = detail.into_iter().filter(|part| !part.is_empty()).collect();
    let route_change = RouteChange::Set { routes, trial: None };
    Ok(build_intent(record, route_change, &request.actor, ROLLBACK, detail.join(", ")))
}

/// Which deployment a rollback goes to, where it takes back the version that it is to take back.
pub fn find_rollback_target(
    records: &[ServiceRecord],
    existing: &[Deployment],
    service: &ServiceName,
    from: Option<&Version>,
) -> Result<DeploymentId, DeployRefusal> {
    let is_main = |one: &Deployment| one.service == *service && find_role(records, one) == Role::Main;
    match from {
        Some(version) if !existing.iter().any(|one| one.version == *version && is_main(one)) => {
            Err(DeployRefusal::NotMain { service: service.clone(), version: version.clone() })
        }
        _ => find_last_good(records, service),
    }
}

/// The good main before this one.
pub fn find_last_good(
    records: &[ServiceRecord],
    service: &ServiceName,
) -> Result<DeploymentId, DeployRefusal> {
    let record = find_record(records, service).ok_or_else(|| DeployRefusal::NoMain(service.clone()))?;
    let routes = record.routes.as_ref().ok_or_else(|| DeployRefusal::NoMain(service.clone()))?;
    if let Some(trial) = &record.trial {
        return Ok(trial.previous.clone());
    }
    routes.previous.clone().ok_or_else(|| DeployRefusal::NoBackup(service.clone()))
}

/// The trial of a main is over, well: the backup vhost follows. `None`: it is not main, or not on trial, any more.
pub fn end_trial(record: &ServiceRecord, main: &DeploymentId, actor: &Actor) -> Option<Intent> {
    let routes = record.routes.clone().filter(|routes| routes.main.deployment == *main)?;
    record.trial.as_ref()?;
    let backup = Route { port: routes.backup.port, ..routes.main.clone() };
    let route_change = RouteChange::Set { routes: Routes { backup, ..routes }, trial: None };
    Some(build_intent(
        record,
        route_change,
        actor,
        "watch",
        "main was healthy to the end of its watch window".to_owned(),
    ))
}

/// An updated deployment's new instance takes over all routes to the old one.
pub fn move_instance(
    record: &ServiceRecord,
    deployment: &Deployment,
    (from, to): (Port, Port),
    actor: &Actor,
) -> Option<Intent> {
    let mut routes = record.routes.clone()?;
    let mine = |route: &Route| route.deployment == deployment.id;
    if !mine(&routes.main) && !mine(&routes.backup) {
        return None;
    }
    for route in [&mut routes.main, &mut routes.backup] {
        if mine(route) {
            let mut targets = std::iter::once(&mut route.target).chain(&mut route.more_targets);
            if let Some(target) = targets.find(|target| **target == from) {
                *target = to;
            }
        }
    }
    // It has just passed its health check.
    routes.unhealthy.remove(&to);
    let detail = format!("{} {}", deployment.service, deployment.version);
    Some(build_intent(
        record,
        RouteChange::Set { routes, trial: record.trial.clone() },
        actor,
        "update",
        detail,
    ))
}

/// Records which instances of a service get no new connection. `None`: it is recorded so.
pub fn set_unhealthy(
    record: &ServiceRecord,
    unhealthy: BTreeSet<Port>,
    actor: &Actor,
    detail: String,
) -> Option<Intent> {
    let routes = record.routes.clone().filter(|routes| routes.unhealthy != unhealthy)?;
    let routes = Routes { unhealthy, ..routes };
    let route_change = RouteChange::Set { routes, trial: record.trial.clone() };
    Some(build_intent(record, route_change, actor, HEALTH, detail))
}

/// Removes all routes to a deployment that is taken away: the backup vhost goes to main, a main that is alone takes the
/// service's rules with it. `None`: no route goes to it.
pub fn detach(record: &ServiceRecord, deployment: &Deployment, actor: &Actor) -> Option<Intent> {
    let routes = record.routes.clone()?;
    let detail = format!("{} {}", deployment.service, deployment.version);
    let trial = record.trial.clone().filter(|trial| trial.previous != deployment.id);
    if routes.main.deployment == deployment.id {
        let intent = build_intent(record, RouteChange::Remove, actor, KILL, detail);
        // Without routes, the vhost on the data port answers for main again.
        let forward = Forward { target: routes.main.port, ..intent.forward };
        return Some(Intent { switch: Switch::Off, forward, ..intent });
    }
    let previous = routes.previous.clone().filter(|previous| *previous != deployment.id);
    let is_named = trial != record.trial || previous != routes.previous;
    if routes.backup.deployment != deployment.id && !is_named {
        return None;
    }
    let backup = if routes.backup.deployment == deployment.id {
        Route { port: routes.backup.port, ..routes.main.clone() }
    } else {
        routes.backup.clone()
    };
    let route_change = RouteChange::Set { routes: Routes { backup, previous, ..routes }, trial };
    Some(build_intent(record, route_change, actor, KILL_BEGUN, detail))
}

/// Gives a deployment whose kill is refused the routes back that [`detach`] took from it, unless they changed since.
/// `before`: as it was before the cut. `None`: another main was assigned in between, and its routes stay as they are.
pub fn restore_routes(
    record: &ServiceRecord,
    before: &ServiceRecord,
    deployment: &Deployment,
    actor: &Actor,
) -> Option<Intent> {
    let (mut routes, past) = (record.routes.clone()?, before.routes.as_ref()?);
    let RouteChange::Set { routes: cut, trial: cut_trial } = detach(before, deployment, actor)?.route_change
    else {
        return None;
    };
    if routes.main != past.main {
        return None;
    }
    let mut trial = record.trial.clone();
    // A trial that passed in between has routed the backup vhost to main for good.
    if trial == cut_trial && routes.backup == cut.backup {
        routes.backup.clone_from(&past.backup);
        trial.clone_from(&before.trial);
    }
    if routes.previous == cut.previous {
        routes.previous.clone_from(&past.previous);
    }
    let detail = format!("{} {}: its routes are back", deployment.service, deployment.version);
    Some(build_intent(record, RouteChange::Set { routes, trial }, actor, KILL_REFUSED, detail))
}
