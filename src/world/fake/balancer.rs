//! A balancer whose health check sees the forward of one host after a while.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::firewall::FakeFirewall;
use crate::model::balancer::{BackendView, BalancerSpec, ServerCounters, ServerState, StatsEndpoint};
use crate::model::example::{self, make_server};
use crate::world::balancer::{Balancer, BalancerError};

pub struct FakeBalancer {
    spec: BalancerSpec,
    firewall: Arc<FakeFirewall>,
    /// The delay between a change of the rule and the verdict.
    pub lag: Duration,
    pub state: Mutex<FakeBalancerState>,
}

#[derive(Default)]
pub struct FakeBalancerState {
    pub error: Option<BalancerError>,
    pub work: ServerCounters,
    pub other_main: Option<ServerState>,
    pub backup: Option<ServerState>,
    /// The result of its last check: a change that is taken back before it is noticed was never seen.
    last_observed_up: bool,
}

pub fn spec(name: &str) -> BalancerSpec {
    example::balancer(name, Some(StatsEndpoint::Unix("/run/fake.sock".into())))
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
        let (on, since) = self.firewall.read_forward_state();
        if since.is_none_or(|since| since.elapsed() >= self.lag) {
            state.last_observed_up = on;
        }
        let verdict = if state.last_observed_up { ServerState::Up } else { ServerState::Down };
        let mut main = make_server("main-web1", verdict);
        main.work = state.work;
        let servers = vec![
            main,
            make_server("backup-web1", state.backup.unwrap_or(ServerState::Up)),
            make_server("main-web2", state.other_main.unwrap_or(ServerState::Up)),
        ];
        Ok(Arc::new(BackendView::new(servers)))
    }
}
