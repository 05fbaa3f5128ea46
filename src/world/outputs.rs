//! Output of commands and hooks, kept for later inspection.

use crate::model::name::HostName;
use crate::model::roll::RollId;

pub trait OutputStore: Send + Sync {
    /// Adds a line to the output of one host, or of the roll as a whole. A line that cannot be kept stops nothing.
    fn append_line(&self, roll: &RollId, host: Option<&HostName>, line: &str);

    /// The location of the output, or `None` when no output is kept.
    fn locate(&self, roll: &RollId, host: Option<&HostName>) -> Option<String>;
}
