//! What every journal store does, whatever keeps it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use switchman::model::journal::{RollEntry, RollEntryKind};
use switchman::model::journal_record::{LockRecord, Log, StoredEntry};
use switchman::model::lock::{Holder, LockNote, LockPurpose};
use switchman::model::roll::RollId;
use switchman::world::journal::Journal;
use switchman::world::journal_store::{Acquisition, JournalError, JournalStore};

const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;
const FAR: Duration = Duration::from_mins(1);

pub type Store = Arc<dyn JournalStore>;

/// Opens the journal of a service's fleet, each time with connections of its own.
pub trait Open: Fn(&str) -> Store + Sync {}
impl<F: Fn(&str) -> Store + Sync> Open for F {}

/// Runs all cases, each on a fleet of its own.
pub async fn check_store(open: &impl Open) {
    accepts_entries_of_the_holder_alone(open).await;
    keeps_order_and_reads_from_any_entry(open).await;
    lists_the_latest_ids(open).await;
    replaces_a_lock_only_unchanged(open).await;
    answers_the_same_holder_again(open).await;
    has_one_winner(open).await;
    loses_no_request_of_concurrent_writers(open).await;
    keeps_large_and_strange_texts(open).await;
    separates_fleets(open).await;
    wakes_who_waits_for_the_lock(open).await;
    releases_at_the_end_of_a_process(open).await;
    keeps_notes(open).await;
    keeps_a_persons_lock(open).await;
    stores_typed_entries(open).await;
    keeps_outputs_beside_the_rolls(open).await;
}

pub fn make_holder(pid: u32) -> Holder {
    Holder {
        user: "ops".to_owned(),
        machine: format!("desk{pid}"),
        boot_id: "boot".to_owned(),
        pid,
        start_ticks: 7,
        pid_namespace: "pid:[1]".to_owned(),
        purpose: LockPurpose::Command { name: "assign shop 2.0.0".to_owned() },
        since: NOW,
    }
}

pub fn make_entry(id: &str, what: &str) -> StoredEntry {
    StoredEntry { id: id.to_owned(), at: NOW, host: None, what: format!("{what:?}") }
}

async fn acquire(store: &Store, holder: &Holder) {
    assert_eq!(store.acquire(holder, None).await, Ok(Acquisition::Acquired));
}

fn lost(holder: Option<&Holder>) -> Result<(), JournalError> {
    Err(JournalError::LockLost { holder: holder.cloned().map(Box::new) })
}

async fn accepts_entries_of_the_holder_alone(open: &impl Open) {
    let (store, other_store) = (open("fenced"), open("fenced"));
    let (me, other) = (make_holder(1), make_holder(2));
    assert_eq!((store.read_lock().await, store.list(Log::Rolls, 9).await), (Ok(None), Ok(vec![])));
    let one = make_entry("r1", "one");
    assert_eq!(store.append(Some(&me), Log::Rolls, &one).await, lost(None));
    acquire(&store, &me).await;
    store.append(Some(&me), Log::Rolls, &one).await.unwrap();
    assert_eq!(other_store.append(Some(&other), Log::Rolls, &one).await, lost(Some(&me)));
    // Taken over by force: the first holder writes nothing more, and removes nothing.
    other_store.release(&me).await.unwrap();
    acquire(&other_store, &other).await;
    let refused = lost(Some(&other));
    assert_eq!(store.append(Some(&me), Log::Rolls, &make_entry("r1", "late")).await, refused);
    assert_eq!((store.renew(&me).await, store.release(&me).await), (refused.clone(), refused));
    assert_eq!(store.load(Log::Rolls, "r1", 0).await, Ok(vec![one]));
    let held = store.read_lock().await.unwrap().unwrap();
    assert_eq!((held.holder, held.heartbeats), (other.clone(), 0));
    other_store.release(&other).await.unwrap();
    assert_eq!((store.read_lock().await, store.release(&me).await), (Ok(None), lost(None)));
}

async fn keeps_order_and_reads_from_any_entry(open: &impl Open) {
    let store = open("order");
    let me = make_holder(1);
    acquire(&store, &me).await;
    let entries: Vec<StoredEntry> = (0..25)
        .map(|number| StoredEntry {
            host: (number % 2 == 0).then(|| "web1".parse().unwrap()),
            ..make_entry("r1", &format!("entry {number}"))
        })
        .collect();
    for (number, entry) in entries.iter().enumerate() {
        // A later process goes on where another one has ended.
        let store = if number == 12 { open("order") } else { store.clone() };
        store.append(Some(&me), Log::Rolls, entry).await.unwrap();
    }
    let reader = open("order");
    for skip in [0, 1, 9, 10, 24, 25, 99] {
        let expected = entries.get(skip..).unwrap_or_default().to_vec();
        assert_eq!(reader.load(Log::Rolls, "r1", skip).await, Ok(expected), "without {skip}");
    }
    assert_eq!(reader.load(Log::Promotions, "r1", 0).await, Ok(vec![]), "another journal");
    assert_eq!(reader.load(Log::Rolls, "r", 0).await, Ok(vec![]), "the beginning of an id is no id");
}

async fn lists_the_latest_ids(open: &impl Open) {
    let store = open("ids");
    let me = make_holder(1);
    acquire(&store, &me).await;
    // By the first entry, not by name, and once each.
    for id in ["r2", "r1", "r10", "r2", "r3", "r1"] {
        store.append(Some(&me), Log::Rolls, &make_entry(id, "x")).await.unwrap();
    }
    assert_eq!(store.list(Log::Rolls, 9).await.unwrap(), ["r2", "r1", "r10", "r3"]);
    assert_eq!(open("ids").list(Log::Rolls, 2).await.unwrap(), ["r10", "r3"]);
    assert_eq!(store.list(Log::Promotions, 9).await, Ok(vec![]));
}

async fn replaces_a_lock_only_unchanged(open: &impl Open) {
    let store = open("stale");
    let (me, other) = (make_holder(1), make_holder(2));
    acquire(&store, &me).await;
    let seen = LockRecord { holder: me.clone(), heartbeats: 0 };
    assert_eq!(store.acquire(&other, None).await, Ok(Acquisition::Busy(Box::new(seen.clone()))));
    store.renew(&me).await.unwrap();
    let alive = LockRecord { heartbeats: 1, ..seen.clone() };
    let busy = Ok(Acquisition::Busy(Box::new(alive.clone())));
    assert_eq!(store.acquire(&other, Some(&seen)).await, busy, "it has lived since");
    assert_eq!(store.acquire(&other, Some(&alive)).await, Ok(Acquisition::Acquired));
    assert_eq!(store.renew(&me).await, lost(Some(&other)));
    let now = LockRecord { holder: other.clone(), heartbeats: 0 };
    assert_eq!(store.read_lock().await, Ok(Some(now)));
}

/// A client that had no answer asks again.
async fn answers_the_same_holder_again(open: &impl Open) {
    let store = open("again");
    let me = make_holder(1);
    acquire(&store, &me).await;
    acquire(&store, &me).await;
    store.append(Some(&me), Log::Rolls, &make_entry("r1", "x")).await.unwrap();
    store.release(&me).await.unwrap();
    assert_eq!(store.read_lock().await, Ok(None));
}

async fn has_one_winner(open: &impl Open) {
    for race in 0..5 {
        let store = open("race");
        let dead = make_holder(1000);
        acquire(&store, &dead).await;
        let stale = store.read_lock().await.unwrap().unwrap();
        // Half of them see a stale lock, the others a free one.
        let instead_of = (race % 2 == 0).then_some(&stale);
        if instead_of.is_none() {
            store.release(&dead).await.unwrap();
        }
        let racers = (1..=16).map(async |pid| {
            let (store, me) = (open("race"), make_holder(pid));
            let taken = store.acquire(&me, instead_of).await.unwrap();
            (taken == Acquisition::Acquired).then_some(me)
        });
        let winners: Vec<Holder> = join_all(racers).await.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "race {race}: {winners:?}");
        assert_eq!(store.read_lock().await.unwrap().unwrap().holder, winners[0]);
        store.release(&winners[0]).await.unwrap();
    }
}

async fn loses_no_request_of_concurrent_writers(open: &impl Open) {
    let me = make_holder(1);
    acquire(&open("writers"), &me).await;
    let writers = (0..4).map(async |writer| {
        let store = open("writers");
        for number in 0..15 {
            let entry = make_entry("p1", &format!("{writer} {number}"));
            store.append((writer == 0).then_some(&me), Log::Promotions, &entry).await.unwrap();
        }
    });
    join_all(writers).await;
    let entries = open("writers").load(Log::Promotions, "p1", 0).await.unwrap();
    assert_eq!(entries.len(), 60);
    for writer in 0..4 {
        let expected: Vec<StoredEntry> =
            (0..15).map(|number| make_entry("p1", &format!("{writer} {number}"))).collect();
        let prefix = format!("\"{writer} ");
        let found: Vec<StoredEntry> =
            entries.iter().filter(|entry| entry.what.starts_with(&prefix)).cloned().collect();
        assert_eq!(found, expected, "in its order");
    }
}

async fn keeps_large_and_strange_texts(open: &impl Open) {
    let store = open("texts");
    let me = Holder { user: "Zoë \"ops\" O'Neil".to_owned(), ..make_holder(1) };
    acquire(&store, &me).await;
    let texts = ["x".repeat(200_000), "a\u{0}b\n\t\"\\'%$1;--".to_owned(), "日本語 🚀".to_owned()];
    let entries: Vec<StoredEntry> = texts.iter().map(|text| make_entry("r/1 ü", text)).collect();
    for entry in &entries {
        store.append(Some(&me), Log::Rolls, entry).await.unwrap();
    }
    assert_eq!(open("texts").load(Log::Rolls, "r/1 ü", 0).await, Ok(entries));
    assert_eq!(store.list(Log::Rolls, 1).await.unwrap(), ["r/1 ü"]);
    assert_eq!(store.read_lock().await.unwrap().unwrap().holder, me);
}

async fn separates_fleets(open: &impl Open) {
    let (shop, shop2) = (open("shop"), open("shop2"));
    acquire(&shop, &make_holder(1)).await;
    acquire(&shop2, &make_holder(2)).await;
    shop.append(Some(&make_holder(1)), Log::Rolls, &make_entry("r1", "x")).await.unwrap();
    assert_eq!(shop2.list(Log::Rolls, 9).await, Ok(vec![]));
    assert_eq!(
        shop2.append(Some(&make_holder(1)), Log::Rolls, &make_entry("r1", "x")).await,
        lost(Some(&make_holder(2)))
    );
}

async fn wakes_who_waits_for_the_lock(open: &impl Open) {
    let store = open("waiting");
    let me = make_holder(1);
    acquire(&store, &me).await;
    let seen = store.read_lock().await.unwrap();
    let waiter = open("waiting");
    let wait = async { waiter.wait_for_lock_change(seen.as_ref(), FAR).await };
    let release = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        store.release(&me).await
    };
    // Its limit is far longer than the test may take.
    let ended = tokio::time::timeout(FAR / 2, async { tokio::join!(wait, release) }).await;
    assert_eq!(ended.expect("it did not wake"), (Ok(()), Ok(())));
    assert_eq!(waiter.read_lock().await, Ok(None));
    // What has changed already is not waited for, and a limit is a limit.
    waiter.wait_for_lock_change(seen.as_ref(), FAR).await.unwrap();
    for micros in (0..60).map(|step| step * 250) {
        waiter.wait_for_lock_change(None, Duration::from_micros(micros)).await.unwrap();
    }
}

async fn releases_at_the_end_of_a_process(open: &impl Open) {
    let store = open("exit");
    acquire(&store, &make_holder(1)).await;
    // Of a process that does not hold it.
    store.release_at_exit(&make_holder(2));
    assert!(store.read_lock().await.unwrap().is_some());
    store.release_at_exit(&make_holder(1));
    assert_eq!(open("exit").read_lock().await, Ok(None));
}

async fn keeps_notes(open: &impl Open) {
    let store = open("notes");
    assert_eq!(store.load_notes(9).await, Ok(vec![]));
    let notes: Vec<LockNote> = (0..12)
        .map(|number| LockNote { at: NOW, user: "ops".to_owned(), text: format!("note {number}") })
        .collect();
    for note in &notes {
        store.add_note(note).await.unwrap();
    }
    assert_eq!(open("notes").load_notes(3).await, Ok(notes[9..].to_vec()));
    assert_eq!(store.load_notes(99).await, Ok(notes));
}

/// It has no process that could renew it, and is kept until it is released.
async fn keeps_a_persons_lock(open: &impl Open) {
    let purpose = LockPurpose::Operator { message: "database migration".to_owned() };
    let person = Holder { purpose, ..make_holder(1) };
    acquire(&open("person"), &person).await;
    let store = open("person");
    assert_eq!(store.read_lock().await.unwrap().unwrap().holder, person);
    store.release(&person).await.unwrap();
}

async fn stores_typed_entries(open: &impl Open) {
    let store = open("typed");
    let me = make_holder(1);
    acquire(&store, &me).await;
    let journal: Journal<RollEntry> = Journal::new(store);
    let roll = RollId::new(NOW, 1);
    let kind = RollEntryKind::Stopped { reason: "x".to_owned() };
    let entry = RollEntry { roll: roll.clone(), at: NOW, host: Some("web1".parse().unwrap()), kind };
    journal.append(&me, &entry).await.unwrap();
    assert_eq!(journal.load(&roll, 0).await, Ok(vec![entry]));
    assert_eq!(journal.find_last().await, Ok(Some(roll)));
}

/// The largest that is kept, of characters that JSON escapes. It needs no lock.
async fn keeps_outputs_beside_the_rolls(open: &impl Open) {
    let store = open("outputs");
    assert_eq!(store.load(Log::Outputs, "r1", 0).await, Ok(vec![]));
    let entries = ["one".to_owned(), "\"".repeat(64 * 1024)].map(|text| make_entry("r1", &text));
    for entry in &entries {
        store.append(None, Log::Outputs, entry).await.unwrap();
    }
    assert_eq!(open("outputs").load(Log::Outputs, "r1", 0).await, Ok(entries.to_vec()));
    assert_eq!(open("outputs").load(Log::Outputs, "r1", 1).await, Ok(entries[1..].to_vec()));
    assert_eq!(store.list(Log::Outputs, 9).await.unwrap(), ["r1"]);
    assert_eq!(store.list(Log::Rolls, 9).await, Ok(vec![]));
}
