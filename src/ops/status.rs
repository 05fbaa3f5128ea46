//! `status`: one look at everything: what is recorded, what the kernel holds, what every balancer says, what is in flight.

use serde::Serialize;

use crate::model::api::{HostView, Question};
use crate::model::balancer::ServerView;
use crate::model::fleet::Fleet;
use crate::model::forward::{KernelForward, Recorded, Switch};
use crate::model::history::{Entry, Phase};
use crate::model::host::Host;
use crate::model::known;
use crate::model::name::{BalancerName, ServiceName};
use crate::model::ports::Ports;
use crate::model::rules::{Family, Kind, Tables};
use crate::plan::drain;
use crate::plan::firewall;
use crate::world::FleetWorld;
use crate::world::World;

use super::forward::{link, question, read_all};
use super::{rules, traffic};

/// One host at one moment. A part that could not be read says why; it is never left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    pub host: Host,
    pub service: ServiceName,
    pub ports: Ports,
    /// The host's own side; an error where the host cannot be asked.
    #[serde(serialize_with = "known::serialize")]
    pub view: Result<HostView, String>,
    pub balancers: Vec<BalancerStatus>,
}

/// What one balancer says of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BalancerStatus {
    pub balancer: BalancerName,
    #[serde(serialize_with = "known::serialize")]
    pub servers: Result<Servers, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Servers {
    pub main: Option<ServerView>,
    pub backup: Option<ServerView>,
}

impl Status {
    /// The kernel's state over all families; `None` where it is not known or families differ.
    pub fn switch(&self) -> Option<Switch> {
        self.view.as_ref().ok()?.switch()
    }
}

/// One look at one host, from where the operator is.
pub async fn status(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Status {
    let look = async { link(world, host)?.look(&question(fleet, host)).await };
    let (view, balancers) = tokio::join!(look, balancers(world, fleet, host));
    Status {
        host: host.clone(),
        service: fleet.service.clone(),
        ports: fleet.ports,
        view: view.map_err(|error| error.to_string()),
        balancers,
    }
}

/// The host's side of it.
pub async fn view(world: &World, question: &Question) -> HostView {
    let recorded = world.store.recorded();
    let records = recorded.as_deref().unwrap_or_default();
    let record = records.iter().find(|record| record.forward.service == question.service);
    let (tables, sockets, health) = tokio::join!(
        rules::observe(world),
        traffic::sockets(world, record, question.ports.main),
        world.probe.ask(traffic::real(records, question.main), &question.health),
    );
    let mine = |records: &Vec<Recorded>| {
        records.iter().find(|record| record.forward.service == question.service).cloned()
    };
    let drift = match (&recorded, &tables) {
        (Ok(recorded), Ok(tables)) => drift(recorded, tables),
        _ => vec![],
    };
    let last = world.store.history(Some(&question.service), 1).ok().and_then(|mut rows| rows.pop());
    HostView {
        recorded: recorded.as_ref().map(mine).map_err(ToString::to_string),
        kernel: tables.map(|tables| kernel(&question.service, &tables)).map_err(|error| error.to_string()),
        drift: drift.into_iter().chain(cut_off(last.as_ref())).collect(),
        main_sockets: sockets.map(|sockets| drain::count(&sockets, &[]).0).map_err(|error| error.to_string()),
        main_health: health.map_err(|error| error.to_string()),
        last,
    }
}

fn kernel(service: &ServiceName, tables: &[(Family, Tables)]) -> Vec<KernelForward> {
    let one = |(family, tables): &(Family, Tables)| {
        let variant = firewall::variant(tables);
        let table = tables.of(variant);
        let mut forwards = table.map(firewall::forwards).unwrap_or_default();
        forwards.retain(|forward| &forward.service == service);
        let hooked = table.is_some_and(|table| firewall::is_hooked(table, false));
        KernelForward { family: *family, variant, forward: forwards.pop(), hooked }
    };
    tables.iter().map(one).collect()
}

/// What `restore` would change, as sentences.
pub fn drift(recorded: &[Recorded], tables: &[(Family, Tables)]) -> Vec<String> {
    if recorded.is_empty() {
        return vec![];
    }
    let wanted = rules::desired(recorded, tables);
    let differing =
        tables.iter().filter(|(family, tables)| !firewall::plan(&wanted, tables, *family).is_empty());
    differing
        .map(|(family, tables)| {
            let on = wanted.redirects.iter().filter(|redirect| redirect.kind == Kind::Forward);
            let on = on.map(|redirect| redirect.service.as_str()).collect::<Vec<_>>().join(", ");
            let recorded = if on.is_empty() { "no forward on".to_owned() } else { format!("the forward of {on} on") };
            let variant = firewall::variant(tables);
            format!("{family} ({variant}): the kernel's rules differ from the record ({recorded}); `switchman restore` mends it")
        })
        .collect()
}

/// A change whose end is not in the history was cut off between two steps.
fn cut_off(last: Option<&Entry>) -> Option<String> {
    let last = last.filter(|entry| entry.phase == Phase::Began)?;
    Some(format!(
        "`{}` by {} began at {:.0} and its end is not recorded: still running, or killed",
        last.action, last.actor, last.at
    ))
}

async fn balancers(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Vec<BalancerStatus> {
    let views = read_all(world).await;
    let spec_and_view = |spec: &crate::model::balancer::BalancerSpec| {
        let at = world.balancers.iter().position(|balancer| balancer.spec().name == spec.name);
        let servers = match at.and_then(|at| views.get(at)) {
            None => Err("not read: no `haproxy:` in the configuration".to_owned()),
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(view)) => Ok(Servers {
                main: view.server(&spec.servers.main_of(&host.name)).cloned(),
                backup: view.server(&spec.servers.backup_of(&host.name)).cloned(),
            }),
        };
        BalancerStatus { balancer: spec.name.clone(), servers }
    };
    fleet.balancers.iter().map(spec_and_view).collect()
}
