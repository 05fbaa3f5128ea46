//! The outside world as small traits, by meaning. `sys` implements them; tests use the fakes.

use std::fmt;
use std::sync::Arc;

pub mod balancer;
pub mod clock;
pub mod files;
pub mod firewall;
pub mod machine;
pub mod probe;
pub mod reporter;
pub mod sockets;
pub mod stop;
pub mod store;

#[cfg(test)]
pub mod fake;

/// One host's surroundings, built once by `main`.
#[derive(Clone)]
pub struct World {
    pub firewall: Arc<dyn firewall::Firewall>,
    /// In the order of `switchman.yaml`; only those that can be read.
    pub balancers: Vec<Arc<dyn balancer::Balancer>>,
    pub sockets: Arc<dyn sockets::Sockets>,
    pub probe: Arc<dyn probe::Probe>,
    pub store: Arc<dyn store::Store>,
    pub clock: Arc<dyn clock::Clock>,
    pub machine: Arc<dyn machine::Machine>,
    pub files: Arc<dyn files::Files>,
    pub reporter: Arc<dyn reporter::Reporter>,
    pub stop: stop::Stop,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("balancers", &self.balancers.len()).finish_non_exhaustive()
    }
}
