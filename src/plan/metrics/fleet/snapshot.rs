//! What the operator machine knows of a fleet at one moment.

use crate::model::api::HostView;
use crate::model::name::{HostName, ServiceName};
use crate::plan::promote::PromotionProgress;
use crate::plan::roll::progress::RollProgress;

#[derive(Debug, Clone)]
pub struct HostSnapshot {
    pub host: HostName,
    pub is_up: bool,
    /// The view that the host reports of each service; a service without one is absent.
    pub views: Vec<(ServiceName, HostView)>,
}

/// The state of a service in the journal.
#[derive(Debug, Clone)]
pub struct ServiceSnapshot {
    pub service: ServiceName,
    pub journal: Result<JournalSnapshot, String>,
}

#[derive(Debug, Clone)]
pub struct JournalSnapshot {
    /// The last roll.
    pub roll: Option<RollProgress>,
    /// The last promotion.
    pub promotion: Option<PromotionProgress>,
    pub is_locked: bool,
    /// Whether the holder of the lock may be alive.
    pub is_holder_alive: bool,
}
