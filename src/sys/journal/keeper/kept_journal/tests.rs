use super::*;
use crate::model::journal_record::{LockRecord, Log};
use crate::model::lock::LockNote;

const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

fn make_journal() -> (tempfile::TempDir, KeptJournal) {
    let dir = tempfile::tempdir().unwrap();
    let journal = KeptJournal::new(dir.path().join("shop.db"));
    (dir, journal)
}

fn make_holder(machine: &str, purpose: LockPurpose) -> Box<Holder> {
    Box::new(Holder {
        user: "ops".to_owned(),
        machine: machine.to_owned(),
        boot_id: "boot".to_owned(),
        pid: 7,
        start_ticks: 7,
        pid_namespace: "pid:[1]".to_owned(),
        purpose,
        since: NOW,
    })
}

fn make_process(machine: &str) -> Box<Holder> {
    make_holder(machine, LockPurpose::Command { name: "assign shop 2.0.0".to_owned() })
}

fn at(boot: &str, seconds: i64) -> BootTime {
    BootTime { boot_id: boot.to_owned(), millis: seconds * 1000 }
}

fn acquire(holder: &Holder) -> JournalCall {
    JournalCall::Acquire { holder: Box::new(holder.clone()), instead_of: None }
}

fn append(holder: &Holder, what: &str, token: &str) -> JournalCall {
    let entry = StoredEntry { id: "r1".to_owned(), at: NOW, host: None, what: what.to_owned() };
    JournalCall::Append {
        holder: Some(Box::new(holder.clone())),
        log: Log::Rolls,
        entry,
        token: token.to_owned(),
    }
}

fn load(journal: &KeptJournal, skip: u32) -> (Vec<String>, bool) {
    let call = JournalCall::Load { log: Log::Rolls, id: "r1".to_owned(), skip };
    match journal.carry_out(&call, &at("a", 0)).unwrap() {
        JournalAnswer::Entries { entries, has_more } => {
            (entries.into_iter().map(|entry| entry.what).collect(), has_more)
        }
        other => panic!("{other:?}"),
    }
}

fn lock_at(journal: &KeptJournal, now: &BootTime) -> Option<Holder> {
    match journal.carry_out(&JournalCall::ReadLock, now).unwrap() {
        JournalAnswer::Lock { held } => held.map(|held| held.holder),
        other => panic!("{other:?}"),
    }
}

#[test]
fn lock_of_a_silent_process_ends_by_the_clock_of_the_machine_that_keeps_it() {
    let (_dir, journal) = make_journal();
    let (me, other) = (make_process("ops1"), make_process("ops2"));
    assert_eq!(journal.carry_out(&acquire(&me), &at("a", 100)), Ok(JournalAnswer::Done));
    let held = Box::new(LockRecord { holder: (*me).clone(), heartbeats: 0 });
    assert_eq!(journal.carry_out(&acquire(&other), &at("a", 129)), Ok(JournalAnswer::Busy { held }));
    // A heartbeat begins the lease again.
    let renew = JournalCall::Renew { holder: me.clone() };
    assert_eq!(journal.carry_out(&renew, &at("a", 129)), Ok(JournalAnswer::Done));
    assert_eq!(lock_at(&journal, &at("a", 158)), Some((*me).clone()));
    assert_eq!(lock_at(&journal, &at("a", 159)), None);
    // What the holder sends later is refused: before another one has the lock, and after.
    let lost = |holder: Option<&Holder>| JournalAnswer::LockLost { holder: holder.cloned().map(Box::new) };
    assert_eq!(journal.carry_out(&append(&me, "1", "t1"), &at("a", 160)), Ok(lost(None)));
    assert_eq!(journal.carry_out(&acquire(&other), &at("a", 160)), Ok(JournalAnswer::Done));
    assert_eq!(journal.carry_out(&append(&me, "1", "t1"), &at("a", 160)), Ok(lost(Some(&other))));
    assert_eq!(journal.carry_out(&renew, &at("a", 160)), Ok(lost(Some(&other))));
    assert_eq!(load(&journal, 0).0, Vec::<String>::new());
}

/// The rest of the lease is not known after a reboot, and its holder may be working.
#[test]
fn reboot_of_the_machine_begins_the_lease_again() {
    let (_dir, journal) = make_journal();
    let (me, other) = (make_process("ops1"), make_process("ops2"));
    journal.carry_out(&acquire(&me), &at("a", 1000)).unwrap();
    assert_eq!(lock_at(&journal, &at("b", 5)), Some((*me).clone()));
    assert!(matches!(journal.carry_out(&acquire(&other), &at("b", 34)), Ok(JournalAnswer::Busy { .. })));
    assert_eq!(journal.carry_out(&acquire(&other), &at("b", 35)), Ok(JournalAnswer::Done));
}

#[test]
fn persons_lock_has_no_lease() {
    let (_dir, journal) = make_journal();
    let person = make_holder("ops1", LockPurpose::Operator { message: "database migration".to_owned() });
    journal.carry_out(&acquire(&person), &at("a", 1)).unwrap();
    assert_eq!(lock_at(&journal, &at("a", 1_000_000)), Some((*person).clone()));
    assert_eq!(lock_at(&journal, &at("b", 1)), Some(*person));
}

/// A client whose answer was lost sends the same token again.
#[test]
fn write_with_a_known_token_is_carried_out_once() {
    let (_dir, journal) = make_journal();
    let (me, now) = (make_process("ops1"), at("a", 1));
    journal.carry_out(&acquire(&me), &now).unwrap();
    for token in ["t1", "t1", "t2", "t2", "t1"] {
        assert_eq!(journal.carry_out(&append(&me, "same", token), &now), Ok(JournalAnswer::Done));
    }
    assert_eq!(load(&journal, 0), (vec!["same".to_owned(); 2], false));
    let note = LockNote { at: NOW, user: "ops".to_owned(), text: "x".to_owned() };
    for _ in 0..2 {
        let call = JournalCall::AddNote { note: note.clone(), token: "n1".to_owned() };
        assert_eq!(journal.carry_out(&call, &now), Ok(JournalAnswer::Done));
    }
    let noted = journal.carry_out(&JournalCall::LoadNotes { limit: 9 }, &now);
    assert_eq!(noted, Ok(JournalAnswer::Notes { notes: vec![note] }));
    // The lock may be another's by the time the release is sent again.
    let release = JournalCall::Release { holder: me, token: "r1".to_owned() };
    assert_eq!(journal.carry_out(&release, &now), Ok(JournalAnswer::Done));
    journal.carry_out(&acquire(&make_process("ops2")), &now).unwrap();
    assert_eq!(journal.carry_out(&release, &now), Ok(JournalAnswer::Done));
    assert_eq!(lock_at(&journal, &now), Some(*make_process("ops2")));
}

#[test]
fn refused_write_may_be_sent_again_with_its_token() {
    let (_dir, journal) = make_journal();
    let (me, now) = (make_process("ops1"), at("a", 1));
    let refused = Ok(JournalAnswer::LockLost { holder: None });
    assert_eq!(journal.carry_out(&append(&me, "x", "t1"), &now), refused);
    journal.carry_out(&acquire(&me), &now).unwrap();
    assert_eq!(journal.carry_out(&append(&me, "x", "t1"), &now), Ok(JournalAnswer::Done));
    assert_eq!(load(&journal, 0).0, ["x"]);
}

#[test]
fn answer_has_a_limited_size() {
    let (_dir, journal) = make_journal();
    let (me, now) = (make_process("ops1"), at("a", 1));
    journal.carry_out(&acquire(&me), &now).unwrap();
    let large = "x".repeat(MAX_ANSWER_BYTES / 2);
    for (number, what) in [&large, &large, &large, &large.repeat(3)].into_iter().enumerate() {
        journal.carry_out(&append(&me, what, &number.to_string()), &now).unwrap();
    }
    let lengths = |skip| {
        let (entries, has_more) = load(&journal, skip);
        (entries.len(), has_more)
    };
    assert_eq!(
        [lengths(0), lengths(2), lengths(3), lengths(4)],
        [(2, true), (1, true), (1, false), (0, false)]
    );
}

/// A command that only looks leaves no file behind.
#[test]
fn reading_makes_no_file() {
    let (dir, journal) = make_journal();
    assert_eq!((lock_at(&journal, &at("a", 1)), load(&journal, 0)), (None, (vec![], false)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
