//! What a keeper cannot do, told once for as long as it lasts.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::name::ServiceName;
use crate::world::HostWorld;
use crate::world::reporter::Event;

/// Who has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum WarningKey {
    /// Nobody is led past a proxy that is gone, or nobody knows.
    Watch,
    /// It is not told what is recorded.
    Config,
    /// One service is not let in, or its place is not given back.
    Service(ServiceName),
}

#[derive(Debug, Default)]
pub struct WarnOnce(Mutex<BTreeMap<WarningKey, String>>);

impl WarnOnce {
    pub fn raise(&self, world: &HostWorld, whose: WarningKey, text: String) {
        let mut all = self.lock_warnings();
        if all.get(&whose) != Some(&text) {
            world.reporter.report(&Event::Warning { text: text.clone() });
            all.insert(whose, text);
        }
    }

    pub fn clear(&self, whose: &WarningKey) {
        self.lock_warnings().remove(whose);
    }

    fn lock_warnings(&self) -> MutexGuard<'_, BTreeMap<WarningKey, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
