//! State that earlier switchmen recorded is read (tests/fixtures/recorded/): a host's record and the journal of a fleet from a
//! rehearsal of 0.1.0, in its own names, and a journal of schema 3.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;
use switchman::model::journal::{RollEntry, RollEntryKind};
use switchman::model::promote::{PromotionEntry, PromotionEntryKind, PromotionResult};
use switchman::plan::{promote, roll};
use switchman::sys::journal::sqlite::SqliteJournal;
use switchman::sys::store::SqliteStore;
use switchman::world::deployments::DeploymentStore;
use switchman::world::journal::Journal;
use switchman::world::store::Store;

/// A database file with the tables and the schema version of the fixture.
fn restore_database(file: &Path, dump: &str, schema_version: i64) {
    let connection = Connection::open(file).unwrap();
    connection.execute_batch(dump).unwrap();
    connection.pragma_update(None, "user_version", schema_version).unwrap();
}

#[test]
fn host_record_of_0_1_0_is_read() {
    let dir = tempfile::tempdir().unwrap();
    restore_database(&dir.path().join("state.db"), include_str!("../fixtures/recorded/state.sql"), 4);
    let store = SqliteStore::new(dir.path());
    let records = store.load_records().unwrap();
    let deployments = store.all().unwrap();
    let record = &records[0];
    let routes = record.routes.as_ref().expect("the service is routed");
    assert!(deployments.iter().any(|one| one.id == routes.main.deployment), "{deployments:?}");
    let canary = record.layer7.traffic_split.canary.as_ref().expect("a canary is recorded");
    assert!(deployments.iter().any(|one| one.id == canary.deployment), "{canary:?}");
    assert!(!store.load_history(None, 1_000).unwrap().is_empty());
}

#[tokio::test]
async fn journal_of_0_1_0_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shop.db");
    restore_database(&file, include_str!("../fixtures/recorded/journal.sql"), 2);
    let store = Arc::new(SqliteJournal::new(file));
    let (journal, promotions) =
        (Journal::<RollEntry>::new(store.clone()), Journal::<PromotionEntry>::new(store));
    let rolls = journal.list(100).await.unwrap();
    assert!(rolls.len() > 1, "{rolls:?}");
    for id in &rolls {
        let progress = roll::progress::build_progress(&journal.load(id, 0).await.unwrap()).unwrap();
        assert!(progress.is_finished(), "{progress:?}");
    }
    let last = promotions.find_last().await.unwrap().expect("a promotion is recorded");
    let progress = promote::build_progress(&promotions.load(&last, 0).await.unwrap()).unwrap();
    assert_eq!(progress.result, Some(PromotionResult::RolledBack), "{progress:?}");
}

/// Two operator machines may share the file with different versions of switchman: what schema 3 has is also what is written.
#[test]
fn journal_of_schema_3_is_read_and_written_in_the_same_form() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shop.db");
    restore_database(&file, include_str!("../fixtures/recorded/journal-3.sql"), 3);
    assert_eq!(rewrite_entries::<RollEntryKind>(&file, "SELECT what FROM journal"), 13);
    assert_eq!(rewrite_entries::<PromotionEntryKind>(&file, "SELECT what FROM promotions"), 12);
}

/// Checks that every entry is written as it was read. Returns the number of entries.
fn rewrite_entries<K: Serialize + DeserializeOwned>(file: &Path, sql: &str) -> usize {
    let connection = Connection::open(file).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let recorded: Vec<String> =
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    for text in &recorded {
        let kind: K = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let recorded: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&kind).unwrap(), recorded);
    }
    recorded.len()
}
