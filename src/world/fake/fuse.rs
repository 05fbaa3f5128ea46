//! A process that is killed between two of its deeds: from then on it does nothing any more.

use std::sync::{Arc, Mutex};

/// Shared by the fakes of one world.
#[derive(Clone, Default)]
pub struct FailurePoint(Arc<Mutex<Option<u32>>>);

impl FailurePoint {
    /// Sets how many deeds are done before none is. `None`: no end.
    pub fn set_limit(&self, deeds: Option<u32>) {
        *self.0.lock().unwrap() = deeds;
    }

    /// Fails like this when no more deed is done.
    pub fn proceed_or<E>(&self, error: impl FnOnce() -> E) -> Result<(), E> {
        if self.try_proceed() { Ok(()) } else { Err(error()) }
    }

    /// Whether one more deed is done.
    pub fn try_proceed(&self) -> bool {
        match &mut *self.0.lock().unwrap() {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}
