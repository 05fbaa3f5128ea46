//! When a program that ended by itself is started again. Pure: time is an argument.

use std::time::Duration;

use super::instance_dir::Tuning;

/// How often in a row it did not run well.
#[derive(Debug, Default)]
pub struct RestartBackoff {
    in_a_row: u32,
}

impl RestartBackoff {
    /// The pause before the next start, after a run of this length (`None`: it could not even be started).
    pub fn pause(&mut self, ran: Option<Duration>, tuning: &Tuning) -> Duration {
        if ran.is_some_and(|ran| ran >= tuning.stable_after) {
            self.in_a_row = 0;
        }
        let factor = 1_u32.checked_shl(self.in_a_row).unwrap_or(u32::MAX);
        self.in_a_row = self.in_a_row.saturating_add(1);
        tuning.initial_backoff.saturating_mul(factor).min(tuning.max_backoff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_begin_anew_after_a_good_run() {
        let (tuning, mut restarts) = (Tuning::default(), RestartBackoff::default());
        let crash = Some(Duration::from_millis(3));
        let pauses: Vec<u128> = (0..10).map(|_| restarts.pause(crash, &tuning).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000]);
        for _ in 0..100 {
            assert_eq!(restarts.pause(None, &tuning).as_secs(), 30);
        }
        assert_eq!(restarts.pause(Some(Duration::from_secs(10)), &tuning).as_millis(), 100);
        assert_eq!(restarts.pause(crash, &tuning).as_millis(), 200);
    }
}
