//! `deploy`: a version placed and started on hosts. Nothing is moved: the first is main, later ones are shadows.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::each_host::{
    PerHost, all_or_partial, build_host_network, for_each_host, format_elapsed, report_progress,
    require_owned_hosts, wait_until_stopped,
};
use super::error::FleetDeployError;
use super::list::{Listing, list_deployments};
use crate::model::api::deployments::{DeployRequest, DeployResponse, KillRequest};
use crate::model::deployment::{DeploymentId, Digest, Role, RunSpec};
use crate::model::failure::ErrorCode;
use crate::model::fleet::Fleet;
use crate::model::health::Health;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::model::ports::Port;
use crate::model::version::Version;
use crate::ops::fleet::reach;
use crate::world::FleetWorld;
use crate::world::archives::PackedArchive;
use crate::world::link::{HostLink, LinkError};

/// The source of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory or a `.tar.gz`.
    Release(PathBuf),
    /// The version runs already; its address is in its `RunSpec`.
    External,
}

#[derive(Debug, Clone)]
pub struct DeployOptions {
    pub service: ServiceName,
    pub version: Version,
    pub source: Source,
    pub run_spec: RunSpec,
    pub port: Option<Port>,
    /// Replaces the health check of the service.
    pub health: Option<Health>,
    pub dry_run: bool,
    pub actor: Actor,
}

/// The planned deployment on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostDeployPlan {
    pub host: HostName,
    pub role: Role,
    pub port: Port,
    /// Whether the host has this deployment already.
    #[serde(rename = "known")]
    pub is_already_deployed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeployReport {
    pub id: DeploymentId,
    pub revision: u32,
    pub planned: Vec<HostDeployPlan>,
    /// Empty after a dry run.
    pub deployed: Vec<(HostName, DeployResponse)>,
}

/// Checks every host before anything is sent; if one host fails, the others are as before too.
pub async fn deploy(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    options: &DeployOptions,
) -> Result<DeployReport, FleetDeployError> {
    let started_at = tokio::time::Instant::now();
    let actors = require_owned_hosts(world, fleet, &options.service, hosts, &options.actor).await?;
    let packed = pack(world, &options.source).await?;
    let (id, revision) = choose_identity(world, options, &list_deployments(world, hosts).await);
    let digest = packed.as_ref().map(|packed| packed.digest.clone());
    let request = |host: &Host, dry_run| DeployRequest {
        id: id.clone(),
        service: options.service.clone(),
        version: options.version.clone(),
        revision: Some(revision),
        how: options.run_spec.clone(),
        digest: digest.clone(),
        port: options.port,
        health: options.health.clone().unwrap_or_else(|| fleet.health.clone()),
        health_timeout: fleet.versions.health_timeout,
        site: build_host_network(fleet, host),
        actor: actors.find(&host.name),
        dry_run,
    };
    let planned = for_each_host(world, hosts, async |host, link| {
        wait_until_stopped(world, link, link.deploy(&request(host, true))).await
    })
    .await;
    if planned.iter().any(|(_, result)| result.is_err()) {
        // Nothing is sent yet, so this is no partial success either.
        return Err(collect_errors(planned));
    }
    let planned: Vec<HostDeployPlan> =
        all_or_partial(planned)?.into_iter().map(|(host, deployed)| plan_host(host, &deployed)).collect();
    for plan in &planned {
        report_progress(world, Some(&plan.host), describe_plan(plan, options));
    }
    let mut report = DeployReport { id: id.clone(), revision, planned, deployed: vec![] };
    if options.dry_run {
        return Ok(report);
    }
    let release = options.version.to_string();
    let place = async |host: &Host, link: &dyn HostLink| {
        if let Some(packed) = &packed
            && !report.planned.iter().any(|planned| planned.host == host.name && planned.is_already_deployed)
        {
            link.upload_release(&options.service, &release, &packed.path).await?;
            report_progress(
                world,
                Some(&host.name),
                format!("release {release} is placed ({} KiB sent)", packed.bytes / 1024),
            );
        }
        let deployed = link.deploy(&request(host, false)).await?;
        let port = deployed.deployment.instance.port;
        report_progress(
            world,
            Some(&host.name),
            format!("healthy on port {port} after {}", format_elapsed(started_at)),
        );
        Ok(deployed)
    };
    let deployed = for_each_host(world, hosts, async |host, link| {
        wait_until_stopped(world, link, place(host, link)).await
    })
    .await;
    if deployed.iter().any(|(_, result)| result.is_err()) {
        undo_deploy(world, hosts, &report, &deployed, options).await;
        return Err(collect_errors(deployed));
    }
    report.deployed = all_or_partial(deployed)?;
    Ok(report)
}

/// Collects the errors of all hosts: the deployment was undone everywhere, so it is not a partial success.
fn collect_errors(deployed: PerHost<DeployResponse>) -> FleetDeployError {
    let errors = deployed.into_iter().filter_map(|(host, result)| result.err().map(|error| (host, error)));
    FleetDeployError::Hosts(errors.collect())
}

pub(super) async fn pack(
    world: &FleetWorld,
    source: &Source,
) -> Result<Option<PackedArchive>, FleetDeployError> {
    let Source::Release(path) = source else { return Ok(None) };
    let (archives, path) = (world.archives.clone(), path.clone());
    let packing = tokio::task::spawn_blocking(move || archives.pack(&path));
    let packed = tokio::select! {
        biased;
        packed = packing => packed,
        () = world.stop.wait() => return Err(FleetDeployError::Interrupted),
    };
    Ok(Some(packed.map_err(|error| FleetDeployError::TaskFailed(error.to_string()))??))
}

/// A version that is on other hosts already keeps its id and its revision.
fn choose_identity(world: &FleetWorld, options: &DeployOptions, existing: &Listing) -> (DeploymentId, u32) {
    if let Some(row) = existing.find(&options.service, &options.version) {
        return (row.id.clone(), row.revision);
    }
    let of_service = existing.rows.iter().filter(|row| row.service == options.service);
    let revision = of_service.map(|row| row.revision).max().unwrap_or(0).saturating_add(1);
    (DeploymentId::new(world.clock.now(), generate_salt(&options.actor)), revision)
}

/// Random enough for two operators in the same millisecond.
fn generate_salt(actor: &Actor) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's own source of randomness for its maps.
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(actor.pid);
    hasher.finish()
}

fn plan_host(host: HostName, deployed: &DeployResponse) -> HostDeployPlan {
    let DeployResponse { deployment, known, role } = deployed;
    HostDeployPlan { host, role: *role, port: deployment.instance.port, is_already_deployed: *known }
}

fn describe_plan(planned: &HostDeployPlan, options: &DeployOptions) -> String {
    let (service, version) = (&options.service, &options.version);
    let role = if planned.role == Role::Main { "main" } else { "a shadow" };
    if planned.is_already_deployed {
        return format!("{service} {version} is there already");
    }
    format!("{service} {version} will be {role}, on port {}", planned.port)
}

/// How long a host is asked again to remove a deployment that it is still undoing by itself.
const UNDO_TIMEOUT: Duration = Duration::from_secs(20);
const UNDO_INTERVAL: Duration = Duration::from_millis(300);

/// Removes the deployments that this run made; what was there before stays.
async fn undo_deploy(
    world: &FleetWorld,
    hosts: &[Host],
    report: &DeployReport,
    deployed: &PerHost<DeployResponse>,
    options: &DeployOptions,
) {
    let is_new = |name: &HostName| {
        !report.planned.iter().any(|planned| planned.host == *name && planned.is_already_deployed)
    };
    let is_made = |result: &Result<DeployResponse, LinkError>| match result {
        Ok(response) => !response.known,
        // The host may not have undone it yet.
        Err(error) => matches!(error, LinkError::Abandoned { .. }),
    };
    let pairs = hosts.iter().zip(deployed);
    let removals = pairs.filter(|(host, (_, result))| is_new(&host.name) && is_made(result)).map(
        async |(host, (_, result))| {
            let request = KillRequest {
                id: report.id.clone(),
                force: true,
                drain_timeout: Duration::ZERO,
                keep_files: false,
                actor: options.actor.clone(),
            };
            let text = match remove_deployment(world, host, &request).await {
                Ok(()) if result.is_ok() => "removed again: it is not deployed on every host".to_owned(),
                Ok(()) => "removed again".to_owned(),
                Err(error) => format!("cannot remove the new deployment: {error}"),
            };
            report_progress(world, Some(&host.name), text);
        },
    );
    futures_util::future::join_all(removals).await;
}

/// Removes a deployment, as far as the host has not done so itself. While the host is at work on it, the request is repeated.
async fn remove_deployment(world: &FleetWorld, host: &Host, request: &KillRequest) -> Result<(), LinkError> {
    let deadline = tokio::time::Instant::now() + UNDO_TIMEOUT;
    loop {
        match async { reach::find_link(world, host)?.kill(request).await }.await {
            Ok(_) | Err(LinkError::Refused { code: ErrorCode::NotFound, .. }) => return Ok(()),
            Err(LinkError::Refused { code: ErrorCode::Busy | ErrorCode::Interrupted, .. })
                if tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(UNDO_INTERVAL).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Shortens a digest to the 12 characters that are printed.
pub fn shorten_digest(digest: &Digest) -> &str {
    digest.0.get(..12).unwrap_or(&digest.0)
}
