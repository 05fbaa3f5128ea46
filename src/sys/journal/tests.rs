use std::sync::{Arc, Barrier};

use super::*;
use crate::model::journal::{RollEntry, RollEntryKind};
use crate::model::roll::RollId;

const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

fn journal(dir: &tempfile::TempDir) -> SqliteJournal {
    SqliteJournal::new(dir.path().join(".switchman/shop.db"))
}

/// A journal in a directory of its own.
fn new_journal() -> (tempfile::TempDir, SqliteJournal) {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(&dir);
    (dir, journal)
}

fn roll(salt: u16) -> RollId {
    RollId::new(NOW, salt)
}

fn mine(journal: &SqliteJournal, salt: u16) -> Holder {
    journal.holder("ops", LockPurpose::Roll { roll: roll(salt) }, NOW)
}

fn make_entry(roll: RollId, host: Option<&str>, kind: RollEntryKind) -> RollEntry {
    RollEntry { roll, at: NOW, host: host.map(|host| host.parse().unwrap()), kind }
}

#[test]
fn journal_keeps_order_and_accepts_only_the_holder() {
    let (dir, journal) = new_journal();
    let rolls: &dyn Journal<RollEntry> = &journal;
    assert_eq!((rolls.find_last(), journal.read_holder()), (Ok(None), Ok(None)));
    assert!(!dir.path().join(".switchman").exists(), "looking makes nothing");
    let me = mine(&journal, 1);
    let stopped = RollEntryKind::Stopped { reason: "x".into() };
    let entries = [
        make_entry(roll(1), Some("web1"), RollEntryKind::Done),
        make_entry(roll(1), None, stopped.clone()),
        make_entry(roll(2), None, stopped),
    ];
    assert_eq!(rolls.append(&me, &entries[0]), Err(JournalError::LockLost { holder: None }));
    assert_eq!(journal.acquire(&me, None), Ok(AcquireResult::Acquired));
    for entry in &entries {
        rolls.append(&me, entry).unwrap();
    }
    assert_eq!(rolls.load(&roll(1), 0), Ok(entries[..2].to_vec()));
    assert_eq!(rolls.load(&roll(1), 1), Ok(entries[1..2].to_vec()));
    assert_eq!((rolls.find_last(), rolls.list(9)), (Ok(Some(roll(2))), Ok(vec![roll(1), roll(2)])));
}

#[test]
fn lock_is_replaced_only_if_unchanged_since_read() {
    let (_dir, journal) = new_journal();
    let (me, other) = (mine(&journal, 1), mine(&journal, 2));
    assert_eq!(journal.acquire(&me, None), Ok(AcquireResult::Acquired));
    let seen = journal.read_holder().unwrap().unwrap();
    assert_eq!((seen.liveness, seen.heartbeats), (Liveness::Live, 0));
    assert!(matches!(journal.acquire(&other, None), Ok(AcquireResult::Busy(held)) if held.holder == me));
    journal.send_heartbeat(&me).unwrap();
    assert!(matches!(journal.acquire(&other, Some(&seen)), Ok(AcquireResult::Busy(_))), "it has lived since");
    let seen = journal.read_holder().unwrap().unwrap();
    assert_eq!(journal.acquire(&other, Some(&seen)), Ok(AcquireResult::Acquired));
    let lost = Err(JournalError::LockLost { holder: Some(Box::new(other.clone())) });
    assert_eq!((journal.send_heartbeat(&me), journal.release(&me)), (lost.clone(), lost));
    assert_eq!(journal.release(&other), Ok(()));
    assert_eq!(journal.read_holder(), Ok(None));
}

#[test]
fn holder_with_reused_pid_is_not_alive() {
    let (_dir, journal) = new_journal();
    let me = mine(&journal, 1);
    let lives = |holder: Holder| detect_life(&holder);
    assert_eq!(lives(me.clone()), Liveness::Live);
    assert_eq!(lives(Holder { start_ticks: me.start_ticks + 1, ..me.clone() }), Liveness::Dead);
    assert_eq!(lives(Holder { boot_id: "another".into(), ..me.clone() }), Liveness::Dead);
    assert_eq!(lives(Holder { machine: "elsewhere".into(), ..me.clone() }), Liveness::Remote);
    let purpose = LockPurpose::Operator { message: "hands off".into() };
    assert_eq!(lives(Holder { start_ticks: 1, purpose, ..me }), Liveness::Live, "a person needs no process");
}

/// 100 races of two: exactly one wins, and the lock is the winner's.
#[test]
fn lock_has_one_winner_among_concurrent_takers() {
    let dir = tempfile::tempdir().unwrap();
    for race in 0..100u16 {
        let barrier = Arc::new(Barrier::new(2));
        let stale = {
            let journal = journal(&dir);
            let gone = Holder { start_ticks: 1, ..mine(&journal, 1000 + race) };
            assert_eq!(journal.acquire(&gone, None), Ok(AcquireResult::Acquired));
            journal.read_holder().unwrap().unwrap()
        };
        assert_eq!(stale.liveness, Liveness::Dead);
        let racers = [1, 2].map(|number| {
            let (journal, barrier, stale) = (journal(&dir), barrier.clone(), stale.clone());
            std::thread::spawn(move || {
                let me = mine(&journal, race * 2 + number);
                barrier.wait();
                let taken = journal.acquire(&me, Some(&stale)).unwrap();
                (me, taken)
            })
        });
        let ended = racers.map(|racer| racer.join().unwrap());
        let winners: Vec<&Holder> =
            ended.iter().filter(|(_, taken)| *taken == AcquireResult::Acquired).map(|(me, _)| me).collect();
        assert_eq!(winners.len(), 1, "race {race}");
        let journal = journal(&dir);
        let loser = ended.iter().find(|(_, taken)| *taken != AcquireResult::Acquired).unwrap();
        assert!(journal.release(&loser.0).is_err(), "the loser removes nothing");
        assert_eq!(&journal.read_holder().unwrap().unwrap().holder, winners[0]);
        journal.release(winners[0]).unwrap();
    }
}

#[test]
fn lock_notes_keep_order() {
    let (_dir, journal) = new_journal();
    for text in ["one", "two", "three"] {
        journal.add_note(&LockNote { at: NOW, user: "ops".into(), text: text.into() }).unwrap();
    }
    let texts: Vec<String> = journal.load_notes(2).unwrap().into_iter().map(|note| note.text).collect();
    assert_eq!(texts, ["two", "three"]);
}

/// SQLite does not wait for one that is just making the file.
#[test]
fn journal_accepts_concurrent_first_writers() {
    for _ in 0..100 {
        let dir = tempfile::tempdir().unwrap();
        let barrier = Barrier::new(4);
        let taken = std::thread::scope(|scope| {
            let racers = [1, 2, 3, 4].map(|salt| {
                let (dir, barrier) = (&dir, &barrier);
                scope.spawn(move || {
                    let journal = journal(dir);
                    let me = mine(&journal, salt);
                    barrier.wait();
                    journal.acquire(&me, None)
                })
            });
            racers.map(|racer| racer.join().unwrap())
        });
        assert!(taken.iter().all(Result::is_ok), "{taken:?}");
        assert_eq!(taken.iter().filter(|taken| **taken == Ok(AcquireResult::Acquired)).count(), 1);
        let left: Vec<_> = std::fs::read_dir(dir.path().join(".switchman")).unwrap().flatten().collect();
        let database = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("shop.db");
        assert!(left.iter().all(|file| database(&file.file_name())), "{left:?}");
        assert!(left.len() <= 3, "the file, its log and its index: {left:?}");
    }
}

/// Follows the hint for a damaged journal; its write-ahead log may be left on the disk.
#[test]
fn journal_ignores_leftovers_of_moved_file() {
    let (dir, first) = new_journal();
    assert_eq!(first.acquire(&mine(&first, 1), None), Ok(AcquireResult::Acquired));
    let file = dir.path().join(".switchman/shop.db");
    std::fs::rename(&file, dir.path().join("moved")).unwrap();
    assert!(dir.path().join(".switchman/shop.db-wal").exists());
    let second = journal(&dir);
    assert_eq!(second.acquire(&mine(&second, 2), None), Ok(AcquireResult::Acquired));
    assert_eq!(second.read_holder().unwrap().unwrap().holder, mine(&second, 2));
}

#[test]
fn journal_refuses_newer_schema_unchanged() {
    let (dir, first) = new_journal();
    assert_eq!(first.acquire(&mine(&first, 1), None), Ok(AcquireResult::Acquired));
    let path = dir.path().join(".switchman/shop.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let newer = Err(JournalError::Newer { path, found: 7, known: 3 });
    assert_eq!(journal(&dir).acquire(&mine(&first, 2), None), newer);
}

#[test]
fn start_time_parses_after_any_process_name() {
    let me = std::process::id();
    let clock = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let up: u64 = uptime.split('.').next().unwrap().parse().unwrap();
    let since = (up + 1).checked_sub(read_start_time(me).unwrap() / u64::try_from(clock).unwrap());
    assert!(since.is_some_and(|since| since < 3600), "{since:?}");
    // A name with blanks and brackets, as any program may give itself.
    let thread = std::thread::Builder::new().name(") Z 1 (x".into());
    let named = thread.spawn(move || {
        let tid = nix::unistd::gettid().as_raw().unsigned_abs();
        (read_start_time(tid).unwrap(), read_start_time(me).unwrap())
    });
    let (thread, process) = named.unwrap().join().unwrap();
    assert!(thread >= process && thread < process + 3600 * 100, "{thread} {process}");
}

#[test]
fn holder_zombie_is_not_alive() {
    let dir = tempfile::tempdir().unwrap();
    #[allow(clippy::disallowed_methods, reason = "a test of what is left of a process")]
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let started_at = read_start_time(child.id());
    while fs::read_to_string(format!("/proc/{}/stat", child.id())).is_ok_and(|stat| !stat.contains(") Z ")) {
        std::thread::yield_now();
    }
    let holder = Holder { pid: child.id(), start_ticks: started_at.unwrap_or(1), ..mine(&journal(&dir), 1) };
    assert_eq!(detect_life(&holder), Liveness::Dead);
    child.wait().unwrap();
    assert_eq!(detect_life(&holder), Liveness::Dead);
}

mod promotions {
    use super::*;
    use crate::model::example::{self, make_actor as actor};
    use crate::model::field::Field;
    use crate::model::promote::{
        Judgement, OperatorRequest, PromotionEntry, PromotionEntryKind, PromotionId, PromotionRequest,
        PromotionResult, PromotionSpec, RequestCounts, RequestSample, StepVerdict,
    };
    use crate::model::proxy::{Latencies, Sticky};

    fn began() -> PromotionEntryKind {
        let (spec, target) =
            (Box::new(example::make_promotion_spec(&["web1"])), example::make_promotion_target());
        PromotionEntryKind::Began { spec, target, actor: actor() }
    }

    fn make_entry(promotion: &PromotionId, kind: PromotionEntryKind) -> PromotionEntry {
        PromotionEntry { promotion: promotion.clone(), at: NOW, kind }
    }

    #[test]
    fn promotion_journal_accepts_entries_of_holder_and_requests_of_any_operator() {
        let (dir, journal) = new_journal();
        let promotions: &dyn Journal<PromotionEntry> = &journal;
        let (first, second) = (PromotionId::new(NOW, 1), PromotionId::new(NOW, 2));
        assert_eq!(promotions.find_last(), Ok(None));
        assert!(!dir.path().join(".switchman").exists(), "looking makes nothing");
        let me = mine(&journal, 1);
        let lost = Err(JournalError::LockLost { holder: None });
        assert_eq!(promotions.append(&me, &make_entry(&first, began())), lost);
        assert_eq!(journal.acquire(&me, None), Ok(AcquireResult::Acquired));
        let ended = PromotionEntryKind::Ended { result: PromotionResult::RolledBack, reason: "x".into() };
        let entries = [make_entry(&first, began()), make_entry(&first, ended), make_entry(&second, began())];
        for entry in &entries {
            promotions.append(&me, entry).unwrap();
        }
        journal.release(&me).unwrap();
        let request = PromotionRequest {
            promotion: second.clone(),
            at: NOW,
            request: OperatorRequest::Approve { step: 3 },
            actor: actor(),
        };
        promotions.append_request(request.clone()).unwrap();
        assert_eq!(promotions.find_last(), Ok(Some(second.clone())));
        assert_eq!(promotions.load(&first, 0), Ok(entries[..2].to_vec()));
        let requested = PromotionEntry::from(request);
        assert_eq!(promotions.load(&second, 0), Ok(vec![entries[2].clone(), requested.clone()]));
        assert_eq!(promotions.load(&second, 1), Ok(vec![requested]));
    }

    /// A row that cannot be read back would leave a canary that no command can remove.
    #[test]
    fn promotion_journal_reads_back_every_entry_kind() {
        let (_dir, journal) = new_journal();
        let (me, id) = (mine(&journal, 1), PromotionId::new(NOW, 1));
        journal.acquire(&me, None).unwrap();
        let latency: Latencies = [100, 100, 30_000].into_iter().collect();
        let main = RequestCounts { requests: 3, failed: 1, fallbacks: 0, latency };
        let reason = "5 requests".to_owned();
        let verdicts = [
            StepVerdict::Advance,
            StepVerdict::Done,
            StepVerdict::Hold { reason: reason.clone() },
            StepVerdict::Breach { reason: reason.clone() },
        ];
        let judged = verdicts.map(|verdict| PromotionEntryKind::Judged {
            step: 1,
            judgement: Judgement { verdict, canary: main.to_sample(), main: RequestSample::default() },
        });
        let untold = vec![("web1".parse().unwrap(), "cut".to_owned())];
        let sticky = Some(Sticky::Header("x-user".to_owned()));
        let ignore = vec![Field::Status, Field::Body, "$.items[].price".parse().unwrap()];
        let spec = PromotionSpec { ignore, sticky, ..example::make_promotion_spec(&["web1", "web2"]) };
        let kinds = [
            PromotionEntryKind::Began {
                spec: Box::new(spec),
                target: example::make_promotion_target(),
                actor: actor(),
            },
            PromotionEntryKind::Resumed { actor: actor() },
            PromotionEntryKind::Compared { passed: true, reason: reason.clone() },
            PromotionEntryKind::StepBegan { step: 1 },
            PromotionEntryKind::StepSet { step: 1 },
            PromotionEntryKind::StepPassed { step: 1, main: Some(main) },
            PromotionEntryKind::StepPassed { step: 2, main: None },
            PromotionEntryKind::AwaitingApproval { step: 2 },
            PromotionEntryKind::Requested { ask: OperatorRequest::Abort, actor: actor() },
            PromotionEntryKind::Promoting,
            PromotionEntryKind::RollingBack { result: PromotionResult::Aborted, reason: reason.clone() },
            PromotionEntryKind::Stopped { reason: reason.clone(), unreachable_hosts: untold },
            PromotionEntryKind::Ended { result: PromotionResult::Promoted, reason },
        ]
        .into_iter()
        .chain(judged);
        let entries: Vec<PromotionEntry> = kinds.into_iter().map(|kind| make_entry(&id, kind)).collect();
        for entry in &entries {
            journal.append(&me, entry).unwrap();
        }
        assert_eq!(journal.load(&id, 0), Ok(entries));
    }

    #[test]
    fn journal_upgrade_adds_promotions_and_keeps_rolls() {
        let dir = tempfile::tempdir().unwrap();
        let me = {
            let journal = journal(&dir);
            let me = mine(&journal, 1);
            journal.acquire(&me, None).unwrap();
            journal.append(&me, &super::make_entry(roll(1), None, RollEntryKind::Done)).unwrap();
            me
        };
        let file = dir.path().join(".switchman/shop.db");
        let older = Connection::open(&file).unwrap();
        older.execute_batch("DROP TABLE promotions; PRAGMA user_version = 1;").unwrap();
        drop(older);
        let journal = journal(&dir);
        assert_eq!(Journal::<RollEntry>::load(&journal, &roll(1), 0).unwrap().len(), 1);
        let id = PromotionId::new(NOW, 1);
        journal.append(&me, &make_entry(&id, began())).unwrap();
        assert_eq!(Journal::<PromotionEntry>::find_last(&journal), Ok(Some(id)));
        let raw = Connection::open(&file).unwrap();
        for change in ["DELETE FROM promotions", "UPDATE promotions SET at = ''"] {
            assert!(raw.execute(change, []).unwrap_err().to_string().contains("append-only"));
        }
    }
}
