//! The journal of promotions, in the same file as the lock and the journal of rolls.

use crate::model::history::Actor;
use crate::model::lock::Holder;
use crate::model::promote::{OperatorRequest, PromotionEntry, PromotionEntryKind, PromotionId};

use super::journal::JournalError;

/// Every write is durable when the call returns. Writes take a millisecond, so they block.
pub trait PromotionJournal: Send + Sync {
    /// Adds one row if `holder` still holds the lock. A process that has lost the lock must not go on.
    fn append(
        &self,
        holder: &Holder,
        promotion: &PromotionId,
        subject: &PromotionEntryKind,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError>;

    /// Adds an operator's request to a promotion. It does not require the lock.
    fn ask(
        &self,
        promotion: &PromotionId,
        ask: OperatorRequest,
        actor: &Actor,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError>;

    /// The latest promotion.
    fn last_promotion(&self) -> Result<Option<PromotionId>, JournalError>;

    /// The rows of a promotion with a number above `after`, oldest first.
    fn rows(&self, promotion: &PromotionId, after: u64) -> Result<Vec<PromotionEntry>, JournalError>;
}
