//! A clock that goes with tokio's, and a reporter that listens.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::world::clock::Clock;
use crate::world::link::SharedLineSink;
use crate::world::reporter::{Event, Reporter};

/// Wall-clock time that goes with tokio's.
#[derive(Clone, Copy)]
pub struct PausedClock(pub Instant);

impl PausedClock {
    pub fn at(self, moment: Instant) -> jiff::Timestamp {
        let since = moment.saturating_duration_since(self.0);
        jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::try_from(since).unwrap_or_default()
    }
}

impl Clock for PausedClock {
    fn now(&self) -> jiff::Timestamp {
        self.at(Instant::now())
    }
}

/// Waits until a condition holds, and looks once a step.
pub async fn wait_until(step: Duration, holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(step).await;
    }
}

/// Makes a sink and the lines that it has received.
pub fn record_lines() -> (SharedLineSink, Arc<Mutex<Vec<String>>>) {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let received = lines.clone();
    (Arc::new(move |line: &str| received.lock().unwrap().push(line.to_owned())), lines)
}

pub struct EventRecorder(pub Arc<Mutex<Vec<Event>>>);

impl Reporter for EventRecorder {
    fn report(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

/// The result of a future that waits for nothing, as those of the fakes' journal do.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(future).expect("it waits for something")
}
