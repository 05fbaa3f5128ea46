//! A stop request, passed down as a value. The first request ends waits at once and lets a change in progress finish. The
//! second one ends that change too.

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum StopRequest {
    NotRequested,
    Graceful,
    Immediate,
}

/// The receiving side. Clones receive the same request.
#[derive(Debug, Clone)]
pub struct StopToken {
    receiver: watch::Receiver<StopRequest>,
    /// The least request that this token receives.
    least: StopRequest,
}

/// The sending side.
#[derive(Debug)]
pub struct StopHandle(watch::Sender<StopRequest>);

pub fn create_channel() -> (StopHandle, StopToken) {
    let (sender, receiver) = watch::channel(StopRequest::NotRequested);
    (StopHandle(sender), StopToken { receiver, least: StopRequest::Graceful })
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
    /// A token that never receives a request, for work that must always finish.
    pub fn without_handle() -> Self {
        create_channel().1
    }

    pub fn is_requested(&self) -> bool {
        *self.receiver.borrow() >= self.least
    }

    /// A token that receives the second request alone, for work that is past its point of no return.
    #[must_use]
    pub fn for_immediate(&self) -> Self {
        Self { least: StopRequest::Immediate, ..self.clone() }
    }

    /// Returns when a stop was requested. Never returns when the handle was dropped without a request.
    pub async fn wait(&self) {
        self.wait_for(self.least).await;
    }

    /// Returns when a stop was requested a second time.
    pub async fn wait_immediate(&self) {
        self.wait_for(StopRequest::Immediate).await;
    }

    async fn wait_for(&self, wanted: StopRequest) {
        let mut receiver = self.receiver.clone();
        if receiver.wait_for(|asked| *asked >= wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
