//! A proxy without a process: what it was told, and whether it lives.

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
use crate::world::store::Exclusive;

/// Bound on an answer.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct FakeProxy {
    pub alive: Mutex<bool>,
    /// Starting it fails.
    pub broken: Mutex<bool>,
    /// By all who lived.
    pub told: Mutex<Vec<ProxyConfig>>,
    /// What the one that lives does.
    pub does: Mutex<ProxyConfig>,
    pub stats: Mutex<ProxyStats>,
    pub starts: Mutex<u32>,
    pub died: Notify,
    /// No agent watches it.
    pub alone: Mutex<bool>,
    /// Another agent watches it.
    pub kept_by_another: Mutex<bool>,
    /// It lives and does not answer, as one that is stopped (SIGSTOP).
    pub silent: Mutex<bool>,
    /// Somebody else listens there.
    pub taken: Mutex<Option<Port>>,
    /// To do what it is told.
    pub takes: Mutex<Duration>,
    pub fuse: crate::world::fake::fuse::Fuse,
}

struct Kept;

impl Exclusive for Kept {}

impl FakeProxy {
    pub fn kill(&self) {
        *self.alive.lock().unwrap() = false;
        *self.does.lock().unwrap() = ProxyConfig::default();
        self.died.notify_waiters();
    }

    /// As systemd does it: another one lives before anybody has looked, and was told nothing.
    pub fn replace(&self) {
        self.kill();
        *self.alive.lock().unwrap() = true;
        *self.starts.lock().unwrap() += 1;
    }

    async fn heard(&self, bound: Duration) -> Result<(), ProxyError> {
        if *self.silent.lock().unwrap() {
            tokio::time::sleep(bound).await;
            return Err(ProxyError::Silent { why: "it is stopped".into() });
        }
        self.is_alive()
    }

    /// Whoever asks for it may be killed before.
    fn deed(&self) -> Result<(), ProxyError> {
        if self.fuse.burn() { Ok(()) } else { Err(ProxyError::Silent { why: "killed".into() }) }
    }

    fn is_alive(&self) -> Result<(), ProxyError> {
        if *self.alive.lock().unwrap() {
            Ok(())
        } else {
            Err(ProxyError::Silent { why: "it is dead".into() })
        }
    }
}

#[async_trait]
impl Proxy for FakeProxy {
    async fn start(&self) -> Result<(), ProxyError> {
        self.deed()?;
        if *self.broken.lock().unwrap() {
            return Err(ProxyError::NotStarted { why: "it is broken".into() });
        }
        let mut alive = self.alive.lock().unwrap();
        if !*alive {
            *alive = true;
            *self.starts.lock().unwrap() += 1;
        }
        Ok(())
    }

    async fn configure(&self, config: &ProxyConfig) -> Result<(), ProxyError> {
        self.deed()?;
        self.heard(ANSWER).await?;
        let takes = *self.takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        self.told.lock().unwrap().push(config.clone());
        *self.does.lock().unwrap() = config.clone();
        Ok(())
    }

    async fn config(&self) -> Result<ProxyConfig, ProxyError> {
        self.heard(ANSWER).await?;
        Ok(self.does.lock().unwrap().clone())
    }

    async fn health(&self, bound: Duration) -> Result<ProxyHealth, ProxyError> {
        self.heard(bound).await?;
        let mut ports: BTreeSet<Port> =
            self.does.lock().unwrap().services.iter().map(|service| service.port).collect();
        let taken = self.taken.lock().unwrap().filter(|port| ports.remove(port));
        let missing = taken.map(|port| (port, format!("cannot listen on port {port}: it is taken")));
        Ok(ProxyHealth { ports, missing: missing.into_iter().collect() })
    }

    async fn gone(&self) {
        let died = self.died.notified();
        if self.is_alive().is_ok() {
            died.await;
        }
    }

    async fn stats(&self) -> Result<ProxyStats, ProxyError> {
        self.heard(ANSWER).await?;
        Ok(self.stats.lock().unwrap().clone())
    }

    async fn evidence(&self, _: &ServiceName, _: &DeploymentId) -> Result<Option<Evidence>, ProxyError> {
        self.is_alive().map(|()| None)
    }

    async fn stop(&self) -> Result<(), ProxyError> {
        self.deed()?;
        self.kill();
        Ok(())
    }

    fn keep(&self) -> Result<Option<Box<dyn Exclusive>>, ProxyError> {
        let by_another = *self.kept_by_another.lock().unwrap();
        Ok((!by_another).then(|| Box::new(Kept) as Box<dyn Exclusive>))
    }

    fn is_kept(&self) -> bool {
        !*self.alone.lock().unwrap()
    }
}
