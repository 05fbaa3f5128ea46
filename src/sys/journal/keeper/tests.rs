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
