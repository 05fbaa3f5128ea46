//! The writes of this process to one journal. Each is numbered after the last entry, so that they take turns; those that wait for
//! the same turn are written by one transaction, as databases commit in groups: the hosts of a batch end their steps at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::{Expected, KvJournal, KvPut, KvTransaction, MAX_ATTEMPTS, numbered};
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

struct Waiting {
    write: Write,
    done: oneshot::Sender<Result<(), JournalError>>,
}

/// What the last writes have shown. It may be old: a transaction expects it, and is tried again with what is found then.
#[derive(Default)]
struct Known {
    /// The first free number of a prefix.
    next: HashMap<String, usize>,
    /// The lock of this holder has this index.
    lock: Option<(Holder, u64)>,
}

impl WriteQueue {
    fn push(&self, write: Write) -> oneshot::Receiver<Result<(), JournalError>> {
        let (done, outcome) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Waiting { write, done });
        outcome
    }

    /// Takes the first write and those that one transaction writes with it, in their order. A caller that has given up is left out.
    fn take_group(&self) -> Vec<Waiting> {
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

impl KvJournal {
    /// Writes an entry, together with those that wait.
    pub(super) async fn write(&self, write: Write) -> Result<(), JournalError> {
        let mut outcome = self.write_queue.push(write.clone());
        let mut known = self.write_queue.turn.lock().await;
        loop {
            match outcome.try_recv() {
                Ok(result) => return result,
                // The caller in whose turn it was to be written was cancelled.
                Err(TryRecvError::Closed) => outcome = self.write_queue.push(write.clone()),
                Err(TryRecvError::Empty) => {}
            }
            let group = self.write_queue.take_group();
            let writes: Vec<&Write> = group.iter().map(|one| &one.write).collect();
            let result = self.write_group(&mut known, &writes).await;
            for one in group {
                // The other side has given up.
                let _ = one.done.send(result.clone());
            }
        }
    }

    /// Writes entries of one prefix and one holder, all or none of them.
    async fn write_group(&self, known: &mut Known, group: &[&Write]) -> Result<(), JournalError> {
        let Some(Write { action, prefix, holder, id_key, .. }) = group.first() else { return Ok(()) };
        let mut number = match known.next.get(prefix) {
            Some(number) => *number,
            None => self.count(action, prefix).await?,
        };
        let mut left = group;
        for _ in 0..MAX_ATTEMPTS {
            let mut transaction = KvTransaction::default();
            if let Some(holder) = holder {
                let modified_index = match &known.lock {
                    Some((known, index)) if known == holder => *index,
                    _ => self.require_lock(holder, action).await?.lock_index,
                };
                known.lock = Some((holder.clone(), modified_index));
                transaction.expected.push((self.key("lock"), Expected::Unchanged { modified_index }));
            }
            for (number, write) in (number..).zip(left) {
                let key = numbered(prefix, number);
                transaction.expected.push((key.clone(), Expected::Absent));
                transaction.put.push(KvPut { key, value: write.value.clone(), lease: None });
            }
            if let Some(id_key) = id_key.as_ref().filter(|_| number == 0) {
                transaction.put.push(KvPut { key: id_key.clone(), value: String::new(), lease: None });
            }
            let is_written = self.transact(action, &transaction).await?;
            if is_written {
                number += left.len();
                left = &[];
            } else {
                known.lock = None;
                // The lock has changed, or there is an entry: of another operator, or by an earlier try of this transaction.
                while let Some(found) = self.get(action, &numbered(prefix, number)).await? {
                    if left.first().is_some_and(|write| write.value == found.value) {
                        left = &left[1..];
                    }
                    number += 1;
                }
            }
            known.next.insert(prefix.clone(), number);
            if left.is_empty() {
                return Ok(());
            }
        }
        Err(self.contended(action))
    }
}
