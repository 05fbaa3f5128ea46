//! How soon to repair again, when another program or an operator keeps undoing the repairs.

use std::time::{Duration, Instant};

/// The number of repairs in a row that are made at once: a deploy tool or an administrator at work.
const FREE_REPAIRS: u32 = 5;
/// Repairs further apart than this are not in a row.
const RESET_INTERVAL: Duration = Duration::from_mins(1);
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Repairs in a row.
#[derive(Debug, Clone, Copy, Default)]
pub struct RepairBackoff {
    last_repair: Option<Instant>,
    consecutive: u32,
}

impl RepairBackoff {
    /// A repair was made, or failed, now: how long to wait before the next one. Each wait is twice the last, up to half a
    /// minute; it counts from the end of the wait.
    pub fn record_repair(&mut self, now: Instant) -> Option<Duration> {
        let calm = self.last_repair.is_none_or(|last| now.saturating_duration_since(last) > RESET_INTERVAL);
        self.consecutive = if calm { 1 } else { self.consecutive.saturating_add(1) };
        let pause = self.consecutive.checked_sub(FREE_REPAIRS + 1).map(|doublings| {
            let factor = 2u32.checked_pow(doublings).unwrap_or(u32::MAX);
            MIN_BACKOFF.saturating_mul(factor).min(MAX_BACKOFF)
        });
        self.last_repair = now.checked_add(pause.unwrap_or_default());
        pause
    }

    pub const fn consecutive(&self) -> u32 {
        self.consecutive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_starts_after_free_repairs_and_grows() {
        let (mut pace, mut now) = (RepairBackoff::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..13 {
            let pause = pace.record_repair(now);
            now += pause.unwrap_or_default() + Duration::from_millis(100);
            pauses.push(pause.map_or(0, |pause| pause.as_secs()));
        }
        assert_eq!(pauses, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(pace.record_repair(now + RESET_INTERVAL * 2), None);
        assert_eq!(pace.consecutive(), 1);
    }

    #[test]
    fn spaced_repairs_are_not_delayed() {
        let (mut pace, mut now) = (RepairBackoff::default(), Instant::now());
        for _ in 0..100 {
            now += RESET_INTERVAL + Duration::from_secs(1);
            assert_eq!(pace.record_repair(now), None);
        }
    }

    #[test]
    fn backoff_handles_any_number_of_repairs() {
        let mut backoff = RepairBackoff { last_repair: Some(Instant::now()), consecutive: u32::MAX - 1 };
        for _ in 0..3 {
            assert_eq!(backoff.record_repair(Instant::now()), Some(MAX_BACKOFF));
        }
    }
}
