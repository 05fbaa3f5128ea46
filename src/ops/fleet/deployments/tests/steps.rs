//! The commands of an operator over a fleet of real hosts.

use super::*;
use crate::model::deployment::RunSpec;
use crate::ops::testing::host_fleet::HostFleet;

pub fn make_options(version: &str, source: &str) -> DeployOptions {
    DeployOptions {
        service: "shop".parse().unwrap(),
        version: version.parse().unwrap(),
        source: Source::Release(source.into()),
        run_spec: make_run_spec(),
        port: None,
        instances: None,
        metadata: std::collections::BTreeMap::new(),
        health: None,
        becomes_main: false,
        dry_run: false,
        actor: actor(),
    }
}

pub fn make_run_spec() -> RunSpec {
    example::deployment("shop", "1.0.0", 1).instance.how
}

/// `switchman deploy shop VERSION SOURCE --host`, of the host at a place in the fleet.
pub async fn deploy_on(
    fleet: &HostFleet,
    at: usize,
    options: &DeployOptions,
) -> Result<DeployReport, FleetDeployError> {
    deploy(&fleet.site.world, &fleet.site.fleet, fleet.select(at), options).await
}

pub async fn list_all(fleet: &HostFleet) -> Listing {
    list_deployments(&fleet.site.world, &fleet.site.fleet.hosts).await
}

pub fn make_name(version: &str) -> DeploymentName {
    DeploymentName::from_version(&"shop".parse().unwrap(), &version.parse().unwrap())
}

/// Both versions on every host; 1.0.0 is main.
pub async fn deploy_both(fleet: &HostFleet) {
    for at in 0..fleet.hosts.len() {
        for version in ["1.0.0", "2.0.0"] {
            deploy_on(fleet, at, &make_options(version, version)).await.unwrap();
        }
    }
}

pub async fn kill_rows(
    fleet: &HostFleet,
    listing: &Listing,
    rows: &[FleetDeployment],
) -> Result<Vec<KilledDeployment>, FleetDeployError> {
    let options = KillOptions { force: false, drain_timeout: MS * 5000, keep_files: false, actor: actor() };
    let (world, hosts) = (&fleet.site.world, &fleet.site.fleet.hosts);
    kill(world, &fleet.site.fleet, hosts, (listing, rows), &options, |_| {}).await
}
