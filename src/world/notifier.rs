//! Notifications about a roll, sent without waiting for the recipients.

use async_trait::async_trait;
use serde::Serialize;

use crate::model::name::{HostName, ServiceName};
use crate::model::roll::RollId;

/// The body of the POST to a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    pub event: NoticeEvent,
    pub roll: RollId,
    pub service: ServiceName,
    pub host: Option<HostName>,
    /// A sentence for people.
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
    /// Returns at once. A full queue drops the oldest notice and reports that.
    fn send(&self, notice: Notice);

    /// Waits for a limited time until every notice has arrived or was given up. Returns what was not delivered.
    async fn flush(&self) -> Vec<String>;
}
