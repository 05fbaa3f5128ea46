//! Start, removal, state and log of one instance.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::HostDeployError;
use super::port_owner::describe_port_owner;
use crate::model::deployment::{
    Deployment, Instance, InstanceId, InstanceSpec, ProcessState, StopSignal, Workload,
};
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
    let id = deployment.instance_id(instance.build);
    Ok(world.runner.stop(&id, instance.how.grace).await?)
}

/// Removes everything of the instance: process, log, release.
pub(super) async fn remove(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
    keep_files: bool,
) -> Result<(), HostDeployError> {
    stop(world, deployment, instance).await?;
    if matches!(instance.how.workload, Workload::External { .. }) {
        return Ok(());
    }
    world.runner.delete_records(&deployment.instance_id(instance.build)).await?;
    if !keep_files {
        let release = deployment.release_name(instance.build);
        world.releases.remove(&deployment.service, &release)?;
    }
    Ok(())
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
    let id = deployment.instance_id(instance.build).deployment;
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
    let (argv, stop_signal) = match &instance.how.workload {
        Workload::Command { argv } => (argv.clone(), StopSignal::Term),
        Workload::Vhost { server } => {
            let vhost = Vhost {
                id: deployment.instance_id(instance.build),
                server: *server,
                port: instance.port,
                root: dir.clone(),
                run_dir: world.releases.run_dir(service, &release),
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
        id: deployment.instance_id(instance.build),
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

/// Checks that the release that an instance is started from is the one that was requested.
pub(super) fn check_release(
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

/// Reads the state of the process of a deployment.
pub(in crate::ops::host) async fn read_process(
    world: &HostWorld,
    deployment: &Deployment,
) -> Result<ProcessState, RunnerError> {
    if matches!(deployment.instance.how.workload, Workload::External { .. }) {
        return Ok(ProcessState::External);
    }
    let id = deployment.instance_id(deployment.instance.build);
    world.runner.state(&id).await
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
