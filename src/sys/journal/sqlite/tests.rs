use std::fs;
use std::sync::{Arc, Barrier};

use super::*;
use crate::model::journal::{RollEntry, RollEntryKind};
use crate::model::lock::{Liveness, LockPurpose};
use crate::model::roll::RollId;
use crate::sys::identity::ProcIdentity;
use crate::world::journal::Journal;
use crate::world::lock::HolderIdentity;

const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

fn open_journal(dir: &tempfile::TempDir) -> Arc<SqliteJournal> {
    Arc::new(SqliteJournal::new(dir.path().join(".switchman/shop.db")))
}

/// A journal in a directory of its own.
fn new_journal() -> (tempfile::TempDir, Arc<SqliteJournal>) {
    let dir = tempfile::tempdir().unwrap();
    let journal = open_journal(&dir);
    (dir, journal)
}

fn roll(salt: u16) -> RollId {
    RollId::new(NOW, salt)
}

fn mine(salt: u16) -> Holder {
    ProcIdentity.holder("ops", LockPurpose::Roll { roll: roll(salt) }, NOW)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

async fn acquire(journal: &SqliteJournal, holder: &Holder) {
    assert_eq!(journal.acquire(holder, None).await, Ok(Acquisition::Acquired));
}

/// A command that only looks leaves no file behind.
#[tokio::test]
async fn reading_makes_no_file() {
    let (dir, journal) = new_journal();
    assert_eq!((journal.list(Log::Rolls, 9).await, journal.read_lock().await), (Ok(vec![]), Ok(None)));
    assert_eq!(
        (journal.load(Log::Promotions, "p", 0).await, journal.load_notes(9).await),
        (Ok(vec![]), Ok(vec![]))
    );
    assert!(!dir.path().join(".switchman").exists());
}

/// 100 races of two processes: exactly one wins, and the lock is the winner's.
#[test]
fn lock_has_one_winner_among_concurrent_takers() {
    let dir = tempfile::tempdir().unwrap();
    for race in 0..100u16 {
        let barrier = Arc::new(Barrier::new(2));
        let stale = block_on(async {
            let journal = open_journal(&dir);
            acquire(&journal, &Holder { start_ticks: 1, ..mine(1000 + race) }).await;
            journal.read_lock().await.unwrap().unwrap()
        });
        assert_eq!(ProcIdentity.detect_liveness(&stale.holder), Liveness::Dead);
        let racers = [1, 2].map(|number| {
            let (journal, barrier, stale) = (open_journal(&dir), barrier.clone(), stale.clone());
            std::thread::spawn(move || {
                let me = mine(race * 2 + number);
                barrier.wait();
                let taken = block_on(journal.acquire(&me, Some(&stale))).unwrap();
                (me, taken)
            })
        });
        let ended = racers.map(|racer| racer.join().unwrap());
        let winners: Vec<&Holder> =
            ended.iter().filter(|(_, taken)| *taken == Acquisition::Acquired).map(|(me, _)| me).collect();
        assert_eq!(winners.len(), 1, "race {race}");
        let journal = open_journal(&dir);
        let loser = ended.iter().find(|(_, taken)| *taken != Acquisition::Acquired).unwrap();
        block_on(async {
            assert!(journal.release(&loser.0).await.is_err(), "the loser removes nothing");
            assert_eq!(&journal.read_lock().await.unwrap().unwrap().holder, winners[0]);
            journal.release(winners[0]).await.unwrap();
        });
    }
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
                    let (journal, me) = (open_journal(dir), mine(salt));
                    barrier.wait();
                    block_on(journal.acquire(&me, None))
                })
            });
            racers.map(|racer| racer.join().unwrap())
        });
        assert!(taken.iter().all(Result::is_ok), "{taken:?}");
        assert_eq!(taken.iter().filter(|taken| **taken == Ok(Acquisition::Acquired)).count(), 1);
        let left: Vec<_> = fs::read_dir(dir.path().join(".switchman")).unwrap().flatten().collect();
        let database = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("shop.db");
        assert!(left.iter().all(|file| database(&file.file_name())), "{left:?}");
        assert!(left.len() <= 3, "the file, its log and its index: {left:?}");
    }
}

/// Follows the hint for a damaged journal; its write-ahead log may be left on the disk.
#[tokio::test]
async fn journal_ignores_leftovers_of_moved_file() {
    let (dir, first) = new_journal();
    acquire(&first, &mine(1)).await;
    let file = dir.path().join(".switchman/shop.db");
    fs::rename(&file, dir.path().join("moved")).unwrap();
    assert!(dir.path().join(".switchman/shop.db-wal").exists());
    let second = open_journal(&dir);
    acquire(&second, &mine(2)).await;
    assert_eq!(second.read_lock().await.unwrap().unwrap().holder, mine(2));
}

#[tokio::test]
async fn journal_refuses_newer_schema_unchanged() {
    let (dir, first) = new_journal();
    acquire(&first, &mine(1)).await;
    let path = dir.path().join(".switchman/shop.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let newer = Err(JournalError::Newer { store: first.label(), found: 7, known: 3 });
    assert_eq!(open_journal(&dir).acquire(&mine(2), None).await, newer);
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

    #[tokio::test]
    async fn promotion_journal_accepts_entries_of_holder_and_requests_of_any_operator() {
        let (_dir, journal) = new_journal();
        let promotions: Journal<PromotionEntry> = Journal::new(journal.clone());
        let (first, second) = (PromotionId::new(NOW, 1), PromotionId::new(NOW, 2));
        assert_eq!(promotions.find_last().await, Ok(None));
        let me = mine(1);
        let lost = Err(JournalError::LockLost { holder: None });
        assert_eq!(promotions.append(&me, &make_entry(&first, began())).await, lost);
        acquire(&journal, &me).await;
        let ended = PromotionEntryKind::Ended { result: PromotionResult::RolledBack, reason: "x".into() };
        let entries = [make_entry(&first, began()), make_entry(&first, ended), make_entry(&second, began())];
        for entry in &entries {
            promotions.append(&me, entry).await.unwrap();
        }
        journal.release(&me).await.unwrap();
        let request = PromotionRequest {
            promotion: second.clone(),
            at: NOW,
            request: OperatorRequest::Approve { step: 3 },
            actor: actor(),
        };
        promotions.append_request(request.clone()).await.unwrap();
        assert_eq!(promotions.find_last().await, Ok(Some(second.clone())));
        assert_eq!(promotions.load(&first, 0).await, Ok(entries[..2].to_vec()));
        let requested = PromotionEntry::from(request);
        assert_eq!(promotions.load(&second, 0).await, Ok(vec![entries[2].clone(), requested.clone()]));
        assert_eq!(promotions.load(&second, 1).await, Ok(vec![requested]));
    }

    /// A row that cannot be read back would leave a canary that no command can remove.
    #[tokio::test]
    async fn promotion_journal_reads_back_every_entry_kind() {
        let (_dir, journal) = new_journal();
        let (me, id) = (mine(1), PromotionId::new(NOW, 1));
        acquire(&journal, &me).await;
        let promotions: Journal<PromotionEntry> = Journal::new(journal);
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
            promotions.append(&me, entry).await.unwrap();
        }
        assert_eq!(promotions.load(&id, 0).await, Ok(entries));
    }

    #[tokio::test]
    async fn journal_upgrade_adds_promotions_and_keeps_rolls() {
        let dir = tempfile::tempdir().unwrap();
        let me = mine(1);
        {
            let journal = open_journal(&dir);
            acquire(&journal, &me).await;
            let entry = RollEntry { roll: roll(1), at: NOW, host: None, kind: RollEntryKind::Done };
            Journal::<RollEntry>::new(journal).append(&me, &entry).await.unwrap();
        }
        let file = dir.path().join(".switchman/shop.db");
        let older = Connection::open(&file).unwrap();
        older.execute_batch("DROP TABLE promotions; PRAGMA user_version = 1;").unwrap();
        drop(older);
        let journal = open_journal(&dir);
        let rolls: Journal<RollEntry> = Journal::new(journal.clone());
        assert_eq!(rolls.load(&roll(1), 0).await.unwrap().len(), 1);
        let id = PromotionId::new(NOW, 1);
        let promotions: Journal<PromotionEntry> = Journal::new(journal);
        promotions.append(&me, &make_entry(&id, began())).await.unwrap();
        assert_eq!(promotions.find_last().await, Ok(Some(id)));
        let raw = Connection::open(&file).unwrap();
        for change in ["DELETE FROM promotions", "UPDATE promotions SET at = ''"] {
            assert!(raw.execute(change, []).unwrap_err().to_string().contains("append-only"));
        }
    }
}
