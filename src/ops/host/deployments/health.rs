//! Waits until an instance answers its health check.

use std::time::Duration;

use tokio::time::Instant;

use super::error::HostDeployError;
use super::instance::{find_port_conflict, read_last_lines};
use crate::model::deployment::{Deployment, Instance, InstanceId, ProcessState, WebServer, Workload};
use crate::model::plural::Count;
use crate::plan::versions;
use crate::world::HostWorld;
use crate::world::releases::UnreadablePath;

/// Waits for healthy answers of instances as long as a version that has answered before may take.
pub(super) async fn check_still_healthy(
    world: &HostWorld,
    deployment: &Deployment,
    instances: &[&Instance],
) -> Result<(), HostDeployError> {
    let timeout = versions::compute_health_timeout(&deployment.health);
    let checks = instances.iter().map(|instance| wait_until_healthy(world, deployment, instance, timeout));
    futures_util::future::try_join_all(checks).await.map(|_| ())
}

/// `rise` healthy answers in a row of an instance's own port, or why not. One that has ended by itself more than once is not
/// waited for.
pub(super) async fn wait_until_healthy(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
    limit: Duration,
) -> Result<(), HostDeployError> {
    check_readable(world, deployment, instance)?;
    let began_at = Instant::now();
    let deadline = began_at + limit;
    let endpoint = deployment.endpoint(instance);
    let id = deployment.instance_id(instance);
    let mut passed = 0;
    let reason = loop {
        match world.probe.check(endpoint, &deployment.health).await {
            Ok(()) => {
                passed += 1;
                if passed >= deployment.health.rise {
                    return Ok(());
                }
                if Instant::now() >= deadline {
                    break format!(
                        "only {passed} of {} in a row healthy",
                        Count(deployment.health.rise, "answer")
                    );
                }
            }
            Err(error) => {
                passed = 0;
                if let Some(end) = find_start_failure(world, instance, &id).await {
                    let conflict = find_port_conflict(world, &id, instance).await;
                    break format!("{end}; {}", conflict.unwrap_or_else(|| error.to_string()));
                }
                if Instant::now() >= deadline {
                    break error.to_string();
                }
            }
        }
        tokio::select! {
            biased;
            () = world.stop.wait() => return Err(HostDeployError::Interrupted),
            () = tokio::time::sleep(deployment.health.interval) => {}
        }
    };
    let reason = match explain_low_port(deployment, instance) {
        Some(text) => format!("{reason}; {text}"),
        None => reason,
    };
    Err(HostDeployError::Unhealthy {
        service: deployment.service.clone(),
        version: deployment.version.to_string(),
        // An instance that has ended is not waited for.
        waited: limit.min(began_at.elapsed()),
        reason: if deployment.has_several_instances() {
            format!("instance {}: {reason}", instance.number)
        } else {
            reason
        },
        log: read_last_lines(world, &id).await,
    })
}

/// Names the likely reason where a program that is not root has a port below 1024.
fn explain_low_port(deployment: &Deployment, instance: &Instance) -> Option<&'static str> {
    let user = instance.how.find_user(&deployment.service)?;
    (user != "root" && instance.port.get() < 1024).then_some(
        "a program that is not root cannot listen on a port below 1024, unless net.ipv4.ip_unprivileged_port_start of the host allows it: \
         omit `--port`, or name one from 1024 on",
    )
}

/// Refuses a release that its web server cannot read: the health check may be answered without any of its files. Caddy runs as
/// the user that starts it.
fn check_readable(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
) -> Result<(), HostDeployError> {
    let user = instance.how.user.as_deref();
    match instance.how.workload {
        Workload::Vhost { server: WebServer::Caddy } if matches!(user, None | Some("root")) => return Ok(()),
        Workload::Vhost { .. } => {}
        Workload::Command { .. } | Workload::External { .. } => return Ok(()),
    }
    let release = deployment.release_name(instance.build);
    let found = world.releases.find_unreadable(&deployment.service, &release, user);
    found.map_or(Ok(()), |UnreadablePath { path, mode }| {
        Err(HostDeployError::Unhealthy {
            service: deployment.service.clone(),
            version: deployment.version.to_string(),
            waited: Duration::ZERO,
            reason: format!(
                "its web server cannot read `{0}` (mode {mode:04o}); `chmod o+rX {0}` allows it",
                path.display()
            ),
            log: vec![],
        })
    })
}

/// How often a new instance may end by itself before it is given up.
const MAX_RESTARTS: u32 = 3;

async fn find_start_failure(world: &HostWorld, instance: &Instance, id: &InstanceId) -> Option<String> {
    if matches!(instance.how.workload, Workload::External { .. }) {
        return None;
    }
    match world.runner.state(id).await.ok()? {
        ProcessState::Waiting { restarts, last_exit: last, .. } if restarts >= MAX_RESTARTS => {
            Some(format!("it ended {}, last with {last}", Count(restarts, "time")))
        }
        ProcessState::Running { restarts, .. } if restarts >= MAX_RESTARTS => {
            Some(format!("it ended {}", Count(restarts, "time")))
        }
        ProcessState::Stopped { last_exit: last, .. } if !last.is_empty() => {
            Some(format!("it ended with {last}"))
        }
        _ => None,
    }
}
