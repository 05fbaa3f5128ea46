//! Why a read of HAProxy gave no view.

use std::time::Duration;

/// Far above what a thousand servers print.
pub(super) const MAX_ANSWER_BYTES: u64 = 8 * 1024 * 1024;

/// Why an answer is not a view; the address is added by the caller, who knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReadError {
    NoConnection(String),
    /// ssh gave no connection to the socket of the other machine.
    NotForwarded(String),
    Truncated {
        received: usize,
    },
    Garbled(String),
    MasterCli,
    NoBackend,
    NoServer(String),
    Refused {
        status: u16,
    },
    NotUpAfterFlush {
        server: String,
        waited: Duration,
    },
}

pub(super) fn new_too_large_error() -> ReadError {
    ReadError::Garbled(format!("it is longer than {} MiB", MAX_ANSWER_BYTES / 1024 / 1024))
}

pub(super) fn to_connection_error(error: impl std::fmt::Display) -> ReadError {
    ReadError::NoConnection(error.to_string())
}
