//! Notices that the kernel's port rules may have changed.

use async_trait::async_trait;

/// The rules of the network namespace this process is in.
pub trait RuleWatch: Send + Sync {
    /// Listens from now on: a change after this call is not missed, whenever it is waited for.
    fn start(&self) -> Box<dyn RuleSubscription>;
}

#[async_trait]
pub trait RuleSubscription: Send + Sync {
    /// Returns when the rules may have changed, within a fraction of a second of the change (a burst of changes is one),
    /// and after half a minute anyway. Nothing need have changed. `legacy`: rules of ours are in legacy iptables, whose
    /// changes the kernel does not announce.
    async fn wait_for_change(&mut self, legacy: bool);
}
