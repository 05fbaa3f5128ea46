//! The changes that run on this machine, so that a process does not end in the middle of one.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts running changes. Clones share the count.
#[derive(Debug, Clone)]
pub struct ChangeTracker(Arc<watch::Sender<usize>>);

/// A running change; it has ended when this is dropped.
#[derive(Debug)]
pub struct RunningChange(Arc<watch::Sender<usize>>);

impl Default for ChangeTracker {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl ChangeTracker {
    pub fn start(&self) -> RunningChange {
        self.0.send_modify(|count| *count += 1);
        RunningChange(self.0.clone())
    }

    /// Returns when no change runs.
    pub async fn wait_until_none(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for RunningChange {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}
