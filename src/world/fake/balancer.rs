//! A balancer whose health check sees the forward of one host after a while.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::firewall::FakeFirewall;
use crate::model::balancer::{Access, BackendView, BalancerSpec, ServerWork, Verdict};
use crate::model::example::{self, server};
use crate::world::balancer::{Balancer, BalancerError};

pub struct FakeBalancer {
    spec: BalancerSpec,
    firewall: Arc<FakeFirewall>,
    /// From a change of the rule to the verdict.
    pub lag: Duration,
    pub state: Mutex<FakeState>,
}

#[derive(Default)]
pub struct FakeState {
    pub error: Option<BalancerError>,
    pub work: ServerWork,
    pub other_main: Option<Verdict>,
    pub backup: Option<Verdict>,
    /// What its check said last: a change that is taken back before it is noticed was never seen.
    up: bool,
}

pub fn spec(name: &str) -> BalancerSpec {
    example::balancer(name, Some(Access::Unix("/run/fake.sock".into())))
}

impl FakeBalancer {
    pub fn new(name: &str, firewall: &Arc<FakeFirewall>, lag: Duration) -> Self {
        Self { spec: spec(name), firewall: firewall.clone(), lag, state: Mutex::default() }
    }
}

#[async_trait]
impl Balancer for FakeBalancer {
    fn spec(&self) -> &BalancerSpec {
        &self.spec
    }

    async fn read(&self) -> Result<Arc<BackendView>, BalancerError> {
        let mut state = self.state.lock().unwrap();
        if let Some(error) = &state.error {
            return Err(error.clone());
        }
        let (on, since) = self.firewall.forward_on();
        if since.is_none_or(|since| since.elapsed() >= self.lag) {
            state.up = on;
        }
        let verdict = if state.up { Verdict::Up } else { Verdict::Down };
        let mut main = server("main-web1", verdict);
        main.work = state.work;
        let servers = vec![
            main,
            server("backup-web1", state.backup.unwrap_or(Verdict::Up)),
            server("main-web2", state.other_main.unwrap_or(Verdict::Up)),
        ];
        Ok(Arc::new(BackendView::new(servers)))
    }
}
