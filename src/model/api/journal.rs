//! The operations of a journal that a host keeps for a fleet: one request and its answer.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::journal_record::{LockRecord, Log, StoredEntry};
use crate::model::lock::{Holder, LockNote};

/// One operation on the journal of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JournalRequest {
    /// The directory of the journal; absent: `journals` in the state directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    pub call: JournalCall,
}

/// A write has a token: the host carries out the same token once, and answers a repeated request as it did the first time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "operation", rename_all = "kebab-case")]
pub enum JournalCall {
    /// Idempotent for the holder. A process's lock ends when it is not renewed for the host's lease.
    Acquire {
        holder: Box<Holder>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instead_of: Option<Box<LockRecord>>,
    },
    Renew {
        holder: Box<Holder>,
    },
    Release {
        holder: Box<Holder>,
        token: String,
    },
    ReadLock,
    /// With a holder, only if it has the lock.
    Append {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<Box<Holder>>,
        log: Log,
        entry: StoredEntry,
        token: String,
    },
    /// The entries of one id without the first `skip`, as many as fit into an answer.
    Load {
        log: Log,
        id: String,
        skip: u32,
    },
    List {
        log: Log,
        limit: u32,
    },
    AddNote {
        note: LockNote,
        token: String,
    },
    LoadNotes {
        limit: u32,
    },
}

impl JournalCall {
    /// The name of the operation on the wire.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Acquire { .. } => "acquire",
            Self::Renew { .. } => "renew",
            Self::Release { .. } => "release",
            Self::ReadLock => "read-lock",
            Self::Append { .. } => "append",
            Self::Load { .. } => "load",
            Self::List { .. } => "list",
            Self::AddNote { .. } => "add-note",
            Self::LoadNotes { .. } => "load-notes",
        }
    }

    pub const fn is_write(&self) -> bool {
        match self {
            Self::Acquire { .. }
            | Self::Renew { .. }
            | Self::Release { .. }
            | Self::Append { .. }
            | Self::AddNote { .. } => true,
            Self::ReadLock | Self::Load { .. } | Self::List { .. } | Self::LoadNotes { .. } => false,
        }
    }

    /// The holder without whose lock nothing is written.
    pub fn holder(&self) -> Option<&Holder> {
        match self {
            Self::Renew { holder } | Self::Release { holder, .. } => Some(holder),
            Self::Append { holder, .. } => holder.as_deref(),
            _ => None,
        }
    }

    pub fn token(&self) -> Option<&str> {
        match self {
            Self::Release { token, .. } | Self::Append { token, .. } | Self::AddNote { token, .. } => {
                Some(token)
            }
            _ => None,
        }
    }
}

/// The answer to an operation on a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum JournalAnswer {
    Done,
    /// Another holder has the lock.
    Busy {
        held: Box<LockRecord>,
    },
    /// The caller does not have the lock, and nothing was written.
    LockLost {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<Box<Holder>>,
    },
    Lock {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        held: Option<Box<LockRecord>>,
    },
    Entries {
        entries: Vec<StoredEntry>,
        /// Whether there are more entries after these.
        has_more: bool,
    },
    Ids {
        ids: Vec<String>,
    },
    Notes {
        notes: Vec<LockNote>,
    },
    /// Nothing was written.
    Failed {
        failure: JournalFailure,
    },
}

/// Why a host could not read or write the journal that it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum JournalFailure {
    /// The user that switchman runs as there may not use the directory.
    Denied {
        directory: PathBuf,
        user: String,
        reason: String,
    },
    Newer {
        found: i64,
        known: i64,
    },
    Full,
    Damaged {
        reason: String,
    },
    Failed {
        reason: String,
    },
}
