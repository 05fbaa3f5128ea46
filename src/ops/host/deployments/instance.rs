//! Start, removal, state and log of one instance.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::HostDeployError;
use super::port_owner::describe_port_owner;
use crate::model::deployment::{
    Deployment, Instance, InstanceId, InstanceSpec, ProcessState, StopSignal, Workload,
};
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
    world.runner.start(&spec).await?;
    Ok(())
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
        user: instance.how.user.clone(),
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
    let Some(digest) = &instance.digest else { return Ok(()) };
    let (service, release) = (deployment.service.clone(), deployment.release_name(instance.build));
    match world.releases.digest(&service, &release)? {
        Some(found) if found == *digest => {}
        Some(_) => return Err(DeployRefusal::OtherRelease { service, release }.into()),
        None => return Err(DeployRefusal::NoRelease { service, release }.into()),
    }
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

/// Whether the release of an instance was changed on this host.
pub(super) async fn is_altered(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
) -> Result<bool, HostDeployError> {
    match check_release(world, deployment, instance).await {
        Err(HostDeployError::Refused(DeployRefusal::AlteredRelease { .. })) => Ok(true),
        Err(HostDeployError::Refused(DeployRefusal::NoRelease { .. })) | Ok(()) => Ok(false),
        Err(error) => Err(error),
    }
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
