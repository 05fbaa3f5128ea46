//! Admission of connections, shared by all listeners of the agent and the proxy: a deadline for clients without a credential,
//! displacement of the oldest when a listener is full, and warnings at a limited rate.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::plan::admission::{AdmissionLimits, AdmissionResult, AdmissionTable, ConnectionId, LogLimit};

/// Lines about clients that a listener logs per interval.
const LOG_LINES: u32 = 5;
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The connections of one listener.
pub struct Admission {
    /// The listener's name in the log.
    listener: String,
    state: Mutex<AdmissionState>,
    log: RateLimitedLog,
}

struct AdmissionState {
    table: AdmissionTable,
    displacements: HashMap<ConnectionId, CancellationToken>,
}

/// The reason why a connection has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermitEnd {
    /// A newer connection took its place in the table.
    Displaced,
    /// The client had not been admitted at the deadline.
    TimedOut,
}

/// One connection in the table, until it is dropped.
pub struct ConnectionPermit {
    admission: Arc<Admission>,
    id: ConnectionId,
    pub peer: SocketAddr,
    displaced: CancellationToken,
    admitted: CancellationToken,
}

impl Admission {
    pub fn new(listener: impl Into<String>, limits: AdmissionLimits) -> Arc<Self> {
        let state = AdmissionState { table: AdmissionTable::new(limits), displacements: HashMap::new() };
        Arc::new(Self { listener: listener.into(), state: Mutex::new(state), log: RateLimitedLog::default() })
    }

    fn state(&self) -> MutexGuard<'_, AdmissionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a new connection. The connections that it displaces are notified.
    pub fn enter(self: &Arc<Self>, peer: SocketAddr) -> ConnectionPermit {
        let (displaced, admitted) = (CancellationToken::new(), CancellationToken::new());
        let mut state = self.state();
        let (id, oldest) = state.table.enter(peer.ip(), Instant::now());
        for token in oldest.iter().filter_map(|oldest| state.displacements.remove(oldest)) {
            token.cancel();
        }
        state.displacements.insert(id, displaced.clone());
        drop(state);
        ConnectionPermit { admission: self.clone(), id, peer, displaced, admitted }
    }

    /// Closes the oldest pending connection, where the process can open no more files.
    pub fn displace_oldest(&self) {
        let mut state = self.state();
        let oldest = state.table.displace_oldest(Instant::now());
        if let Some(token) = oldest.and_then(|oldest| state.displacements.remove(&oldest)) {
            token.cancel();
        }
    }

    /// Logs a warning about a client, unless too many were logged lately.
    pub fn warn(&self, message: fmt::Arguments<'_>) {
        self.log.warn(format_args!("{}: {message}", self.listener));
    }
}

impl ConnectionPermit {
    /// Counts the client as admitted, however often it is called.
    pub fn admit(&self) -> AdmissionResult {
        if self.admitted.is_cancelled() {
            return AdmissionResult::Admitted;
        }
        let result = self.admission.state().table.admit(self.id);
        if result == AdmissionResult::Admitted {
            self.admitted.cancel();
        }
        result
    }

    /// Returns when the connection has to be closed, and never for a client that was admitted.
    pub async fn wait_for_end(&self, deadline: Duration) -> PermitEnd {
        tokio::select! {
            biased;
            () = self.admitted.cancelled() => std::future::pending().await,
            () = self.displaced.cancelled() => PermitEnd::Displaced,
            () = tokio::time::sleep(deadline) => PermitEnd::TimedOut,
        }
    }

    /// Logs the end of a client that was not admitted.
    pub fn warn_of_end(&self, end: PermitEnd) {
        let reason = match end {
            PermitEnd::Displaced => {
                "closed for a newer connection: too many clients have sent no credential or request"
            }
            PermitEnd::TimedOut => "closed: no credential or request in time",
        };
        self.warn(format_args!("{reason}"));
    }

    pub fn warn(&self, message: fmt::Arguments<'_>) {
        self.admission.warn(format_args!("{}: {message}", self.peer));
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        state.table.leave(self.id);
        state.displacements.remove(&self.id);
    }
}

/// A log that clients can cause lines of, but not fill.
pub struct RateLimitedLog(Mutex<LogLimit>);

impl Default for RateLimitedLog {
    fn default() -> Self {
        Self(Mutex::new(LogLimit::new(LOG_LINES, LOG_INTERVAL)))
    }
}

impl RateLimitedLog {
    pub fn warn(&self, message: fmt::Arguments<'_>) {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
            None => {}
            Some(0) => log::warn!("{message}"),
            Some(suppressed) => log::warn!("{message} ({suppressed} such warnings were left out)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: AdmissionLimits =
        AdmissionLimits { pending: 2, pending_per_source: 2, admitted: 1, min_age: Duration::ZERO };
    const DEADLINE: Duration = Duration::from_secs(5);

    fn enter(admission: &Arc<Admission>) -> ConnectionPermit {
        admission.enter(([127, 0, 0, 1], 5000).into())
    }

    #[tokio::test(start_paused = true)]
    async fn pending_connection_ends_when_displaced_or_late() {
        let admission = Admission::new("test", LIMITS);
        let permits = [(); 3].map(|()| enter(&admission));
        assert_eq!(permits[0].wait_for_end(DEADLINE).await, PermitEnd::Displaced);
        assert_eq!(permits[1].wait_for_end(DEADLINE).await, PermitEnd::TimedOut);
        assert_eq!(permits[0].admit(), AdmissionResult::Displaced);
    }

    #[tokio::test(start_paused = true)]
    async fn admitted_connection_has_no_deadline() {
        let admission = Admission::new("test", LIMITS);
        let permit = enter(&admission);
        assert_eq!([(); 2].map(|()| permit.admit()), [AdmissionResult::Admitted; 2]);
        let _others = [(); 5].map(|()| enter(&admission));
        assert!(tokio::time::timeout(DEADLINE * 100, permit.wait_for_end(DEADLINE)).await.is_err());
    }

    #[tokio::test]
    async fn dropped_permit_leaves_table() {
        let admission = Admission::new("test", LIMITS);
        let permit = enter(&admission);
        assert_eq!(permit.admit(), AdmissionResult::Admitted);
        assert_eq!(enter(&admission).admit(), AdmissionResult::Full);
        drop(permit);
        assert_eq!(enter(&admission).admit(), AdmissionResult::Admitted);
        assert!(admission.state().displacements.is_empty());
    }
}
