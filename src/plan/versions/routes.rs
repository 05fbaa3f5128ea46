//! Where the ports of a service lead: what a deploy, an assign, a rollback, an update and a kill change of it.

use super::{Refused, of, ready, role};
use crate::model::api::deployments::{AssignRequest, Part, RollbackRequest, Site, Which};
use crate::model::deployment::{Deployment, DeploymentId, Role};
use crate::model::forward::{Forward, Intent, Leg, Recorded, Routes, Routing, Switch, Trial};
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::version::Version;

/// What the history calls the changes that move main.
pub(super) const DEPLOY: &str = "deploy";
pub(super) const ASSIGN: &str = "assign";
pub(super) const ROLLBACK: &str = "rollback";
pub(super) const KILL: &str = "kill";

pub(super) fn leg(port: Port, deployment: &Deployment) -> Leg {
    Leg { port, deployment: deployment.id.clone(), target: deployment.instance.port }
}

/// A change of routes as an intent: switch and check port stay as they are recorded.
fn intent(record: &Recorded, routing: Routing, actor: &Actor, action: &str, detail: String) -> Intent {
    Intent {
        forward: record.forward.clone(),
        switch: record.switch,
        from_self: record.from_self,
        actor: actor.clone(),
        action: action.to_owned(),
        detail,
        routing,
        access: None,
        layer7: None,
    }
}

/// The first deployment of a service takes both its ports. A forward that is recorded as off stays off: it is a maintenance.
pub fn first(record: Option<&Recorded>, deployment: &Deployment, site: &Site, actor: &Actor) -> Intent {
    let (main, backup) = (leg(site.ports.main, deployment), leg(site.ports.backup, deployment));
    let routes = Routes { main, backup, previous: None };
    let service = deployment.service.clone();
    let forward = Forward { service, check: site.ports.check, target: deployment.instance.port };
    Intent {
        forward,
        switch: record.map_or(Switch::On, |record| record.switch),
        from_self: site.from_self,
        actor: actor.clone(),
        action: DEPLOY.to_owned(),
        detail: format!("{} {} is main", deployment.service, deployment.version),
        routing: Routing::To { routes, trial: None },
        access: None,
        layer7: None,
    }
}

/// What an assign changes: the intent, and the main that was.
pub fn assign(
    records: &[Recorded],
    existing: &[Deployment],
    request: &AssignRequest,
    now: jiff::Timestamp,
) -> Result<(Intent, Option<DeploymentId>), Refused> {
    let target = ready(existing, &request.which)?;
    let record = of(records, &target.service).ok_or_else(|| Refused::NoMain(target.service.clone()))?;
    let routes = record.routes.as_ref().ok_or_else(|| Refused::NoMain(target.service.clone()))?;
    let was = &routes.main.deployment;
    let already = *was == target.id;
    // A main that is on trial has not shown yet that it is good: the one before it stays the backup.
    let good = record.trial.is_none() && existing.iter().any(|one| one.id == *was);
    let last_good =
        if good { (&routes.main, Some(was.clone())) } else { (&routes.backup, routes.previous.clone()) };
    let led_to = |leg: &Leg| Leg { port: routes.backup.port, ..leg.clone() };
    let routing = match request.part {
        Part::Backup => {
            let routes = Routes { backup: led_to(last_good.0), ..routes.clone() };
            Routing::To { routes, trial: record.trial.clone() }
        }
        Part::Whole if already => Routing::To { routes: routes.clone(), trial: record.trial.clone() },
        Part::Whole => {
            let main = leg(routes.main.port, target);
            let trial = on_trial(was, request, now);
            // Without a watch window it counts as good at once.
            let backup = if trial.is_some() { led_to(last_good.0) } else { led_to(&main) };
            Routing::To { routes: Routes { main, backup, previous: last_good.1 }, trial }
        }
    };
    let detail = [format!("{} {}", target.service, target.version), request.detail.clone()];
    let detail: Vec<String> = detail.into_iter().filter(|part| !part.is_empty()).collect();
    let action = if request.part == Part::Backup { "assign: backup" } else { ASSIGN };
    let intent = intent(record, routing, &request.actor, action, detail.join(", "));
    Ok((intent, Some(was.clone())))
}

fn on_trial(was: &DeploymentId, request: &AssignRequest, now: jiff::Timestamp) -> Option<Trial> {
    let until = now.checked_add(jiff::SignedDuration::try_from(request.trial).ok()?).ok()?;
    (!request.trial.is_zero()).then(|| Trial { until, previous: was.clone() })
}

/// The last good main takes both ports back; refused where that is not `to` any more.
pub fn rollback(
    records: &[Recorded],
    existing: &[Deployment],
    service: &ServiceName,
    to: &DeploymentId,
    request: &RollbackRequest,
) -> Result<Intent, Refused> {
    if rollback_to(records, existing, service, request.from.as_ref())? != *to {
        return Err(Refused::Overtaken(service.clone()));
    }
    let record = of(records, service).ok_or_else(|| Refused::NoMain(service.clone()))?;
    let routes = record.routes.as_ref().ok_or_else(|| Refused::NoMain(service.clone()))?;
    let target = ready(existing, &Which::Id(to.clone()))?;
    let (main, backup) = (leg(routes.main.port, target), leg(routes.backup.port, target));
    let routes = Routes { main, backup, previous: None };
    let detail = [format!("{service} {}", target.version), request.why.clone()];
    let detail: Vec<String> = detail.into_iter().filter(|part| !part.is_empty()).collect();
    let routing = Routing::To { routes, trial: None };
    Ok(intent(record, routing, &request.actor, ROLLBACK, detail.join(", ")))
}

/// Which deployment a rollback goes to, where it takes back the version that it is to take back.
pub fn rollback_to(
    records: &[Recorded],
    existing: &[Deployment],
    service: &ServiceName,
    from: Option<&Version>,
) -> Result<DeploymentId, Refused> {
    let is_main = |one: &Deployment| one.service == *service && role(records, one) == Role::Main;
    match from {
        Some(version) if !existing.iter().any(|one| one.version == *version && is_main(one)) => {
            Err(Refused::NotMain { service: service.clone(), version: version.clone() })
        }
        _ => last_good(records, service),
    }
}

/// The good main before this one.
pub fn last_good(records: &[Recorded], service: &ServiceName) -> Result<DeploymentId, Refused> {
    let record = of(records, service).ok_or_else(|| Refused::NoMain(service.clone()))?;
    let routes = record.routes.as_ref().ok_or_else(|| Refused::NoMain(service.clone()))?;
    if let Some(trial) = &record.trial {
        return Ok(trial.previous.clone());
    }
    routes.previous.clone().ok_or_else(|| Refused::NoBackup(service.clone()))
}

/// The trial of a main is over, well: the backup vhost follows. `None`: it is not main, or not on trial, any more.
pub fn passed(record: &Recorded, main: &DeploymentId, actor: &Actor) -> Option<Intent> {
    let routes = record.routes.clone().filter(|routes| routes.main.deployment == *main)?;
    record.trial.as_ref()?;
    let backup = Leg { port: routes.backup.port, ..routes.main.clone() };
    let routing = Routing::To { routes: Routes { backup, ..routes }, trial: None };
    Some(intent(
        record,
        routing,
        actor,
        "watch",
        "main was healthy to the end of its watch window".to_owned(),
    ))
}

/// An updated deployment's new instance takes over whatever led to the old one.
pub fn moved(record: &Recorded, deployment: &Deployment, to: Port, actor: &Actor) -> Option<Intent> {
    let mut routes = record.routes.clone()?;
    let mine = |leg: &Leg| leg.deployment == deployment.id;
    if !mine(&routes.main) && !mine(&routes.backup) {
        return None;
    }
    for leg in [&mut routes.main, &mut routes.backup] {
        if mine(leg) {
            leg.target = to;
        }
    }
    let detail = format!("{} {}", deployment.service, deployment.version);
    Some(intent(record, Routing::To { routes, trial: record.trial.clone() }, actor, "update", detail))
}

/// Nothing may lead to a deployment that is taken away: the backup vhost goes to main, a main that is alone takes the
/// service's rules with it. `None`: nothing leads to it.
pub fn cut_off(record: &Recorded, deployment: &Deployment, actor: &Actor) -> Option<Intent> {
    let routes = record.routes.clone()?;
    let detail = format!("{} {}", deployment.service, deployment.version);
    let trial = record.trial.clone().filter(|trial| trial.previous != deployment.id);
    if routes.main.deployment == deployment.id {
        let gone = intent(record, Routing::Gone, actor, KILL, detail);
        return Some(Intent { switch: Switch::Off, ..gone });
    }
    let previous = routes.previous.clone().filter(|previous| *previous != deployment.id);
    let is_named = trial != record.trial || previous != routes.previous;
    if routes.backup.deployment != deployment.id && !is_named {
        return None;
    }
    let backup = if routes.backup.deployment == deployment.id {
        Leg { port: routes.backup.port, ..routes.main.clone() }
    } else {
        routes.backup.clone()
    };
    let routing = Routing::To { routes: Routes { backup, previous, ..routes }, trial };
    Some(intent(record, routing, actor, KILL, detail))
}

/// The kill of a deployment is refused: what [`cut_off`] took from it is its own again, as far as nobody changed it since.
/// `before`: as it was before the cut. `None`: another main was made meanwhile, and its routes stay as they are.
pub fn led_back(
    record: &Recorded,
    before: &Recorded,
    deployment: &Deployment,
    actor: &Actor,
) -> Option<Intent> {
    let (mut routes, then) = (record.routes.clone()?, before.routes.as_ref()?);
    let Routing::To { routes: cut, trial: cut_trial } = cut_off(before, deployment, actor)?.routing else {
        return None;
    };
    if routes.main != then.main {
        return None;
    }
    let mut trial = record.trial.clone();
    // A trial that passed meanwhile has led the backup vhost to main for good.
    if trial == cut_trial && routes.backup == cut.backup {
        routes.backup.clone_from(&then.backup);
        trial.clone_from(&before.trial);
    }
    if routes.previous == cut.previous {
        routes.previous.clone_from(&then.previous);
    }
    let detail = "refused: its routes are back".to_owned();
    Some(intent(record, Routing::To { routes, trial }, actor, KILL, detail))
}
