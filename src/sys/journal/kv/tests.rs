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
    transactions: usize,
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
        // Time in which others wait for their turn.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut state = self.request()?;
        state.transactions += 1;
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

fn make_entry(number: usize) -> StoredEntry {
    let what = format!("{{\"number\":{number}}}");
    StoredEntry { id: "r1".to_owned(), at: jiff::Timestamp::UNIX_EPOCH, host: None, what }
}

/// Appends the entries of these numbers at once, as the hosts of a batch do.
async fn append_at_once(
    journal: &KvJournal,
    me: &Holder,
    numbers: std::ops::Range<usize>,
) -> Vec<Result<(), JournalError>> {
    let entries: Vec<StoredEntry> = numbers.map(make_entry).collect();
    let appends = entries.iter().map(|entry| journal.append(Some(me), Log::Rolls, entry));
    futures_util::future::join_all(appends).await
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
    let entry = make_entry(0);
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

/// A roll over many hosts would wait for one write after the other.
#[tokio::test(start_paused = true)]
async fn entries_of_one_time_are_written_together_in_their_order() {
    let (server, journal, me) = make_journal();
    journal.acquire(&me, None).await.unwrap();
    let count = || {
        let state = server.state.lock().unwrap();
        (state.transactions, state.requests)
    };
    let before = count();
    assert_eq!(append_at_once(&journal, &me, 0..50).await, vec![Ok(()); 50]);
    // The first alone, then 24, 24 and 1.
    assert_eq!(count().0 - before.0, 4);
    let before = count();
    for number in 50..60 {
        journal.append(Some(&me), Log::Rolls, &make_entry(number)).await.unwrap();
    }
    assert_eq!((count().0 - before.0, count().1 - before.1), (10, 10), "one request an entry");
    let written = journal.load(Log::Rolls, "r1", 0).await.unwrap();
    assert_eq!(written, (0..60).map(make_entry).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn long_entries_are_not_written_together() {
    let (server, journal, me) = make_journal();
    journal.acquire(&me, None).await.unwrap();
    let long = |number: usize| StoredEntry { what: "x".repeat(90 * 1024), ..make_entry(number) };
    let entries: Vec<StoredEntry> = (0..7).map(long).collect();
    let before = server.state.lock().unwrap().transactions;
    let appends = entries.iter().map(|entry| journal.append(Some(&me), Log::Rolls, entry));
    assert_eq!(futures_util::future::join_all(appends).await, vec![Ok(()); 7]);
    assert_eq!(server.state.lock().unwrap().transactions - before, 4, "one, then pairs");
}

#[tokio::test(start_paused = true)]
async fn entries_whose_answers_were_lost_are_written_once() {
    let (server, journal, me) = make_journal();
    let (_, other, _) = make_journal();
    let other = KvJournal { client: server.clone(), ..other };
    journal.acquire(&me, None).await.unwrap();
    server.lose_answers(2);
    assert_eq!(append_at_once(&journal, &me, 0..10).await, vec![Ok(()); 10]);
    // Another process has written in between: what is known of the numbers is old.
    other.append(Some(&me), Log::Rolls, &make_entry(10)).await.unwrap();
    server.lose_answers(1);
    assert_eq!(append_at_once(&journal, &me, 11..20).await, vec![Ok(()); 9]);
    let written = journal.load(Log::Rolls, "r1", 0).await.unwrap();
    assert_eq!(written, (0..20).map(make_entry).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn no_entry_is_written_after_the_lock_was_taken() {
    let (server, journal, me) = make_journal();
    journal.acquire(&me, None).await.unwrap();
    journal.append(Some(&me), Log::Rolls, &make_entry(0)).await.unwrap();
    let second = KvJournal::new(server.clone(), "shop");
    let eve = Holder { user: "eve".to_owned(), ..me.clone() };
    let seen = second.read_lock().await.unwrap();
    assert_eq!(second.acquire(&eve, seen.as_ref()).await, Ok(Acquisition::Acquired));
    for outcome in append_at_once(&journal, &me, 1..5).await {
        assert_eq!(outcome, Err(JournalError::LockLost { holder: Some(Box::new(eve.clone())) }));
    }
    assert_eq!(journal.load(Log::Rolls, "r1", 0).await, Ok(vec![make_entry(0)]));
}

/// The operator's Ctrl-C ends one call while others wait for its turn.
#[tokio::test(start_paused = true)]
async fn entries_are_written_when_the_caller_before_them_is_cancelled() {
    let (_server, journal, me) = make_journal();
    journal.acquire(&me, None).await.unwrap();
    let entries: Vec<StoredEntry> = (0..4).map(make_entry).collect();
    let mut first = Box::pin(journal.append(Some(&me), Log::Rolls, &entries[0]));
    let mut second = Box::pin(journal.append(Some(&me), Log::Rolls, &entries[1]));
    let mut third = Box::pin(journal.append(Some(&me), Log::Rolls, &entries[2]));
    // The first has its turn; the others wait. Then the second has its turn with both, and is cancelled in the middle.
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(futures_util::poll!(&mut second).is_pending());
    assert!(futures_util::poll!(&mut third).is_pending());
    first.await.unwrap();
    assert!(futures_util::poll!(&mut second).is_pending());
    drop(second);
    third.await.unwrap();
    // One that has given up before its turn is not written later.
    let mut fourth = Box::pin(journal.append(Some(&me), Log::Rolls, &entries[3]));
    assert!(futures_util::poll!(&mut fourth).is_pending());
    drop(fourth);
    journal.append(Some(&me), Log::Rolls, &make_entry(9)).await.unwrap();
    let written = journal.load(Log::Rolls, "r1", 0).await.unwrap();
    assert_eq!(written, [0, 2, 9].map(make_entry).to_vec());
}
