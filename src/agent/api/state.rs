//! The state that all routes of the host API share.

use std::sync::Arc;

use crate::agent::metrics::Metrics;
use crate::world::link::HostLink;
use crate::world::releases::ReleaseStore;

pub(in crate::agent) type Host = Arc<dyn HostLink>;

#[derive(Clone)]
pub(in crate::agent) struct ApiState {
    pub host: Host,
    /// Directory that holds an archive until it is complete.
    pub releases: Arc<dyn ReleaseStore>,
    pub metrics: Arc<Metrics>,
}
