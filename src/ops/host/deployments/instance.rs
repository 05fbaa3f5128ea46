//! Start, removal, state and log of one instance.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::HostDeployError;
use super::port_owner::describe_port_owner;
use crate::model::account::{Account, ReleaseShare};
use crate::model::deployment::{
    Deployment, Instance, InstanceId, InstanceSpec, ProcessState, StopSignal, WebServer, Workload,
};
use crate::model::name::ServiceName;
use crate::ops::host::completion::TaskFailed;
use crate::plan::versions::DeployRefusal;
use crate::templates::vhost::Vhost;
use crate::world::HostWorld;
use crate::world::link::SharedLineSink;
use crate::world::runner::{RunnerError, StopResult};

/// Starts the instance, if switchman is to start it.
pub(super) async fn start(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
) -> Result<(), HostDeployError> {
    let Some(spec) = build_spec(world, deployment, instance)? else { return Ok(()) };
    let spec = prepare_user(world, deployment, instance, spec).await?;
    world.runner.start(&spec).await?;
    Ok(())
}

/// The user of the processes of nginx and Apache that read files, on Debian.
const WEB_SERVER_USER: &str = "www-data";

/// Makes the user of the instance, and gives it the parts of the release that it has to read or write.
async fn prepare_user(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
    mut spec: InstanceSpec,
) -> Result<InstanceSpec, HostDeployError> {
    let service = &deployment.service;
    let release = deployment.release_name(instance.build);
    match &instance.how.workload {
        Workload::Vhost { server: WebServer::Nginx | WebServer::Apache } => {
            // Without the user its server does not start either, and that error names it.
            if let Ok(Some(account)) = world.runner.prepare_account(service, WEB_SERVER_USER).await {
                share_release(world, service, &release, account, ReleaseShare::Closed).await?;
            }
        }
        Workload::Command { .. } => {
            let Some(user) = spec.user.clone() else { return Ok(spec) };
            let is_own = instance.how.user.is_none();
            let account = world.runner.prepare_account(service, &user).await?;
            let share = if is_own { ReleaseShare::Directories } else { ReleaseShare::Closed };
            if let Some(account) = account {
                share_release(world, service, &release, account, share).await?;
            }
            if !is_own {
                return Ok(spec);
            }
            spec.account = account;
            match account {
                Some(account) => {
                    let home = world.releases.make_home(service, account)?;
                    spec.env.entry("HOME".to_owned()).or_insert_with(|| home.display().to_string());
                }
                None => spec.user = None,
            }
        }
        Workload::Vhost { server: WebServer::Caddy } | Workload::External { .. } => {}
    }
    Ok(spec)
}

/// Gives a release to its account, on a thread of its own: it waits for a release that is being unpacked, and walks all files.
async fn share_release(
    world: &HostWorld,
    service: &ServiceName,
    release: &str,
    account: Account,
    share: ReleaseShare,
) -> Result<(), HostDeployError> {
    let (releases, service, release) = (world.releases.clone(), service.clone(), release.to_owned());
    let shared =
        tokio::task::spawn_blocking(move || releases.share(&service, &release, account, share)).await;
    Ok(shared.map_err(|failed| TaskFailed(failed.to_string()))??)
}

/// Describes the user of a new program where it is not the one that it should have.
pub(super) async fn find_missing_account(world: &HostWorld, deployment: &Deployment) -> Option<String> {
    let Deployment { service, version, instance, .. } = deployment;
    let user = instance.how.find_user(service).filter(|_| instance.how.user.is_none())?;
    let account = world.runner.prepare_account(service, &user).await;
    matches!(account, Ok(None)).then(|| {
        format!(
            "{service} {version} runs as the user of this host's switchman, and not as the account `{user}`: only root starts programs as \
             another user"
        )
    })
}

/// Ends the instance's process; its release and log stay.
pub(super) async fn stop(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
) -> Result<StopResult, HostDeployError> {
    if matches!(instance.how.workload, Workload::External { .. }) {
        return Ok(StopResult::NotRunning);
    }
    let id = deployment.instance_id(instance);
    Ok(world.runner.stop(&id, instance.how.grace).await?)
}

/// Removes everything of the instance: process, log, and the release that no other instance runs from.
pub(super) async fn remove(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
) -> Result<(), HostDeployError> {
    remove_process(world, deployment, instance).await?;
    let is_other = |other: &&Instance| other.number != instance.number || other.build != instance.build;
    if deployment.instances().filter(is_other).any(|other| other.build == instance.build) {
        return Ok(());
    }
    remove_release(world, deployment, instance)
}

/// Removes everything of all instances of a deployment.
pub(super) async fn remove_all(
    world: &HostWorld,
    deployment: &Deployment,
    keep_files: bool,
) -> Result<(), HostDeployError> {
    // Side by side: each has its grace to end.
    let removals = deployment.instances().map(|one| remove_process(world, deployment, one));
    futures_util::future::try_join_all(removals).await?;
    if keep_files {
        return Ok(());
    }
    deployment.instances().try_for_each(|one| remove_release(world, deployment, one))
}

async fn remove_process(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
) -> Result<(), HostDeployError> {
    stop(world, deployment, instance).await?;
    if matches!(instance.how.workload, Workload::External { .. }) {
        return Ok(());
    }
    Ok(world.runner.delete_records(&deployment.instance_id(instance)).await?)
}

/// Removes the code of a build; without any, nothing is done.
pub(super) fn remove_release(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
) -> Result<(), HostDeployError> {
    if matches!(instance.how.workload, Workload::External { .. }) {
        return Ok(());
    }
    Ok(world.releases.remove(&deployment.service, &deployment.release_name(instance.build))?)
}

/// Builds the instance's spec. Returns `None` for a program that runs already.
fn build_spec(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
) -> Result<Option<InstanceSpec>, HostDeployError> {
    let Deployment { service, version, .. } = deployment;
    let release = deployment.release_name(instance.build);
    let dir = world.releases.dir(service, &release);
    if matches!(instance.how.workload, Workload::External { .. }) {
        return Ok(None);
    }
    // The same as it was started with, also after a merge: a spec that changes would restart the instance.
    let id = deployment.instance_id(instance).deployment;
    // D37: the environment carries its name, its version and its directory.
    let mut env: BTreeMap<String, String> = instance.how.env.clone();
    let identity = [
        ("PORT", instance.port.to_string()),
        ("SWITCHMAN_SERVICE", service.to_string()),
        ("SWITCHMAN_VERSION", version.to_string()),
        ("SWITCHMAN_DEPLOYMENT", id.to_string()),
        ("SWITCHMAN_RELEASE", dir.display().to_string()),
    ];
    env.extend(identity.map(|(name, value)| (name.to_owned(), value)));
    // An instance that is alone keeps the environment that it was started with by older versions.
    if deployment.has_several_instances() {
        env.insert("SWITCHMAN_INSTANCE".to_owned(), instance.number.to_string());
    }
    let (argv, stop_signal) = match &instance.how.workload {
        Workload::Command { argv } => (argv.clone(), StopSignal::Term),
        Workload::Vhost { server } => {
            let run_dir = world.releases.run_dir(service, &release);
            let vhost = Vhost {
                id: deployment.instance_id(instance),
                server: *server,
                port: instance.port,
                root: dir.clone(),
                run_dir: if instance.number == 1 {
                    run_dir
                } else {
                    run_dir.join(instance.number.to_string())
                },
                health_path: deployment.health.path.clone(),
            };
            let file = vhost.run_dir.join(vhost.file_name());
            let failed = |error: &dyn std::fmt::Display| HostDeployError::Vhost(error.to_string());
            world
                .files
                .write(&file, &vhost.render().map_err(|error| failed(&error))?)
                .map_err(|error| failed(&error))?;
            env.extend(vhost.env());
            (vhost.argv(&file), vhost.stop_signal())
        }
        Workload::External { .. } => return Ok(None),
    };
    Ok(Some(InstanceSpec {
        id: deployment.instance_id(instance),
        service: service.clone(),
        version: version.clone(),
        argv,
        env,
        dir,
        user: instance.how.find_user(service),
        account: None,
        sandbox: instance.how.sandbox.clone(),
        resources: instance.how.resources,
        grace: instance.how.grace,
        stop_signal,
    }))
}

/// Checks that the release that an instance is started from is the one that was requested, and that its files are those that were
/// placed.
pub(super) async fn check_release(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
) -> Result<(), HostDeployError> {
    check_digest(world, deployment, instance)?;
    if instance.digest.is_none() {
        return Ok(());
    }
    let (service, release) = (deployment.service.clone(), deployment.release_name(instance.build));
    let (releases, name) = (world.releases.clone(), release.clone());
    let of = service.clone();
    let checked = tokio::task::spawn_blocking(move || releases.verify(&of, &name)).await;
    let check = checked.map_err(|failed| TaskFailed(failed.to_string()))??;
    if check.is_altered() {
        let changes = check.describe_changes();
        return Err(DeployRefusal::AlteredRelease { service, release, changes }.into());
    }
    Ok(())
}

/// Checks that the release of an instance was placed from the archive that was requested.
pub(super) fn check_digest(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
) -> Result<(), HostDeployError> {
    let Some(digest) = &instance.digest else { return Ok(()) };
    let (service, release) = (deployment.service.clone(), deployment.release_name(instance.build));
    match world.releases.digest(&service, &release)? {
        Some(found) if found == *digest => Ok(()),
        Some(_) => Err(DeployRefusal::OtherRelease { service, release }.into()),
        None => Err(DeployRefusal::NoRelease { service, release }.into()),
    }
}

/// Whether the release of an instance is not as it was placed, or cannot be compared: an update replaces it.
pub(super) async fn is_altered(world: &HostWorld, deployment: &Deployment, instance: &Instance) -> bool {
    let checked = check_release(world, deployment, instance).await;
    !matches!(checked, Ok(()) | Err(HostDeployError::Refused(DeployRefusal::NoRelease { .. })))
}

/// Reads the state of the process of an instance.
pub(in crate::ops::host) async fn read_process(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
) -> Result<ProcessState, RunnerError> {
    if matches!(instance.how.workload, Workload::External { .. }) {
        return Ok(ProcessState::External);
    }
    world.runner.state(&deployment.instance_id(instance)).await
}

/// Reads the state of the processes of a deployment: that of the first instance that does not run, if there is one.
pub(in crate::ops::host) async fn read_worst_process(
    world: &HostWorld,
    deployment: &Deployment,
) -> Result<ProcessState, RunnerError> {
    let mut worst = read_process(world, deployment, &deployment.instance).await?;
    for instance in &deployment.more_instances {
        if !worst.is_running() {
            break;
        }
        worst = read_process(world, deployment, instance).await?;
    }
    Ok(worst)
}

/// Returns who has taken the port of an instance that does not run, so that it cannot listen.
pub(super) async fn find_port_conflict(
    world: &HostWorld,
    id: &InstanceId,
    instance: &Instance,
) -> Option<String> {
    // An unknown state is no conflict.
    let is_stopped = async || world.runner.state(id).await.is_ok_and(|state| !state.is_running());
    // First the cheap question: a host has a thousand instances, and all processes are searched for an owner.
    if !is_stopped().await {
        return None;
    }
    let owner = describe_port_owner(world, instance.port).ok()??;
    // Its runner may have started it since.
    is_stopped().await.then(|| format!("its port {} is in use by {owner}", instance.port))
}

/// How much of a log an error shows.
const ERROR_LOG_LINES: u32 = 10;

/// Reads the last log lines of an instance for an error; empty where there is no log.
pub(super) async fn read_last_lines(world: &HostWorld, id: &InstanceId) -> Vec<String> {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink_lines = lines.clone();
    let sink: SharedLineSink = Arc::new(move |line: &str| {
        sink_lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
    });
    // Without a log there is nothing to show.
    let _ = world.runner.stream_logs(id, Some(ERROR_LOG_LINES), false, sink).await;
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *lines)
}
