//! Why there was no promotion.

use std::time::Duration;

use crate::model::duration;
use crate::model::name::HostName;
use crate::model::promote::PromotionId;
use crate::ops::fleet::lock::LockError;
use crate::plan::promote::PromotionProgress;
use crate::world::journal::JournalError;

/// Why there was no promotion at all, or why its state is not known.
#[derive(Debug, thiserror::Error)]
pub enum PromotionError {
    #[error("cannot promote: {0}")]
    Lock(#[from] LockError),
    #[error("the promotion {} of {} {} is not finished", .standing.promotion, .standing.spec.service, .standing.spec.version)]
    Unfinished { standing: Box<PromotionProgress> },
    #[error("there is no promotion to {verb}")]
    NotFound { verb: &'static str },
    #[error("the promotion {promotion} is finished: there is nothing to {verb}")]
    Finished { promotion: PromotionId, verb: &'static str },
    #[error("refused to promote: {}", .hosts.iter().map(|(host, why)| format!("{host}: {why}")).collect::<Vec<_>>().join("; "))]
    NotReady { hosts: Vec<(HostName, String)> },
    #[error("the promotion {promotion} is not waiting for approval")]
    NotWaitingForApproval { promotion: PromotionId },
    #[error("the promotion {promotion} was interrupted: no process runs it")]
    NotRunning { promotion: PromotionId },
    #[error(
        "cannot abort the promotion {promotion}: it has not ended after {}",
        duration::format(*waited)
    )]
    NotEnded { promotion: PromotionId, waited: Duration },
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error("`{0}` of that promotion is not in the configuration any more")]
    UnknownHost(HostName),
}
