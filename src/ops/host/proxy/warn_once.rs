//! Warnings of a reconciler, logged once for as long as the problem lasts.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::name::ServiceName;
use crate::world::HostWorld;
use crate::world::reporter::Event;

/// The part that has the problem.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum WarningKey {
    /// The proxy is not watched, or a dead proxy cannot be bypassed.
    Watch,
    /// The proxy cannot be configured as recorded.
    Config,
    /// The proxy cannot be inserted for one service, or its place cannot be given back.
    Service(ServiceName),
}

#[derive(Debug, Default)]
pub struct WarnOnce(Mutex<BTreeMap<WarningKey, String>>);

impl WarnOnce {
    pub fn raise(&self, world: &HostWorld, key: WarningKey, text: String) {
        let mut all = self.lock_warnings();
        if all.get(&key) != Some(&text) {
            world.reporter.report(&Event::Warning { text: text.clone() });
            all.insert(key, text);
        }
    }

    pub fn clear(&self, key: &WarningKey) {
        self.lock_warnings().remove(key);
    }

    fn lock_warnings(&self) -> MutexGuard<'_, BTreeMap<WarningKey, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
