//! `deploy`: a version placed and started on hosts. Nothing is moved: the first is main, later ones are shadows.

use std::time::Duration;

use serde::Serialize;

use super::deploy_options::{DeployOptions, Source};
use super::each_host::{
    PerHost, all_or_partial, build_host_network, explain_lost_release, for_each_host, format_elapsed,
    report_progress, require_owned_hosts, wait_until_stopped,
};
use super::error::FleetDeployError;
use super::identity::{Identity, choose_identity};
use super::list::{FleetDeployment, Listing, list_deployments};
use crate::model::account::build_account_name;
use crate::model::api::deployments::{DeployRequest, DeployResponse, DeploymentView, KillRequest};
use crate::model::deployment::{Deployment, DeploymentId, Role};
use crate::model::failure::ErrorCode;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::model::ports::{Port, join_ports};
use crate::ops::fleet::owner::HostActors;
use crate::ops::fleet::port_conflicts::find_config_refusals;
use crate::ops::fleet::reach;
use crate::world::FleetWorld;
use crate::world::archives::PackedArchive;
use crate::world::link::{HostLink, LinkError};
use crate::world::reporter::Event;

/// The planned deployment on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostDeployPlan {
    pub host: HostName,
    pub role: Role,
    /// The port of the first instance.
    pub port: Port,
    /// The ports of the other instances; absent where there is one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more_ports: Vec<Port>,
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

/// Checks every host before anything is sent; if one host fails, the others are as before too. A version that another host of
/// the fleet has is the same deployment there and here.
pub async fn deploy(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    options: &DeployOptions,
) -> Result<DeployReport, FleetDeployError> {
    let started_at = tokio::time::Instant::now();
    let listing = list_deployments(world, &list_known_hosts(world, fleet, hosts)).await;
    let actors = require_owned_hosts(world, fleet, &options.service, hosts, &options.actor).await?;
    let packed = pack(world, &options.source).await?;
    let digest = packed.as_ref().map(|packed| packed.digest.clone());
    let Identity { id, revision, health } =
        choose_identity(world, options, digest.as_ref(), &listing, &fleet.health)?;
    warn_unread(world, hosts, &listing, options, &id);
    warn_conflicts(world, fleet, hosts, options).await;
    let request = |host: &Host, dry_run| DeployRequest {
        id: id.clone(),
        service: options.service.clone(),
        version: options.version.clone(),
        revision: Some(revision),
        metadata: options.metadata.clone(),
        how: options.run_spec.clone(),
        digest: digest.clone(),
        port: options.port,
        instances: options.instances,
        health: health.clone(),
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
    require_one_main(&listing, &planned, options).and_then(|()| require_instances(&planned, options))?;
    for plan in &planned {
        report_progress(world, Some(&plan.host), describe_plan(plan, options));
    }
    let has_own_id = !listing.rows.iter().any(|row| row.id == id);
    let mut report = DeployReport { id: id.clone(), revision, planned, deployed: vec![] };
    if options.dry_run {
        for text in describe_update(&listing, options, revision) {
            report_progress(world, None, text);
        }
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
        let deployed = link.deploy(&request(host, false)).await;
        let deployed = deployed.map_err(|error| explain_lost_release(link, error))?;
        // A version that was there before is not checked again.
        if !deployed.known {
            let ports = format_ports(&deployed.deployment);
            let text = format!("healthy on {ports} after {}", format_elapsed(started_at));
            report_progress(world, Some(&host.name), text);
        }
        Ok(deployed)
    };
    let deployed = for_each_host(world, hosts, async |host, link| {
        wait_until_stopped(world, link, place(host, link)).await
    })
    .await;
    if deployed.iter().any(|(_, result)| result.is_err()) {
        let limit = UNDO_MARGIN + options.run_spec.grace;
        undo_deploy(world, hosts, (&report, has_own_id), &deployed, (&actors, limit)).await;
        return Err(collect_errors(deployed));
    }
    report.deployed = all_or_partial(deployed)?;
    Ok(report)
}

/// Warns of a program that has every right on its host.
pub(super) fn warn_root(world: &FleetWorld, service: &ServiceName, user: Option<&str>) {
    if user == Some("root") {
        let account = build_account_name(service);
        let text = format!(
            "its program runs as root, and has every right on its hosts; without `--user`, it runs as `{account}`"
        );
        world.reporter.report(&Event::Warning { text });
    }
}

/// Warns of root, and of ports and addresses with which the next switch or roll would be refused: a deploy moves no user.
async fn warn_conflicts(world: &FleetWorld, fleet: &Fleet, hosts: &[Host], options: &DeployOptions) {
    warn_root(world, &options.service, options.run_spec.user.as_deref());
    for refusal in find_config_refusals(world, fleet, hosts).await {
        world.reporter.report(&Event::Warning { text: refusal.to_string() });
    }
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

/// Lists the hosts of the deploy, and the others of the fleet that this command has a link to.
fn list_known_hosts(world: &FleetWorld, fleet: &Fleet, hosts: &[Host]) -> Vec<Host> {
    let is_other = |host: &&Host| {
        world.links.contains_key(&host.name) && !hosts.iter().any(|chosen| chosen.name == host.name)
    };
    hosts.iter().chain(fleet.hosts.iter().filter(is_other)).cloned().collect()
}

/// Warns of each other host that cannot be read, if the deployment is new on those that can.
fn warn_unread(
    world: &FleetWorld,
    hosts: &[Host],
    listing: &Listing,
    options: &DeployOptions,
    id: &DeploymentId,
) {
    let is_chosen = |name: &HostName| hosts.iter().any(|host| host.name == *name);
    if listing.rows.iter().any(|row| row.id == *id) {
        return;
    }
    let (service, version) = (&options.service, &options.version);
    for (host, error) in listing.unread.iter().filter(|(host, _)| !is_chosen(host)) {
        let text = format!(
            "cannot be read: {error}; once {host} answers, `switchman merge {service} {version}` joins {service} {version} if {host} has \
             the version"
        );
        report_progress(world, Some(host), text);
    }
}

/// Refuses hosts that would start another number of instances: an older switchman there does not know the request.
fn require_instances(planned: &[HostDeployPlan], options: &DeployOptions) -> Result<(), FleetDeployError> {
    let Some(wanted) = options.instances else { return Ok(()) };
    let is_other = |plan: &&HostDeployPlan| plan.more_ports.len() + 1 != wanted as usize;
    let error = |plan: &HostDeployPlan| {
        let message =
            "its switchman starts one instance of a version only; install the version of this one there";
        (plan.host.clone(), LinkError::Refused { code: ErrorCode::Other, message: message.to_owned() })
    };
    let errors: Vec<_> = planned.iter().filter(is_other).map(error).collect();
    if errors.is_empty() { Ok(()) } else { Err(FleetDeployError::Hosts(errors)) }
}

/// Refuses a deployment that would be main at once on some hosts while other hosts have another main.
fn require_one_main(
    listing: &Listing,
    planned: &[HostDeployPlan],
    options: &DeployOptions,
) -> Result<(), FleetDeployError> {
    let becomes_main = |plan: &&HostDeployPlan| plan.role == Role::Main && !plan.is_already_deployed;
    let hosts: Vec<HostName> = planned.iter().filter(becomes_main).map(|plan| plan.host.clone()).collect();
    let (service, version) = (&options.service, &options.version);
    let others = |row: &FleetDeployment| -> Vec<HostName> {
        let has_main = |(_, view): &&(HostName, DeploymentView)| view.role == Role::Main;
        row.hosts.iter().filter(has_main).map(|(host, _)| host.clone()).collect()
    };
    let has_other_main = |row: &&FleetDeployment| {
        row.service == *service && row.version != *version && !others(row).is_empty()
    };
    match listing.rows.iter().find(has_other_main) {
        Some(row) if !options.becomes_main && !hosts.is_empty() => Err(FleetDeployError::SecondMain {
            service: service.clone(),
            version: version.clone(),
            hosts,
            main: row.version.clone(),
            others: others(row),
        }),
        _ => Ok(()),
    }
}

fn plan_host(host: HostName, deployed: &DeployResponse) -> HostDeployPlan {
    let DeployResponse { deployment, known, role } = deployed;
    let more_ports = deployment.more_instances.iter().map(|instance| instance.port).collect();
    let port = deployment.instance.port;
    HostDeployPlan { host, role: *role, port, more_ports, is_already_deployed: *known }
}

fn format_ports(deployment: &Deployment) -> String {
    let ports: Vec<Port> = deployment.active_instances().map(|instance| instance.port).collect();
    join_ports(&ports)
}

fn describe_plan(planned: &HostDeployPlan, options: &DeployOptions) -> String {
    let (service, version) = (&options.service, &options.version);
    let role = if planned.role == Role::Main { "main" } else { "a shadow" };
    if planned.is_already_deployed {
        return format!("{service} {version} is there already");
    }
    let ports: Vec<Port> = std::iter::once(planned.port).chain(planned.more_ports.iter().copied()).collect();
    format!("{service} {version} will be {role}, on {}", join_ports(&ports))
}

/// How long the removal of a deployment is retried while the host undoes it by itself, beside the time that the program may take
/// to end.
const UNDO_MARGIN: Duration = Duration::from_secs(20);
const UNDO_INTERVAL: Duration = Duration::from_millis(300);

/// Describes what a dry run would change of a service that is known: seed row R17 (docs/design/seed-systems.md#restate).
fn describe_update(listing: &Listing, options: &DeployOptions, revision: u32) -> Vec<String> {
    let of_service = listing.rows.iter().filter(|row| row.service == options.service);
    let Some(latest) = of_service.max_by_key(|row| row.revision).filter(|row| row.revision < revision) else {
        return vec![];
    };
    let mut lines = vec![format!("Revision: {} -> {revision}", latest.revision)];
    if let Some(main) = listing.find_main(&options.service) {
        lines.extend(main.hosts.iter().map(|(host, view)| {
            let endpoint = view.deployment.endpoint(&view.deployment.instance);
            format!("Old Deployment: http://{endpoint}/ on {host} (at {}, main {})", main.id, main.version)
        }));
    }
    lines
}

/// Removes the deployments that this run made; what was there before stays. A host whose answer is missing has undone its
/// deployment by itself, or does so. It is removed there only if no other run can have made it: by an id that this run generated.
async fn undo_deploy(
    world: &FleetWorld,
    hosts: &[Host],
    (report, has_own_id): (&DeployReport, bool),
    deployed: &PerHost<DeployResponse>,
    (actors, limit): (&HostActors, Duration),
) {
    let is_new = |name: &HostName| {
        !report.planned.iter().any(|planned| planned.host == *name && planned.is_already_deployed)
    };
    let is_made = |result: &Result<DeployResponse, LinkError>| match result {
        Ok(response) => !response.known,
        Err(LinkError::Abandoned { .. } | LinkError::Broken { .. } | LinkError::TimedOut { .. }) => {
            has_own_id
        }
        Err(_) => false,
    };
    let pairs = hosts.iter().zip(deployed);
    let removals = pairs.filter(|(host, (_, result))| is_new(&host.name) && is_made(result)).map(
        async |(host, (_, result))| {
            let request = KillRequest {
                id: report.id.clone(),
                force: true,
                drain_timeout: Duration::ZERO,
                keep_files: false,
                actor: actors.find(&host.name),
                dry_run: false,
            };
            let text = match remove_deployment(world, host, &request, limit).await {
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
async fn remove_deployment(
    world: &FleetWorld,
    host: &Host,
    request: &KillRequest,
    limit: Duration,
) -> Result<(), LinkError> {
    let deadline = tokio::time::Instant::now() + limit;
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
