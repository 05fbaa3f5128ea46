//! Waits until every balancer has observed a switch: by its reported state, or for a fixed time where its state cannot be read.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::model::balancer::{BackendView, BalancerSpec, ServerState};
use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::forward::Switch;
use crate::model::host::Host;
use crate::model::name::BalancerName;
use crate::plan::switch::{compute_detection_time, compute_wait_timeout, is_observed};
use crate::world::FleetWorld;
use crate::world::balancer::{Balancer, BalancerError};
use crate::world::reporter::Event;

use super::reach::{overtaken, sleep_or_stop};

/// The interval between two reads of a balancer: a fifth of the fastest change measured (docs/design/measurements.md#m4).
const READ_INTERVAL: Duration = Duration::from_millis(50);

/// How one balancer was found to have observed the switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BalancerObserved {
    pub balancer: BalancerName,
    pub how: WaitOutcome,
    /// The time since the wait began.
    #[serde(rename = "after_ms", serialize_with = "duration::serialize_ms")]
    pub after: Duration,
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
    #[error("after {} {}", duration::format(*.waited), .missing.join("; "))]
    Late { waited: Duration, missing: Vec<String> },
    #[error("another command switched the forward in between")]
    Overtaken,
    #[error("the wait was interrupted: {}", .missing.join("; "))]
    Interrupted { missing: Vec<String> },
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
            Some(balancer) => wait_for_report(world, balancer.as_ref(), host, switch, timeout).await,
            None => wait_fixed_time(world, host, spec, switch).await,
        }
    });
    let all = futures_util::future::join_all(waits);
    let ended = tokio::select! {
        ended = all => ended,
        () = overtaken(world, fleet, host, generation) => return Err(BalancerWaitError::Overtaken),
    };
    let mut seen = Vec::new();
    let mut missing = Vec::new();
    for end in ended {
        match end {
            Ok(one) => seen.push(one),
            Err(text) => missing.push(text),
        }
    }
    match missing.is_empty() {
        true => Ok(seen),
        false if world.stop.is_requested() => Err(BalancerWaitError::Interrupted { missing }),
        false => Err(BalancerWaitError::Late {
            waited: timeout.unwrap_or_else(|| longest(fleet, switch)),
            missing,
        }),
    }
}

fn longest(fleet: &Fleet, switch: Switch) -> Duration {
    fleet.balancers.iter().map(|spec| compute_wait_timeout(&spec.check, switch)).max().unwrap_or_default()
}

async fn wait_for_report(
    world: &FleetWorld,
    balancer: &dyn Balancer,
    host: &Host,
    switch: Switch,
    timeout: Option<Duration>,
) -> Result<BalancerObserved, String> {
    let spec = balancer.spec();
    let server = spec.servers.main_of(&host.name);
    let began = Instant::now();
    let deadline = began + timeout.unwrap_or_else(|| compute_wait_timeout(&spec.check, switch));
    let mut last = None;
    loop {
        let read = balancer.read().await;
        let (verdict, detail) = describe_state(&read, &server);
        if last.as_ref() != Some(&(verdict, detail.clone())) {
            world.reporter.report(&Event::Observed {
                host: host.name.clone(),
                balancer: spec.name.clone(),
                server: server.clone(),
                state: verdict,
                detail: detail.clone(),
                after: began.elapsed(),
            });
        }
        if let Ok(view) = &read
            && view.find_server(&server).is_some_and(|server| is_observed(switch, server))
        {
            let balancer = spec.name.clone();
            return Ok(BalancerObserved {
                balancer,
                how: WaitOutcome::Reported { status: detail },
                after: began.elapsed(),
            });
        }
        let missing = format!("`{}` reports `{server}` as: {detail}", spec.name);
        last = Some((verdict, detail));
        if Instant::now() >= deadline || sleep_or_stop(world, READ_INTERVAL).await {
            return Err(missing);
        }
    }
}

/// The state of a server as a balancer reports it, with the balancer's own status text where there is one.
fn describe_state(
    read: &Result<Arc<BackendView>, BalancerError>,
    server: &str,
) -> (Option<ServerState>, String) {
    match read {
        Ok(view) => match view.find_server(server) {
            Some(server) => (Some(server.state), server.status.clone()),
            None => (None, "no such server".to_owned()),
        },
        Err(error) => (None, error.to_string()),
    }
}

async fn wait_fixed_time(
    world: &FleetWorld,
    host: &Host,
    spec: &BalancerSpec,
    switch: Switch,
) -> Result<BalancerObserved, String> {
    let bound = compute_detection_time(&spec.check, switch);
    world.reporter.report(&Event::WaitingForTimeout {
        host: host.name.clone(),
        balancer: spec.name.clone(),
        timeout: bound,
    });
    if sleep_or_stop(world, bound).await {
        return Err(format!("the bound of `{}` ({}) was not waited out", spec.name, duration::format(bound)));
    }
    Ok(BalancerObserved { balancer: spec.name.clone(), how: WaitOutcome::TimeElapsed, after: bound })
}
