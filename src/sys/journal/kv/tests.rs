use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::sys::identity::ProcIdentity;
use crate::world::lock::HolderIdentity;

#[test]
fn keys_are_encoded_and_decoded() {
    for text in ["r20261127-101500-0001", "shop", "r/1 ü", "a=b", "..", "", "日本"] {
        let encoded = encode_key(text);
        assert!(
            encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte)),
            "{encoded}"
        );
        assert_eq!(decode_key(&encoded), text);
    }
}

/// A server in memory whose answers to transactions can get lost.
#[derive(Default)]
struct FakeServer {
    state: std::sync::Mutex<ServerState>,
}

#[derive(Default)]
struct ServerState {
    pairs: BTreeMap<String, (String, u64)>,
    index: u64,
    requests: usize,
    lost_answers: usize,
    is_down: bool,
    renewed: BTreeSet<LeaseId>,
}

impl FakeServer {
    /// The answers to the next transactions get lost, after they were carried out.
    fn lose_answers(&self, count: usize) {
        self.state.lock().unwrap().lost_answers = count;
    }

    fn request(&self) -> Result<std::sync::MutexGuard<'_, ServerState>, KvError> {
        let mut state = self.state.lock().unwrap();
        state.requests += 1;
        if state.is_down { Err(KvError::Unreachable("down".to_owned())) } else { Ok(state) }
    }
}

fn to_pair((key, (value, index)): (&String, &(String, u64))) -> KvPair {
    KvPair { key: key.clone(), value: value.clone(), created_index: *index, modified_index: *index }
}

#[async_trait]
impl KvClient for FakeServer {
    fn label(&self) -> String {
        "a server".to_owned()
    }

    async fn get(&self, key: &str) -> Result<Option<KvPair>, KvError> {
        Ok(self.request()?.pairs.get_key_value(key).map(to_pair))
    }

    async fn scan(&self, prefix: &str, start: &str) -> Result<KvPage, KvError> {
        let state = self.request()?;
        let found = state.pairs.range(start.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(KvPage { pairs: found.map(to_pair).collect(), has_more: false })
    }

    async fn transact(&self, transaction: &KvTransaction) -> Result<bool, KvError> {
        let mut state = self.request()?;
        let is_expected = transaction.expected.iter().all(|(key, expected)| {
            let index = state.pairs.get(key).map(|(_, index)| *index);
            match expected {
                Expected::Absent => index.is_none(),
                Expected::Unchanged { modified_index } => index == Some(*modified_index),
            }
        });
        if is_expected {
            state.index += 1;
            let index = state.index;
            for key in &transaction.delete {
                state.pairs.remove(key);
            }
            for put in &transaction.put {
                state.pairs.insert(put.key.clone(), (put.value.clone(), index));
            }
        }
        if state.lost_answers > 0 {
            state.lost_answers -= 1;
            return Err(KvError::Unreachable("the answer is lost".to_owned()));
        }
        Ok(is_expected)
    }

    async fn grant_lease(&self, _: Duration) -> Result<LeaseId, KvError> {
        self.request().map(|_| "lease".to_owned())
    }

    async fn renew_lease(&self, lease: &LeaseId) -> Result<bool, KvError> {
        self.request()?.renewed.insert(lease.clone());
        Ok(true)
    }

    async fn revoke_lease(&self, _: &LeaseId) -> Result<(), KvError> {
        self.request().map(|_| ())
    }

    async fn wait_for_change(&self, _: &str, _: Option<u64>, _: Duration) -> Result<(), KvError> {
        self.request().map(|_| ())
    }

    fn reconnect(&self) -> Arc<dyn KvClient> {
        Arc::new(Self::default())
    }
}

fn make_journal() -> (Arc<FakeServer>, KvJournal, Holder) {
    let server = Arc::new(FakeServer::default());
    let purpose = LockPurpose::Command { name: "assign shop 2.0.0".to_owned() };
    let me = ProcIdentity.holder("ops", purpose, jiff::Timestamp::UNIX_EPOCH);
    (server.clone(), KvJournal::new(server, "shop"), me)
}

/// Without its lease the lock would end under its holder.
#[tokio::test(start_paused = true)]
async fn lock_whose_answer_was_lost_keeps_its_lease() {
    let (server, journal, me) = make_journal();
    server.lose_answers(1);
    assert_eq!(journal.acquire(&me, None).await, Ok(Acquisition::Acquired));
    journal.renew(&me).await.unwrap();
    assert_eq!(server.state.lock().unwrap().renewed.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn entry_and_release_whose_answers_were_lost_happen_once() {
    let (server, journal, me) = make_journal();
    journal.acquire(&me, None).await.unwrap();
    let entry = StoredEntry {
        id: "r1".to_owned(),
        at: jiff::Timestamp::UNIX_EPOCH,
        host: None,
        what: "{}".to_owned(),
    };
    server.lose_answers(2);
    journal.append(Some(&me), Log::Rolls, &entry).await.unwrap();
    assert_eq!(journal.load(Log::Rolls, "r1", 0).await, Ok(vec![entry]));
    server.lose_answers(1);
    assert_eq!(journal.release(&me).await, Ok(()));
    assert_eq!(journal.read_lock().await, Ok(None));
}

/// Every step of a command would wait for the server otherwise.
#[tokio::test(start_paused = true)]
async fn only_the_first_request_to_a_silent_server_is_repeated() {
    let (server, journal, me) = make_journal();
    server.state.lock().unwrap().is_down = true;
    let started_at = tokio::time::Instant::now();
    assert!(journal.read_lock().await.is_err());
    assert!(started_at.elapsed() >= RETRY_TIMEOUT);
    let (before, started_at) = (server.state.lock().unwrap().requests, tokio::time::Instant::now());
    assert!(matches!(journal.release(&me).await, Err(JournalError::Unreachable { .. })));
    assert_eq!((server.state.lock().unwrap().requests - before, started_at.elapsed()), (1, Duration::ZERO));
    // One that answers again is tried as before.
    server.state.lock().unwrap().is_down = false;
    assert_eq!(journal.acquire(&me, None).await, Ok(Acquisition::Acquired));
    server.lose_answers(3);
    assert_eq!(journal.renew(&me).await, Ok(()));
}
