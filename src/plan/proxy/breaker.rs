//! Whether a shadow is worth another try.

use std::time::{Duration, Instant};

/// So many failures in a row open it.
const FAILURES: u32 = 5;
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// After [`FAILURES`] in a row nothing is tried for a while; then one copy is, whose end decides. Each pause is twice the
/// last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Breaker {
    in_a_row: u32,
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    until: Instant,
    pause: Duration,
    /// One copy is under way to find out.
    trying: bool,
}

impl Breaker {
    /// Whether a copy may begin now. Whoever got a yes reports its end.
    pub fn admits(&mut self, now: Instant) -> bool {
        match &mut self.open {
            None => true,
            Some(open) if open.trying || now < open.until => false,
            Some(open) => {
                open.trying = true;
                true
            }
        }
    }

    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub fn failed(&mut self, now: Instant) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        let pause = match self.open {
            // The ends of copies that were begun before it opened say nothing new.
            Some(open) if !open.trying => return,
            Some(open) => (open.pause * 2).min(LONGEST),
            None if self.in_a_row < FAILURES => return,
            None => SHORTEST,
        };
        self.open = Some(Open { until: now + pause, pause, trying: false });
    }

    /// A copy ended for a reason that says nothing of the shadow.
    pub fn undecided(&mut self) {
        if let Some(open) = &mut self.open {
            open.trying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            assert!(breaker.admits(now));
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn five_failures_in_a_row_open_it() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert!(!breaker.admits(now) && !breaker.admits(now + ms(99)));
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            for _ in 1..FAILURES {
                breaker.failed(now);
            }
            breaker.succeeded();
        }
        assert!(breaker.admits(now) && breaker.admits(now));
    }

    #[test]
    fn one_copy_finds_out_and_each_pause_is_twice_the_last() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for pause in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            assert!(!breaker.admits(now + ms(pause - 1)), "{pause}");
            now += ms(pause);
            assert!(breaker.admits(now) && !breaker.admits(now), "{pause}");
            breaker.failed(now);
        }
        now += ms(5000);
        assert!(breaker.admits(now));
        breaker.succeeded();
        assert!(breaker.admits(now) && breaker.admits(now));
    }

    #[test]
    fn a_try_without_a_verdict_is_made_again() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert!(breaker.admits(now + ms(100)));
        breaker.undecided();
        assert!(breaker.admits(now + ms(100)));
    }
}
