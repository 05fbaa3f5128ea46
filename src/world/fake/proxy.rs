//! A proxy without a process: the configurations it received, and whether it lives.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::model::deployment::DeploymentId;
use crate::model::evidence::Evidence;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::proxy::{ProxyConfig, ProxyHealth, ProxyStats};
use crate::world::proxy::{Proxy, ProxyError};
use crate::world::store::LockGuard;

/// Bound on an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct FakeProxy {
    pub is_running: Mutex<bool>,
    /// Starting it fails.
    pub start_fails: Mutex<bool>,
    /// Configurations that any proxy process received.
    pub told: Mutex<Vec<ProxyConfig>>,
    /// The configuration of the process that lives.
    pub active_config: Mutex<ProxyConfig>,
    pub stats: Mutex<ProxyStats>,
    pub start_count: Mutex<u32>,
    pub exit_notify: Notify,
    /// No agent watches it.
    pub is_unwatched: Mutex<bool>,
    /// Another agent watches it.
    pub is_watched_elsewhere: Mutex<bool>,
    /// The process lives and does not answer, as one that is stopped (SIGSTOP).
    pub is_unresponsive: Mutex<bool>,
    /// A port that another process listens on.
    pub occupied_port: Mutex<Option<Port>>,
    /// How long the proxy takes to apply a configuration.
    pub configure_delay: Mutex<Duration>,
    pub fuse: crate::world::fake::fuse::FailurePoint,
}

struct FakeWatchGuard;

impl LockGuard for FakeWatchGuard {}

impl FakeProxy {
    pub fn kill(&self) {
        *self.is_running.lock().unwrap() = false;
        *self.active_config.lock().unwrap() = ProxyConfig::default();
        self.exit_notify.notify_waiters();
    }

    /// Replaces the process as systemd does: another one lives before any look, and has no configuration.
    pub fn replace(&self) {
        self.kill();
        *self.is_running.lock().unwrap() = true;
        *self.start_count.lock().unwrap() += 1;
    }

    async fn respond_within(&self, bound: Duration) -> Result<(), ProxyError> {
        if *self.is_unresponsive.lock().unwrap() {
            tokio::time::sleep(bound).await;
            return Err(ProxyError::Unresponsive { why: "it is stopped".into() });
        }
        self.require_running()
    }

    /// The process that sends a request may be killed before.
    fn proceed_or_fail(&self) -> Result<(), ProxyError> {
        self.fuse.proceed_or(|| ProxyError::Unresponsive { why: "killed".into() })
    }

    fn require_running(&self) -> Result<(), ProxyError> {
        if *self.is_running.lock().unwrap() {
            Ok(())
        } else {
            Err(ProxyError::Unresponsive { why: "it is dead".into() })
        }
    }
}

#[async_trait]
impl Proxy for FakeProxy {
    async fn start(&self) -> Result<(), ProxyError> {
        self.proceed_or_fail()?;
        if *self.start_fails.lock().unwrap() {
            return Err(ProxyError::StartFailed { why: "it is broken".into() });
        }
        let mut alive = self.is_running.lock().unwrap();
        if !*alive {
            *alive = true;
            *self.start_count.lock().unwrap() += 1;
        }
        Ok(())
    }

    async fn configure(&self, config: &ProxyConfig) -> Result<(), ProxyError> {
        self.proceed_or_fail()?;
        self.respond_within(ANSWER_TIMEOUT).await?;
        let takes = *self.configure_delay.lock().unwrap();
        tokio::time::sleep(takes).await;
        self.told.lock().unwrap().push(config.clone());
        *self.active_config.lock().unwrap() = config.clone();
        Ok(())
    }

    async fn read_config(&self) -> Result<ProxyConfig, ProxyError> {
        self.respond_within(ANSWER_TIMEOUT).await?;
        Ok(self.active_config.lock().unwrap().clone())
    }

    async fn check_health(&self, bound: Duration) -> Result<ProxyHealth, ProxyError> {
        self.respond_within(bound).await?;
        let mut ports: BTreeSet<Port> =
            self.active_config.lock().unwrap().services.iter().map(|service| service.port).collect();
        let taken = self.occupied_port.lock().unwrap().filter(|port| ports.remove(port));
        let missing = taken.map(|port| (port, format!("cannot listen on port {port}: it is taken")));
        Ok(ProxyHealth { ports, missing: missing.into_iter().collect() })
    }

    async fn wait_for_exit(&self) {
        let died = self.exit_notify.notified();
        if self.require_running().is_ok() {
            died.await;
        }
    }

    async fn read_stats(&self) -> Result<ProxyStats, ProxyError> {
        self.respond_within(ANSWER_TIMEOUT).await?;
        Ok(self.stats.lock().unwrap().clone())
    }

    async fn read_evidence(&self, _: &ServiceName, _: &DeploymentId) -> Result<Option<Evidence>, ProxyError> {
        self.require_running().map(|()| None)
    }

    async fn stop(&self) -> Result<(), ProxyError> {
        self.proceed_or_fail()?;
        self.kill();
        Ok(())
    }

    fn keep(&self) -> Result<Option<Box<dyn LockGuard>>, ProxyError> {
        let by_another = *self.is_watched_elsewhere.lock().unwrap();
        Ok((!by_another).then(|| Box::new(FakeWatchGuard) as Box<dyn LockGuard>))
    }

    fn is_watched(&self) -> bool {
        !*self.is_unwatched.lock().unwrap()
    }
}
