//! How soon to repair again, when somebody keeps undoing the repairs.

use std::time::{Duration, Instant};

/// So many repairs in a row are made at once: a deploy tool or an administrator at work.
const FREE: u32 = 5;
/// Repairs further apart than this are not in a row.
const CALM: Duration = Duration::from_mins(1);
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Repairs in a row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    last: Option<Instant>,
    in_a_row: u32,
}

impl Pace {
    /// A repair was made, or failed, now: how long to wait before the next one. Each wait is twice the last, up to half a
    /// minute; it counts from the end of the wait.
    pub fn repaired(&mut self, now: Instant) -> Option<Duration> {
        let calm = self.last.is_none_or(|last| now.saturating_duration_since(last) > CALM);
        self.in_a_row = if calm { 1 } else { self.in_a_row.saturating_add(1) };
        let pause = self.in_a_row.checked_sub(FREE + 1).map(|doublings| {
            let factor = 2u32.checked_pow(doublings).unwrap_or(u32::MAX);
            SHORTEST.saturating_mul(factor).min(LONGEST)
        });
        self.last = now.checked_add(pause.unwrap_or_default());
        pause
    }

    pub const fn in_a_row(&self) -> u32 {
        self.in_a_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_repairs_are_made_at_once_then_ever_later() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..13 {
            let pause = pace.repaired(now);
            now += pause.unwrap_or_default() + Duration::from_millis(100);
            pauses.push(pause.map_or(0, |pause| pause.as_secs()));
        }
        assert_eq!(pauses, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(pace.repaired(now + CALM * 2), None);
        assert_eq!(pace.in_a_row(), 1);
    }

    #[test]
    fn repairs_that_are_far_apart_are_never_held_back() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..100 {
            now += CALM + Duration::from_secs(1);
            assert_eq!(pace.repaired(now), None);
        }
    }

    #[test]
    fn no_number_of_repairs_is_too_many() {
        let mut pace = Pace { last: Some(Instant::now()), in_a_row: u32::MAX - 1 };
        for _ in 0..3 {
            assert_eq!(pace.repaired(Instant::now()), Some(LONGEST));
        }
    }
}
