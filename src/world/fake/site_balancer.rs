//! A balancer of the site: what it says of every host, and what it is asked to close.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::MS;
use super::site::{Site, SiteHost};
use crate::model::balancer::{BackendView, BalancerSpec, ServerWork, Verdict};
use crate::model::example::server;
use crate::model::name::HostName;
use crate::world::balancer::{Balancer, BalancerError, Flush};

/// One line of what a balancer says: UP, drained, backup UP.
type Said = (bool, bool, bool);

pub(super) struct SiteBalancer {
    spec: BalancerSpec,
    site: Site,
    /// The last answer, given again while nothing of it has changed.
    last: Mutex<(Vec<Said>, Arc<BackendView>)>,
}

impl SiteBalancer {
    pub(super) fn new(spec: BalancerSpec, site: Site) -> Self {
        Self { spec, site, last: Mutex::default() }
    }

    fn view(&self, names: impl Iterator<Item = HostName>, said: &[Said]) -> BackendView {
        let verdict = |up: bool| if up { Verdict::Up } else { Verdict::Down };
        let mut servers = Vec::with_capacity(said.len() * 2);
        for (name, (up, drained, backup)) in names.zip(said) {
            let mut main = server(&self.spec.servers.main_of(&name), verdict(*up));
            main.work = ServerWork { sessions: u64::from(!drained), ..ServerWork::default() };
            servers.push(main);
            servers.push(server(&self.spec.servers.backup_of(&name), verdict(*backup)));
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
        if state.unread.contains(self.spec.name.as_str()) {
            return Err(BalancerError::Silent { address: "/run/fake.sock".into(), waited: MS * 2000 });
        }
        let said = |host: &SiteHost| (host.is_up(), host.is_drained(), host.backup_up);
        let said: Vec<Said> = state.hosts.values().map(said).collect();
        let mut last = self.last.lock().unwrap();
        if last.0 != said {
            let view = self.view(state.hosts.keys().cloned(), &said);
            *last = (said, Arc::new(view));
        }
        Ok(last.1.clone())
    }

    async fn close_idle(&self, server: &str) -> Result<Flush, BalancerError> {
        let mut state = self.site.lock();
        let updating = state.hosts.values().find_map(|host| host.updating);
        state.flushed.push((server.to_owned(), updating));
        Ok(if state.admin { Flush::Closed } else { Flush::NotAllowed })
    }
}
