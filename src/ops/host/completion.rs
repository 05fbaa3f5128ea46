//! Changes that are carried to their end, with or without their caller.

use crate::model::failure::ErrorCode;
use crate::world::HostWorld;
use crate::world::link::LinkError;

/// A task that panicked or was cancelled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it did not end: {0}")]
pub struct TaskFailed(pub String);

impl From<TaskFailed> for LinkError {
    fn from(failed: TaskFailed) -> Self {
        Self::Refused { code: ErrorCode::Other, message: failed.to_string() }
    }
}

/// Runs a change on a task of its own and counts it: a caller that stops waiting ends no change half way, and neither does the
/// end of the process, which waits for counted changes.
pub(super) async fn run_to_completion<T, E>(
    world: &HostWorld,
    change: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<TaskFailed> + Send + 'static,
{
    let running = world.changes.start();
    let ended = tokio::spawn(async move {
        let _running = running;
        change.await
    });
    ended.await.unwrap_or_else(|failed| Err(TaskFailed(failed.to_string()).into()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::rules::Family;
    use crate::world::fake::firewall::FakeFirewall;
    use crate::world::fake::{MS, world};

    /// The agent is stopped while a change is at work whose caller has hung up.
    #[tokio::test(start_paused = true)]
    async fn change_without_its_caller_is_waited_for() {
        let fake = world(vec![], Arc::new(FakeFirewall::new(&[Family::V4])));
        let changes = fake.world.changes.clone();
        let (sender, done) = tokio::sync::oneshot::channel();
        let change = async move {
            tokio::time::sleep(MS * 500).await;
            let _ = sender.send(());
            Ok::<_, LinkError>(())
        };
        let called = tokio::time::timeout(MS * 10, run_to_completion(&fake.world, change)).await;
        assert!(called.is_err(), "the caller stops waiting");
        changes.wait_until_none().await;
        assert_eq!(done.await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn change_that_panics_is_an_error() {
        let fake = world(vec![], Arc::new(FakeFirewall::new(&[Family::V4])));
        let change = async { panic!("a bug") };
        let ended: Result<(), LinkError> = run_to_completion(&fake.world, change).await;
        assert!(ended.unwrap_err().to_string().contains("it did not end: "));
        fake.world.changes.wait_until_none().await;
    }
}
