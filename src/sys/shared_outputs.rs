//! `world::outputs` where several machines share the journal: files here, and the ends of failed commands' outputs in the journal.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::outputs::FileOutputs;
use crate::model::journal_record::{Log, SharedOutput, StoredEntry};
use crate::model::name::HostName;
use crate::model::roll::RollId;
use crate::world::clock::Clock;
use crate::world::journal_store::{JournalError, JournalStore};
use crate::world::outputs::OutputStore;

/// Limits of one kept end. Consul takes values of 512 KiB, and JSON may need six bytes for one.
const MAX_TAIL_BYTES: usize = 64 * 1024;
const MAX_TAIL_LINES: usize = 1000;

pub struct SharedOutputs {
    files: FileOutputs,
    store: Arc<dyn JournalStore>,
    clock: Arc<dyn Clock>,
    tails: Mutex<BTreeMap<(RollId, Option<HostName>), Tail>>,
}

/// The last lines of an output.
#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, line: &str) {
        let start = line.ceil_char_boundary(line.len().saturating_sub(MAX_TAIL_BYTES / 2));
        self.bytes += line.len() - start + 1;
        self.lines.push_back(line[start..].to_owned());
        while self.bytes > MAX_TAIL_BYTES || self.lines.len() > MAX_TAIL_LINES {
            let Some(first) = self.lines.pop_front() else { return };
            self.bytes -= first.len() + 1;
        }
    }
}

impl SharedOutputs {
    pub fn new(files: FileOutputs, store: Arc<dyn JournalStore>, clock: Arc<dyn Clock>) -> Self {
        Self { files, store, clock, tails: Mutex::default() }
    }

    fn take_tail(&self, roll: &RollId, host: Option<&HostName>) -> Tail {
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        tails.remove(&(roll.clone(), host.cloned())).unwrap_or_default()
    }
}

#[async_trait]
impl OutputStore for SharedOutputs {
    fn append_line(&self, roll: &RollId, host: Option<&HostName>, line: &str) {
        self.files.append_line(roll, host, line);
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        tails.entry((roll.clone(), host.cloned())).or_default().push(line);
    }

    fn locate(&self, roll: &RollId, host: Option<&HostName>) -> Option<String> {
        self.files.locate(roll, host)
    }

    async fn share_failure(&self, roll: &RollId, host: Option<&HostName>) {
        let tail = self.take_tail(roll, host);
        if tail.lines.is_empty() {
            return;
        }
        let what = serde_json::Value::from(Vec::from(tail.lines)).to_string();
        let entry = StoredEntry { id: roll.to_string(), at: self.clock.now(), host: host.cloned(), what };
        // An output is no step: it needs no lock.
        if let Err(error) = self.store.append(None, Log::Outputs, &entry).await {
            log::warn!("cannot keep the output in the journal: {error}");
        }
    }

    async fn load_shared(&self, roll: &RollId) -> Result<Vec<SharedOutput>, JournalError> {
        let entries = self.store.load(Log::Outputs, roll.as_str(), 0).await?;
        let parse = |StoredEntry { at, host, what, .. }: StoredEntry| match serde_json::from_str(&what) {
            Ok(lines) => Ok(SharedOutput { at, host, lines }),
            Err(error) => Err(JournalError::Damaged {
                store: self.store.label(),
                reason: format!("an output of roll {roll}: {error}"),
            }),
        };
        entries.into_iter().map(parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::SystemClock;
    use crate::sys::journal::sqlite::SqliteJournal;

    fn open(dir: &std::path::Path, machine: &str) -> SharedOutputs {
        let store = Arc::new(SqliteJournal::new(dir.join("shared/shop.db")));
        SharedOutputs::new(FileOutputs::new(dir.join(machine)), store, Arc::new(SystemClock))
    }

    #[tokio::test]
    async fn end_of_a_failed_output_is_read_on_another_machine() {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (open(dir.path(), "ops1"), open(dir.path(), "ops2"));
        let (roll, web1) = (RollId::new(jiff::Timestamp::UNIX_EPOCH, 1), "web1".parse().unwrap());
        assert_eq!(there.load_shared(&roll).await, Ok(vec![]));
        here.share_failure(&roll, Some(&web1)).await;
        for number in 0..3000 {
            here.append_line(&roll, Some(&web1), &format!("line {number}"));
        }
        here.append_line(&roll, None, &"ö".repeat(MAX_TAIL_BYTES));
        here.share_failure(&roll, Some(&web1)).await;
        here.share_failure(&roll, None).await;
        let shared = there.load_shared(&roll).await.unwrap();
        assert_eq!(shared.len(), 2);
        assert_eq!((shared[0].host.as_ref(), shared[0].lines.len()), (Some(&web1), MAX_TAIL_LINES));
        assert_eq!(shared[0].lines.last().map(String::as_str), Some("line 2999"));
        let long = &shared[1].lines[0];
        assert!(long.len() <= MAX_TAIL_BYTES / 2 && long.ends_with('ö'), "{}", long.len());
        assert_eq!(there.locate(&roll, Some(&web1)), None, "the file is on the first machine");
    }
}
