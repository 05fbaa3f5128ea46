//! Metrics of a host: its forwards, its versions, and the counts of its proxy.

use std::collections::BTreeMap;

use super::family::{MetricFamily, families, new_counter, new_gauge};
use super::labels::{ListedVersions, MAX_VERSIONS, VersionRole};
use super::page::MetricsPage;
use super::proxy;
use crate::model::deployment::{Deployment, DeploymentId, DeploymentStatus, ProcessState, Role};
use crate::model::forward::ServiceRecord;
use crate::model::name::ServiceName;
use crate::model::port_forward::Switch;
use crate::model::proxy::ProxyStats;
use crate::model::socket::SocketCount;
use crate::plan::versions;

families! {
    BUILD = new_gauge("switchman_build_info", "Which switchman runs here; always 1.");
    COLLECTOR = new_gauge("switchman_collector_success", "Whether a part of these numbers could be read.");
    FORWARD = new_gauge("switchman_forward_on", "Whether the forward is recorded as on; 0 is maintenance.");
    GENERATION = new_gauge("switchman_forward_generation", "Raised by every recorded change of the forward.");
    REPAIRS = new_counter(
        "switchman_rule_repairs_total",
        "How often the port rules of the service were changed by others and put back."
    );
    MAIN = new_gauge("switchman_main_info", "Which version is main here; always 1.");
    DEPLOYMENTS = new_gauge("switchman_deployments", "Versions of the service on this host, by status.");
    UNLISTED_VERSIONS = new_gauge(
        "switchman_versions_left_out",
        "Versions without numbers of their own here, because there are too many."
    );
    RUNNING = new_gauge("switchman_instance_running", "Whether the instance of the version runs.");
    RESTARTS = new_counter(
        "switchman_instance_restarts_total",
        "How often the instance that runs now was started again after it ended by itself."
    );
    CONNECTIONS = new_gauge(
        "switchman_deployment_connections",
        "Established connections of the version's port: at work, or idle."
    );
    MIRROR = new_gauge(
        "switchman_mirror_ratio",
        "Share of the requests that the version is to get copies of, 0 to 1."
    );
    CANARY = new_gauge(
        "switchman_canary_ratio",
        "Share of the requests that the version is to answer as canary, 0 to 1."
    );
    INSERTED = new_gauge(
        "switchman_proxy_inserted",
        "Whether the rules of the service route to the host's proxy."
    );
    PROXY_UP = new_gauge(
        "switchman_proxy_up",
        "Whether the host's proxy answers; not there while no service has a shadow or a canary."
    );
}

/// A host at one moment. A part that could not be read is its error.
#[derive(Debug, Clone)]
pub struct HostMetrics {
    /// The version of the program.
    pub version: String,
    pub services: Result<Vec<ServiceRecord>, String>,
    pub deployments: Result<Vec<DeploymentSnapshot>, String>,
    /// The number of history entries that record a repair.
    pub repairs: Result<BTreeMap<ServiceName, u64>, String>,
    /// `None`: no service needs one.
    pub proxy: Option<Result<ProxyStats, String>>,
}

#[derive(Debug, Clone)]
pub struct DeploymentSnapshot {
    pub deployment: Deployment,
    pub process: Result<ProcessState, String>,
    /// The sockets of its port.
    pub sockets: Result<SocketCount, String>,
}

impl HostMetrics {
    /// Why parts could not be read.
    pub fn collect_errors(&self) -> Vec<&str> {
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

    pub fn render(&self) -> String {
        let mut page = MetricsPage::default();
        let (services, placed) = (unwrap_or_empty(&self.services), unwrap_or_empty(&self.deployments));
        let (listed, unlisted) = select_versions(services, placed);
        self.write_host_info(&mut page);
        write_forwards(&mut page, services);
        page.add_each(&REPAIRS, services.iter().map(|record| &record.forward.service), |repairs, service| {
            if let Ok(counts) = &self.repairs {
                repairs
                    .add_counter(&[("service", service.as_str())], counts.get(service).copied().unwrap_or(0));
            }
        });
        write_deployments(&mut page, services, placed);
        page.add_each(&UNLISTED_VERSIONS, unlisted, |unlisted_versions, (service, count)| {
            unlisted_versions.add_gauge(&[("service", service.as_str())], count);
        });
        let listed_deployments: Vec<&DeploymentSnapshot> =
            placed.iter().filter(|one| is_listed(&listed, &one.deployment)).collect();
        write_instances(&mut page, &listed_deployments);
        write_traffic_splits(&mut page, services, &listed_deployments);
        let up = page.start_family(&PROXY_UP);
        if let Some(read) = &self.proxy {
            up.add_flag(&[], read.is_ok());
        }
        if let Some(Ok(stats)) = &self.proxy {
            proxy::write(&mut page, stats, &listed);
        }
        page.into_text()
    }

    fn write_host_info(&self, page: &mut MetricsPage) {
        page.start_family(&BUILD).add_gauge(&[("version", &self.version)], 1);
        let instances = self.deployments.iter().flatten();
        let instances = instances.into_iter().all(|one| one.process.is_ok() && one.sockets.is_ok());
        let read = page.start_family(&COLLECTOR);
        for (name, is_read) in [
            ("record", self.services.is_ok()),
            ("deployments", self.deployments.is_ok()),
            ("history", self.repairs.is_ok()),
            ("instances", instances),
        ] {
            read.add_flag(&[("collector", name)], is_read);
        }
    }
}

fn unwrap_or_empty<T>(read: &Result<Vec<T>, String>) -> &[T] {
    read.as_deref().unwrap_or_default()
}

fn is_listed(listed: &ListedVersions, deployment: &Deployment) -> bool {
    listed.get(&deployment.service).is_some_and(|versions| versions.contains_key(&deployment.version))
}

/// Returns the versions that have metrics of their own, and the number of those that have none.
fn select_versions(
    services: &[ServiceRecord],
    placed: &[DeploymentSnapshot],
) -> (ListedVersions, BTreeMap<ServiceName, usize>) {
    let mut of_service: BTreeMap<&ServiceName, Vec<&Deployment>> = BTreeMap::new();
    for one in placed {
        of_service.entry(&one.deployment.service).or_default().push(&one.deployment);
    }
    let (mut listed, mut unlisted) = (ListedVersions::new(), BTreeMap::new());
    for (service, mut all) in of_service {
        all.sort_by_key(|one| (find_role(services, one), std::cmp::Reverse(one.revision)));
        unlisted.insert(service.clone(), all.len().saturating_sub(MAX_VERSIONS));
        let first = all.into_iter().take(MAX_VERSIONS);
        listed.insert(
            service.clone(),
            first.map(|one| (one.version.clone(), find_role(services, one))).collect(),
        );
    }
    (listed, unlisted)
}

fn find_role(services: &[ServiceRecord], deployment: &Deployment) -> VersionRole {
    let canary = versions::find_record(services, &deployment.service)
        .and_then(|record| record.layer7.traffic_split.canary.as_ref());
    match versions::find_role(services, deployment) {
        Role::Main => VersionRole::Main,
        Role::Shadow if canary.is_some_and(|canary| canary.deployment == deployment.id) => {
            VersionRole::Canary
        }
        Role::Shadow => VersionRole::Other,
    }
}

fn write_forwards(page: &mut MetricsPage, services: &[ServiceRecord]) {
    page.add_each(&FORWARD, services, |on, record| {
        on.add_flag(&[("service", record.forward.service.as_str())], record.switch == Switch::On);
    });
    page.add_each(&GENERATION, services, |generation, record| {
        generation.add_gauge(&[("service", record.forward.service.as_str())], record.generation);
    });
}

/// Writes which version is main, and the status of the others.
fn write_deployments(page: &mut MetricsPage, services: &[ServiceRecord], placed: &[DeploymentSnapshot]) {
    page.add_each(&MAIN, placed, |main, DeploymentSnapshot { deployment, .. }| {
        if versions::find_role(services, deployment) == Role::Main {
            main.add_gauge(&build_labels(deployment, &deployment.version.to_string()), 1);
        }
    });
    let mut counts: BTreeMap<&ServiceName, [u64; STATUSES.len()]> = BTreeMap::new();
    for DeploymentSnapshot { deployment, sockets, .. } in placed {
        // Sockets that have not been read count as busy.
        let unread = SocketCount { ambiguous: 1, ..SocketCount::default() };
        let role = versions::find_role(services, deployment);
        let status = versions::derive_status(role, sockets.as_ref().unwrap_or(&unread));
        let counts = counts.entry(&deployment.service).or_default();
        for ((one, _), count) in STATUSES.iter().zip(counts) {
            *count += u64::from(*one == status);
        }
    }
    page.add_each(&DEPLOYMENTS, counts, |deployments, (service, counts)| {
        for ((_, name), count) in STATUSES.iter().zip(counts) {
            deployments.add_gauge(&[("service", service.as_str()), ("status", name)], count);
        }
    });
}

const STATUSES: [(DeploymentStatus, &str); 3] = [
    (DeploymentStatus::Active, "active"),
    (DeploymentStatus::Draining, "draining"),
    (DeploymentStatus::Drained, "drained"),
];

fn build_labels<'a>(deployment: &'a Deployment, version: &'a str) -> [(&'static str, &'a str); 2] {
    [("service", deployment.service.as_str()), ("version", version)]
}

fn write_instances(page: &mut MetricsPage, placed: &[&DeploymentSnapshot]) {
    // No program on this host runs an external one, or knows whether it is running.
    let run: Vec<(&Deployment, String, &ProcessState)> = placed
        .iter()
        .filter_map(|one| {
            Some((&one.deployment, one.deployment.version.to_string(), one.process.as_ref().ok()?))
        })
        .filter(|(_, _, process)| **process != ProcessState::External)
        .collect();
    page.add_each(&RUNNING, &run, |running, (deployment, version, process)| {
        running.add_flag(&build_labels(deployment, version), process.is_running());
    });
    page.add_each(&RESTARTS, &run, |restarts, (deployment, version, process)| {
        if let ProcessState::Running { restarts: count, .. } | ProcessState::Waiting { restarts: count, .. } =
            process
        {
            restarts.add_counter(&build_labels(deployment, version), u64::from(*count));
        }
    });
    let connections = page.start_family(&CONNECTIONS);
    for one in placed {
        let (version, Ok(sockets)) = (one.deployment.version.to_string(), &one.sockets) else { continue };
        let [service, version] = build_labels(&one.deployment, &version);
        connections.add_gauge(&[service, version, ("state", "work")], sockets.maybe_busy());
        connections.add_gauge(&[service, version, ("state", "idle")], sockets.idle);
    }
}

/// Writes the shares as they are recorded, and whether the proxy is inserted.
fn write_traffic_splits(page: &mut MetricsPage, services: &[ServiceRecord], placed: &[&DeploymentSnapshot]) {
    let version = |id: &DeploymentId| {
        placed.iter().find(|one| one.deployment.id == *id).map(|one| one.deployment.version.to_string())
    };
    page.add_each(&MIRROR, services, |mirror, record| {
        for one in &record.layer7.traffic_split.mirrors {
            if let Some(version) = version(&one.deployment) {
                let labels = [("service", record.forward.service.as_str()), ("version", &version)];
                mirror.add_gauge(&labels, one.percent.ratio());
            }
        }
    });
    page.add_each(&CANARY, services, |canary, record| {
        if let Some(one) = &record.layer7.traffic_split.canary
            && let Some(version) = version(&one.deployment)
        {
            let labels = [("service", record.forward.service.as_str()), ("version", &version)];
            canary.add_gauge(&labels, one.percent.unwrap_or_default().ratio());
        }
    });
    page.add_each(&INSERTED, services, |inserted, record| {
        inserted
            .add_flag(&[("service", record.forward.service.as_str())], record.layer7.inserted().is_some());
    });
}

#[cfg(test)]
mod tests;
