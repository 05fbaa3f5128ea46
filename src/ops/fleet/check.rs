//! `check` from an operator's machine: what can be known of a fleet without being on its hosts.

use crate::model::api::{Hello, HostView};
use crate::model::finding::Finding;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::plan::check::fleet::{FleetFacts, HostFacts, Unheard, findings, local_files};
use crate::world::FleetWorld;
use crate::world::files::Files;
use crate::world::link::{HostLink, LinkError};

use super::reach::{link, question, read_all};
use super::roll;
use crate::lint::{self, HaproxyCfg};

pub async fn check(
    world: &FleetWorld,
    files: &dyn Files,
    fleet: &Fleet,
    hosts: &[Host],
    cfg: Option<&HaproxyCfg>,
) -> Vec<Finding> {
    let mut all = findings(fleet, &facts(world, files, fleet, hosts).await);
    all.extend(lint::lint_first(fleet, cfg));
    all
}

async fn facts(world: &FleetWorld, files: &dyn Files, fleet: &Fleet, hosts: &[Host]) -> FleetFacts {
    let ask_all = futures_util::future::join_all(hosts.iter().map(|host| ask(world, fleet, host)));
    let (asked, views) = tokio::join!(ask_all, read_all(world));
    let view = |spec: &crate::model::balancer::BalancerSpec| {
        let at = world.balancers.iter().position(|balancer| balancer.spec().name == spec.name)?;
        views.get(at).map(|view| view.as_ref().map(|view| (**view).clone()).map_err(ToString::to_string))
    };
    FleetFacts {
        hosts: asked,
        balancers: fleet.balancers.iter().map(view).collect(),
        missing: local_files(fleet).into_iter().filter(|file| !files.exists(&file.path)).collect(),
        roll: roll::last(world).map_err(|error| error.to_string()),
        lock: world.lock.view().map_err(|error| error.to_string()),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// Greeted first, so that a host that is not there costs one wait and not two.
async fn ask(world: &FleetWorld, fleet: &Fleet, host: &Host) -> HostFacts {
    let via = link(world, host).map(HostLink::via).unwrap_or_default();
    let hello = greet(world, host).await;
    let view = match &hello {
        Ok(_) => Some(look(world, fleet, host).await.map_err(|error| error.to_string())),
        Err(_) => None,
    };
    HostFacts { host: host.clone(), via, hello: hello.map_err(unheard), view }
}

async fn greet(world: &FleetWorld, host: &Host) -> Result<Hello, LinkError> {
    link(world, host)?.hello().await
}

async fn look(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Result<HostView, LinkError> {
    link(world, host)?.look(&question(fleet, host)).await
}

fn unheard(error: LinkError) -> Unheard {
    match error {
        LinkError::Unreachable { why, .. } => Unheard::Lost(why),
        LinkError::Skew { .. } => Unheard::Skew(error.to_string()),
        LinkError::Refused { message, .. } => Unheard::Refused(message),
        LinkError::Broken { .. } | LinkError::Silent { .. } => Unheard::Lost(error.to_string()),
    }
}
