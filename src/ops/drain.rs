//! Waiting until nothing is in flight on a host that is out: by the counters of every balancer, cross-checked with the
//! kernel's sockets on the host.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::balancer::ServerWork;
use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::socket::Socket;
use crate::plan::drain::{Drain, DrainState, count};
use crate::world::World;
use crate::world::reporter::Event;

use super::forward::read_all;
use super::seen::{overtaken, stopped};

/// Between two looks. Two quiet looks make a drain, so it is also the shortest drain.
const PAUSE: Duration = Duration::from_millis(200);

/// Why a host does not count as drained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDrained {
    #[error("{in_flight} in flight after {}: {why}", duration::show(*.waited))]
    Late { waited: Duration, in_flight: u64, why: String },
    #[error("another command switched it in the meantime")]
    Overtaken,
    #[error("the wait was interrupted with {in_flight} in flight")]
    Interrupted { in_flight: u64 },
}

/// Returns how long it took. The limit is `roll.drain_timeout`.
pub async fn wait(
    world: &World,
    fleet: &Fleet,
    host: &Host,
    generation: u32,
) -> Result<Duration, NotDrained> {
    tokio::select! {
        end = drained(world, fleet, host) => end,
        () = overtaken(world, fleet, generation) => Err(NotDrained::Overtaken),
    }
}

async fn drained(world: &World, fleet: &Fleet, host: &Host) -> Result<Duration, NotDrained> {
    let began = Instant::now();
    let limit = fleet.limits.drain_timeout;
    let mut drain = Drain::new(world.balancers.len() < fleet.balancers.len());
    let mut before: Vec<Socket> = Vec::new();
    let mut told = None;
    loop {
        let (works, sockets) = tokio::join!(works(world, host), world.sockets.established(fleet.ports.main));
        let counted = sockets.as_ref().ok().map(|now| count(now, &before).0);
        let after = began.elapsed();
        let name = host.name.clone();
        let (in_flight, why) = match drain.look(&works, counted) {
            DrainState::Drained => {
                world.reporter.report(&Event::Drained { host: name, after });
                return Ok(after);
            }
            DrainState::Draining { in_flight, busy_sockets, why } => {
                if told != Some((in_flight, busy_sockets)) {
                    told = Some((in_flight, busy_sockets));
                    world.reporter.report(&Event::Draining { host: name, in_flight, busy_sockets, after });
                }
                (in_flight, why)
            }
        };
        before = sockets.unwrap_or_default();
        if after >= limit {
            return Err(NotDrained::Late { waited: limit, in_flight, why: why.to_string() });
        }
        if stopped(world, PAUSE).await {
            return Err(NotDrained::Interrupted { in_flight });
        }
    }
}

/// HAProxy's counters of the host's main server, one entry a balancer; `None` where it could not be read now.
async fn works(world: &World, host: &Host) -> Vec<Option<ServerWork>> {
    let views = read_all(world).await;
    let work = |(balancer, view): (&std::sync::Arc<dyn crate::world::balancer::Balancer>, Result<_, _>)| {
        let view: crate::model::balancer::BackendView = view.ok()?;
        view.server(&balancer.spec().servers.main_of(&host.name)).map(|server| server.work)
    };
    world.balancers.iter().zip(views).map(work).collect()
}
