//! "Stop, please", handed down as a value: waits end at once, a change under way is finished first. Asked a second time, it
//! means at once.

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum StopRequest {
    NotRequested,
    Graceful,
    Immediate,
}

/// The side that listens. Clones hear the same request.
#[derive(Debug, Clone)]
pub struct StopToken(watch::Receiver<StopRequest>);

/// The side that asks.
#[derive(Debug)]
pub struct StopHandle(watch::Sender<StopRequest>);

pub fn create_channel() -> (StopHandle, StopToken) {
    let (sender, receiver) = watch::channel(StopRequest::NotRequested);
    (StopHandle(sender), StopToken(receiver))
}

impl StopHandle {
    pub fn stop(&self) {
        self.send_request(StopRequest::Graceful);
    }

    pub fn stop_at_once(&self) {
        self.send_request(StopRequest::Immediate);
    }

    fn send_request(&self, asked: StopRequest) {
        self.0.send_modify(|now| *now = asked.max(*now));
    }
}

impl StopToken {
    /// One that nobody will ever ask: for what is finished whatever comes.
    pub fn without_handle() -> Self {
        create_channel().1
    }

    pub fn is_requested(&self) -> bool {
        *self.0.borrow() > StopRequest::NotRequested
    }

    /// Returns when a stop was requested; never when the asking side is gone without asking.
    pub async fn wait(&self) {
        self.wait_for(StopRequest::Graceful).await;
    }

    /// Returns when it was asked a second time.
    pub async fn wait_immediate(&self) {
        self.wait_for(StopRequest::Immediate).await;
    }

    async fn wait_for(&self, wanted: StopRequest) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|asked| *asked >= wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
