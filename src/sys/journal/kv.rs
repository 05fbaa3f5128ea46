//! A journal store on a key-value server that has transactions and leases: the keys, and what a transaction expects.
//!
//! Keys below `switchman/FLEET/`: `lock` (its holder), `heartbeats` (their number), `entries/LOG/ID/NUMBER`, `ids/LOG/ID` (made
//! with the first entry of an id) and `notes/NUMBER`. Numbers have ten digits and no gaps, so that the order of keys is that of
//! the entries. Each write is one transaction that expects the lock as it was read, and that the entry's number is free.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::sync::oneshot::error::TryRecvError;

use crate::model::journal_record::{LockRecord, Log, StoredEntry};
use crate::model::lock::{Holder, LockNote, LockPurpose};
use crate::sys::http_servers::NoAnswer;
use crate::world::journal_store::{Acquisition, JournalError, JournalStore};

mod write_queue;

use write_queue::{Known, Write, WriteQueue};

/// How long the lock of a process outlives its last heartbeat, of which one comes every 2 s.
const LEASE: Duration = Duration::from_secs(15);
/// Attempts of one write while other operators write to the same journal.
const MAX_ATTEMPTS: usize = 100;
/// How long a request is repeated while no server answers, as when a cluster elects a leader.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvError {
    /// No server answered in time. A transaction may or may not have been carried out.
    Unreachable(String),
    /// The server's own message.
    Refused(String),
}

impl From<NoAnswer> for KvError {
    fn from(NoAnswer { reason, is_certificate_error }: NoAnswer) -> Self {
        if is_certificate_error { Self::Refused(reason) } else { Self::Unreachable(reason) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvPair {
    pub key: String,
    pub value: String,
    /// Grows with every key that is made.
    pub created_index: u64,
    /// Grows with every change of the key.
    pub modified_index: u64,
}

#[derive(Debug, Default)]
pub struct KvPage {
    pub pairs: Vec<KvPair>,
    /// Whether there are more pairs behind these.
    pub has_more: bool,
}

/// What a transaction expects of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Absent,
    Unchanged { modified_index: u64 },
}

/// An end of a key's life other than by deletion: the server deletes it when the lease is not renewed in time.
pub type LeaseId = String;

#[derive(Debug, Default)]
pub struct KvTransaction {
    pub expected: Vec<(String, Expected)>,
    pub put: Vec<KvPut>,
    pub delete: Vec<String>,
}

#[derive(Debug)]
pub struct KvPut {
    pub key: String,
    pub value: String,
    pub lease: Option<LeaseId>,
}

/// One server, or a cluster that appears as one. Each call is bounded in time. Reads see every transaction that was answered.
#[async_trait]
pub trait KvClient: Send + Sync {
    fn label(&self) -> String;

    async fn get(&self, key: &str) -> Result<Option<KvPair>, KvError>;

    /// The pairs whose keys begin with `prefix` and are not before `start`, by key: all of them or the first ones.
    async fn scan(&self, prefix: &str, start: &str) -> Result<KvPage, KvError>;

    /// Carries out all or nothing. False when something was not as expected. It may try several servers: false may also mean
    /// that an earlier try was carried out.
    async fn transact(&self, transaction: &KvTransaction) -> Result<bool, KvError>;

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, KvError>;

    /// False when the lease has ended.
    async fn renew_lease(&self, lease: &LeaseId) -> Result<bool, KvError>;

    async fn revoke_lease(&self, lease: &LeaseId) -> Result<(), KvError>;

    /// Returns when the key is not at this index any more (`None`: does not exist), and at the latest after `timeout`.
    async fn wait_for_change(
        &self,
        key: &str,
        modified_index: Option<u64>,
        timeout: Duration,
    ) -> Result<(), KvError>;

    /// A client with connections of its own, for another runtime.
    fn reconnect(&self) -> Arc<dyn KvClient>;
}

/// The journals and the lock of one service's fleet on a key-value server.
pub struct KvJournal {
    client: Arc<dyn KvClient>,
    /// `switchman/FLEET/`
    prefix: String,
    /// Of the lock that was acquired here.
    lease: Mutex<Option<LeaseId>>,
    write_queue: WriteQueue,
    /// No server answered the last request: the next one is not repeated, so that a command ends soon.
    is_down: AtomicBool,
}

/// The lock with the indexes by which a transaction recognises it.
struct StoredLock {
    record: LockRecord,
    lock_index: u64,
    heartbeats_index: Option<u64>,
}

impl KvJournal {
    pub fn new(client: Arc<dyn KvClient>, fleet: &str) -> Self {
        let prefix = format!("switchman/{}/", encode_key(fleet));
        let (lease, write_queue) = (Mutex::default(), WriteQueue::default());
        Self { client, prefix, lease, write_queue, is_down: AtomicBool::default() }
    }

    fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    fn entries_prefix(&self, log: Log, id: &str) -> String {
        self.key(&format!("entries/{}/{}/", log.name(), encode_key(id)))
    }

    async fn read_stored_lock(&self, action: &'static str) -> Result<Option<StoredLock>, JournalError> {
        let Some(lock) = self.get(action, &self.key("lock")).await? else { return Ok(None) };
        let heartbeats = self.get(action, &self.key("heartbeats")).await?;
        let record = LockRecord {
            holder: self.parse(&lock)?,
            heartbeats: heartbeats.as_ref().map_or(Ok(0), |pair| self.parse(pair))?,
        };
        let heartbeats_index = heartbeats.map(|pair| pair.modified_index);
        Ok(Some(StoredLock { record, lock_index: lock.modified_index, heartbeats_index }))
    }

    /// The lock, if this holder has it.
    async fn require_lock(&self, holder: &Holder, action: &'static str) -> Result<StoredLock, JournalError> {
        match self.read_stored_lock(action).await? {
            Some(held) if held.record.holder == *holder => Ok(held),
            held => Err(JournalError::LockLost { holder: held.map(|held| Box::new(held.record.holder)) }),
        }
    }

    async fn get(&self, action: &'static str, key: &str) -> Result<Option<KvPair>, JournalError> {
        self.retry(action, || self.client.get(key)).await
    }

    /// False when something was not as expected, or an earlier try of this transaction was carried out.
    async fn transact(
        &self,
        action: &'static str,
        transaction: &KvTransaction,
    ) -> Result<bool, JournalError> {
        self.retry(action, || self.client.transact(transaction)).await
    }

    /// Repeats a request while no server answers.
    async fn retry<'r, T>(
        &self,
        action: &'static str,
        request: impl Fn() -> BoxFuture<'r, Result<T, KvError>> + Send + Sync,
    ) -> Result<T, JournalError> {
        let deadline = tokio::time::Instant::now() + RETRY_TIMEOUT;
        loop {
            let answer = request().await;
            let is_silent = matches!(answer, Err(KvError::Unreachable(_)));
            let is_last = self.is_down.load(Ordering::Relaxed) || tokio::time::Instant::now() >= deadline;
            if is_silent && !is_last {
                tokio::time::sleep(RETRY_INTERVAL).await;
                continue;
            }
            self.is_down.store(is_silent, Ordering::Relaxed);
            return answer.map_err(|error| self.failed(action, error));
        }
    }

    async fn release_lock(&self, holder: &Holder) -> Result<(), JournalError> {
        const ACTION: &str = "release the lock";
        let mut has_tried = false;
        for _ in 0..MAX_ATTEMPTS {
            let held = match self.require_lock(holder, ACTION).await {
                // An earlier try was carried out.
                Err(JournalError::LockLost { holder: None }) if has_tried => return Ok(()),
                held => held?,
            };
            let transaction = KvTransaction {
                expected: vec![held.expect_holder(&self.key("lock"))],
                put: vec![],
                delete: vec![self.key("lock"), self.key("heartbeats")],
            };
            has_tried = true;
            if self.transact(ACTION, &transaction).await? {
                return Ok(());
            }
        }
        Err(self.contended(ACTION))
    }

    /// Writes an entry, together with those that wait.
    async fn write(&self, write: Write) -> Result<(), JournalError> {
        let mut outcome = self.write_queue.push(write.clone());
        let mut known = self.write_queue.lock().await;
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

    /// The number of entries below a prefix, by the first number that is free.
    async fn count(&self, action: &'static str, prefix: &str) -> Result<usize, JournalError> {
        let (mut low, mut high) = (0, 1);
        while self.get(action, &numbered(prefix, high - 1)).await?.is_some() {
            (low, high) = (high, high * 4);
        }
        // All below `low` exist; `high - 1` does not.
        while low < high - 1 {
            let middle = low + (high - 1 - low) / 2;
            if self.get(action, &numbered(prefix, middle)).await?.is_some() {
                low = middle + 1;
            } else {
                high = middle + 1;
            }
        }
        Ok(low)
    }

    /// Reads all pairs below a prefix, from `start` on.
    async fn scan_all(
        &self,
        action: &'static str,
        prefix: &str,
        start: String,
    ) -> Result<Vec<KvPair>, JournalError> {
        let (mut pairs, mut start) = (Vec::new(), start);
        loop {
            let page = self.retry(action, || self.client.scan(prefix, &start)).await?;
            pairs.extend(page.pairs);
            match pairs.last() {
                // The first key behind the last one.
                Some(last) if page.has_more => start = format!("{}\0", last.key),
                _ => return Ok(pairs),
            }
        }
    }

    fn parse<T: DeserializeOwned>(&self, pair: &KvPair) -> Result<T, JournalError> {
        serde_json::from_str(&pair.value).map_err(|error| JournalError::Damaged {
            store: self.client.label(),
            reason: format!("the key `{}`: {error}", pair.key),
        })
    }

    fn to_json(&self, value: &impl serde::Serialize) -> Result<String, JournalError> {
        serde_json::to_string(value)
            .map_err(|error| JournalError::Damaged { store: self.client.label(), reason: error.to_string() })
    }

    fn failed(&self, action: &'static str, error: KvError) -> JournalError {
        let store = self.client.label();
        match error {
            KvError::Unreachable(reason) => JournalError::Unreachable { action, store, reason },
            KvError::Refused(reason) => JournalError::Refused { action, store, reason },
        }
    }

    fn contended(&self, action: &'static str) -> JournalError {
        let reason = format!("other operators' writes came first {MAX_ATTEMPTS} times");
        JournalError::Failed { action, store: self.client.label(), reason }
    }
}

impl StoredLock {
    fn expect_holder(&self, lock_key: &str) -> (String, Expected) {
        (lock_key.to_owned(), Expected::Unchanged { modified_index: self.lock_index })
    }

    fn expect_heartbeats(&self, heartbeats_key: String) -> (String, Expected) {
        let expected = self
            .heartbeats_index
            .map_or(Expected::Absent, |modified_index| Expected::Unchanged { modified_index });
        (heartbeats_key, expected)
    }
}

#[async_trait]
impl JournalStore for KvJournal {
    fn label(&self) -> String {
        self.client.label()
    }

    async fn acquire(
        &self,
        holder: &Holder,
        instead_of: Option<&LockRecord>,
    ) -> Result<Acquisition, JournalError> {
        const ACTION: &str = "take the lock";
        let (lock, heartbeats) = (self.key("lock"), self.key("heartbeats"));
        let value = self.to_json(holder)?;
        let mut lease = None;
        for _ in 0..MAX_ATTEMPTS {
            let expected = match self.read_stored_lock(ACTION).await? {
                Some(held) if held.record.holder == *holder => {
                    // An earlier try whose answer was lost has this lease.
                    if lease.is_some() {
                        *self.lease.lock().await = lease;
                    }
                    return Ok(Acquisition::Acquired);
                }
                Some(held) if Some(&held.record) != instead_of => {
                    if let Some(lease) = &lease {
                        let _ = self.client.revoke_lease(lease).await;
                    }
                    return Ok(Acquisition::Busy(Box::new(held.record)));
                }
                Some(held) => {
                    vec![held.expect_holder(&lock), held.expect_heartbeats(heartbeats.clone())]
                }
                None => vec![(lock.clone(), Expected::Absent)],
            };
            // A person's lock has no process that could renew a lease.
            if lease.is_none() && !matches!(holder.purpose, LockPurpose::Operator { .. }) {
                lease = Some(self.retry(ACTION, || self.client.grant_lease(LEASE)).await?);
            }
            let put = vec![
                KvPut { key: lock.clone(), value: value.clone(), lease: lease.clone() },
                KvPut { key: heartbeats.clone(), value: "0".to_owned(), lease: None },
            ];
            if self.transact(ACTION, &KvTransaction { expected, put, delete: vec![] }).await? {
                *self.lease.lock().await = lease;
                return Ok(Acquisition::Acquired);
            }
        }
        Err(self.contended(ACTION))
    }

    async fn renew(&self, holder: &Holder) -> Result<(), JournalError> {
        const ACTION: &str = "renew the lock";
        if let Some(lease) = self.lease.lock().await.as_ref()
            && !self.retry(ACTION, || self.client.renew_lease(lease)).await?
        {
            // Its key has been deleted with it; who has the lock now is read below.
            log::debug!("the lease of the lock has ended");
        }
        for _ in 0..MAX_ATTEMPTS {
            let held = self.require_lock(holder, ACTION).await?;
            let transaction = KvTransaction {
                expected: vec![held.expect_holder(&self.key("lock"))],
                put: vec![KvPut {
                    key: self.key("heartbeats"),
                    value: (held.record.heartbeats + 1).to_string(),
                    lease: None,
                }],
                delete: vec![],
            };
            if self.transact(ACTION, &transaction).await? {
                return Ok(());
            }
        }
        Err(self.contended(ACTION))
    }

    async fn release(&self, holder: &Holder) -> Result<(), JournalError> {
        self.release_lock(holder).await?;
        if let Some(lease) = self.lease.lock().await.take() {
            // It would end by itself.
            let _ = self.client.revoke_lease(&lease).await;
        }
        Ok(())
    }

    fn release_at_exit(&self, holder: &Holder) {
        let journal = Self {
            client: self.client.reconnect(),
            prefix: self.prefix.clone(),
            lease: Mutex::default(),
            write_queue: WriteQueue::default(),
            is_down: AtomicBool::default(),
        };
        let holder = holder.clone();
        super::exit::run_at_exit(async move {
            if let Err(error) = journal.release_lock(&holder).await {
                log::debug!("{error}");
            }
        });
    }

    async fn read_lock(&self) -> Result<Option<LockRecord>, JournalError> {
        Ok(self.read_stored_lock("read the lock").await?.map(|held| held.record))
    }

    async fn wait_for_lock_change(
        &self,
        seen: Option<&LockRecord>,
        timeout: Duration,
    ) -> Result<(), JournalError> {
        const ACTION: &str = "wait for the lock";
        let held = self.read_stored_lock(ACTION).await?;
        if held.as_ref().map(|held| &held.record) != seen {
            return Ok(());
        }
        let index = held.map(|held| held.lock_index);
        let waited = self.client.wait_for_change(&self.key("lock"), index, timeout).await;
        waited.map_err(|error| self.failed(ACTION, error))
    }

    async fn append(
        &self,
        holder: Option<&Holder>,
        log: Log,
        entry: &StoredEntry,
    ) -> Result<(), JournalError> {
        let prefix = self.entries_prefix(log, &entry.id);
        let id_key = self.key(&format!("ids/{}/{}", log.name(), encode_key(&entry.id)));
        let (value, holder) = (self.to_json(entry)?, holder.cloned());
        self.write(Write { action: "record a step", prefix, value, holder, id_key: Some(id_key) }).await
    }

    async fn load(&self, log: Log, id: &str, skip: usize) -> Result<Vec<StoredEntry>, JournalError> {
        let prefix = self.entries_prefix(log, id);
        let pairs = self.scan_all("read the journal", &prefix, numbered(&prefix, skip)).await?;
        pairs.iter().map(|pair| self.parse(pair)).collect()
    }

    async fn list(&self, log: Log, limit: u32) -> Result<Vec<String>, JournalError> {
        const ACTION: &str = "list the entries";
        let prefix = self.key(&format!("ids/{}/", log.name()));
        let mut pairs = self.scan_all(ACTION, &prefix, prefix.clone()).await?;
        pairs.sort_by_key(|pair| pair.created_index);
        let first = pairs.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(pairs[first..].iter().map(|pair| decode_key(&pair.key[prefix.len()..])).collect())
    }

    async fn add_note(&self, note: &LockNote) -> Result<(), JournalError> {
        let (prefix, value) = (self.key("notes/"), self.to_json(note)?);
        let action = "note what was done to the lock";
        self.write(Write { action, prefix, value, holder: None, id_key: None }).await
    }

    async fn load_notes(&self, limit: u32) -> Result<Vec<LockNote>, JournalError> {
        const ACTION: &str = "read the notes on the lock";
        let prefix = self.key("notes/");
        let count = self.count(ACTION, &prefix).await?;
        let first = count.saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        let pairs = self.scan_all(ACTION, &prefix, numbered(&prefix, first)).await?;
        pairs.iter().map(|pair| self.parse(pair)).collect()
    }
}

fn numbered(prefix: &str, number: usize) -> String {
    format!("{prefix}{number:010}")
}

/// A part of a key, without `/` and what servers treat specially in paths.
fn encode_key(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "={byte:02x}");
            }
        }
    }
    encoded
}

fn decode_key(encoded: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = encoded.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'=' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
