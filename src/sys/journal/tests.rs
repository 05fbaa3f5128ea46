use std::sync::{Arc, Barrier};

use super::*;

const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

fn journal(dir: &tempfile::TempDir) -> SqliteJournal {
    SqliteJournal::new(dir.path().join(".switchman/shop.db"))
}

fn roll(salt: u16) -> RollId {
    RollId::new(NOW, salt)
}

fn mine(journal: &SqliteJournal, salt: u16) -> Holder {
    journal.holder("ops", Purpose::Roll { roll: roll(salt) }, NOW)
}

#[test]
fn rows_come_back_in_order_and_only_the_holder_writes() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(&dir);
    assert_eq!((journal.last(), journal.view()), (Ok(None), Ok(None)));
    assert!(!dir.path().join(".switchman").exists(), "looking makes nothing");
    let (me, host) = (mine(&journal, 1), "web1".parse().unwrap());
    let stopped = What::Stopped { why: "x".into() };
    assert_eq!(
        journal.append(&me, &roll(1), None, &stopped, NOW),
        Err(JournalError::LockLost { holder: None })
    );
    assert_eq!(journal.take(&me, None), Ok(Taken::Taken));
    journal.append(&me, &roll(1), Some(&host), &What::Done, NOW).unwrap();
    journal.append(&me, &roll(1), None, &stopped, NOW).unwrap();
    journal.append(&me, &roll(2), None, &stopped, NOW).unwrap();
    let rows = journal.rows(&roll(1)).unwrap();
    assert_eq!(rows.iter().map(|row| row.what.clone()).collect::<Vec<_>>(), [What::Done, stopped]);
    assert_eq!(rows[0].host, Some(host));
    assert_eq!((journal.last(), journal.rolls(9)), (Ok(Some(roll(2))), Ok(vec![roll(1), roll(2)])));
}

#[test]
fn a_lock_is_one_process_and_only_exactly_what_was_seen_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(&dir);
    let (me, other) = (mine(&journal, 1), mine(&journal, 2));
    assert_eq!(journal.take(&me, None), Ok(Taken::Taken));
    let seen = journal.view().unwrap().unwrap();
    assert_eq!((seen.life, seen.beats), (Life::Alive, 0));
    assert!(matches!(journal.take(&other, None), Ok(Taken::Held(held)) if held.holder == me));
    journal.beat(&me).unwrap();
    assert!(matches!(journal.take(&other, Some(&seen)), Ok(Taken::Held(_))), "it has lived since");
    let seen = journal.view().unwrap().unwrap();
    assert_eq!(journal.take(&other, Some(&seen)), Ok(Taken::Taken));
    let lost = Err(JournalError::LockLost { holder: Some(Box::new(other.clone())) });
    assert_eq!((journal.beat(&me), journal.release(&me)), (lost.clone(), lost));
    assert_eq!(journal.release(&other), Ok(()));
    assert_eq!(journal.view(), Ok(None));
}

#[test]
fn a_process_that_is_gone_is_told_from_one_with_its_pid() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(&dir);
    let me = mine(&journal, 1);
    let lives = |holder: Holder| life(&holder);
    assert_eq!(lives(me.clone()), Life::Alive);
    assert_eq!(lives(Holder { started: me.started + 1, ..me.clone() }), Life::Gone);
    assert_eq!(lives(Holder { boot: "another".into(), ..me.clone() }), Life::Gone);
    assert_eq!(lives(Holder { machine: "elsewhere".into(), ..me.clone() }), Life::Elsewhere);
    let purpose = Purpose::Person { message: "hands off".into() };
    assert_eq!(lives(Holder { started: 1, purpose, ..me }), Life::Alive, "a person needs no process");
}

/// 100 races of two: exactly one wins, and the lock is the winner's.
#[test]
fn of_two_at_once_one_wins_and_the_lock_survives() {
    let dir = tempfile::tempdir().unwrap();
    for race in 0..100u16 {
        let barrier = Arc::new(Barrier::new(2));
        let stale = {
            let journal = journal(&dir);
            let gone = Holder { started: 1, ..mine(&journal, 1000 + race) };
            assert_eq!(journal.take(&gone, None), Ok(Taken::Taken));
            journal.view().unwrap().unwrap()
        };
        assert_eq!(stale.life, Life::Gone);
        let racers = [1, 2].map(|number| {
            let (journal, barrier, stale) = (journal(&dir), barrier.clone(), stale.clone());
            std::thread::spawn(move || {
                let me = mine(&journal, race * 2 + number);
                barrier.wait();
                let taken = journal.take(&me, Some(&stale)).unwrap();
                (me, taken)
            })
        });
        let ended = racers.map(|racer| racer.join().unwrap());
        let winners: Vec<&Holder> =
            ended.iter().filter(|(_, taken)| *taken == Taken::Taken).map(|(me, _)| me).collect();
        assert_eq!(winners.len(), 1, "race {race}");
        let journal = journal(&dir);
        let loser = ended.iter().find(|(_, taken)| *taken != Taken::Taken).unwrap();
        assert!(journal.release(&loser.0).is_err(), "the loser removes nothing");
        assert_eq!(&journal.view().unwrap().unwrap().holder, winners[0]);
        journal.release(winners[0]).unwrap();
    }
}

#[test]
fn notes_are_kept_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(&dir);
    for text in ["one", "two", "three"] {
        journal.note(&LockNote { at: NOW, user: "ops".into(), text: text.into() }).unwrap();
    }
    let texts: Vec<String> = journal.notes(2).unwrap().into_iter().map(|note| note.text).collect();
    assert_eq!(texts, ["two", "three"]);
}

/// SQLite does not wait for one that is just making the file.
#[test]
fn of_many_who_come_first_none_is_refused() {
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
                    journal.take(&me, None)
                })
            });
            racers.map(|racer| racer.join().unwrap())
        });
        assert!(taken.iter().all(Result::is_ok), "{taken:?}");
        assert_eq!(taken.iter().filter(|taken| **taken == Ok(Taken::Taken)).count(), 1);
        let left: Vec<_> = std::fs::read_dir(dir.path().join(".switchman")).unwrap().flatten().collect();
        let database = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("shop.db");
        assert!(left.iter().all(|file| database(&file.file_name())), "{left:?}");
        assert!(left.len() <= 3, "the file, its log and its index: {left:?}");
    }
}

/// As the hint for a damaged one says; its log may be left behind.
#[test]
fn a_file_that_was_moved_away_leaves_nothing_in_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let first = journal(&dir);
    assert_eq!(first.take(&mine(&first, 1), None), Ok(Taken::Taken));
    let file = dir.path().join(".switchman/shop.db");
    std::fs::rename(&file, dir.path().join("moved")).unwrap();
    assert!(dir.path().join(".switchman/shop.db-wal").exists());
    let second = journal(&dir);
    assert_eq!(second.take(&mine(&second, 2), None), Ok(Taken::Taken));
    assert_eq!(second.view().unwrap().unwrap().holder, mine(&second, 2));
}

#[test]
fn a_journal_of_a_newer_switchman_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let first = journal(&dir);
    assert_eq!(first.take(&mine(&first, 1), None), Ok(Taken::Taken));
    let path = dir.path().join(".switchman/shop.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let newer = Err(JournalError::Newer { path, found: 7, known: 2 });
    assert_eq!(journal(&dir).take(&mine(&first, 2), None), newer);
}

#[test]
fn the_start_of_a_process_is_read_behind_any_name() {
    let me = std::process::id();
    let clock = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let up: u64 = uptime.split('.').next().unwrap().parse().unwrap();
    let since = (up + 1).checked_sub(started(me).unwrap() / u64::try_from(clock).unwrap());
    assert!(since.is_some_and(|since| since < 3600), "{since:?}");
    // A name with blanks and brackets, as any program may give itself.
    let thread = std::thread::Builder::new().name(") Z 1 (x".into());
    let named = thread.spawn(move || {
        let tid = nix::unistd::gettid().as_raw().unsigned_abs();
        (started(tid).unwrap(), started(me).unwrap())
    });
    let (thread, process) = named.unwrap().join().unwrap();
    assert!(thread >= process && thread < process + 3600 * 100, "{thread} {process}");
}

#[test]
fn a_zombie_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    #[allow(clippy::disallowed_methods, reason = "a test of what is left of a process")]
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let started_at = started(child.id());
    while fs::read_to_string(format!("/proc/{}/stat", child.id())).is_ok_and(|stat| !stat.contains(") Z ")) {
        std::thread::yield_now();
    }
    let holder = Holder { pid: child.id(), started: started_at.unwrap_or(1), ..mine(&journal(&dir), 1) };
    assert_eq!(life(&holder), Life::Gone);
    child.wait().unwrap();
    assert_eq!(life(&holder), Life::Gone);
}

mod rollouts {
    use super::*;
    use crate::model::example;
    use crate::model::field::Field;
    use crate::model::history::Actor;
    use crate::model::promote::{
        Ask, Counts, Judged, RolloutId, RolloutResult, RolloutSpec, RolloutWhat, Sample, Verdict,
    };
    use crate::model::proxy::{Latencies, Sticky};
    use crate::world::promotions::Rollouts;

    fn actor() -> Actor {
        Actor { user: "ops".into(), pid: 7 }
    }

    fn began() -> RolloutWhat {
        let (spec, target) = (Box::new(example::rollout(&["web1"])), example::rollout_target());
        RolloutWhat::Began { spec, target, actor: actor() }
    }

    #[test]
    fn only_the_holder_writes_and_anybody_asks() {
        let dir = tempfile::tempdir().unwrap();
        let journal = journal(&dir);
        let (first, second) = (RolloutId::new(NOW, 1), RolloutId::new(NOW, 2));
        assert_eq!(Rollouts::last(&journal), Ok(None));
        assert!(!dir.path().join(".switchman").exists(), "looking makes nothing");
        let me = mine(&journal, 1);
        let lost = Err(JournalError::LockLost { holder: None });
        assert_eq!(Rollouts::append(&journal, &me, &first, &began(), NOW), lost);
        assert_eq!(journal.take(&me, None), Ok(Taken::Taken));
        let ended = RolloutWhat::Ended { result: RolloutResult::Returned, why: "x".into() };
        for (rollout, what) in [(&first, &began()), (&first, &ended), (&second, &began())] {
            Rollouts::append(&journal, &me, rollout, what, NOW).unwrap();
        }
        journal.release(&me).unwrap();
        journal.ask(&second, Ask::Promote { step: 3 }, &actor(), NOW).unwrap();
        assert_eq!(Rollouts::last(&journal), Ok(Some(second.clone())));
        let whats = |rollout, after| {
            let rows = Rollouts::rows(&journal, rollout, after).unwrap();
            assert!(rows.iter().all(|row| row.rollout == *rollout && row.number > after && row.at == NOW));
            rows.into_iter().map(|row| row.what).collect::<Vec<_>>()
        };
        let asked = RolloutWhat::Asked { ask: Ask::Promote { step: 3 }, actor: actor() };
        assert_eq!(whats(&first, 0), [began(), ended]);
        assert_eq!((whats(&second, 0), whats(&second, 3)), (vec![began(), asked.clone()], vec![asked]));
    }

    /// A row that cannot be read back would leave a canary that nobody can take away.
    #[test]
    fn every_row_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let journal = journal(&dir);
        let (me, id) = (mine(&journal, 1), RolloutId::new(NOW, 1));
        journal.take(&me, None).unwrap();
        let latency: Latencies = [100, 100, 30_000].into_iter().collect();
        let main = Counts { requests: 3, failed: 1, not_taken: 0, latency };
        let reason = "5 requests".to_owned();
        let verdicts = [
            Verdict::Advance,
            Verdict::Done,
            Verdict::Hold { reason: reason.clone() },
            Verdict::Breach { reason: reason.clone() },
        ];
        let judged = verdicts.map(|verdict| RolloutWhat::Judged {
            step: 1,
            judged: Judged { verdict, canary: main.sample(), main: Sample::default() },
        });
        let untold = vec![("web1".parse().unwrap(), "cut".to_owned())];
        let sticky = Some(Sticky::Header("x-user".to_owned()));
        let ignore = vec![Field::Status, Field::Body, "$.items[].price".parse().unwrap()];
        let spec = RolloutSpec { ignore, sticky, ..example::rollout(&["web1", "web2"]) };
        let rows: Vec<RolloutWhat> = [
            RolloutWhat::Began { spec: Box::new(spec), target: example::rollout_target(), actor: actor() },
            RolloutWhat::Resumed { actor: actor() },
            RolloutWhat::Compared { passed: true, reason: reason.clone() },
            RolloutWhat::StepBegan { step: 1 },
            RolloutWhat::StepSet { step: 1 },
            RolloutWhat::StepPassed { step: 1, main: Some(main) },
            RolloutWhat::StepPassed { step: 2, main: None },
            RolloutWhat::Waiting { step: 2 },
            RolloutWhat::Asked { ask: Ask::Abort, actor: actor() },
            RolloutWhat::Promoting,
            RolloutWhat::Returning { result: RolloutResult::Aborted, why: reason.clone() },
            RolloutWhat::Stopped { why: reason.clone(), untold },
            RolloutWhat::Ended { result: RolloutResult::Promoted, why: reason },
        ]
        .into_iter()
        .chain(judged)
        .collect();
        for what in &rows {
            Rollouts::append(&journal, &me, &id, what, NOW).unwrap();
        }
        let read = Rollouts::rows(&journal, &id, 0).unwrap();
        assert_eq!(read.into_iter().map(|row| row.what).collect::<Vec<_>>(), rows);
    }

    #[test]
    fn a_file_of_before_there_were_any_is_upgraded_and_keeps_its_rolls() {
        let dir = tempfile::tempdir().unwrap();
        let me = {
            let journal = journal(&dir);
            let me = mine(&journal, 1);
            journal.take(&me, None).unwrap();
            Journal::append(&journal, &me, &roll(1), None, &What::Done, NOW).unwrap();
            me
        };
        let file = dir.path().join(".switchman/shop.db");
        let older = Connection::open(&file).unwrap();
        older.execute_batch("DROP TABLE rollouts; PRAGMA user_version = 1;").unwrap();
        drop(older);
        let journal = journal(&dir);
        assert_eq!(Journal::rows(&journal, &roll(1)).unwrap().len(), 1);
        let id = RolloutId::new(NOW, 1);
        Rollouts::append(&journal, &me, &id, &began(), NOW).unwrap();
        assert_eq!(Rollouts::last(&journal), Ok(Some(id)));
        let raw = Connection::open(&file).unwrap();
        for change in ["DELETE FROM rollouts", "UPDATE rollouts SET at = ''"] {
            assert!(raw.execute(change, []).unwrap_err().to_string().contains("append-only"));
        }
    }
}
