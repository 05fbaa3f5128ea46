//! Why there was no promotion.

use std::time::Duration;

use crate::model::duration;
use crate::model::name::{HostName, ServiceName};
use crate::model::promote::PromotionId;
use crate::model::version::Version;
use crate::ops::fleet::lock::LockError;
use crate::plan::promote::{PreflightError, PromotionProgress};
use crate::world::journal_store::JournalError;
use crate::world::link::LinkError;

/// Why there was no promotion at all, or why its state is not known.
#[derive(Debug, thiserror::Error)]
pub enum PromotionError {
    #[error("cannot run the promotion: {0}")]
    Lock(#[from] LockError),
    #[error("cannot start a promotion: promotion {} of {} {} is not finished", .progress.promotion, .progress.spec.service, .progress.spec.version)]
    Unfinished { progress: Box<PromotionProgress> },
    #[error("cannot {verb} a promotion: the journal has none")]
    NotFound { service: ServiceName, verb: &'static str },
    #[error("cannot {verb} promotion {promotion}: it is finished")]
    Finished { service: ServiceName, promotion: PromotionId, verb: &'static str },
    #[error("cannot start the promotion: {}", .hosts.iter().map(|(host, error)| format!("`{host}`: {error}")).collect::<Vec<_>>().join("; "))]
    NotReady { hosts: Vec<(HostName, NotReadyError)> },
    #[error("cannot approve promotion {promotion}: it is not waiting for approval")]
    NotWaitingForApproval { service: ServiceName, promotion: PromotionId },
    #[error("cannot approve promotion {promotion}: it was interrupted, and no process runs it")]
    NotRunning { service: ServiceName, promotion: PromotionId },
    #[error(
        "cannot abort promotion {promotion}: it has not ended after {}",
        duration::format(*waited)
    )]
    NotEnded { service: ServiceName, promotion: PromotionId, waited: Duration },
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error("cannot continue the promotion: its host `{0}` is not in the configuration any more")]
    UnknownHost(HostName),
}

/// Why a promotion cannot begin on a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReadyError {
    #[error(transparent)]
    Refused(#[from] PreflightError),
    #[error("{service} {version} does not answer its health check: {reason}")]
    Unhealthy { service: ServiceName, version: Version, reason: String },
    #[error(transparent)]
    Unread(#[from] LinkError),
}
