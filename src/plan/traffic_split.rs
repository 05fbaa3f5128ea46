//! Shadows and canaries on one host: what may be asked, what the proxy is told, and when it stands before main.

use super::versions::{self, Refused};
use crate::model::api::deployments::Which;
use crate::model::deployment::{Access, Deployment, DeploymentId};
use crate::model::forward::{Intent, Recorded, Routing};
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::percent::Percent;
use crate::model::ports::Port;
use crate::model::proxy::{
    Canary, Layer7, Limits, Mark, Mirror, Place, ProxiedService, ProxyConfig, Splits, Sticky, Upstream,
};
use crate::model::traffic_split::{SplitChange, SplitRequest};
use crate::model::version::Version;

/// Why a split is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitRefused {
    #[error(transparent)]
    Version(#[from] Refused),
    #[error("{service} {version} is main: it answers users, and gets neither copies nor a share")]
    IsMain { service: ServiceName, version: Version },
    #[error(
        "{service} {version} is {now} already: a version cannot answer users and get copies of the same requests"
    )]
    Both { service: ServiceName, version: Version, now: &'static str },
    #[error(
        "{0} is private: nothing reaches it that could be copied or shared (`switchman access {0} public`)"
    )]
    Private(ServiceName),
    #[error("a canary needs a share, a header or a cookie")]
    Nothing,
    #[error("`{text}` is not {what}")]
    BadText { text: String, what: &'static str },
}

/// The splits that a request comes to. The same as before where it is so already.
pub fn change(
    record: &Recorded,
    existing: &[Deployment],
    request: &SplitRequest,
) -> Result<Splits, SplitRefused> {
    let mut splits = record.layer7.splits.clone();
    splits.forwarded = request.forwarded.unwrap_or(splits.forwarded);
    match &request.change {
        SplitChange::Mirror(mirror) => {
            let target = target(record, existing, &mirror.deployment)?;
            if splits.canary.as_ref().is_some_and(|canary| canary.deployment == target.id) {
                return Err(both(target, "the canary"));
            }
            terms_of_mirror(mirror)?;
            match splits.mirrors.iter_mut().find(|there| there.deployment == target.id) {
                Some(there) => *there = mirror.clone(),
                None => splits.mirrors.push(mirror.clone()),
            }
        }
        SplitChange::NoMirror(deployment) => {
            splits.mirrors.retain(|mirror| mirror.deployment != *deployment);
        }
        SplitChange::Canary(canary) => {
            let target = target(record, existing, &canary.deployment)?;
            if splits.mirrors.iter().any(|mirror| mirror.deployment == target.id) {
                return Err(both(target, "a shadow that gets copies"));
            }
            terms_of_canary(canary)?;
            splits.canary = Some(canary.clone());
        }
        SplitChange::NoCanary => splits.canary = None,
    }
    // It goes with the proxy.
    splits.forwarded &= !splits.is_empty();
    Ok(splits)
}

/// One that is ready, of this service, and not main.
fn target<'a>(
    record: &Recorded,
    existing: &'a [Deployment],
    id: &DeploymentId,
) -> Result<&'a Deployment, SplitRefused> {
    let which = Which::Id(id.clone());
    let target = versions::ready(existing, &which)?;
    let service = &record.forward.service;
    if target.service != *service {
        return Err(Refused::NoVersion(which).into());
    }
    let routes = record.routes.as_ref().ok_or_else(|| Refused::NoMain(service.clone()))?;
    if record.access == Access::Private {
        return Err(SplitRefused::Private(service.clone()));
    }
    if routes.main.deployment == target.id {
        let (service, version) = (service.clone(), target.version.clone());
        return Err(SplitRefused::IsMain { service, version });
    }
    Ok(target)
}

fn both(target: &Deployment, now: &'static str) -> SplitRefused {
    SplitRefused::Both { service: target.service.clone(), version: target.version.clone(), now }
}

fn terms_of_mirror(mirror: &Mirror) -> Result<(), SplitRefused> {
    for method in &mirror.methods {
        if !is_token(method) || method.chars().any(|c| c.is_ascii_lowercase()) {
            return Err(bad(method, "a method: expected one such as GET, in upper case"));
        }
    }
    for header in &mirror.without_headers {
        is_header(header)?;
    }
    match mirror.paths.iter().find(|path| !path.starts_with('/') || path.len() > MAX || !is_plain(path)) {
        Some(path) => Err(bad(path, "a path: expected a glob such as /api/**")),
        None => Ok(()),
    }
}

/// Longest name or value that is looked for.
const MAX: usize = 512;

fn terms_of_canary(canary: &Canary) -> Result<(), SplitRefused> {
    if canary.percent.is_none() && canary.header.is_none() && canary.cookie.is_none() {
        return Err(SplitRefused::Nothing);
    }
    if let Some(Sticky::Header(name)) = &canary.sticky {
        is_header(name)?;
    }
    if let Some(Mark { name, value }) = &canary.header {
        is_header(name)?;
        is_value(value.as_deref())?;
    }
    if let Some(Mark { name, value }) = &canary.cookie {
        if !is_token(name) {
            return Err(bad(name, "the name of a cookie (RFC 6265, 4.1.1)"));
        }
        is_value(value.as_deref())?;
    }
    Ok(())
}

fn is_header(name: &str) -> Result<(), SplitRefused> {
    if is_token(name) { Ok(()) } else { Err(bad(name, "the name of a header (RFC 9110, 5.1)")) }
}

fn is_value(value: Option<&str>) -> Result<(), SplitRefused> {
    match value.filter(|value| value.len() > MAX || !is_plain(value)) {
        Some(value) => {
            Err(bad(value, "a value that a request can carry: printable ASCII, at most 512 characters"))
        }
        None => Ok(()),
    }
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.len() <= MAX && text.bytes().all(allowed)
}

fn bad(text: &str, what: &'static str) -> SplitRefused {
    SplitRefused::BadText { text: text.escape_debug().take(80).collect(), what }
}

/// The proxy's place in a service's data path, as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Neither process nor port is needed.
    Nothing,
    /// Rules lead straight at main; what is still connected to this port ends.
    Straight(Port),
    /// Rules lead to this port.
    Inserted(Port),
    /// The same, with a port to be found.
    Placed,
}

pub fn wanted(record: &Recorded) -> Wanted {
    let splits =
        !record.layer7.splits.is_empty() && record.routes.is_some() && record.access == Access::Public;
    match (splits, record.layer7.place) {
        (true, Some(place)) => Wanted::Inserted(place.port),
        (true, None) => Wanted::Placed,
        (false, Some(place)) => Wanted::Straight(place.port),
        (false, None) => Wanted::Nothing,
    }
}

/// Nothing needs the proxy's place any more: neither now nor, where the service is private, when it is public again.
pub fn is_over(record: &Recorded) -> bool {
    matches!(wanted(record), Wanted::Straight(_))
        && (record.layer7.splits.is_empty() || record.routes.is_none())
}

/// Where each version can be asked alone, on the loopback addresses (D7). Neither a port of the originals (8080, 9070) nor of
/// HAProxy's usual ones.
const GATEWAY: u16 = 8070;

/// A port that is nobody's to be given.
pub fn gateway() -> Option<Port> {
    Port::new(GATEWAY)
}

/// What the proxy of a host is told. A service it does not stand before yet, or no more, is main's alone: nothing is copied
/// or shared until the rules lead here.
pub fn config(records: &[Recorded], existing: &[Deployment]) -> ProxyConfig {
    ProxyConfig {
        services: records.iter().filter_map(|record| proxied(record, existing)).collect(),
        gateway: gateway(),
        limits: Limits::default(),
    }
}

fn proxied(record: &Recorded, existing: &[Deployment]) -> Option<ProxiedService> {
    let place = record.layer7.place?;
    let routes = record.routes.as_ref()?;
    let service = &record.forward.service;
    let of_service = || existing.iter().filter(|one| one.service == *service);
    let main = of_service().find(|one| one.id == routes.main.deployment)?;
    let main = Upstream { address: (main.address, routes.main.target.get()).into(), ..upstream(main) };
    let others = of_service().filter(|one| one.id != main.deployment).map(upstream).collect();
    let straight = !matches!(wanted(record), Wanted::Inserted(_));
    let splits =
        if place.inserted && !straight { there(&record.layer7.splits, existing) } else { Splits::default() };
    Some(ProxiedService {
        service: service.clone(),
        port: place.port,
        check: record.forward.check,
        access: record.access,
        main,
        others,
        splits,
        draining: straight,
    })
}

fn upstream(one: &Deployment) -> Upstream {
    Upstream {
        deployment: one.id.clone(),
        version: one.version.clone(),
        address: one.endpoint(&one.instance),
    }
}

/// Without what is gone.
fn there(splits: &Splits, existing: &[Deployment]) -> Splits {
    let is_there = |id: &DeploymentId| existing.iter().any(|one| one.id == *id);
    Splits {
        mirrors: splits.mirrors.iter().filter(|mirror| is_there(&mirror.deployment)).cloned().collect(),
        canary: splits.canary.clone().filter(|canary| is_there(&canary.deployment)),
        forwarded: splits.forwarded,
    }
}

/// A change of layer 7 as an intent: everything else stays as it is recorded.
pub fn intent(record: &Recorded, layer7: Layer7, actor: &Actor, action: &str, detail: String) -> Intent {
    Intent {
        forward: record.forward.clone(),
        switch: record.switch,
        from_self: record.from_self,
        actor: actor.clone(),
        action: action.to_owned(),
        detail,
        routing: Routing::Keep,
        access: None,
        layer7: Some(layer7),
    }
}

/// The rules lead to the proxy, or straight at main; `None`: it is so, or the place is another one by now.
pub fn moved(record: &Recorded, port: Port, inserted: bool) -> Option<Layer7> {
    let place = record.layer7.place.filter(|place| place.port == port && place.inserted != inserted)?;
    // Whoever took the splits away meanwhile does not want it there.
    if inserted && !matches!(wanted(record), Wanted::Inserted(_)) {
        return None;
    }
    Some(Layer7 { place: Some(Place { inserted, ..place }), ..record.layer7.clone() })
}

/// A change taken back, unless somebody has changed the same thing meanwhile; who is gone gets nothing back.
pub fn undone(now: &Splits, before: &Splits, after: &Splits, existing: &[Deployment]) -> Splits {
    let mirrors = |splits: &Splits, id: &DeploymentId| {
        splits.mirrors.iter().find(|mirror| mirror.deployment == *id).cloned()
    };
    let back = |id: &DeploymentId| {
        let (was, is) = (mirrors(before, id), mirrors(now, id));
        if is == mirrors(after, id) { was } else { is }
    };
    let mut ids: Vec<&DeploymentId> = Vec::new();
    for mirror in now.mirrors.iter().chain(&before.mirrors) {
        if !ids.contains(&&mirror.deployment) {
            ids.push(&mirror.deployment);
        }
    }
    let undone = Splits {
        mirrors: ids.into_iter().filter_map(back).collect(),
        canary: if now.canary == after.canary { &before.canary } else { &now.canary }.clone(),
        forwarded: if now.forwarded == after.forwarded { before.forwarded } else { now.forwarded },
    };
    there(&undone, existing)
}

/// A kill that was refused took it out: what it got before it gets again, unless somebody gave that away meanwhile.
pub fn rejoined(record: &Recorded, before: &Layer7, deployment: &DeploymentId) -> Option<Layer7> {
    let is_main = record.routes.as_ref().is_some_and(|routes| routes.main.deployment == *deployment);
    let mut splits = record.layer7.splits.clone();
    if splits.mirrors.iter().all(|mirror| mirror.deployment != *deployment) {
        splits
            .mirrors
            .extend(before.splits.mirrors.iter().filter(|mirror| mirror.deployment == *deployment).cloned());
    }
    let canary = before.splits.canary.clone().filter(|canary| canary.deployment == *deployment);
    splits.canary = splits.canary.or(canary);
    splits.forwarded |= before.splits.forwarded;
    let place = record.layer7.place.or(before.place.map(|place| Place { inserted: false, ..place }));
    (!is_main && splits != record.layer7.splits).then_some(Layer7 { splits, place })
}

/// A change for the history: `mirror 2.0.0 25%`.
pub fn told(change: &SplitChange, existing: &[Deployment]) -> String {
    let version = |id: &DeploymentId| {
        let found = existing.iter().find(|one| one.id == *id);
        found.map_or_else(|| id.to_string(), |one| format!("{} {}", one.service, one.version))
    };
    match change {
        SplitChange::Mirror(mirror) => format!("{}, {}", version(&mirror.deployment), mirror.percent),
        SplitChange::NoMirror(deployment) => format!("{}, off", version(deployment)),
        SplitChange::Canary(canary) => format!("{}, {}", version(&canary.deployment), share(canary)),
        SplitChange::NoCanary => "off".to_owned(),
    }
}

/// What a canary answers, for people: `25%, header x-beta`.
pub fn share(canary: &Canary) -> String {
    let mark = |kind: &str, mark: &Mark| match &mark.value {
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

/// What a deployment gets, for lists: `copies 50%`, `canary 25%, header x-beta`.
pub fn gets(splits: &Splits, deployment: &DeploymentId) -> Vec<String> {
    let copies = splits.mirrors.iter().filter(|mirror| mirror.deployment == *deployment);
    let canary = splits.canary.iter().filter(|canary| canary.deployment == *deployment);
    let copies = copies.map(|mirror| format!("copies {}", mirror.percent));
    copies.chain(canary.map(|canary| format!("canary {}", share(canary)))).collect()
}

/// The word of a history row.
pub const fn action(change: &SplitChange) -> &'static str {
    match change {
        SplitChange::Mirror(_) | SplitChange::NoMirror(_) => "mirror",
        SplitChange::Canary(_) | SplitChange::NoCanary => "canary",
    }
}

#[cfg(test)]
mod tests;
