//! "Stop, please", handed down as a value: waits end at once, a change under way is finished first.

use tokio::sync::watch;

/// The side that listens. Clones hear the same request.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// The side that asks, once and for good.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

pub fn channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    pub fn stop(&self) {
        // Nobody listening any more is fine: there is nothing left to stop.
        let _ = self.0.send(true);
    }
}

impl Stop {
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when a stop was requested; never when the asking side is gone without asking.
    pub async fn requested(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
