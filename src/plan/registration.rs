//! The registrations that a host should have in a service catalogue.
//!
//! For the service `shop` there are:
//!
//! - `shop`: the host itself. The tag is its slot, so that `1.shop.service.consul` is one host. Load balancers resolve this name
//!   for main and backup alike, so its check never follows the forward. The entry has a check only before the host is ready for
//!   users, and after an operator took it out of DNS. A host that was taken out and runs no version has no entry at all.
//! - `shop-main` and `shop-backup`: the vhosts, each with its own check.
//! - `shop-instance`: one entry for each instance, with its role and version.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::model::deployment::{Access, Deployment, DeploymentId, Instance, Stage};
use crate::model::forward::ServiceRecord;
use crate::model::health::Health;
use crate::model::name::ServiceName;
use crate::model::port_forward::Switch;
use crate::model::ports::Port;
use crate::model::registration::{
    HOST_META, HostIdentity, RegisteredService, Registration, RegistrationCheck, RegistrationState,
};

/// Longest name in the catalogue: with `-instance` it is still a label of DNS (RFC 1035, 2.3.4).
const MAX_NAME_LENGTH: usize = 63 - "-instance".len();

/// Whether each endpoint answered its last health check.
pub type HealthResults = BTreeMap<SocketAddr, Result<(), String>>;

/// What is known about a service of the host.
#[derive(Debug, Clone, Copy)]
pub struct ServiceFacts<'a> {
    pub host: &'a HostIdentity,
    pub registered: &'a RegisteredService,
    pub record: Option<&'a ServiceRecord>,
    /// Those of all services.
    pub deployments: &'a [Deployment],
    pub state: &'a RegistrationState,
    /// The slot that the host holds.
    pub slot: Option<u16>,
}

/// The ends of the names of vhosts and instances. No service's own name has one: `shop-main` would be an entry of the service `shop`.
const RESERVED_SUFFIXES: [&str; 3] = ["-main", "-backup", "-instance"];

/// A text that cannot be the name of a service in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogNameError {
    #[error(
        "`{name}` is no name in DNS: it needs 1 to {MAX_NAME_LENGTH} letters, digits and `-`, and begins and ends with a letter or a digit"
    )]
    NoLabel { name: String },
    #[error(
        "`{name}` cannot be the name of a service in Consul: `{suffix}` ends the name of a vhost or an instance, as of a service `{service}`; give the service another name"
    )]
    Reserved { name: String, suffix: &'static str, service: String },
}

/// Derives the name of a service in the catalogue: DNS has neither `_` nor `.` in a label.
pub fn derive_catalog_name(service: &ServiceName) -> Result<String, CatalogNameError> {
    check_catalog_name(&to_label(service.as_str()))
}

/// Checks a name that the configuration has for the catalogue.
pub fn check_catalog_name(name: &str) -> Result<String, CatalogNameError> {
    let is_label = (1..=MAX_NAME_LENGTH).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !is_label {
        return Err(CatalogNameError::NoLabel { name: name.to_owned() });
    }
    // Names in DNS, and in Consul, have no case (RFC 1035, 2.3.3).
    let lower = name.to_ascii_lowercase();
    match RESERVED_SUFFIXES.into_iter().find(|suffix| lower.ends_with(suffix)) {
        None => Ok(name.to_owned()),
        Some(suffix) => Err(CatalogNameError::Reserved {
            service: name[..name.len() - suffix.len()].to_owned(),
            name: name.to_owned(),
            suffix,
        }),
    }
}

/// Replaces what a label of DNS cannot have: `4.0.0` becomes `4-0-0`.
fn to_label(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

impl<'a> ServiceFacts<'a> {
    fn list_deployments(&self) -> impl Iterator<Item = &'a Deployment> {
        let service = &self.registered.service;
        let is_there = |one: &&Deployment| !matches!(one.stage, Stage::Starting | Stage::Killing);
        self.deployments.iter().filter(move |one| one.service == *service).filter(is_there)
    }

    /// Finds the deployment that a data port is routed to.
    fn find_target(&self, port: Port) -> Option<&'a Deployment> {
        let routes = self.record?.routes.as_ref()?;
        let route = [&routes.main, &routes.backup].into_iter().find(|route| route.port == port)?;
        self.list_deployments().find(|one| one.id == route.deployment)
    }

    /// Where a data port really answers: a connection from the host itself passes no rule.
    fn resolve_port(&self, port: Port) -> SocketAddr {
        let real = self.record.map_or(port, |record| record.instance_port(port));
        SocketAddr::new(self.host.address, real.get())
    }

    fn find_health(&self, port: Port) -> &'a Health {
        self.find_target(port).map_or(&self.registered.health, |deployment| &deployment.health)
    }

    fn find_role(&self, id: &DeploymentId) -> &'static str {
        let Some(record) = self.record else { return "shadow" };
        if record.routes.as_ref().is_some_and(|routes| routes.main.deployment == *id) {
            return "main";
        }
        let canary = record.layer7.traffic_split.canary.as_ref();
        if canary.is_some_and(|canary| canary.deployment == *id) { "canary" } else { "shadow" }
    }
}

/// Lists the endpoints to check, each with its check.
pub fn list_probes(facts: &ServiceFacts<'_>) -> Vec<(SocketAddr, Health)> {
    let ports = facts.registered.ports;
    let vhosts =
        [ports.main, ports.backup].map(|port| (facts.resolve_port(port), facts.find_health(port).clone()));
    let instances = facts
        .list_deployments()
        .flat_map(|one| one.active_instances().map(|instance| (one.endpoint(instance), one.health.clone())));
    let mut probes: Vec<(SocketAddr, Health)> = Vec::new();
    for probe in vhosts.into_iter().chain(instances) {
        if probes.iter().all(|known| known.0 != probe.0) {
            probes.push(probe);
        }
    }
    probes
}

/// Lists the registrations that a service of the host should have; `observed` are those that are there.
pub fn list_registrations(
    facts: &ServiceFacts<'_>,
    observed: &[Registration],
    health: &HealthResults,
) -> Vec<Registration> {
    let RegisteredService { service, ports, .. } = facts.registered;
    // While a version runs, the operator finds the host by its entry, to kill it.
    if facts.state.is_withdrawn && facts.deployments.iter().all(|one| one.service != *service) {
        return vec![];
    }
    let main = find_result(health, facts.resolve_port(ports.main));
    let backup = find_result(health, facts.resolve_port(ports.backup));
    let mut wanted = vec![build_host_entry(facts, observed, main.is_ok() || backup.is_ok())];
    let find_version = |port: Port| facts.find_target(port).map(|one| one.version.to_string());
    let main_check = require_in_service(facts.record).and(main);
    wanted.push(build_vhost_entry(facts, "main", ports.main, find_version(ports.main), main_check));
    wanted.push(build_vhost_entry(facts, "backup", ports.backup, find_version(ports.backup), backup));
    for one in facts.list_deployments() {
        wanted.extend(
            one.active_instances().map(|instance| build_instance_entry(facts, one, instance, health)),
        );
    }
    wanted
}

fn build_instance_entry(
    facts: &ServiceFacts<'_>,
    one: &Deployment,
    instance: &Instance,
    health: &HealthResults,
) -> Registration {
    let endpoint = one.endpoint(instance);
    let (version, role) = (one.version.to_string(), facts.find_role(&one.id));
    let mut meta = build_meta(facts, Some(&version));
    meta.insert("switchman-role".to_owned(), role.to_owned());
    meta.insert("switchman-deployment".to_owned(), one.id.to_string());
    Registration {
        id: format!("{}-instance:{}", build_id(facts), one.instance_id(instance)),
        name: format!("{}-instance", facts.registered.catalog_name),
        address: endpoint.ip(),
        port: instance.port,
        tags: vec![role.to_owned(), to_label(&version)],
        meta,
        check: Some(build_check(find_result(health, endpoint), "the instance answers")),
    }
}

/// The entry that load balancers resolve.
fn build_host_entry(facts: &ServiceFacts<'_>, observed: &[Registration], is_healthy: bool) -> Registration {
    let id = build_id(facts);
    let main = facts.find_target(facts.registered.ports.main);
    let version = main.map(|deployment| deployment.version.to_string());
    let slot = facts.slot.filter(|_| !facts.state.is_withdrawn).map(|slot| slot.to_string());
    let mut meta = build_meta(facts, version.as_deref());
    if let Some(slot) = &slot {
        meta.insert("switchman-slot".to_owned(), slot.clone());
    }
    let tags: Vec<String> = slot.into_iter().collect();
    // Users may be on either vhost: an entry that is in DNS stays, whatever becomes of their health.
    let is_published = observed.iter().any(|one| one.id == id && one.check.is_none() && one.tags == tags);
    let reason = if facts.state.is_withdrawn {
        Some("taken out of DNS by `disable-forward --deregister`".to_owned())
    } else if tags.is_empty() {
        Some(facts.state.problem.clone().unwrap_or_else(|| "the host has no slot yet".to_owned()))
    } else if is_published || is_healthy {
        None
    } else {
        Some("neither main nor backup has answered yet".to_owned())
    };
    Registration {
        name: facts.registered.catalog_name.clone(),
        address: facts.host.address,
        port: facts.registered.ports.main,
        tags,
        meta,
        check: reason.map(|output| RegistrationCheck { is_passing: false, output }),
        id,
    }
}

fn build_vhost_entry(
    facts: &ServiceFacts<'_>,
    role: &str,
    port: Port,
    version: Option<String>,
    check: Result<(), String>,
) -> Registration {
    let meta = build_meta(facts, version.as_deref());
    let tags = std::iter::once(role.to_owned()).chain(version.map(|version| to_label(&version)));
    let output = if role == "main" { "the forward is on, and main answers" } else { "backup answers" };
    Registration {
        id: format!("{}-{role}", build_id(facts)),
        name: format!("{}-{role}", facts.registered.catalog_name),
        address: facts.host.address,
        port,
        tags: tags.collect(),
        meta,
        check: Some(build_check(check, output)),
    }
}

fn require_in_service(record: Option<&ServiceRecord>) -> Result<(), String> {
    match record {
        None => Err("the forward was never on".to_owned()),
        Some(record) if record.access == Access::Private => Err("the service is private".to_owned()),
        Some(record) if record.switch == Switch::Off => Err("the forward is off: maintenance".to_owned()),
        Some(_) => Ok(()),
    }
}

fn build_check(result: Result<(), String>, success: &str) -> RegistrationCheck {
    match result {
        Ok(()) => RegistrationCheck { is_passing: true, output: success.to_owned() },
        Err(output) => RegistrationCheck { is_passing: false, output },
    }
}

fn find_result(health: &HealthResults, endpoint: SocketAddr) -> Result<(), String> {
    health.get(&endpoint).cloned().unwrap_or_else(|| Err(format!("{endpoint} is not checked yet")))
}

fn build_id(facts: &ServiceFacts<'_>) -> String {
    format!("{}{}", Registration::id_prefix(&facts.host.name), facts.registered.catalog_name)
}

fn build_meta(facts: &ServiceFacts<'_>, version: Option<&str>) -> BTreeMap<String, String> {
    let mut meta = BTreeMap::from([(HOST_META.to_owned(), facts.host.name.to_string())]);
    if let Some(version) = version {
        meta.insert("switchman-version".to_owned(), version.to_owned());
    }
    meta
}

/// A call that brings the catalogue closer to the wanted registrations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrationStep {
    Register(Registration),
    RenewCheck(Registration),
    Deregister { id: String },
}

/// Lists the calls. With `renews` every check is sent, also one that is as it was.
pub fn plan_registration(
    observed: &[Registration],
    wanted: Vec<Registration>,
    renews: bool,
) -> Vec<RegistrationStep> {
    let stale = observed.iter().filter(|one| wanted.iter().all(|other| other.id != one.id));
    let stale: Vec<RegistrationStep> =
        stale.map(|one| RegistrationStep::Deregister { id: one.id.clone() }).collect();
    let to_step = |one: Registration| {
        let before = observed.iter().find(|other| other.id == one.id);
        match before {
            Some(before) if *before == one && !renews => None,
            Some(before) if has_equal_entry(before, &one) => {
                one.check.is_some().then_some(RegistrationStep::RenewCheck(one))
            }
            _ => Some(RegistrationStep::Register(one)),
        }
    };
    wanted.into_iter().filter_map(to_step).chain(stale).collect()
}

/// Whether they differ in the state of their check alone.
fn has_equal_entry(one: &Registration, other: &Registration) -> bool {
    let strip = |entry: &Registration| Registration { check: None, ..entry.clone() };
    strip(one) == strip(other) && one.check.is_some() == other.check.is_some()
}

#[cfg(test)]
mod tests;
