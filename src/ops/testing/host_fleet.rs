//! A fleet whose links are real hosts over fakes: for stories that place, merge and remove deployments.

use std::sync::Arc;

use super::site::{FakeSite, site};
use crate::model::host::Host;
use crate::model::rules::Family;
use crate::ops::host::api::LocalHost;
use crate::plan::firewall::read_redirects;
use crate::world::fake::firewall::FakeFirewall;
use crate::world::fake::{self, FakeWorld};
use crate::world::link::HostLink;

/// The hosts by their order in the fleet, with the site that they are part of.
pub struct HostFleet {
    pub site: FakeSite,
    pub hosts: Vec<FakeWorld>,
}

impl HostFleet {
    /// Makes hosts web1, web2... without balancers. Nothing is deployed on them.
    pub fn new(count: usize) -> Self {
        let mut site = site(count, 0);
        let hosts: Vec<FakeWorld> =
            (0..count).map(|_| fake::world(vec![], Arc::new(FakeFirewall::new(&[Family::V4])))).collect();
        for (host, fake) in site.fleet.hosts.iter().zip(&hosts) {
            let link: Arc<dyn HostLink> = Arc::new(LocalHost::new(fake.world.clone()));
            site.world.links.insert(host.name.clone(), link);
        }
        Self { site, hosts }
    }

    /// The host at a place in the fleet, as the target of a command.
    pub fn select(&self, at: usize) -> &[Host] {
        std::slice::from_ref(&self.site.fleet.hosts[at])
    }

    /// Kind and target port of every rule of a host.
    pub fn rules(&self, at: usize) -> Vec<(String, u16)> {
        let found = read_redirects(&self.hosts[at].firewall.table(Family::V4));
        found.into_iter().map(|one| (one.kind.as_str().to_owned(), one.target.get())).collect()
    }
}
