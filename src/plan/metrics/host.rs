//! What a host exports: its forwards, its versions, and what its proxy counted.

use std::collections::BTreeMap;

use super::{Family, Page, VERSIONS, counter, gauge, proxy};
use crate::model::deployment::{Deployment, DeploymentId, Process, Role, Status};
use crate::model::forward::{Recorded, Switch};
use crate::model::name::ServiceName;
use crate::model::proxy::ProxyStats;
use crate::model::socket::SocketCount;
use crate::model::version::Version;
use crate::plan::versions;

const BUILD: Family = gauge("switchman_build_info", "Which switchman runs here; always 1.");
const COLLECTOR: Family =
    gauge("switchman_collector_success", "Whether a part of these numbers could be read.");
const FORWARD: Family =
    gauge("switchman_forward_on", "Whether the forward is recorded as on; 0 is maintenance.");
const GENERATION: Family =
    gauge("switchman_forward_generation", "Raised by every recorded change of the forward.");
const REPAIRS: Family = counter(
    "switchman_rule_repairs_total",
    "How often the port rules of the service were changed by others and put back.",
);
const MAIN: Family = gauge("switchman_main_info", "Which version is main here; always 1.");
const DEPLOYMENTS: Family =
    gauge("switchman_deployments", "Versions of the service on this host, by status.");
const LEFT_OUT: Family = gauge(
    "switchman_versions_left_out",
    "Versions without numbers of their own here, because there are too many.",
);
const RUNNING: Family = gauge("switchman_instance_running", "Whether the instance of the version runs.");
const RESTARTS: Family = counter(
    "switchman_instance_restarts_total",
    "How often the instance that runs now was started again after it ended by itself.",
);
const CONNECTIONS: Family = gauge(
    "switchman_deployment_connections",
    "Established connections of the version's port: at work, or idle.",
);
const MIRROR: Family =
    gauge("switchman_mirror_ratio", "Share of the requests that the version is to get copies of, 0 to 1.");
const CANARY: Family =
    gauge("switchman_canary_ratio", "Share of the requests that the version is to answer as canary, 0 to 1.");
const INSERTED: Family =
    gauge("switchman_proxy_inserted", "Whether the rules of the service lead to the host's proxy.");
const PROXY_UP: Family = gauge(
    "switchman_proxy_up",
    "Whether the host's proxy answers; not there while no service has a shadow or a canary.",
);

pub(super) const FAMILIES: &[&Family] = &[
    &BUILD,
    &COLLECTOR,
    &FORWARD,
    &GENERATION,
    &REPAIRS,
    &MAIN,
    &DEPLOYMENTS,
    &LEFT_OUT,
    &RUNNING,
    &RESTARTS,
    &CONNECTIONS,
    &MIRROR,
    &CANARY,
    &INSERTED,
    &PROXY_UP,
];

/// A host at one moment. A part that could not be read says why.
#[derive(Debug, Clone)]
pub struct HostNumbers {
    /// Of the program.
    pub version: String,
    pub services: Result<Vec<Recorded>, String>,
    pub deployments: Result<Vec<Placed>, String>,
    /// Rows of the history that tell of a repair.
    pub repairs: Result<BTreeMap<ServiceName, u64>, String>,
    /// `None`: no service needs one.
    pub proxy: Option<Result<ProxyStats, String>>,
}

#[derive(Debug, Clone)]
pub struct Placed {
    pub deployment: Deployment,
    pub process: Result<Process, String>,
    /// Of its port.
    pub sockets: Result<SocketCount, String>,
}

/// What a version does for its service now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Main,
    Canary,
    /// It answered users before, or is called by its own name.
    Other,
}

impl Part {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Canary => "canary",
            Self::Other => "other",
        }
    }
}

/// The versions that have numbers of their own, by service.
pub(super) type Told = BTreeMap<ServiceName, BTreeMap<Version, Part>>;

impl HostNumbers {
    /// Why parts could not be read.
    pub fn trouble(&self) -> Vec<&str> {
        let parts = [
            self.services.as_ref().err(),
            self.deployments.as_ref().err(),
            self.repairs.as_ref().err(),
            self.proxy.as_ref().and_then(|read| read.as_ref().err()),
        ];
        let placed = self.deployments.iter().flatten();
        let of_each = placed.flat_map(|one| [one.process.as_ref().err(), one.sockets.as_ref().err()]);
        parts.into_iter().chain(of_each).flatten().map(String::as_str).collect()
    }

    pub fn page(&self) -> String {
        let mut page = Page::default();
        let (services, placed) = (none(&self.services), none(&self.deployments));
        let (told, left_out) = told(services, placed);
        self.about_itself(&mut page);
        forwards(&mut page, services);
        let mut repairs = page.family(&REPAIRS);
        for service in services.iter().map(|record| &record.forward.service) {
            if let Ok(counts) = &self.repairs {
                repairs.add(&[("service", service.as_str())], counts.get(service).unwrap_or(&0));
            }
        }
        standing(&mut page, services, placed);
        let mut families = page.family(&LEFT_OUT);
        for (service, count) in left_out {
            families.add(&[("service", service.as_str())], count);
        }
        let placed: Vec<&Placed> = placed.iter().filter(|one| is_told(&told, &one.deployment)).collect();
        instances(&mut page, &placed);
        splits(&mut page, services, &placed);
        let mut up = page.family(&PROXY_UP);
        if let Some(read) = &self.proxy {
            up.flag(&[], read.is_ok());
        }
        if let Some(Ok(stats)) = &self.proxy {
            proxy::write(&mut page, stats, &told);
        }
        page.0
    }

    fn about_itself(&self, page: &mut Page) {
        page.family(&BUILD).add(&[("version", &self.version)], 1);
        let instances = self.deployments.iter().flatten();
        let instances = instances.into_iter().all(|one| one.process.is_ok() && one.sockets.is_ok());
        let mut read = page.family(&COLLECTOR);
        for (name, is_read) in [
            ("record", self.services.is_ok()),
            ("deployments", self.deployments.is_ok()),
            ("history", self.repairs.is_ok()),
            ("instances", instances),
        ] {
            read.flag(&[("collector", name)], is_read);
        }
    }
}

fn none<T>(read: &Result<Vec<T>, String>) -> &[T] {
    read.as_deref().unwrap_or_default()
}

fn is_told(told: &Told, deployment: &Deployment) -> bool {
    told.get(&deployment.service).is_some_and(|versions| versions.contains_key(&deployment.version))
}

/// Who has numbers of its own, and how many have none.
fn told(services: &[Recorded], placed: &[Placed]) -> (Told, BTreeMap<ServiceName, usize>) {
    let mut of_service: BTreeMap<&ServiceName, Vec<&Deployment>> = BTreeMap::new();
    for one in placed {
        of_service.entry(&one.deployment.service).or_default().push(&one.deployment);
    }
    let (mut told, mut left_out) = (Told::new(), BTreeMap::new());
    for (service, mut all) in of_service {
        all.sort_by_key(|one| (part(services, one), std::cmp::Reverse(one.revision)));
        left_out.insert(service.clone(), all.len().saturating_sub(VERSIONS));
        let first = all.into_iter().take(VERSIONS);
        told.insert(service.clone(), first.map(|one| (one.version.clone(), part(services, one))).collect());
    }
    (told, left_out)
}

fn part(services: &[Recorded], deployment: &Deployment) -> Part {
    let canary =
        versions::of(services, &deployment.service).and_then(|record| record.layer7.splits.canary.as_ref());
    match versions::role(services, deployment) {
        Role::Main => Part::Main,
        Role::Shadow if canary.is_some_and(|canary| canary.deployment == deployment.id) => Part::Canary,
        Role::Shadow => Part::Other,
    }
}

fn forwards(page: &mut Page, services: &[Recorded]) {
    let mut on = page.family(&FORWARD);
    for record in services {
        on.flag(&[("service", record.forward.service.as_str())], record.switch == Switch::On);
    }
    let mut generation = page.family(&GENERATION);
    for record in services {
        generation.add(&[("service", record.forward.service.as_str())], record.generation);
    }
}

/// Which version is main, and what the others are.
fn standing(page: &mut Page, services: &[Recorded], placed: &[Placed]) {
    let mut main = page.family(&MAIN);
    for Placed { deployment, .. } in placed {
        if versions::role(services, deployment) == Role::Main {
            main.add(&of(deployment, &deployment.version.to_string()), 1);
        }
    }
    let mut counts: BTreeMap<&ServiceName, [u64; STATUSES.len()]> = BTreeMap::new();
    for Placed { deployment, sockets, .. } in placed {
        // Unread sockets are work until somebody has looked.
        let unread = SocketCount { tie: 1, ..SocketCount::default() };
        let role = versions::role(services, deployment);
        let status = versions::status(role, sockets.as_ref().unwrap_or(&unread));
        let counts = counts.entry(&deployment.service).or_default();
        for ((one, _), count) in STATUSES.iter().zip(counts) {
            *count += u64::from(*one == status);
        }
    }
    let mut deployments = page.family(&DEPLOYMENTS);
    for (service, counts) in counts {
        for ((_, name), count) in STATUSES.iter().zip(counts) {
            deployments.add(&[("service", service.as_str()), ("status", name)], count);
        }
    }
}

const STATUSES: [(Status, &str); 3] =
    [(Status::Active, "active"), (Status::Draining, "draining"), (Status::Drained, "drained")];

fn of<'a>(deployment: &'a Deployment, version: &'a str) -> [(&'a str, &'a str); 2] {
    [("service", deployment.service.as_str()), ("version", version)]
}

fn instances(page: &mut Page, placed: &[&Placed]) {
    // Nobody here runs an external one, or knows whether it does.
    let run: Vec<(&Deployment, String, &Process)> = placed
        .iter()
        .filter_map(|one| {
            Some((&one.deployment, one.deployment.version.to_string(), one.process.as_ref().ok()?))
        })
        .filter(|(_, _, process)| **process != Process::External)
        .collect();
    let mut running = page.family(&RUNNING);
    for (deployment, version, process) in &run {
        running.flag(&of(deployment, version), process.is_running());
    }
    let mut restarts = page.family(&RESTARTS);
    for (deployment, version, process) in &run {
        if let Process::Running { restarts: count, .. } | Process::Waiting { restarts: count, .. } = process {
            restarts.add(&of(deployment, version), count);
        }
    }
    let mut connections = page.family(&CONNECTIONS);
    for one in placed {
        let (version, Ok(sockets)) = (one.deployment.version.to_string(), &one.sockets) else { continue };
        let [service, version] = of(&one.deployment, &version);
        connections.add(&[service, version, ("state", "work")], sockets.at_work());
        connections.add(&[service, version, ("state", "idle")], sockets.idle);
    }
}

/// Shares as they are recorded, and where the proxy stands.
fn splits(page: &mut Page, services: &[Recorded], placed: &[&Placed]) {
    let version = |id: &DeploymentId| {
        placed.iter().find(|one| one.deployment.id == *id).map(|one| one.deployment.version.to_string())
    };
    let mut mirror = page.family(&MIRROR);
    for record in services {
        for one in &record.layer7.splits.mirrors {
            if let Some(version) = version(&one.deployment) {
                let labels = [("service", record.forward.service.as_str()), ("version", &version)];
                mirror.add(&labels, one.percent.ratio());
            }
        }
    }
    let mut canary = page.family(&CANARY);
    for record in services {
        if let Some(one) = &record.layer7.splits.canary
            && let Some(version) = version(&one.deployment)
        {
            let labels = [("service", record.forward.service.as_str()), ("version", &version)];
            canary.add(&labels, one.percent.unwrap_or_default().ratio());
        }
    }
    let mut inserted = page.family(&INSERTED);
    for record in services {
        inserted.flag(&[("service", record.forward.service.as_str())], record.layer7.inserted().is_some());
    }
}

#[cfg(test)]
mod tests;
