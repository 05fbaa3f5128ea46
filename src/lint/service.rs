//! The backends that are judged: of every service, for every balancer; without balancers, by the defaults.

use super::cfg::{ParsedCfg, Section};
use super::keywords::read_servers;
use crate::model::balancer::{BalancerSpec, CheckTiming, ServerNames};
use crate::model::fleet::Fleet;

/// A service as one balancer has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct JudgedService<'a> {
    /// The fleet as it is for this service.
    pub fleet: &'a Fleet,
    pub balancer: &'a BalancerSpec,
    /// switchman.yaml has no `load_balancers`: names and times are the defaults.
    pub is_assumed: bool,
}

/// The fleet as it is for each of its services.
pub(super) fn list_services(fleet: &Fleet) -> Vec<Fleet> {
    let others = fleet.additional_services.keys().filter(|name| **name != fleet.service);
    let others = others.filter_map(|name| fleet.for_service(name));
    std::iter::once(fleet.clone()).chain(others).collect()
}

/// The balancer that the defaults of switchman.yaml describe, with the backend of a service.
fn build_default_balancer(backend: &str) -> Option<BalancerSpec> {
    Some(BalancerSpec {
        name: "haproxy".parse().ok()?,
        stats_endpoint: None,
        backend: backend.to_owned(),
        servers: ServerNames::default(),
        check: CheckTiming::default(),
        is_on_host: false,
    })
}

/// The balancers of a service that differ in what the file should have.
pub(super) fn list_balancers(cfg: &ParsedCfg, whole: &Fleet, service: &Fleet) -> Vec<BalancerSpec> {
    let mut found: Vec<BalancerSpec> = Vec::new();
    for balancer in &service.balancers {
        let is_like = |other: &BalancerSpec| {
            (&other.backend, &other.servers, other.check)
                == (&balancer.backend, &balancer.servers, balancer.check)
        };
        if !found.iter().any(is_like) {
            found.push(balancer.clone());
        }
    }
    if found.is_empty() {
        let own = whole.additional_services.get(&service.service).map(|other| other.backend.as_str());
        let names = own.map_or_else(|| guess_backends(cfg, service), |name| vec![name.to_owned()]);
        found.extend(names.iter().filter_map(|name| build_default_balancer(name)));
    }
    found
}

/// The default name of the backend where the file has it, else every section with a line that is checked on the check port.
fn guess_backends(cfg: &ParsedCfg, service: &Fleet) -> Vec<String> {
    const DEFAULT: &str = "servers";
    let check = service.ports.check.to_string();
    let is_checked = |section: &&Section| {
        read_servers(cfg, section).iter().any(|server| server.value("port") == Some(check.as_str()))
    };
    let has_default = ["backend", "listen"].iter().any(|kind| cfg.find(kind, DEFAULT).is_some());
    let sections = cfg.proxies().filter(|section| !has_default && is_checked(section));
    let guessed: Vec<String> = sections.map(|section| section.name.clone()).collect();
    if guessed.is_empty() { vec![DEFAULT.to_owned()] } else { guessed }
}
