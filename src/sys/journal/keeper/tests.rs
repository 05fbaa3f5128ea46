use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::model::api::journal::JournalCall;
use crate::model::lock::LockNote;

fn make_request(directory: Option<&Path>, call: JournalCall) -> JournalRequest {
    JournalRequest { directory: directory.map(Path::to_owned), call }
}

fn add_note() -> JournalCall {
    let note = LockNote { at: jiff::Timestamp::UNIX_EPOCH, user: "ops".to_owned(), text: "x".to_owned() };
    JournalCall::AddNote { note, token: "t1".to_owned() }
}

#[tokio::test]
async fn directory_is_for_its_user_alone() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = DirKeeper::new(dir.path().join("state/journals"));
    let service = "shop".parse().unwrap();
    assert_eq!(keeper.carry_out(&service, &make_request(None, add_note())).await, JournalAnswer::Done);
    let made = std::fs::metadata(dir.path().join("state/journals")).unwrap();
    assert_eq!(made.permissions().mode() & 0o777, 0o700);
    let named = dir.path().join("named");
    let answer = keeper.carry_out(&service, &make_request(Some(&named), add_note())).await;
    assert_eq!((answer, named.join("shop.db").exists()), (JournalAnswer::Done, true));
}

/// An operator moves a journal to another place, or puts an older one back, while the agent runs.
#[tokio::test]
async fn journal_that_was_moved_away_takes_no_more_entries() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = DirKeeper::new(dir.path().to_owned());
    let service = "shop".parse().unwrap();
    let file = dir.path().join("shop.db");
    let [moved, newer] = ["moved", "newer"].map(|name| dir.path().join(name));
    let add = async |token: &str| {
        let JournalCall::AddNote { note, .. } = add_note() else { unreachable!() };
        let call = JournalCall::AddNote { note, token: token.to_owned() };
        assert_eq!(keeper.carry_out(&service, &make_request(None, call)).await, JournalAnswer::Done);
    };
    let count = async || match keeper
        .carry_out(&service, &make_request(None, JournalCall::LoadNotes { limit: 9 }))
        .await
    {
        JournalAnswer::Notes { notes } => notes.len(),
        other => panic!("{other:?}"),
    };
    // With its log of writes (`-wal`), which belongs to it.
    let move_all = |from: &Path, to: &Path| {
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            if entry.path().is_file() {
                std::fs::rename(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    };
    add("t1").await;
    std::fs::create_dir_all(&newer).unwrap();
    std::fs::create_dir(&moved).unwrap();
    move_all(dir.path(), &moved);
    assert_eq!(count().await, 0);
    add("t2").await;
    assert!(file.exists());
    add("t3").await;
    assert_eq!(count().await, 2);
    move_all(dir.path(), &newer);
    move_all(&moved, dir.path());
    assert_eq!(count().await, 1);
}

#[tokio::test]
async fn directory_that_cannot_be_made_is_denied_by_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let keeper = DirKeeper::new(dir.path().join("file/journals"));
    let service = "shop".parse().unwrap();
    for call in [add_note(), JournalCall::ReadLock] {
        match keeper.carry_out(&service, &make_request(None, call)).await {
            JournalAnswer::Failed { failure: JournalFailure::Denied { directory, user, reason } } => {
                assert!(directory.ends_with("file/journals") && !user.is_empty(), "{directory:?} {user}");
                assert!(reason.contains("Not a directory"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    let relative = make_request(Some(Path::new("journals")), JournalCall::ReadLock);
    assert!(matches!(keeper.carry_out(&service, &relative).await, JournalAnswer::Failed { .. }));
}
