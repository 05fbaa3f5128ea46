//! The time at which the proxy may be inserted again after a failure.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::name::ServiceName;

/// After the first failure; doubled with every further one, at most `LONGEST`, and forgotten after `FORGET` without any.
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_mins(1);
const RESET_AFTER: Duration = Duration::from_mins(10);

/// Backoffs per service: a service whose main does not answer through the proxy costs the others nothing.
#[derive(Debug, Default)]
pub struct RetryBackoff(Mutex<BTreeMap<ServiceName, ServiceFailures>>);

#[derive(Debug)]
struct ServiceFailures {
    consecutive: u32,
    last: Instant,
}

impl ServiceFailures {
    fn backoff(&self) -> Duration {
        (INITIAL_BACKOFF * 2u32.saturating_pow(self.consecutive.saturating_sub(1).min(8))).min(MAX_BACKOFF)
    }
}

impl RetryBackoff {
    /// Records a failure and returns the backoff that follows it.
    pub fn record_failure(&self, service: &ServiceName) -> Duration {
        let mut all = self.lock_failures();
        let failures = all
            .entry(service.clone())
            .or_insert_with(|| ServiceFailures { consecutive: 0, last: Instant::now() });
        if failures.last.elapsed() >= RESET_AFTER {
            failures.consecutive = 0;
        }
        failures.consecutive += 1;
        failures.last = Instant::now();
        failures.backoff()
    }

    pub fn is_elapsed(&self, service: &ServiceName) -> bool {
        self.lock_failures().get(service).is_none_or(|failures| failures.last.elapsed() >= failures.backoff())
    }

    fn lock_failures(&self) -> MutexGuard<'_, BTreeMap<ServiceName, ServiceFailures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
