//! Output of commands and hooks, kept for later inspection.

use async_trait::async_trait;

use super::journal_store::JournalError;
use crate::model::journal_record::SharedOutput;
use crate::model::name::HostName;
use crate::model::roll::RollId;

#[async_trait]
pub trait OutputStore: Send + Sync {
    /// Adds a line to the output of one host, or of the roll as a whole. A line that cannot be kept stops nothing.
    fn append_line(&self, roll: &RollId, host: Option<&HostName>, line: &str);

    /// The location of the output, or `None` when no output is kept.
    fn locate(&self, roll: &RollId, host: Option<&HostName>) -> Option<String>;

    /// Keeps the end of the output of a command or hook that failed where operators on other machines read it. A store of one
    /// machine does nothing. An output that cannot be kept stops nothing.
    async fn share_failure(&self, _: &RollId, _: Option<&HostName>) {}

    /// Returns the shared outputs of a roll, oldest first.
    async fn load_shared(&self, _: &RollId) -> Result<Vec<SharedOutput>, JournalError> {
        Ok(vec![])
    }
}
