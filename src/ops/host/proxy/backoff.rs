//! When the proxy may be let in again where it could not be had.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::name::ServiceName;

/// After the first failure; doubled with every further one, at most `LONGEST`, and forgotten after `FORGET` without any.
const AGAIN: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);
const FORGET: Duration = Duration::from_mins(10);

/// Of each service apart: one whose main does not answer through the proxy costs the others nothing.
#[derive(Debug, Default)]
pub struct Pauses(Mutex<BTreeMap<ServiceName, Failures>>);

#[derive(Debug)]
struct Failures {
    in_a_row: u32,
    last: Instant,
}

impl Failures {
    fn pause(&self) -> Duration {
        (AGAIN * 2u32.saturating_pow(self.in_a_row.saturating_sub(1).min(8))).min(LONGEST)
    }
}

impl Pauses {
    /// Gives back how long the pause is.
    pub fn failed(&self, service: &ServiceName) -> Duration {
        let mut all = self.all();
        let failures =
            all.entry(service.clone()).or_insert_with(|| Failures { in_a_row: 0, last: Instant::now() });
        if failures.last.elapsed() >= FORGET {
            failures.in_a_row = 0;
        }
        failures.in_a_row += 1;
        failures.last = Instant::now();
        failures.pause()
    }

    pub fn is_over(&self, service: &ServiceName) -> bool {
        self.all().get(service).is_none_or(|failures| failures.last.elapsed() >= failures.pause())
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Failures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
