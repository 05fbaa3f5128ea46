//! What a keeper cannot do, told once for as long as it lasts.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::name::ServiceName;
use crate::world::HostWorld;
use crate::world::reporter::Event;

/// Who has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// Nobody is led past a proxy that is gone, or nobody knows.
    Watch,
    /// It is not told what is recorded.
    Telling,
    /// One service is not let in, or its place is not given back.
    Service(ServiceName),
}

#[derive(Debug, Default)]
pub struct Troubles(Mutex<BTreeMap<Whose, String>>);

impl Troubles {
    pub fn is(&self, world: &HostWorld, whose: Whose, text: String) {
        let mut all = self.all();
        if all.get(&whose) != Some(&text) {
            world.reporter.report(&Event::Warning { text: text.clone() });
            all.insert(whose, text);
        }
    }

    pub fn is_over(&self, whose: &Whose) {
        self.all().remove(whose);
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Whose, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
