//! "Stop, please", handed down as a value: waits end at once, a change under way is finished first. Asked a second time, it
//! means at once.

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Not,
    Once,
    AtOnce,
}

/// The side that listens. Clones hear the same request.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Asked>);

/// The side that asks.
#[derive(Debug)]
pub struct Stopper(watch::Sender<Asked>);

pub fn channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(Asked::Not);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    pub fn stop(&self) {
        self.ask(Asked::Once);
    }

    pub fn stop_at_once(&self) {
        self.ask(Asked::AtOnce);
    }

    fn ask(&self, asked: Asked) {
        self.0.send_modify(|now| *now = asked.max(*now));
    }
}

impl Stop {
    /// One that nobody will ever ask: for what is finished whatever comes.
    pub fn never() -> Self {
        channel().1
    }

    pub fn is_requested(&self) -> bool {
        *self.0.borrow() > Asked::Not
    }

    /// Returns when a stop was requested; never when the asking side is gone without asking.
    pub async fn requested(&self) {
        self.reached(Asked::Once).await;
    }

    /// Returns when it was asked a second time.
    pub async fn requested_at_once(&self) {
        self.reached(Asked::AtOnce).await;
    }

    async fn reached(&self, wanted: Asked) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|asked| *asked >= wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
