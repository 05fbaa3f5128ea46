//! What commands and hooks printed, kept for whoever comes later.

use crate::model::name::HostName;
use crate::model::roll::RollId;

pub trait OutputStore: Send + Sync {
    /// Adds a line to what is kept of one host, or of the roll as a whole. What cannot be kept stops nothing.
    fn keep(&self, roll: &RollId, host: Option<&HostName>, line: &str);

    /// Where it is found; `None` when nothing is kept.
    fn place(&self, roll: &RollId, host: Option<&HostName>) -> Option<String>;
}
