//! Whether a shadow is worth another try.

use std::time::{Duration, Instant};

/// The number of failures in a row that opens the breaker.
const FAILURE_LIMIT: u32 = 5;
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// After [`FAILURES`] in a row nothing is tried for a while; then one copy is, whose end decides. Each pause is twice the
/// last.
#[derive(Debug, Clone, Copy, Default)]
pub struct CircuitBreaker {
    consecutive_failures: u32,
    open_state: Option<OpenState>,
}

#[derive(Debug, Clone, Copy)]
struct OpenState {
    retry_at: Instant,
    backoff: Duration,
    /// A single copy is in flight as a probe.
    is_probing: bool,
}

impl CircuitBreaker {
    /// Whether a copy may begin now. A caller that got `true` reports the copy's end.
    pub fn try_admit(&mut self, now: Instant) -> bool {
        match &mut self.open_state {
            None => true,
            Some(open) if open.is_probing || now < open.retry_at => false,
            Some(open) => {
                open.is_probing = true;
                true
            }
        }
    }

    pub fn record_success(&mut self) {
        *self = Self::default();
    }

    pub fn record_failure(&mut self, now: Instant) {
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        let pause = match self.open_state {
            // The ends of copies that were begun before it opened add nothing new.
            Some(open) if !open.is_probing => return,
            Some(open) => (open.backoff * 2).min(MAX_BACKOFF),
            None if self.consecutive_failures < FAILURE_LIMIT => return,
            None => MIN_BACKOFF,
        };
        self.open_state = Some(OpenState { retry_at: now + pause, backoff: pause, is_probing: false });
    }

    /// Records that a copy ended for a reason unrelated to the shadow.
    pub fn record_inconclusive(&mut self) {
        if let Some(open) = &mut self.open_state {
            open.is_probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn from_ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn make_open_breaker(now: Instant) -> CircuitBreaker {
        let mut breaker = CircuitBreaker::default();
        for _ in 0..FAILURE_LIMIT {
            assert!(breaker.try_admit(now));
            breaker.record_failure(now);
        }
        breaker
    }

    #[test]
    fn breaker_opens_after_five_consecutive_failures() {
        let now = Instant::now();
        let mut breaker = make_open_breaker(now);
        assert!(!breaker.try_admit(now) && !breaker.try_admit(now + from_ms(99)));
        let mut breaker = CircuitBreaker::default();
        for _ in 0..100 {
            for _ in 1..FAILURE_LIMIT {
                breaker.record_failure(now);
            }
            breaker.record_success();
        }
        assert!(breaker.try_admit(now) && breaker.try_admit(now));
    }

    #[test]
    fn breaker_probes_once_and_doubles_its_backoff() {
        let mut now = Instant::now();
        let mut breaker = make_open_breaker(now);
        for pause in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            assert!(!breaker.try_admit(now + from_ms(pause - 1)), "{pause}");
            now += from_ms(pause);
            assert!(breaker.try_admit(now) && !breaker.try_admit(now), "{pause}");
            breaker.record_failure(now);
        }
        now += from_ms(5000);
        assert!(breaker.try_admit(now));
        breaker.record_success();
        assert!(breaker.try_admit(now) && breaker.try_admit(now));
    }

    #[test]
    fn inconclusive_probe_is_repeated() {
        let now = Instant::now();
        let mut breaker = make_open_breaker(now);
        assert!(breaker.try_admit(now + from_ms(100)));
        breaker.record_inconclusive();
        assert!(breaker.try_admit(now + from_ms(100)));
    }
}
