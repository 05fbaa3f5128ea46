//! The journal of roll-outs, in the same file as the lock and the journal of rolls.

use crate::model::history::Actor;
use crate::model::lock::Holder;
use crate::model::promote::{Ask, RolloutId, RolloutRow, RolloutWhat};

use super::journal::JournalError;

/// Every write is durable when the call returns. Writes take a millisecond, so they block.
pub trait Rollouts: Send + Sync {
    /// Adds one row, if `holder` still holds the lock: whoever lost it must not go on.
    fn append(
        &self,
        holder: &Holder,
        rollout: &RolloutId,
        what: &RolloutWhat,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError>;

    /// Adds what somebody asks of a roll-out, whoever holds the lock.
    fn ask(
        &self,
        rollout: &RolloutId,
        ask: Ask,
        actor: &Actor,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError>;

    /// The latest one.
    fn last(&self) -> Result<Option<RolloutId>, JournalError>;

    /// Its rows with a number above `after`, oldest first.
    fn rows(&self, rollout: &RolloutId, after: u64) -> Result<Vec<RolloutRow>, JournalError>;
}
