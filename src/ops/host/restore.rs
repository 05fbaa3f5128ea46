//! `restore`: the kernel is brought to what is recorded. At boot nothing else needs to be known: a forward that was on
//! comes back (HAProxy's checks pass through it to the real port, so it sees main UP only once main answers), a
//! maintenance stays a maintenance.

use serde::Serialize;

use crate::model::forward::ServiceRecord;
use crate::model::history::Actor;
use crate::model::rules::Transaction;
use crate::world::HostWorld;
use crate::world::store::HistoryNote;

use super::rules::{ChangeError, reconcile};
use super::warn::warn;

/// The recorded state, and the rules that had to be put back for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    pub recorded: Vec<ServiceRecord>,
    #[serde(serialize_with = "as_texts")]
    pub transactions: Vec<Transaction>,
}

pub async fn restore(world: &HostWorld, actor: &Actor) -> Result<RestoreReport, ChangeError> {
    let recorded = world.store.load_records()?;
    if recorded.is_empty() {
        return Ok(RestoreReport { recorded, transactions: vec![] });
    }
    let transactions = reconcile(world, "restore").await?.transactions;
    if !transactions.is_empty() {
        for record in &recorded {
            let note = HistoryNote {
                service: record.forward.service.clone(),
                actor: actor.clone(),
                action: "restore",
                detail: format!("put back: forward {}", record.switch),
            };
            if let Err(error) = world.store.add_note(&note, world.clock.now()) {
                warn(world, error.to_string());
            }
        }
    }
    Ok(RestoreReport { recorded, transactions })
}

fn as_texts<S: serde::Serializer>(transactions: &[Transaction], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(transactions.iter().map(Transaction::to_string))
}
