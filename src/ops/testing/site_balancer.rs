//! A balancer of the site: its report on every host, and its requests to close connections.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::site::{SharedSite, SiteHost};
use crate::model::balancer::{BackendView, BalancerSpec, ServerCounters, ServerState};
use crate::model::example::make_server;
use crate::model::name::HostName;
use crate::world::balancer::{Balancer, BalancerError, FlushResult};
use crate::world::fake::MS;

/// The flags of one server in a balancer's report: UP, drained, backup UP.
type ServerFlags = (bool, bool, bool);

pub(super) struct SiteBalancer {
    spec: BalancerSpec,
    site: SharedSite,
    /// The last answer, given again while nothing of it has changed.
    last_view: Mutex<(Vec<ServerFlags>, Arc<BackendView>)>,
}

impl SiteBalancer {
    pub(super) fn new(spec: BalancerSpec, site: SharedSite) -> Self {
        Self { spec, site, last_view: Mutex::default() }
    }

    fn build_view(&self, names: impl Iterator<Item = HostName>, said: &[ServerFlags]) -> BackendView {
        let verdict = |up: bool| if up { ServerState::Up } else { ServerState::Down };
        let mut servers = Vec::with_capacity(said.len() * 2);
        for (name, (up, drained, backup)) in names.zip(said) {
            let mut main = make_server(&self.spec.servers.main_server_name(&name), verdict(*up));
            main.work = ServerCounters { sessions: u64::from(!drained), ..ServerCounters::default() };
            servers.push(main);
            servers.push(make_server(&self.spec.servers.backup_server_name(&name), verdict(*backup)));
        }
        BackendView::new(servers)
    }
}

#[async_trait]
impl Balancer for SiteBalancer {
    fn spec(&self) -> &BalancerSpec {
        &self.spec
    }

    async fn read(&self) -> Result<Arc<BackendView>, BalancerError> {
        let state = self.site.lock();
        if state.unreadable_balancers.contains(self.spec.name.as_str()) {
            return Err(BalancerError::TimedOut { address: "/run/fake.sock".into(), waited: MS * 2000 });
        }
        let said = |host: &SiteHost| (host.is_up(), host.is_drained(), host.is_backup_up);
        let said: Vec<ServerFlags> = state.hosts.values().map(said).collect();
        let mut last = self.last_view.lock().unwrap();
        if last.0 != said {
            let view = self.build_view(state.hosts.keys().cloned(), &said);
            *last = (said, Arc::new(view));
        }
        Ok(last.1.clone())
    }

    async fn close_idle(&self, server: &str) -> Result<FlushResult, BalancerError> {
        let mut state = self.site.lock();
        let updating = state.hosts.values().find_map(|host| host.update_has_traffic);
        state.flushed.push((server.to_owned(), updating));
        Ok(if state.has_admin_socket { FlushResult::Closed } else { FlushResult::NotAllowed })
    }
}
