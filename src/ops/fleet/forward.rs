//! `enable-forward` and `disable-forward`: maintenance off and on, for one host.

use std::time::Duration;

use serde::Serialize;

use crate::model::api::{ForwardRequest, ProbeResult};
use crate::model::duration;
use crate::model::failure::ErrorCode;
use crate::model::fleet::Fleet;
use crate::model::forward::ChangeResult;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::{BalancerName, HostName};
use crate::model::packet_proof::PacketProof;
use crate::model::port_forward::{Forward, Switch};
use crate::plan::owner::OwnedByOther;
use crate::plan::server_lines::ignores_forward;
use crate::plan::switch::{Refusal, find_disable_refusals};
use crate::world::FleetWorld;
use crate::world::link::LinkError;
use crate::world::reporter::Event;

use super::balancer_wait::{self, BalancerObserved, BalancerWaitError, WaitOutcome};
use super::drain::{self, DrainError};
use super::lock::{self, LockError};
use super::owner::{decide_actor, read_owner, require_owned};
use super::port_conflicts::{find_config_refusals, find_private_refusals};
use super::reach::{find_link, is_off, list_host_addresses, probe_main, read_balancers};
use super::server_lines::{list_main_endpoints, read_lines_to_main};

/// The operator's options for a switch.
#[derive(Debug, Clone)]
pub struct SwitchOptions {
    pub actor: Actor,
    /// Wait until every configured balancer reports the change.
    pub wait: bool,
    /// After DOWN, wait until the host is drained.
    pub drain: bool,
    /// Override refusals, and leave a host out that does not drain in time.
    pub force: bool,
    /// Replaces the timeout computed from the check settings.
    pub timeout: Option<Duration>,
}

/// A switch that was made, or was so already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SwitchReport {
    pub host: Host,
    pub switch: Switch,
    /// Whether the kernel had to be changed.
    pub changed: bool,
    pub overridden: Vec<Refusal>,
    /// Per balancer, in the order of the configuration; empty with `--no-wait`.
    pub observed: Vec<BalancerObserved>,
    /// The time from DOWN everywhere to drained; absent without `--drain`.
    #[serde(rename = "drained_after_ms", serialize_with = "duration::serialize_optional_ms")]
    pub drained_after: Option<Duration>,
    /// With `--drain`: the balancers whose connections are not known, so that a quiet websocket of theirs was not noticed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drain_unread: Vec<BalancerName>,
    /// With `--force`: requests still in flight when the drain's time was up.
    pub not_drained: Option<u64>,
    /// The strongest evidence that the switch has its effect.
    pub proof: SwitchProof,
    /// The proof by packets to the check port; absent where the host's switchman sends none.
    pub packet: Option<PacketProof>,
}

/// The strongest evidence that a switch has its effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum SwitchProof {
    /// A balancer reports the change.
    Balancer,
    /// A packet to the check port got the answer that the switch requires.
    Packet,
    Unverified {
        reason: String,
    },
}

/// Why a switch was not made, or not observed, or the host not drained.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    #[error("cannot turn the forward of `{host}` {switch}: {}", .refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("; "))]
    Refused { host: String, switch: Switch, refusals: Vec<Refusal> },
    #[error("cannot turn the forward of `{host}` {switch}: {source}")]
    NotChanged { host: String, switch: Switch, source: LinkError },
    /// The forward is as requested, in the kernel and in the record of the host.
    #[error("cannot confirm the switch of `{host}`: {source}")]
    Contradicted { host: String, switch: Switch, source: LinkError },
    #[error("cannot confirm the switch of `{host}`: its forward is {switch}, but {source}")]
    NotObserved { host: String, switch: Switch, source: BalancerWaitError },
    #[error("cannot drain `{host}`: {source}; {}", if *.is_restored { "its forward is back on" } else { "its forward stays off" })]
    NotDrained { host: String, source: DrainError, is_restored: bool },
}

/// Takes the host's main vhost out: the check port is refused, HAProxy moves its users to its backup vhost. The data
/// port answers on until HAProxy has seen DOWN, so nothing is cut.
pub async fn disable(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    options: &SwitchOptions,
) -> Result<SwitchReport, SwitchError> {
    let already =
        is_off(world, fleet, host).await.map_err(|source| not_changed_error(host, Switch::Off, source))?;
    let mut refusals = if already { vec![] } else { find_refusals(world, fleet, &[&host.name]).await };
    refusals.extend(find_config_refusals(world, fleet, std::slice::from_ref(host)).await);
    let overridden = check_refusals(world, host.name.as_str(), Switch::Off, refusals, options.force)?;
    start_maintenance(world, fleet, host, options, overridden).await
}

/// Starts maintenance after the checks.
async fn start_maintenance(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    options: &SwitchOptions,
    overridden: Vec<Refusal>,
) -> Result<SwitchReport, SwitchError> {
    check_not_stopped(world, host, Switch::Off)?;
    let changed = set_switch(world, fleet, host, Switch::Off, options, &overridden).await?;
    let generation = changed.generation;
    let mut switched = SwitchReport::new(host, Switch::Off, changed, overridden);
    if options.wait || options.drain {
        switched.observed = balancer_wait::wait(world, fleet, host, Switch::Off, generation, options.timeout)
            .await
            .map_err(|source| not_observed_error(host, Switch::Off, source))?;
        switched.record_observation();
    }
    if options.drain {
        match drain::wait(world, fleet, host, generation, fleet.limits.drain_timeout).await {
            Ok(drained) => {
                switched.drained_after = Some(drained.after);
                switched.drain_unread = drained.unread;
            }
            Err(DrainError::TimedOut { in_flight, .. }) if options.force => {
                switched.not_drained = Some(in_flight);
            }
            Err(source) => return Err(return_to_service(world, fleet, host, options, source).await),
        }
    }
    Ok(switched)
}

/// No change begins after an interrupt.
fn check_not_stopped(world: &FleetWorld, host: &Host, switch: Switch) -> Result<(), SwitchError> {
    if !world.stop.is_requested() {
        return Ok(());
    }
    let source =
        LinkError::Refused { code: ErrorCode::Interrupted, message: "interrupted before the change".into() };
    Err(not_changed_error(host, switch, source))
}

/// Puts the host's main vhost back, once its real port has answered as it should.
pub async fn enable(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    options: &SwitchOptions,
) -> Result<SwitchReport, SwitchError> {
    let mut refusals = find_private_refusals(world, fleet, std::slice::from_ref(host)).await;
    match probe_main(world, fleet, host)
        .await
        .map_err(|source| not_changed_error(host, Switch::On, source))?
    {
        ProbeResult::Healthy => {
            world.reporter.report(&Event::Healthy { host: host.name.clone(), probes: 1 });
        }
        ProbeResult::Unhealthy { reason } => refusals.push(Refusal::Unhealthy { cause: reason }),
    }
    refusals.extend(find_config_refusals(world, fleet, std::slice::from_ref(host)).await);
    let overridden = check_refusals(world, host.name.as_str(), Switch::On, refusals, options.force)?;
    check_not_stopped(world, host, Switch::On)?;
    let changed = set_switch(world, fleet, host, Switch::On, options, &overridden).await?;
    let generation = changed.generation;
    let mut switched = SwitchReport::new(host, Switch::On, changed, overridden);
    if options.wait {
        switched.observed = balancer_wait::wait(world, fleet, host, Switch::On, generation, options.timeout)
            .await
            .map_err(|source| not_observed_error(host, Switch::On, source))?;
        switched.record_observation();
    }
    Ok(switched)
}

/// The result of each host.
pub type SwitchResults = Vec<(HostName, Result<SwitchReport, SwitchError>)>;

/// Several hosts at once, under the fleet's lock: the capacity floor counts them together, and nothing is switched when
/// any of it is refused.
pub async fn switch_many(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    switch: Switch,
    options: &SwitchOptions,
) -> Result<SwitchResults, SwitchManyError> {
    let actors = require_owned(world, fleet, hosts, &options.actor).await.map_err(|owned| {
        let (host, owner) = owned.into_iter().next().unzip();
        let message =
            owner.map(|owner| OwnedByOther { owner: Box::new(owner) }.to_string()).unwrap_or_default();
        let source = LinkError::Refused { code: ErrorCode::Owned, message };
        SwitchError::NotChanged {
            host: host.map(|host: HostName| host.to_string()).unwrap_or_default(),
            switch,
            source,
        }
    })?;
    let work = async {
        let overridden = match switch {
            Switch::On => vec![],
            Switch::Off => check_all_refusals(world, fleet, hosts, options).await?,
        };
        let switches = hosts.iter().map(async |host| {
            let options = &SwitchOptions { actor: actors.find(&host.name), ..options.clone() };
            match switch {
                Switch::On => enable(world, fleet, host, options).await,
                Switch::Off => start_maintenance(world, fleet, host, options, overridden.clone()).await,
            }
        });
        Ok::<_, SwitchManyError>(futures_util::future::join_all(switches).await)
    };
    let results = lock::run_under_lock(world, &options.actor.user, switch_command_name(switch), work).await?;
    Ok(hosts.iter().map(|host| host.name.clone()).zip(results).collect())
}

/// Why several hosts were not switched at all.
#[derive(Debug, thiserror::Error)]
pub enum SwitchManyError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
}

async fn check_all_refusals(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    options: &SwitchOptions,
) -> Result<Vec<Refusal>, SwitchError> {
    let mut in_service = Vec::new();
    for host in hosts {
        if !is_off(world, fleet, host).await.map_err(|source| not_changed_error(host, Switch::Off, source))? {
            in_service.push(&host.name);
        }
    }
    let mut refusals =
        if in_service.is_empty() { vec![] } else { find_refusals(world, fleet, &in_service).await };
    if hosts.len() > 1 && hosts.len() == fleet.hosts.len() && !in_service.is_empty() {
        refusals.push(Refusal::AllHosts { hosts: hosts.len() });
    }
    refusals.extend(find_config_refusals(world, fleet, hosts).await);
    let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    check_refusals(world, &names.join(", "), Switch::Off, refusals, options.force)
}

/// Returns the server lines of these hosts that a balancer does not have.
pub async fn find_missing_servers(world: &FleetWorld, fleet: &Fleet, hosts: &[&HostName]) -> Vec<Refusal> {
    let mut refusals = find_backend_refusals(world, fleet, hosts).await;
    refusals.retain(|refusal| matches!(refusal, Refusal::NoServer { .. }));
    refusals
}

/// Returns the refusals, from the balancers' state, of taking these hosts out together.
pub async fn find_refusals(world: &FleetWorld, fleet: &Fleet, hosts: &[&HostName]) -> Vec<Refusal> {
    let mut refusals = find_backend_refusals(world, fleet, hosts).await;
    let hosts = hosts.iter().filter_map(|name| fleet.find_recorded_host(name));
    let lines = futures_util::future::join_all(hosts.map(async |host| {
        let endpoints = list_main_endpoints(world, fleet, &host).await;
        read_lines_to_main(world, fleet, &host, &endpoints).await
    }));
    let check = fleet.ports.check;
    let others = lines.await.into_iter().flatten().filter(|(_, line)| ignores_forward(line, check));
    refusals.extend(others.map(|(balancer, line)| Refusal::OtherLine {
        balancer,
        line: line.to_string(),
        check,
    }));
    refusals
}

/// Returns the refusals that follow from the state of the balancers' backends alone.
async fn find_backend_refusals(world: &FleetWorld, fleet: &Fleet, hosts: &[&HostName]) -> Vec<Refusal> {
    let views = read_balancers(world).await;
    let errors: Vec<String> =
        views.iter().map(|view| view.as_ref().err().map(ToString::to_string).unwrap_or_default()).collect();
    let readings: Vec<_> = world
        .balancers
        .iter()
        .zip(&views)
        .zip(&errors)
        .map(|((balancer, view), error)| {
            (balancer.spec(), view.as_ref().map(AsRef::as_ref).map_err(|_| error.as_str()))
        })
        .collect();
    find_disable_refusals(fleet, hosts, &readings)
}

fn check_refusals(
    world: &FleetWorld,
    hosts: &str,
    switch: Switch,
    refusals: Vec<Refusal>,
    force: bool,
) -> Result<Vec<Refusal>, SwitchError> {
    if !refusals.is_empty() && !force {
        return Err(SwitchError::Refused { host: hosts.to_owned(), switch, refusals });
    }
    for refusal in &refusals {
        world.reporter.report(&Event::Overridden { refusal: refusal.to_string() });
    }
    Ok(refusals)
}

/// Switches kernel and record together; returns whether the kernel had to be changed, and the record's generation.
async fn set_switch(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    switch: Switch,
    options: &SwitchOptions,
    overridden: &[Refusal],
) -> Result<ChangeResult, SwitchError> {
    let detail: Vec<String> = overridden.iter().map(|refusal| format!("overrode: {refusal}")).collect();
    let owner = read_owner(world, fleet, host).await;
    let actor = decide_actor(world, host, owner.as_ref(), &options.actor).await;
    // The command of a roll continues that roll; a maintenance that begins here is by hand, regardless of the environment.
    let is_continued = owner.is_some_and(|owner| actor.continues(&owner));
    let actor = if is_continued { actor } else { Actor { roll: None, ..actor } };
    let changed = switch_host(world, fleet, host, switch, &actor, &detail.join("; ")).await;
    changed.map_err(|source| not_changed_error(host, switch, source))
}

/// Sends the switch to the host, and reports the result to the operator.
pub async fn switch_host(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    switch: Switch,
    actor: &Actor,
    detail: &str,
) -> Result<ChangeResult, LinkError> {
    let request = build_switch_request(world, fleet, host, switch, actor, detail).await;
    send_switch(world, host, &request).await
}

/// Asks the balancers for what the request has of them.
pub async fn build_switch_request(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    switch: Switch,
    actor: &Actor,
    detail: &str,
) -> ForwardRequest {
    let (service, check, target) = (fleet.service.clone(), fleet.ports.check, fleet.ports.main);
    ForwardRequest {
        forward: Forward { service, check, target },
        switch,
        balancer_is_local: fleet.balancers.iter().any(|balancer| balancer.is_on_host),
        actor: actor.clone(),
        action: switch_command_name(switch).to_owned(),
        detail: detail.to_owned(),
        addresses: list_host_addresses(world, fleet, host).await,
        dry_run: false,
    }
}

/// Sends a switch, and reports the result to the operator.
pub async fn send_switch(
    world: &FleetWorld,
    host: &Host,
    request: &ForwardRequest,
) -> Result<ChangeResult, LinkError> {
    let (started_at, switch) = (tokio::time::Instant::now(), request.switch);
    let changed = find_link(world, host)?.set_forward(request).await?;
    if let Some(error) = &changed.unfinished_history {
        world.reporter.report(&Event::Warning {
            text: format!("{}: the change is made, its end is not in the history: {error}", host.name),
        });
    }
    let (host, transactions) = (host.name.clone(), changed.transactions.clone());
    world.reporter.report(&if transactions.is_empty() {
        Event::Unchanged { host, switch }
    } else {
        Event::Committed { host, switch, transactions, elapsed: started_at.elapsed() }
    });
    Ok(changed)
}

/// Returns the name of the command that makes a switch, as the history has it.
pub const fn switch_command_name(switch: Switch) -> &'static str {
    match switch {
        Switch::On => "enable-forward",
        Switch::Off => "disable-forward",
    }
}

/// A host that does not drain in time goes back into service, unless its main vhost is not healthy any more or
/// another command has switched it in the meantime.
async fn return_to_service(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    options: &SwitchOptions,
    source: DrainError,
) -> SwitchError {
    let name = host.name.to_string();
    let has_timed_out = matches!(source, DrainError::TimedOut { .. });
    let is_healthy = has_timed_out && probe_main(world, fleet, host).await == Ok(ProbeResult::Healthy);
    // Another operation that has taken the host over since keeps it.
    let actor = Actor { takes_over: false, ..options.actor.clone() };
    let options = &SwitchOptions { actor, ..options.clone() };
    let is_restored = is_healthy
        && matches!(
            set_switch(world, fleet, host, Switch::On, options, &[]).await,
            Ok(_) | Err(SwitchError::Contradicted { .. })
        );
    SwitchError::NotDrained { host: name, source, is_restored }
}

fn not_changed_error(host: &Host, switch: Switch, source: LinkError) -> SwitchError {
    let host = host.name.to_string();
    match source {
        LinkError::Refused { code: ErrorCode::ForwardContradicted, .. } => {
            SwitchError::Contradicted { host, switch, source }
        }
        source => SwitchError::NotChanged { host, switch, source },
    }
}

fn not_observed_error(host: &Host, switch: Switch, source: BalancerWaitError) -> SwitchError {
    SwitchError::NotObserved { host: host.name.to_string(), switch, source }
}

impl SwitchReport {
    fn new(host: &Host, switch: Switch, change: ChangeResult, overridden: Vec<Refusal>) -> Self {
        let (host, changed, packet) = (host.clone(), !change.transactions.is_empty(), change.packet);
        let proof = match &packet {
            Some(packet) if packet.is_proven() => SwitchProof::Packet,
            Some(packet) => SwitchProof::Unverified { reason: packet.describe_unverified() },
            None => {
                SwitchProof::Unverified { reason: "the switchman of the host sends no packets".to_owned() }
            }
        };
        Self {
            host,
            switch,
            changed,
            overridden,
            observed: vec![],
            drained_after: None,
            drain_unread: vec![],
            not_drained: None,
            proof,
            packet,
        }
    }

    /// Prefers a balancer's report to a packet: the report includes rules by interface and by source.
    fn record_observation(&mut self) {
        if self.observed.iter().any(|one| matches!(one.outcome, WaitOutcome::Reported { .. })) {
            self.proof = SwitchProof::Balancer;
        }
    }
}

#[cfg(test)]
mod tests;
