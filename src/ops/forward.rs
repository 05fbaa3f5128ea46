//! `enable-forward` and `disable-forward`: maintenance off and on, for one host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use crate::model::balancer::BackendView;
use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::forward::{Forward, Switch};
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::plan::switch::{Refusal, refusals_to_disable};
use crate::world::World;
use crate::world::balancer::BalancerError;
use crate::world::reporter::Event;
use crate::world::store::Intent;

use super::drain::{self, NotDrained};
use super::rules::{ChangeError, change, observe};
use super::seen::{self, NotSeen, Seen};
use super::status::drift;

/// What the operator asked for beside the switch itself.
#[derive(Debug, Clone)]
pub struct Options {
    pub actor: Actor,
    /// Wait until every configured balancer reports the change.
    pub wait: bool,
    /// After DOWN, wait until the host is drained.
    pub drain: bool,
    /// Override refusals, and leave a host out that does not drain in time.
    pub force: bool,
    /// Instead of the patience computed from the check settings.
    pub timeout: Option<Duration>,
}

/// A switch that was made, or was so already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Switched {
    pub host: Host,
    pub switch: Switch,
    /// Whether the kernel had to be changed.
    pub changed: bool,
    pub overridden: Vec<Refusal>,
    /// Per balancer, in the order of the configuration; empty with `--no-wait`.
    pub seen: Vec<Seen>,
    /// From DOWN everywhere to drained; absent without `--drain`.
    #[serde(rename = "drained_after_ms", serialize_with = "duration::as_optional_ms")]
    pub drained_after: Option<Duration>,
    /// With `--force`: requests still in flight when the drain's time was up.
    pub not_drained: Option<u64>,
}

/// Why a switch was not made, or not seen, or not drained.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    #[error("refused to switch the forward of `{host}` {switch}: {}", .refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("; "))]
    Refused { host: String, switch: Switch, refusals: Vec<Refusal> },
    #[error("cannot switch the forward of `{host}` {switch}: {source}")]
    NotChanged { host: String, switch: Switch, source: ChangeError },
    #[error("the forward of `{host}` is {switch}, but {source}")]
    NotSeen { host: String, switch: Switch, source: NotSeen },
    #[error("`{host}` did not drain: {source}; {}", if *.returned { "its forward is back on" } else { "its forward stays off" })]
    NotDrained { host: String, source: NotDrained, returned: bool },
}

/// Takes the host's main vhost out: the check port is refused, HAProxy moves its users to its backup vhost. The data
/// port answers on until HAProxy has seen DOWN, so nothing is cut.
pub async fn disable(
    world: &World,
    fleet: &Fleet,
    host: &Host,
    options: &Options,
) -> Result<Switched, SwitchError> {
    let refusals = if is_off(world, fleet, host).await? { vec![] } else { look(world, fleet, host).await };
    let overridden = admit(world, host, Switch::Off, refusals, options.force)?;
    let (changed, generation) = switch(world, fleet, host, Switch::Off, options, &overridden).await?;
    let mut switched = Switched::new(host, Switch::Off, changed, overridden);
    if options.wait || options.drain {
        switched.seen = seen::wait(world, fleet, host, Switch::Off, generation, options.timeout)
            .await
            .map_err(|source| not_seen(host, Switch::Off, source))?;
    }
    if options.drain {
        match drain::wait(world, fleet, host, generation).await {
            Ok(after) => switched.drained_after = Some(after),
            Err(NotDrained::Late { in_flight, .. }) if options.force => {
                switched.not_drained = Some(in_flight);
            }
            Err(source) => return Err(put_back(world, fleet, host, options, source).await),
        }
    }
    Ok(switched)
}

/// Puts the host's main vhost back, once its real port has answered as it should.
pub async fn enable(
    world: &World,
    fleet: &Fleet,
    host: &Host,
    options: &Options,
) -> Result<Switched, SwitchError> {
    let refusals = match world.probe.ask(main_address(fleet, host), &fleet.health).await {
        Ok(()) => {
            world.reporter.report(&Event::Healthy { host: host.name.clone(), probes: 1 });
            vec![]
        }
        Err(why) => vec![Refusal::Unhealthy { why: why.to_string() }],
    };
    let overridden = admit(world, host, Switch::On, refusals, options.force)?;
    let (changed, generation) = switch(world, fleet, host, Switch::On, options, &overridden).await?;
    let mut switched = Switched::new(host, Switch::On, changed, overridden);
    if options.wait {
        switched.seen = seen::wait(world, fleet, host, Switch::On, generation, options.timeout)
            .await
            .map_err(|source| not_seen(host, Switch::On, source))?;
    }
    Ok(switched)
}

/// Where the main vhost really answers.
pub fn main_address(fleet: &Fleet, host: &Host) -> SocketAddr {
    SocketAddr::new(host.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), fleet.ports.main.get())
}

/// Every balancer, read at once. Those without access by configuration are left out.
pub async fn read_all(world: &World) -> Vec<Result<BackendView, BalancerError>> {
    futures_util::future::join_all(world.balancers.iter().map(|balancer| balancer.read())).await
}

/// Off by the record and off in the kernel: what is so already needs no leave.
async fn is_off(world: &World, fleet: &Fleet, host: &Host) -> Result<bool, SwitchError> {
    let failed = |source: ChangeError| SwitchError::NotChanged {
        host: host.name.to_string(),
        switch: Switch::Off,
        source,
    };
    let recorded = world.store.recorded().map_err(|error| failed(error.into()))?;
    let mine = recorded.iter().find(|record| record.forward.service == fleet.service);
    if mine.is_none_or(|record| record.switch == Switch::On) {
        return Ok(false);
    }
    let tables = observe(world).await.map_err(|error| failed(error.into()))?;
    Ok(drift(&recorded, &tables).is_empty())
}

async fn look(world: &World, fleet: &Fleet, host: &Host) -> Vec<Refusal> {
    let views = read_all(world).await;
    let errors: Vec<String> =
        views.iter().map(|view| view.as_ref().err().map(ToString::to_string).unwrap_or_default()).collect();
    let readings: Vec<_> = world
        .balancers
        .iter()
        .zip(&views)
        .zip(&errors)
        .map(|((balancer, view), error)| (balancer.spec(), view.as_ref().map_err(|_| error.as_str())))
        .collect();
    refusals_to_disable(fleet, &host.name, &readings)
}

fn admit(
    world: &World,
    host: &Host,
    switch: Switch,
    refusals: Vec<Refusal>,
    force: bool,
) -> Result<Vec<Refusal>, SwitchError> {
    if !refusals.is_empty() && !force {
        return Err(SwitchError::Refused { host: host.name.to_string(), switch, refusals });
    }
    for refusal in &refusals {
        world.reporter.report(&Event::Overridden { refusal: refusal.to_string() });
    }
    Ok(refusals)
}

/// Kernel and record together; says whether the kernel had to be changed, and the record's generation.
async fn switch(
    world: &World,
    fleet: &Fleet,
    host: &Host,
    switch: Switch,
    options: &Options,
    overridden: &[Refusal],
) -> Result<(bool, u32), SwitchError> {
    let began = tokio::time::Instant::now();
    let intent = Intent {
        forward: Forward {
            service: fleet.service.clone(),
            check: fleet.ports.check,
            target: fleet.ports.main,
        },
        switch,
        from_self: fleet.balancers.iter().any(|balancer| balancer.on_host),
        actor: options.actor.clone(),
        action: action(switch),
        detail: overridden
            .iter()
            .map(|refusal| format!("overrode: {refusal}"))
            .collect::<Vec<_>>()
            .join("; "),
    };
    let changed = change(world, &intent).await.map_err(|source| SwitchError::NotChanged {
        host: host.name.to_string(),
        switch,
        source,
    })?;
    if let Some(error) = &changed.unfinished_history {
        world.reporter.report(&Event::Warning {
            text: format!("the change is made, its end is not in the history: {error}"),
        });
    }
    let host = host.name.clone();
    let generation = changed.generation;
    let did = !changed.transactions.is_empty();
    world.reporter.report(&if did {
        Event::Committed { host, switch, transactions: changed.transactions, took: began.elapsed() }
    } else {
        Event::AlreadySo { host, switch }
    });
    Ok((did, generation))
}

/// The command that makes a switch, as the history calls it.
pub const fn action(switch: Switch) -> &'static str {
    match switch {
        Switch::On => "enable-forward",
        Switch::Off => "disable-forward",
    }
}

/// A host that does not drain in time goes back into service, unless its main vhost is not healthy any more or
/// somebody else has switched it in the meantime.
async fn put_back(
    world: &World,
    fleet: &Fleet,
    host: &Host,
    options: &Options,
    source: NotDrained,
) -> SwitchError {
    let name = host.name.to_string();
    let late = matches!(source, NotDrained::Late { .. });
    let healthy = late && world.probe.ask(main_address(fleet, host), &fleet.health).await.is_ok();
    let returned = healthy && switch(world, fleet, host, Switch::On, options, &[]).await.is_ok();
    SwitchError::NotDrained { host: name, source, returned }
}

fn not_seen(host: &Host, switch: Switch, source: NotSeen) -> SwitchError {
    SwitchError::NotSeen { host: host.name.to_string(), switch, source }
}

impl Switched {
    fn new(host: &Host, switch: Switch, changed: bool, overridden: Vec<Refusal>) -> Self {
        let host = host.clone();
        Self { host, switch, changed, overridden, seen: vec![], drained_after: None, not_drained: None }
    }
}

#[cfg(test)]
mod tests;
