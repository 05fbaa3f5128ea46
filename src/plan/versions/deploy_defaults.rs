//! The values of a deploy that names only the address of something that runs already (seed row R28,
//! docs/design/seed-systems.md#restate).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::find_record;
use crate::model::api::deployments::{DeployRequest, HostNetwork};
use crate::model::deployment::{Deployment, DeploymentId, RunSpec, Workload};
use crate::model::forward::ServiceRecord;
use crate::model::health::Health;
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::ports::{Port, Ports};
use crate::model::version::Version;

/// The reason why an address alone is not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IncompleteDeploy {
    #[error("`service` is missing: this host has no service yet")]
    NoService,
    #[error("`service` is missing: this host has more than one")]
    SeveralServices,
}

/// Adds `http://` to an address without a scheme (seed row R35).
pub fn complete_uri(uri: String) -> String {
    if uri.contains("://") || uri.starts_with('/') { uri } else { format!("http://{uri}") }
}

/// Chooses the service of a deploy that does not name one: the only one of the host.
pub fn choose_service(
    records: &[ServiceRecord],
    existing: &[Deployment],
) -> Result<ServiceName, IncompleteDeploy> {
    let recorded = records.iter().map(|record| &record.forward.service);
    let mut services: Vec<&ServiceName> = recorded.chain(existing.iter().map(|one| &one.service)).collect();
    services.sort();
    services.dedup();
    match services.as_slice() {
        [] => Err(IncompleteDeploy::NoService),
        [only] => Ok((*only).clone()),
        _ => Err(IncompleteDeploy::SeveralServices),
    }
}

/// Builds the request for an address. A known address has the values of its deployment, a new one those of the service's newest
/// deployment, and of the host's record.
pub fn build_uri_deploy(
    records: &[ServiceRecord],
    existing: &[Deployment],
    service: ServiceName,
    uri: String,
    new_id: DeploymentId,
) -> DeployRequest {
    let how = RunSpec::new(Workload::External { uri });
    let of_service = || existing.iter().filter(|one| one.service == service);
    let known = of_service().find(|one| one.instance.how.workload == how.workload);
    let newest = of_service().max_by_key(|one| one.revision);
    let (id, version) = match known {
        Some(there) => (there.id.clone(), there.version.clone()),
        None => (new_id, choose_version(&service, existing, newest.map_or(0, |one| one.revision))),
    };
    let health = known.or(newest).map_or_else(default_health, |one| one.health.clone());
    let address = newest.or(existing.first()).map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |one| one.address);
    DeployRequest {
        id,
        version,
        revision: None,
        metadata: known.map_or_else(BTreeMap::new, |one| one.metadata.clone()),
        how: known.map_or(how, |one| one.instance.how.clone()),
        digest: None,
        port: None,
        instances: None,
        health,
        health_timeout: Duration::from_mins(1),
        site: build_network(find_record(records, &service), address),
        actor: Actor::new("api", 0),
        dry_run: false,
        service,
    }
}

/// Chooses a version that the service does not have: the next revision, as a major version.
fn choose_version(service: &ServiceName, existing: &[Deployment], newest: u32) -> Version {
    let is_free =
        |version: &Version| !existing.iter().any(|one| one.service == *service && one.version == *version);
    let mut candidates = (u64::from(newest) + 1..).map(Version::from_major);
    candidates.find(is_free).unwrap_or_else(|| Version::from_major(0))
}

fn build_network(record: Option<&ServiceRecord>, address: IpAddr) -> HostNetwork {
    let defaults = Ports::default();
    let ports = record.map_or(defaults, |record| {
        let routes = record.routes.as_ref();
        Ports {
            check: record.forward.check,
            main: routes.map_or(record.forward.target, |routes| routes.main.port),
            backup: routes.map_or(defaults.backup, |routes| routes.backup.port),
        }
    });
    HostNetwork {
        ports,
        address,
        balancer_is_local: record.is_some_and(|record| record.balancer_is_local),
        // Something that runs already has a port.
        port_range: (Port::MAX, Port::MAX),
        // The limit of the configuration is not known here: no release is removed.
        keep_releases: u32::MAX,
    }
}

/// Returns the health check of a configuration that names none.
fn default_health() -> Health {
    Health {
        path: "/".to_owned(),
        status: 200,
        host: None,
        timeout: Duration::from_secs(2),
        interval: Duration::from_millis(500),
        rise: 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example;

    fn build(existing: &[Deployment], uri: &str) -> DeployRequest {
        let id = "dp_0000000000999".parse().unwrap();
        build_uri_deploy(&[], existing, "shop".parse().unwrap(), uri.to_owned(), id)
    }

    /// Rows: R28.
    #[test]
    fn uri_deploy_gets_a_free_version_and_the_values_of_the_newest() {
        let mut newest = example::deployment("shop", "2.0.0", 20001);
        newest.revision = 1;
        newest.health.path = "/ready".to_owned();
        let request = build(&[newest], "http://127.0.0.1:9000");
        assert_eq!(request.version.to_string(), "3.0.0", "2.0.0 is taken");
        assert_eq!(request.health.path, "/ready");
        assert_eq!(build(&[], "http://127.0.0.1:9000").version.to_string(), "1.0.0");
    }

    #[test]
    fn uri_deploy_of_a_known_address_is_its_deployment() {
        let mut known = example::deployment("shop", "2.0.0", 9000);
        known.instance.how = RunSpec::new(Workload::External { uri: "http://127.0.0.1:9000".to_owned() });
        let request = build(std::slice::from_ref(&known), "http://127.0.0.1:9000");
        assert_eq!((request.id, request.version), (known.id, known.version));
    }

    #[test]
    fn service_is_chosen_only_if_the_host_has_one() {
        let shop = example::deployment("shop", "1.0.0", 20000);
        let blog = example::deployment("blog", "1.0.0", 20001);
        assert_eq!(choose_service(&[], &[]), Err(IncompleteDeploy::NoService));
        assert_eq!(choose_service(&[], std::slice::from_ref(&shop)), Ok("shop".parse().unwrap()));
        assert_eq!(choose_service(&[], &[shop, blog]), Err(IncompleteDeploy::SeveralServices));
    }

    /// Rows: R35.
    #[test]
    fn address_without_scheme_gets_http() {
        let complete = |uri: &str| complete_uri(uri.to_owned());
        assert_eq!(complete("127.0.0.1:9000"), "http://127.0.0.1:9000");
        assert_eq!(complete("http://127.0.0.1:9000"), "http://127.0.0.1:9000");
        assert_eq!(complete("/relative"), "/relative");
    }
}
