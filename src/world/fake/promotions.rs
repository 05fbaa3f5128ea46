//! The half of the journal about roll-outs.

use super::journal::FakeJournal;
use crate::model::history::Actor;
use crate::model::lock::Holder;
use crate::model::promote::{Ask, RolloutId, RolloutRow, RolloutWhat};
use crate::world::journal::JournalError;
use crate::world::promotions::Rollouts;

impl FakeJournal {
    fn write(&self, rollout: &RolloutId, what: RolloutWhat, at: jiff::Timestamp) {
        let mut rows = self.rollouts.lock().unwrap();
        let number = rows.len() as u64 + 1;
        rows.push(RolloutRow { number, rollout: rollout.clone(), at, what });
    }
}

impl Rollouts for FakeJournal {
    fn append(
        &self,
        holder: &Holder,
        rollout: &RolloutId,
        what: &RolloutWhat,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError> {
        self.held_by(holder)?;
        self.fits()?;
        self.write(rollout, what.clone(), now);
        Ok(())
    }

    fn ask(
        &self,
        rollout: &RolloutId,
        ask: Ask,
        actor: &Actor,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError> {
        self.write(rollout, RolloutWhat::Asked { ask, actor: actor.clone() }, now);
        Ok(())
    }

    fn last(&self) -> Result<Option<RolloutId>, JournalError> {
        let rows = self.rollouts.lock().unwrap();
        Ok(rows
            .iter()
            .rev()
            .find(|row| matches!(row.what, RolloutWhat::Began { .. }))
            .map(|row| row.rollout.clone()))
    }

    fn rows(&self, rollout: &RolloutId, after: u64) -> Result<Vec<RolloutRow>, JournalError> {
        let rows = self.rollouts.lock().unwrap();
        Ok(rows.iter().filter(|row| row.rollout == *rollout && row.number > after).cloned().collect())
    }
}
