//! A proxy without a process: what it was told, and whether it lives.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::model::deployment::DeploymentId;
use crate::model::evidence::Evidence;
use crate::model::name::ServiceName;
use crate::model::proxy::{ProxyConfig, ProxyStats};
use crate::world::proxy::{Proxy, ProxyError};
use crate::world::store::Exclusive;

#[derive(Default)]
pub struct FakeProxy {
    pub alive: Mutex<bool>,
    /// Starting it fails.
    pub broken: Mutex<bool>,
    pub told: Mutex<Vec<ProxyConfig>>,
    pub stats: Mutex<ProxyStats>,
    pub starts: Mutex<u32>,
    pub died: Notify,
    /// No agent watches it.
    pub alone: Mutex<bool>,
}

struct Kept;

impl Exclusive for Kept {}

impl FakeProxy {
    pub fn kill(&self) {
        *self.alive.lock().unwrap() = false;
        self.died.notify_waiters();
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
        self.is_alive()?;
        self.told.lock().unwrap().push(config.clone());
        Ok(())
    }

    async fn health(&self, _: Duration) -> Result<(), ProxyError> {
        self.is_alive()
    }

    async fn gone(&self) {
        let died = self.died.notified();
        if self.is_alive().is_ok() {
            died.await;
        }
    }

    async fn stats(&self) -> Result<ProxyStats, ProxyError> {
        self.is_alive()?;
        Ok(self.stats.lock().unwrap().clone())
    }

    async fn evidence(&self, _: &ServiceName, _: &DeploymentId) -> Result<Option<Evidence>, ProxyError> {
        self.is_alive().map(|()| None)
    }

    async fn stop(&self) -> Result<(), ProxyError> {
        *self.alive.lock().unwrap() = false;
        Ok(())
    }

    fn keep(&self) -> Result<Option<Box<dyn Exclusive>>, ProxyError> {
        Ok(Some(Box::new(Kept)))
    }

    fn is_kept(&self) -> bool {
        !*self.alone.lock().unwrap()
    }
}
