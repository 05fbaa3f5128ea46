//! `world::journal_store`: the places that can keep a fleet's journals and its lock.

pub mod consul;
pub mod etcd;
mod exit;
pub mod host;
pub mod keeper;
pub mod kv;
mod no_client;
pub mod open;
pub mod postgres;
pub mod sqlite;
mod token;

/// Reads a text as each answer of etcd and Consul, and as an entry of a journal: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub fn fuzz_answers(answer: &str) {
    use crate::model::journal_record::{LockRecord, StoredEntry};

    etcd::fuzz_answer(answer);
    consul::fuzz_answer(answer);
    let _ = serde_json::from_str::<LockRecord>(answer);
    let _ = serde_json::from_str::<StoredEntry>(answer);
}
