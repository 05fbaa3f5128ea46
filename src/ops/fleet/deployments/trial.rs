//! After an `assign`: every host watches its new main for a while.

use std::fmt;
use std::pin::Pin;

use futures_util::future::MaybeDone;

use super::assign::{AssignOptions, back};
use super::{FleetDeployError, FleetDeployment, all_or_partial, each, say};
use crate::model::api::deployments::{TrialOutcome, WatchRequest};
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::model::version::Version;
use crate::world::FleetWorld;

/// A host where another command changed the new main.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overtaken {
    pub host: HostName,
    /// Absent: the service has none any more.
    pub main: Option<Version>,
    pub actor: Option<Actor>,
}

impl fmt::Display for Overtaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = self.actor.as_ref().map_or_else(|| "another command".to_owned(), ToString::to_string);
        match &self.main {
            Some(main) => write!(f, "{}: {who} made {main} main", self.host),
            None => write!(f, "{}: {who} left it no main", self.host),
        }
    }
}

/// A watch that may have begun already.
pub(super) type WatchFuture<'a, W> = Pin<&'a mut MaybeDone<W>>;

pub(super) async fn finish_watch<W>(mut watching: WatchFuture<'_, W>) -> Result<(), FleetDeployError>
where
    W: Future<Output = Result<(), FleetDeployError>>,
{
    watching.as_mut().await;
    watching.take_output().unwrap_or(Ok(()))
}

/// Runs the watch window of every host; if one fails, the old main comes back on all of them. A version that another command
/// made main during the window stays.
pub(super) async fn watch(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    target: &FleetDeployment,
    options: &AssignOptions,
) -> Result<(), FleetDeployError> {
    if options.watch.is_zero() {
        return Ok(());
    }
    say(world, None, format!("watching for {}", crate::model::duration::format(options.watch)));
    let request = WatchRequest { id: target.id.clone(), actor: options.actor.clone() };
    let ends = each(world, hosts, async |_, link| link.watch_trial(&target.service, &request).await).await;
    let ends = all_or_partial(ends)?;
    let bad = ends.iter().find_map(|(host, end)| match end {
        TrialOutcome::RolledBack { why, previous } => {
            Some((host, why.clone(), Some(previous.version.clone())))
        }
        TrialOutcome::Stuck { why } => Some((host, why.clone(), None)),
        TrialOutcome::Passed | TrialOutcome::Overtaken { .. } => None,
    });
    let Some((host, why, mut version_back)) = bad else { return check_not_overtaken(&ends, target) };
    let why = format!("{host}: {why}");
    let well =
        |host: &&Host| ends.iter().any(|(name, end)| *name == host.name && *end == TrialOutcome::Passed);
    let well: Vec<Host> = hosts.iter().filter(well).cloned().collect();
    if let Ok(put) = back(world, fleet, &well, target, &options.actor, &why).await {
        version_back = version_back.or_else(|| put.first().map(|(_, one)| one.deployment.version.clone()));
    }
    let (service, version) = (target.service.clone(), target.version.clone());
    Err(FleetDeployError::RolledBack { service, version, why, back: version_back })
}

fn check_not_overtaken(
    ends: &[(HostName, TrialOutcome)],
    target: &FleetDeployment,
) -> Result<(), FleetDeployError> {
    let overtaken = ends.iter().filter_map(|(host, end)| match end {
        TrialOutcome::Overtaken { main, actor: by } => Some(Overtaken {
            host: host.clone(),
            main: main.as_ref().map(|main| main.version.clone()),
            actor: by.clone(),
        }),
        _ => None,
    });
    let hosts: Vec<Overtaken> = overtaken.collect();
    if hosts.is_empty() {
        return Ok(());
    }
    let (service, version) = (target.service.clone(), target.version.clone());
    Err(FleetDeployError::Overtaken { service, version, hosts })
}
