//! Waits until every balancer has observed a switch: by its reported state, or for a fixed time where its state cannot be read.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::model::balancer::{BackendView, BalancerSpec, ServerState, ServerView};
use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::BalancerName;
use crate::model::port_forward::Switch;
use crate::plan::host_servers::find_main;
use crate::plan::switch::{compute_detection_time, compute_wait_timeout, is_observed};
use crate::world::FleetWorld;
use crate::world::balancer::{Balancer, BalancerError};
use crate::world::reporter::Event;

use super::reach::{sleep_or_stop, wait_until_overtaken};

/// The interval between two reads of a balancer: a fifth of the fastest change measured (docs/design/measurements.md#m4).
const READ_INTERVAL: Duration = Duration::from_millis(50);

/// How one balancer was found to have observed the switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BalancerObserved {
    pub balancer: BalancerName,
    #[serde(rename = "how")]
    pub outcome: WaitOutcome,
    /// The time since the wait started.
    #[serde(rename = "after_ms", serialize_with = "duration::serialize_ms")]
    pub elapsed: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitOutcome {
    /// The balancer reported this status.
    Reported { status: String },
    /// The configuration gives no access to this balancer's state: the wait took the computed detection time.
    TimeElapsed,
}

/// Why the wait ended before every balancer had observed the switch. The kernel keeps the switch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BalancerWaitError {
    #[error("after {} {}", duration::format(*.waited), join_missing(.missing))]
    TimedOut { waited: Duration, missing: Vec<MissingObservation> },
    #[error("another command switched the forward in between")]
    Overtaken,
    #[error("the wait was interrupted: {}", join_missing(.missing))]
    Interrupted { missing: Vec<MissingObservation> },
}

/// A balancer that had not observed the switch when the wait ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MissingObservation {
    #[error("`{balancer}` reports `{server}` as: {detail}")]
    NotReported { balancer: BalancerName, server: String, detail: String },
    #[error("the detection time of `{balancer}` ({}) has not passed", duration::format(*.detection_time))]
    TimeNotElapsed { balancer: BalancerName, detection_time: Duration },
}

fn join_missing(missing: &[MissingObservation]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Ends when all balancers have observed the switch, when one is late, when another command changed the record, or on a stop
/// request.
pub async fn wait(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    switch: Switch,
    generation: u32,
    timeout: Option<Duration>,
) -> Result<Vec<BalancerObserved>, BalancerWaitError> {
    let waits = fleet.balancers.iter().map(async |spec| {
        match world.balancers.iter().find(|balancer| balancer.spec().name == spec.name) {
            Some(balancer) => wait_for_report(world, fleet, balancer.as_ref(), host, switch, timeout).await,
            None => wait_fixed_time(world, host, spec, switch).await,
        }
    });
    let all = futures_util::future::join_all(waits);
    let ended = tokio::select! {
        ended = all => ended,
        () = wait_until_overtaken(world, fleet, host, generation) => return Err(BalancerWaitError::Overtaken),
    };
    let mut observed = Vec::new();
    let mut missing = Vec::new();
    for result in ended {
        match result {
            Ok(observation) => observed.push(observation),
            Err(error) => missing.push(error),
        }
    }
    match missing.is_empty() {
        true => Ok(observed),
        false if world.stop.is_requested() => Err(BalancerWaitError::Interrupted { missing }),
        false => Err(BalancerWaitError::TimedOut {
            waited: timeout.unwrap_or_else(|| find_longest_timeout(fleet, switch)),
            missing,
        }),
    }
}

fn find_longest_timeout(fleet: &Fleet, switch: Switch) -> Duration {
    fleet.balancers.iter().map(|spec| compute_wait_timeout(&spec.check, switch)).max().unwrap_or_default()
}

async fn wait_for_report(
    world: &FleetWorld,
    fleet: &Fleet,
    balancer: &dyn Balancer,
    host: &Host,
    switch: Switch,
    timeout: Option<Duration>,
) -> Result<BalancerObserved, MissingObservation> {
    let spec = balancer.spec();
    let started_at = Instant::now();
    let deadline = started_at + timeout.unwrap_or_else(|| compute_wait_timeout(&spec.check, switch));
    let mut last = None;
    loop {
        let read = balancer.read().await;
        let found = read.as_ref().ok().map(|view| find_main(fleet, spec, &host.name, view));
        let label = found.as_ref().map(|server| server.label.clone());
        let server = label.unwrap_or_else(|| spec.servers.main_server_name(&host.name));
        let view = found.and_then(|server| server.view);
        let (verdict, detail) = describe_state(&read, view);
        if last.as_ref() != Some(&(verdict, detail.clone())) {
            world.reporter.report(&Event::Observed {
                host: host.name.clone(),
                balancer: spec.name.clone(),
                server: server.clone(),
                state: verdict,
                detail: detail.clone(),
                after: started_at.elapsed(),
            });
        }
        if view.is_some_and(|server| is_observed(switch, server)) {
            let balancer = spec.name.clone();
            return Ok(BalancerObserved {
                balancer,
                outcome: WaitOutcome::Reported { status: detail },
                elapsed: started_at.elapsed(),
            });
        }
        if Instant::now() >= deadline || sleep_or_stop(world, READ_INTERVAL).await {
            let balancer = spec.name.clone();
            return Err(MissingObservation::NotReported { balancer, server, detail });
        }
        last = Some((verdict, detail));
    }
}

/// The state of a server as a balancer reports it, with the balancer's own status text where there is one.
fn describe_state(
    read: &Result<Arc<BackendView>, BalancerError>,
    server: Option<&ServerView>,
) -> (Option<ServerState>, String) {
    match (read, server) {
        (Ok(_), Some(server)) => (Some(server.state), server.status.clone()),
        (Ok(_), None) => (None, "no such server".to_owned()),
        (Err(error), _) => (None, error.to_string()),
    }
}

async fn wait_fixed_time(
    world: &FleetWorld,
    host: &Host,
    spec: &BalancerSpec,
    switch: Switch,
) -> Result<BalancerObserved, MissingObservation> {
    let balancer = spec.name.clone();
    let detection_time = compute_detection_time(&spec.check, switch);
    world.reporter.report(&Event::WaitingForTimeout {
        host: host.name.clone(),
        balancer: balancer.clone(),
        timeout: detection_time,
    });
    if sleep_or_stop(world, detection_time).await {
        return Err(MissingObservation::TimeNotElapsed { balancer, detection_time });
    }
    Ok(BalancerObserved { balancer, outcome: WaitOutcome::TimeElapsed, elapsed: detection_time })
}
