//! The half of the journal about promotions.

use super::journal::FakeJournal;
use crate::model::history::Actor;
use crate::model::lock::Holder;
use crate::model::promote::{OperatorRequest, PromotionEntry, PromotionEntryKind, PromotionId};
use crate::world::journal::JournalError;
use crate::world::promotions::PromotionJournal;

impl FakeJournal {
    fn write(&self, promotion: &PromotionId, what: PromotionEntryKind, at: jiff::Timestamp) {
        let mut rows = self.promotion_entries.lock().unwrap();
        let number = rows.len() as u64 + 1;
        rows.push(PromotionEntry { number, promotion: promotion.clone(), at, kind: what });
    }
}

impl PromotionJournal for FakeJournal {
    fn append(
        &self,
        holder: &Holder,
        promotion: &PromotionId,
        what: &PromotionEntryKind,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError> {
        self.check_holder(holder)?;
        self.check_space()?;
        self.write(promotion, what.clone(), now);
        Ok(())
    }

    fn ask(
        &self,
        promotion: &PromotionId,
        ask: OperatorRequest,
        actor: &Actor,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError> {
        self.write(promotion, PromotionEntryKind::Requested { ask, actor: actor.clone() }, now);
        Ok(())
    }

    fn last_promotion(&self) -> Result<Option<PromotionId>, JournalError> {
        let rows = self.promotion_entries.lock().unwrap();
        Ok(rows
            .iter()
            .rev()
            .find(|row| matches!(row.kind, PromotionEntryKind::Began { .. }))
            .map(|row| row.promotion.clone()))
    }

    fn rows(&self, promotion: &PromotionId, after: u64) -> Result<Vec<PromotionEntry>, JournalError> {
        let rows = self.promotion_entries.lock().unwrap();
        Ok(rows.iter().filter(|row| row.promotion == *promotion && row.number > after).cloned().collect())
    }
}
