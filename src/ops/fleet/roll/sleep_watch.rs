//! Notices that the process slept: its machine was suspended, or the process was stopped. Another one may have taken the
//! lock since.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::world::FleetWorld;

/// The longest sleep that needs no renewed look at the lock: far below the silence after which others take it over.
const MAX_SLEEP: Duration = Duration::from_secs(4);

/// A process that runs looks at the clocks this often, also while it waits for a slow host.
const TICK: Duration = Duration::from_secs(1);

/// Runs futures, and looks at both clocks in between: the first stops while the machine sleeps, the second can be set.
pub(super) struct SleepWatch<'a> {
    world: &'a FleetWorld,
    monotonic: Instant,
    wall: jiff::Timestamp,
    slept: bool,
}

impl<'a> SleepWatch<'a> {
    pub(super) fn new(world: &'a FleetWorld) -> Self {
        Self { world, monotonic: Instant::now(), wall: world.clock.now(), slept: false }
    }

    /// Runs a future to its end.
    pub(super) async fn run<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let ended = tokio::select! {
                output = &mut work => Some(output),
                () = tokio::time::sleep(TICK) => None,
            };
            self.look();
            if let Some(output) = ended {
                return output;
            }
        }
    }

    /// Returns whether the process slept for so long that another one may have the lock.
    pub(super) const fn has_slept(&self) -> bool {
        self.slept
    }

    fn look(&mut self) {
        let (monotonic, wall) = (Instant::now(), self.world.clock.now());
        let by_wall = wall.duration_since(self.wall).unsigned_abs();
        self.slept |= (monotonic - self.monotonic).max(by_wall) > MAX_SLEEP;
        (self.monotonic, self.wall) = (monotonic, wall);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::site::site;

    #[tokio::test(start_paused = true)]
    async fn slow_work_is_no_sleep() {
        let fake = site(0, 0);
        let mut watch = SleepWatch::new(&fake.world);
        watch.run(tokio::time::sleep(Duration::from_mins(5))).await;
        assert!(!watch.has_slept());
    }

    #[tokio::test(start_paused = true)]
    async fn sleep_is_noticed_in_any_work_and_after_it() {
        let fake = site(0, 0);
        for (sleep, expected) in [(Duration::from_secs(3), false), (Duration::from_secs(9), true)] {
            let mut watch = SleepWatch::new(&fake.world);
            watch.run(tokio::time::advance(sleep)).await;
            watch.run(tokio::time::sleep(Duration::from_millis(10))).await;
            assert_eq!(watch.has_slept(), expected, "{sleep:?}");
        }
    }
}
