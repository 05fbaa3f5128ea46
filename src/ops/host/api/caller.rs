//! Changes whose waits end when their caller hangs up.

use std::convert::Infallible;
use std::sync::Arc;

use crate::ops::host::completion::TaskFailed;
use crate::ops::host::deployments::error::HostDeployError;
use crate::world::HostWorld;
use crate::world::link::LinkResult;
use crate::world::stop::{self, StopHandle, StopToken};

/// Runs a change on a task of its own. A caller that drops the future, as the agent does for a client that hangs up, requests
/// a stop of this change alone: its waits end, and it is undone, or finished where it is too late for that. No later command
/// waits for the limits of a change without a caller.
pub(super) async fn run_for_caller<T, F>(
    world: &HostWorld,
    change: impl FnOnce(HostWorld) -> F,
) -> LinkResult<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T, HostDeployError>> + Send + 'static,
{
    let (stopper, stop) = stop::create_channel();
    let caller = StopOnDrop(Arc::new(stopper));
    let (stopper, machine) = (caller.0.clone(), world.stop.clone());
    let change = change(HostWorld { stop, ..world.clone() });
    let running = world.changes.start();
    let ended = tokio::spawn(async move {
        let _running = running;
        tokio::select! {
            ended = change => ended,
            never = forward_stop(&machine, &stopper) => match never {},
        }
    });
    match ended.await {
        Ok(ended) => Ok(ended?),
        Err(failed) => Err(TaskFailed(failed.to_string()).into()),
    }
}

struct StopOnDrop(Arc<StopHandle>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Passes a stop request of the whole process on.
async fn forward_stop(machine: &StopToken, stopper: &StopHandle) -> Infallible {
    machine.wait().await;
    stopper.stop();
    machine.wait_immediate().await;
    stopper.stop_at_once();
    std::future::pending().await
}
