//! Telling others how a roll goes, without waiting for them.

use async_trait::async_trait;
use serde::Serialize;

use crate::model::name::{HostName, ServiceName};
use crate::model::roll::RollId;

/// What a webhook is told; the body of its POST.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    pub event: NoticeEvent,
    pub roll: RollId,
    pub service: ServiceName,
    pub host: Option<HostName>,
    /// One sentence for people.
    pub text: String,
    pub at: jiff::Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoticeEvent {
    Started,
    HostDone,
    Failed,
    Finished,
}

#[async_trait]
pub trait Notifier: Send + Sync {
    /// Returns at once; a full queue drops the oldest notice and says so.
    fn send(&self, notice: Notice);

    /// Waits, bounded, until what was sent has arrived or was given up; says what was not delivered.
    async fn flush(&self) -> Vec<String>;
}
