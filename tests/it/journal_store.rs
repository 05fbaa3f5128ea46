//! The journal stores against the real servers, all by one suite.

mod conformance;

use std::sync::Arc;

use conformance::{Store, check_store};
use switchman::sys::journal::sqlite::SqliteJournal;

#[tokio::test]
async fn sqlite_file_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let open =
        |service: &str| -> Store { Arc::new(SqliteJournal::new(dir.path().join(format!("{service}.db")))) };
    check_store(&open).await;
}
