//! Waits until no request is in flight on a host in maintenance: by the counters of every balancer, cross-checked with the
//! kernel's sockets on the host.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::api::ServiceActivity;
use crate::model::balancer::{BackendView, ServerCounters, ServerLine};
use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::BalancerName;
use crate::model::observation::ObservationError;
use crate::model::socket::PeerConnections;
use crate::plan::drain::peers::{Reported, count_hidden, list_unreported};
use crate::plan::drain::{DrainState, DrainTracker, NotDrainedReason};
use crate::plan::host_servers::find_main;
use crate::world::FleetWorld;
use crate::world::balancer::Balancer;
use crate::world::link::LinkError;
use crate::world::reporter::Event;

use super::reach::{find_link, read_balancers, sleep_or_stop};
use super::server_lines::{list_main_endpoints, read_lines_to_main};

/// The interval between two reads of the counters.
const READ_INTERVAL: Duration = Duration::from_millis(200);
/// The interval from a first read without requests in flight to the second, which confirms the drain. The server is DOWN by
/// then, so no new request is on its way to it; the counters only have to stay unchanged for longer than a balancer takes to
/// assign a request.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(50);

/// Why a host does not count as drained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    #[error("{in_flight} in flight after {}: {reason}{}{}{}", duration::format(*.waited), format_senders(.senders), format_peers(.peers), format_detail(.detail.as_ref()))]
    TimedOut {
        waited: Duration,
        in_flight: u64,
        reason: NotDrainedReason,
        /// The server lines that still have requests on the host: `lb1 websockets/web1 (2)`.
        senders: Vec<String>,
        /// The peers of connections on the host that keep it from being drained.
        peers: Vec<PeerConnections>,
        /// The error of the host, where its sockets cannot be read.
        detail: Option<ObservationError>,
    },
    #[error("another command switched the forward in between")]
    Overtaken,
    #[error("the wait was interrupted with {in_flight} in flight")]
    Interrupted { in_flight: u64 },
}

fn format_senders(senders: &[String]) -> String {
    if senders.is_empty() { String::new() } else { format!("; still sending: {}", senders.join(", ")) }
}

/// The most peers that an error names.
const MAX_NAMED_PEERS: usize = 5;

fn format_peers(peers: &[PeerConnections]) -> String {
    if peers.is_empty() {
        return String::new();
    }
    let named: Vec<String> = peers.iter().take(MAX_NAMED_PEERS).map(ToString::to_string).collect();
    let more = match peers.len().saturating_sub(MAX_NAMED_PEERS) {
        0 => String::new(),
        more => format!(", and {more} more addresses"),
    };
    format!("; {}{more}", named.join(", "))
}

fn format_detail(detail: Option<&ObservationError>) -> String {
    detail.map(|detail| format!(": {detail}")).unwrap_or_default()
}

/// A drain that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainOutcome {
    pub after: Duration,
    /// The balancers whose connections are not known: a quiet websocket of theirs does not hold the drain.
    pub unread: Vec<BalancerName>,
}

impl fmt::Display for DrainOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "drained after {}", duration::format(self.after))?;
        if self.unread.is_empty() { Ok(()) } else { write!(f, " ({})", format_unread(&self.unread)) }
    }
}

/// Formats what a drain cannot see: ``the connections of `lb2` are not known, a quiet websocket of it is not noticed``
pub fn format_unread(unread: &[BalancerName]) -> String {
    let names: Vec<String> = unread.iter().map(|name| format!("`{name}`")).collect();
    format!("the connections of {} are not known, so a quiet websocket is not noticed", names.join(", "))
}

/// Returns how long it took, at most `limit`.
pub async fn wait(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    generation: u32,
    limit: Duration,
) -> Result<DrainOutcome, DrainError> {
    let started_at = Instant::now();
    let mut drain = DrainTracker::new(world.balancers.len() < fleet.balancers.len());
    let mut last_event = None;
    let mut is_warned = false;
    let endpoints = list_main_endpoints(world, fleet, host).await;
    loop {
        let (mains, others, activity) = tokio::join!(
            read_server_work(world, fleet, host),
            read_lines_to_main(world, fleet, host, &endpoints),
            read_activity(world, fleet, host)
        );
        if activity.as_ref().is_ok_and(|activity| activity.generation != generation) {
            return Err(DrainError::Overtaken);
        }
        let activity = activity.map_err(ObservationError::new);
        let peers = activity.as_ref().map(|activity| activity.peers.clone()).unwrap_or_default();
        let sockets = activity.and_then(|activity| activity.sockets);
        let elapsed = started_at.elapsed();
        let name = host.name.clone();
        let works: Vec<Option<ServerCounters>> = mains
            .iter()
            .map(|main| main.work)
            .chain(others.iter().map(|(_, line)| Some(line.work)))
            .collect();
        let unread = list_unread(fleet, &mains);
        if !is_warned && !unread.is_empty() {
            is_warned = true;
            let text = format!("{name}: {}", format_unread(&unread));
            world.reporter.report(&Event::Warning { text });
        }
        let reported = list_reported(world, &mains, &others);
        let hidden = count_hidden(&reported, &peers);
        let (in_flight, reason) = match drain.observe(&works, sockets.as_ref().ok().copied(), hidden) {
            DrainState::Drained => {
                world.reporter.report(&Event::Drained { host: name, after: elapsed });
                return Ok(DrainOutcome { after: elapsed, unread });
            }
            DrainState::Draining { in_flight, busy_sockets, reason } => {
                if last_event != Some((in_flight, busy_sockets)) {
                    last_event = Some((in_flight, busy_sockets));
                    world.reporter.report(&Event::Draining {
                        host: name,
                        in_flight,
                        busy_sockets,
                        after: elapsed,
                    });
                }
                (in_flight, reason)
            }
        };
        let is_quiet = reason == NotDrainedReason::AwaitingSecondObservation;
        if elapsed >= limit {
            let detail = sockets.err().filter(|_| reason == NotDrainedReason::SocketsUnreadable);
            let senders = list_senders(&mains, &others);
            let peers = select_peers(reason, &reported, &peers);
            return Err(DrainError::TimedOut { waited: limit, in_flight, reason, senders, peers, detail });
        }
        let pause = if is_quiet { CONFIRM_INTERVAL } else { READ_INTERVAL };
        if sleep_or_stop(world, pause).await {
            return Err(DrainError::Interrupted { in_flight });
        }
    }
}

async fn read_activity(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Result<ServiceActivity, LinkError> {
    find_link(world, host)?.fetch_activity(&fleet.service, fleet.ports.main).await
}

/// Lists the balancers that do not report how many connections they have: those without access by configuration, and those whose
/// HAProxy does not count them.
fn list_unread(fleet: &Fleet, mains: &[MainWork]) -> Vec<BalancerName> {
    let is_known = |name: &BalancerName| {
        mains
            .iter()
            .any(|main| main.balancer == *name && main.work.is_none_or(|work| work.connections().is_some()))
    };
    fleet.balancers.iter().map(|spec| spec.name.clone()).filter(|name| !is_known(name)).collect()
}

/// Lists the connections that balancers of known addresses report.
fn list_reported(
    world: &FleetWorld,
    mains: &[MainWork],
    others: &[(BalancerName, ServerLine)],
) -> Vec<Reported> {
    let find_address = |name: &BalancerName| {
        let found = world.balancers.iter().find(|balancer| balancer.spec().name == *name)?;
        found.spec().stats_endpoint.as_ref()?.address()
    };
    let mains = mains.iter().map(|main| (&main.balancer, main.work));
    let all = mains.chain(others.iter().map(|(balancer, line)| (balancer, Some(line.work))));
    all.filter_map(|(name, work)| Some((find_address(name)?, work.and_then(|work| work.connections()))))
        .collect()
}

/// Selects the peers that an error names for its reason.
fn select_peers(
    reason: NotDrainedReason,
    reported: &[Reported],
    peers: &[PeerConnections],
) -> Vec<PeerConnections> {
    match reason {
        NotDrainedReason::UnexplainedConnections { .. } => list_unreported(reported, peers),
        NotDrainedReason::BusySockets => peers.iter().filter(|peer| peer.busy > 0).cloned().collect(),
        _ => vec![],
    }
}

/// HAProxy's counters of the host's main server on one balancer.
struct MainWork {
    balancer: BalancerName,
    /// `lb1 servers/main-web1`
    line: String,
    /// `None` where it could not be read now.
    work: Option<ServerCounters>,
}

/// Reads the counters of the host's main server, one entry a balancer.
async fn read_server_work(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Vec<MainWork> {
    let views = read_balancers(world).await;
    let work = |(balancer, view): (&Arc<dyn Balancer>, Result<Arc<BackendView>, _>)| {
        let spec = balancer.spec();
        let main = view.as_ref().ok().map(|view| find_main(fleet, spec, &host.name, view));
        let work = main.as_ref().and_then(|main| Some(main.view?.work));
        let server = main.map_or_else(|| spec.servers.main_server_name(&host.name), |main| main.name);
        MainWork {
            balancer: spec.name.clone(),
            line: format!("{} {}/{server}", spec.name, spec.backend),
            work,
        }
    };
    world.balancers.iter().zip(views).map(work).collect()
}

/// Lists the server lines with requests in flight, each with their number.
fn list_senders(mains: &[MainWork], others: &[(BalancerName, ServerLine)]) -> Vec<String> {
    let mains = mains.iter().filter_map(|main| Some((main.line.clone(), main.work?)));
    let others = others.iter().map(|(balancer, line)| (format!("{balancer} {line}"), line.work));
    let busy = mains.chain(others).filter(|(_, work)| work.in_flight() > 0);
    busy.map(|(line, work)| format!("{line} ({})", work.in_flight())).collect()
}
