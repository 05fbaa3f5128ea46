//! The writes of this process to one journal. Each is numbered after the last entry, so that they take turns; those that wait for
//! the same turn are written by one transaction, as databases commit in groups: the hosts of a batch end their steps at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{MutexGuard, oneshot};

use crate::model::lock::Holder;
use crate::world::journal_store::JournalError;

/// Consul allows 64 operations in a transaction (`maxTxnOps`), and etcd 128 (`--max-txn-ops`). An entry is two of them.
const MAX_ENTRIES: usize = 24;
/// Consul allows 512 KiB of JSON, in which a value is written in base64 (`txn_max_req_len`).
const MAX_BYTES: usize = 200 * 1024;

/// An entry to be written below the first free number of its prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub action: &'static str,
    pub prefix: String,
    pub value: String,
    /// The holder of the lock, without which the entry is not written.
    pub holder: Option<Holder>,
    /// The key that is made with number 0.
    pub id_key: Option<String>,
}

#[derive(Default)]
pub(super) struct WriteQueue {
    waiting: Mutex<Vec<Waiting>>,
    turn: tokio::sync::Mutex<Known>,
}

/// A write whose caller waits.
pub(super) struct Waiting {
    pub write: Write,
    pub done: oneshot::Sender<Result<(), JournalError>>,
}

/// What the last writes have shown. It may be old: a transaction expects it, and is tried again with what is found then.
#[derive(Default)]
pub(super) struct Known {
    /// The first free number of a prefix.
    pub next: HashMap<String, usize>,
    /// The lock of this holder has this index.
    pub lock: Option<(Holder, u64)>,
}

impl WriteQueue {
    /// Puts a write behind the others. The receiver gets its result, and none when the caller that took it was cancelled.
    pub fn push(&self, write: Write) -> oneshot::Receiver<Result<(), JournalError>> {
        let (done, outcome) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Waiting { write, done });
        outcome
    }

    /// Waits for the turn.
    pub async fn lock(&self) -> MutexGuard<'_, Known> {
        self.turn.lock().await
    }

    /// Takes the first write and those that one transaction writes with it, in their order. A caller that has given up is left out.
    pub fn take_group(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|one| !one.done.is_closed());
        let Some(first) = waiting.first().map(|one| one.write.clone()) else { return vec![] };
        let (mut entries, mut bytes, mut is_full) = (0, 0, false);
        let is_of_group = |one: &mut Waiting| {
            if one.write.prefix != first.prefix || one.write.holder != first.holder {
                return false;
            }
            entries += 1;
            bytes += one.write.value.len();
            // A later one that is small does not overtake.
            is_full |= entries > 1 && (entries > MAX_ENTRIES || bytes > MAX_BYTES);
            !is_full
        };
        waiting.extract_if(.., is_of_group).collect()
    }
}
