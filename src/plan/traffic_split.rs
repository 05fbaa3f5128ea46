//! Shadows and canaries on one host: which changes are allowed, which configuration the proxy receives, and when the rules
//! route to the proxy.

use std::net::SocketAddr;

use super::versions::{self, DeployRefusal};
use crate::model::api::deployments::DeploymentRef;
use crate::model::deployment::{Access, Deployment, DeploymentId};
use crate::model::forward::{Intent, ServiceRecord};
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::percent::Percent;
use crate::model::ports::Port;
use crate::model::proxy::{
    Canary, FieldMatch, Layer7, Mirror, ProxiedService, ProxyConfig, ProxyLimits, ProxyPlacement, Sticky,
    TrafficSplit, Upstream,
};
use crate::model::traffic_split::{TrafficSplitChange, TrafficSplitRequest};
use crate::model::version::Version;

/// Why a split is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrafficSplitError {
    #[error(transparent)]
    Deployment(#[from] DeployRefusal),
    #[error("{service} {version} is main: it answers users, and gets neither copies nor a share")]
    IsMain { service: ServiceName, version: Version },
    #[error(
        "{service} {version} is {now} already: a version cannot answer users and get copies of the same requests"
    )]
    RoleConflict { service: ServiceName, version: Version, now: &'static str },
    #[error("{0} is private: it gets no requests to copy or share (`switchman access {0} public`)")]
    Private(ServiceName),
    #[error("a canary needs a share, a header or a cookie")]
    EmptyCanary,
    #[error("`{text}` is not {subject}")]
    BadText { text: String, subject: &'static str },
}

/// The splits that a request comes to. The same as before where it is so already.
pub fn apply_change(
    record: &ServiceRecord,
    existing: &[Deployment],
    request: &TrafficSplitRequest,
) -> Result<TrafficSplit, TrafficSplitError> {
    let mut splits = record.layer7.traffic_split.clone();
    splits.forwarded = request.forwarded.unwrap_or(splits.forwarded);
    match &request.change {
        TrafficSplitChange::SetMirror(mirror) => {
            let target = find_target(record, existing, &mirror.deployment)?;
            if splits.canary.as_ref().is_some_and(|canary| canary.deployment == target.id) {
                return Err(build_role_conflict(target, "the canary"));
            }
            check_mirror(mirror)?;
            match splits.mirrors.iter_mut().find(|there| there.deployment == target.id) {
                Some(there) => *there = mirror.clone(),
                None => splits.mirrors.push(mirror.clone()),
            }
        }
        TrafficSplitChange::RemoveMirror(deployment) => {
            splits.mirrors.retain(|mirror| mirror.deployment != *deployment);
        }
        TrafficSplitChange::SetCanary(canary) => {
            let target = find_target(record, existing, &canary.deployment)?;
            if splits.mirrors.iter().any(|mirror| mirror.deployment == target.id) {
                return Err(build_role_conflict(target, "a shadow that gets copies"));
            }
            check_canary(canary)?;
            splits.canary = Some(canary.clone());
        }
        TrafficSplitChange::RemoveCanary => splits.canary = None,
    }
    // It goes with the proxy.
    splits.forwarded &= !splits.is_empty();
    Ok(splits)
}

/// Returns a deployment of this service that is ready and not main.
fn find_target<'a>(
    record: &ServiceRecord,
    existing: &'a [Deployment],
    id: &DeploymentId,
) -> Result<&'a Deployment, TrafficSplitError> {
    let which = DeploymentRef::Id(id.clone());
    let target = versions::find_ready(existing, &which)?;
    let service = &record.forward.service;
    if target.service != *service {
        return Err(DeployRefusal::NoVersion(which).into());
    }
    let routes = record.routes.as_ref().ok_or_else(|| DeployRefusal::NoMain(service.clone()))?;
    if record.access == Access::Private {
        return Err(TrafficSplitError::Private(service.clone()));
    }
    if routes.main.deployment == target.id {
        let (service, version) = (service.clone(), target.version.clone());
        return Err(TrafficSplitError::IsMain { service, version });
    }
    Ok(target)
}

fn build_role_conflict(target: &Deployment, now: &'static str) -> TrafficSplitError {
    TrafficSplitError::RoleConflict { service: target.service.clone(), version: target.version.clone(), now }
}

fn check_mirror(mirror: &Mirror) -> Result<(), TrafficSplitError> {
    for method in &mirror.methods {
        if !is_token(method) || method.chars().any(|c| c.is_ascii_lowercase()) {
            return Err(build_bad_text(method, "a method: expected one such as GET, in upper case"));
        }
    }
    for header in &mirror.without_headers {
        check_header_name(header)?;
    }
    match mirror
        .paths
        .iter()
        .find(|path| !path.starts_with('/') || path.len() > MAX_VALUE_LENGTH || !is_plain(path))
    {
        Some(path) => Err(build_bad_text(path, "a path: expected a glob such as /api/**")),
        None => Ok(()),
    }
}

/// Longest name or value that is looked for.
const MAX_VALUE_LENGTH: usize = 512;

fn check_canary(canary: &Canary) -> Result<(), TrafficSplitError> {
    if canary.percent.is_none() && canary.header.is_none() && canary.cookie.is_none() {
        return Err(TrafficSplitError::EmptyCanary);
    }
    if let Some(Sticky::Header(name)) = &canary.sticky {
        check_header_name(name)?;
    }
    if let Some(FieldMatch { name, value }) = &canary.header {
        check_header_name(name)?;
        check_value(value.as_deref())?;
    }
    if let Some(FieldMatch { name, value }) = &canary.cookie {
        if !is_token(name) {
            return Err(build_bad_text(name, "the name of a cookie (RFC 6265, 4.1.1)"));
        }
        check_value(value.as_deref())?;
    }
    Ok(())
}

fn check_header_name(name: &str) -> Result<(), TrafficSplitError> {
    if is_token(name) { Ok(()) } else { Err(build_bad_text(name, "the name of a header (RFC 9110, 5.1)")) }
}

fn check_value(value: Option<&str>) -> Result<(), TrafficSplitError> {
    match value.filter(|value| value.len() > MAX_VALUE_LENGTH || !is_plain(value)) {
        Some(value) => Err(build_bad_text(
            value,
            "a value that a request can carry: printable ASCII, at most 512 characters",
        )),
        None => Ok(()),
    }
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.len() <= MAX_VALUE_LENGTH && text.bytes().all(allowed)
}

fn build_bad_text(text: &str, subject: &'static str) -> TrafficSplitError {
    TrafficSplitError::BadText { text: text.escape_debug().take(80).collect(), subject }
}

/// The proxy's place in a service's data path, as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DesiredPlacement {
    /// Neither process nor port is needed.
    Unneeded,
    /// Rules route to main; connections still open to this port are closed.
    Bypassed(Port),
    /// Rules route to this port.
    Inserted(Port),
    /// Rules are to route to the proxy, on a port to be allocated.
    Unallocated,
}

pub fn derive_placement(record: &ServiceRecord) -> DesiredPlacement {
    let splits =
        !record.layer7.traffic_split.is_empty() && record.routes.is_some() && record.access == Access::Public;
    match (splits, record.layer7.place) {
        (true, Some(place)) => DesiredPlacement::Inserted(place.port),
        (true, None) => DesiredPlacement::Unallocated,
        (false, Some(place)) => DesiredPlacement::Bypassed(place.port),
        (false, None) => DesiredPlacement::Unneeded,
    }
}

/// Nothing needs the proxy's place any more: neither now nor, where the service is private, when it is public again.
pub fn is_unneeded(record: &ServiceRecord) -> bool {
    matches!(derive_placement(record), DesiredPlacement::Bypassed(_))
        && (record.layer7.traffic_split.is_empty() || record.routes.is_none())
}

/// The port at which each version can be reached alone, on the loopback addresses (seed row D7). Neither a port of the
/// originals (8080, 9070) nor of HAProxy's usual ones.
const GATEWAY_PORT: u16 = 8070;

/// The gateway's port, which is never allocated to an instance.
pub fn gateway_port() -> Option<Port> {
    Port::new(GATEWAY_PORT)
}

/// Builds the configuration for the proxy of a host. A service whose rules do not route to the proxy has main alone: nothing
/// is copied or shared until they do.
pub fn build_config(records: &[ServiceRecord], existing: &[Deployment]) -> ProxyConfig {
    ProxyConfig {
        services: records.iter().filter_map(|record| build_service(record, existing)).collect(),
        gateway: gateway_port(),
        proxy_limits: ProxyLimits::default(),
    }
}

fn build_service(record: &ServiceRecord, existing: &[Deployment]) -> Option<ProxiedService> {
    let place = record.layer7.place?;
    let routes = record.routes.as_ref()?;
    let service = &record.forward.service;
    let of_service = || existing.iter().filter(|one| one.service == *service);
    let main = of_service().find(|one| one.id == routes.main.deployment)?;
    let main = build_upstream(main, routes.healthy_targets(&routes.main))?;
    let others = of_service().filter(|one| one.id != main.deployment);
    let others = others.filter_map(|one| {
        let ports = one.active_instances().map(|instance| instance.port);
        build_upstream(one, routes.choose_healthy(ports))
    });
    let others = others.collect();
    let straight = !matches!(derive_placement(record), DesiredPlacement::Inserted(_));
    let splits = if place.inserted && !straight {
        retain_existing(&record.layer7.traffic_split, existing)
    } else {
        TrafficSplit::default()
    };
    Some(ProxiedService {
        service: service.clone(),
        port: place.port,
        check: record.forward.check,
        access: record.access,
        main,
        other_upstreams: others,
        traffic_split: splits,
        draining: straight,
    })
}

/// Builds the upstream of a version that answers at these ports; `None` where there is none.
fn build_upstream(one: &Deployment, ports: Vec<Port>) -> Option<Upstream> {
    let mut addresses = ports.into_iter().map(|port| SocketAddr::new(one.address, port.get()));
    Some(Upstream {
        deployment: one.id.clone(),
        version: one.version.clone(),
        address: addresses.next()?,
        more_addresses: addresses.collect(),
    })
}

/// Keeps only the entries whose deployments still exist.
fn retain_existing(splits: &TrafficSplit, existing: &[Deployment]) -> TrafficSplit {
    let is_there = |id: &DeploymentId| existing.iter().any(|one| one.id == *id);
    TrafficSplit {
        mirrors: splits.mirrors.iter().filter(|mirror| is_there(&mirror.deployment)).cloned().collect(),
        canary: splits.canary.clone().filter(|canary| is_there(&canary.deployment)),
        forwarded: splits.forwarded,
    }
}

/// A change of layer 7 as an intent: everything else stays as it is recorded.
pub fn build_intent(
    record: &ServiceRecord,
    layer7: Layer7,
    actor: &Actor,
    action: &str,
    detail: String,
) -> Intent {
    Intent { layer7: Some(layer7), ..record.build_intent(actor, action, detail) }
}

/// Records that the rules route to the proxy, or to main; `None`: they already do, or the proxy has another port by now.
pub fn set_inserted(record: &ServiceRecord, port: Port, inserted: bool) -> Option<Layer7> {
    let place = record.layer7.place.filter(|place| place.port == port && place.inserted != inserted)?;
    // The command that removed the splits in between does not want the proxy there.
    if inserted && !matches!(derive_placement(record), DesiredPlacement::Inserted(_)) {
        return None;
    }
    Some(Layer7 { place: Some(ProxyPlacement { inserted, ..place }), ..record.layer7.clone() })
}

/// Undoes a change, unless another command has changed the same thing in between; a deployment that no longer exists gets
/// nothing back.
pub fn revert_change(
    now: &TrafficSplit,
    before: &TrafficSplit,
    after: &TrafficSplit,
    existing: &[Deployment],
) -> TrafficSplit {
    let mirrors = |splits: &TrafficSplit, id: &DeploymentId| {
        splits.mirrors.iter().find(|mirror| mirror.deployment == *id).cloned()
    };
    let back = |id: &DeploymentId| {
        let (past, present) = (mirrors(before, id), mirrors(now, id));
        if present == mirrors(after, id) { past } else { present }
    };
    let mut ids: Vec<&DeploymentId> = Vec::new();
    for mirror in now.mirrors.iter().chain(&before.mirrors) {
        if !ids.contains(&&mirror.deployment) {
            ids.push(&mirror.deployment);
        }
    }
    let undone = TrafficSplit {
        mirrors: ids.into_iter().filter_map(back).collect(),
        canary: if now.canary == after.canary { &before.canary } else { &now.canary }.clone(),
        forwarded: if now.forwarded == after.forwarded { before.forwarded } else { now.forwarded },
    };
    retain_existing(&undone, existing)
}

/// Restores the traffic of a deployment that a refused kill took out, unless another command assigned that traffic in between.
pub fn restore_deployment(
    record: &ServiceRecord,
    before: &Layer7,
    deployment: &DeploymentId,
) -> Option<Layer7> {
    let is_main = record.routes.as_ref().is_some_and(|routes| routes.main.deployment == *deployment);
    let mut splits = record.layer7.traffic_split.clone();
    if splits.mirrors.iter().all(|mirror| mirror.deployment != *deployment) {
        splits.mirrors.extend(
            before.traffic_split.mirrors.iter().filter(|mirror| mirror.deployment == *deployment).cloned(),
        );
    }
    let canary = before.traffic_split.canary.clone().filter(|canary| canary.deployment == *deployment);
    splits.canary = splits.canary.or(canary);
    splits.forwarded |= before.traffic_split.forwarded;
    let place = record.layer7.place.or(before.place.map(|place| ProxyPlacement { inserted: false, ..place }));
    (!is_main && splits != record.layer7.traffic_split).then_some(Layer7 { traffic_split: splits, place })
}

/// A change for the history: `mirror 2.0.0 25%`.
pub fn describe_change(change: &TrafficSplitChange, existing: &[Deployment]) -> String {
    let version = |id: &DeploymentId| {
        let found = existing.iter().find(|one| one.id == *id);
        found.map_or_else(|| id.to_string(), |one| format!("{} {}", one.service, one.version))
    };
    match change {
        TrafficSplitChange::SetMirror(mirror) => {
            format!("{}, {}", version(&mirror.deployment), mirror.percent)
        }
        TrafficSplitChange::RemoveMirror(deployment) => format!("{}, off", version(deployment)),
        TrafficSplitChange::SetCanary(canary) => {
            format!("{}, {}", version(&canary.deployment), describe_share(canary))
        }
        TrafficSplitChange::RemoveCanary => "off".to_owned(),
    }
}

/// Formats the share of a canary for people: `25%, header x-beta`.
pub fn describe_share(canary: &Canary) -> String {
    let mark = |kind: &str, mark: &FieldMatch| match &mark.value {
        Some(value) => format!("{kind} {}={value}", mark.name),
        None => format!("{kind} {}", mark.name),
    };
    let sticky = match (&canary.sticky, canary.percent) {
        (Some(_), Some(_)) => " of users",
        _ => "",
    };
    let parts = [
        canary.percent.filter(|percent| *percent > Percent::ZERO).map(|percent| format!("{percent}{sticky}")),
        canary.header.as_ref().map(|header| mark("header", header)),
        canary.cookie.as_ref().map(|cookie| mark("cookie", cookie)),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "0%".to_owned() } else { parts.join(", ") }
}

/// Formats the traffic of a deployment for lists: `copies 50%`, `canary 25%, header x-beta`.
pub fn describe_traffic(splits: &TrafficSplit, deployment: &DeploymentId) -> Vec<String> {
    let copies = splits.mirrors.iter().filter(|mirror| mirror.deployment == *deployment);
    let canary = splits.canary.iter().filter(|canary| canary.deployment == *deployment);
    let copies = copies.map(|mirror| format!("copies {}", mirror.percent));
    copies.chain(canary.map(|canary| format!("canary {}", describe_share(canary)))).collect()
}

/// The word of a history row.
pub const fn name_action(change: &TrafficSplitChange) -> &'static str {
    match change {
        TrafficSplitChange::SetMirror(_) | TrafficSplitChange::RemoveMirror(_) => "mirror",
        TrafficSplitChange::SetCanary(_) | TrafficSplitChange::RemoveCanary => "canary",
    }
}

#[cfg(test)]
mod tests;
