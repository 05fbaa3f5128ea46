//! Decides which connections a listener keeps when it is full, and which warnings about them are logged. Pure.
//!
//! A connection is pending until its client has shown a credential, or a whole request where no credential is required. Pending
//! connections cost an attacker nothing, so a new one displaces the oldest: a client that shows its credential at once is among the
//! youngest, also where others at its address are many. Admitted ones are counted apart: no number of pending connections takes
//! their share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Limits of one listener, in connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    pub pending: usize,
    /// Pending connections of one IPv4 address, or of one IPv6 /64 network.
    pub pending_per_source: usize,
    pub admitted: usize,
    /// A younger pending connection is never displaced: its request may be in the kernel's buffers already.
    pub min_age: Duration,
}

impl AdmissionLimits {
    /// Derives the limits from the memory that all connections of the listener may take together. Half of it is reserved for admitted
    /// clients.
    pub const fn from_budget(bytes: usize, bytes_per_connection: usize) -> Self {
        let pending = bytes / bytes_per_connection / 2;
        Self { pending, pending_per_source: pending / 4, admitted: pending, min_age: Duration::ZERO }
    }

    /// Derives the limits of a listener where no client has a credential, so that all connections are pending.
    pub const fn without_credentials(bytes: usize, bytes_per_connection: usize) -> Self {
        let pending = bytes / bytes_per_connection;
        Self { pending, pending_per_source: pending / 4, admitted: 0, min_age: Duration::ZERO }
    }
}

/// The identity of a connection in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// The answer to a client that has shown a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionResult {
    Admitted,
    /// The connection was displaced before.
    Displaced,
    /// The maximum number of admitted clients is connected.
    Full,
}

#[derive(Debug)]
struct PendingConnection {
    source: IpAddr,
    since: Instant,
}

/// The open connections of one listener.
#[derive(Debug)]
pub struct AdmissionTable {
    limits: AdmissionLimits,
    next_id: u64,
    pending: BTreeMap<ConnectionId, PendingConnection>,
    /// Ids ascend with age, so the first of a source is its oldest.
    pending_of_sources: BTreeMap<IpAddr, BTreeSet<ConnectionId>>,
    admitted: BTreeSet<ConnectionId>,
}

impl AdmissionTable {
    pub const fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits,
            next_id: 0,
            pending: BTreeMap::new(),
            pending_of_sources: BTreeMap::new(),
            admitted: BTreeSet::new(),
        }
    }

    /// Records a new connection, and returns those that it displaces: usually one, and more where the limits were exceeded by
    /// connections that were too young.
    pub fn enter(&mut self, peer: IpAddr, now: Instant) -> (ConnectionId, Vec<ConnectionId>) {
        let source = find_source(peer);
        let mut displaced = Vec::new();
        while let Some(id) = self.find_displaced(source, now) {
            self.leave(id);
            displaced.push(id);
        }
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        self.pending.insert(id, PendingConnection { source, since: now });
        self.pending_of_sources.entry(source).or_default().insert(id);
        (id, displaced)
    }

    /// Removes the oldest pending connection, where the process can open no more files.
    pub fn displace_oldest(&mut self, now: Instant) -> Option<ConnectionId> {
        let id = self.find_oldest().filter(|id| self.is_displaceable(*id, now))?;
        self.leave(id);
        Some(id)
    }

    fn find_displaced(&self, source: IpAddr, now: Instant) -> Option<ConnectionId> {
        let own = self.pending_of_sources.get(&source);
        let candidate = if own.is_some_and(|ids| ids.len() >= self.limits.pending_per_source) {
            own?.first().copied()
        } else if self.pending.len() >= self.limits.pending {
            self.find_oldest()
        } else {
            None
        };
        candidate.filter(|id| self.is_displaceable(*id, now))
    }

    /// Ids ascend with age.
    fn find_oldest(&self) -> Option<ConnectionId> {
        self.pending.keys().next().copied()
    }

    fn is_displaceable(&self, id: ConnectionId, now: Instant) -> bool {
        let since = self.pending.get(&id).map(|pending| pending.since);
        since.is_some_and(|since| now.saturating_duration_since(since) >= self.limits.min_age)
    }

    /// Counts a pending connection as admitted.
    pub fn admit(&mut self, id: ConnectionId) -> AdmissionResult {
        if self.admitted.contains(&id) {
            return AdmissionResult::Admitted;
        }
        if !self.pending.contains_key(&id) {
            return AdmissionResult::Displaced;
        }
        if self.admitted.len() >= self.limits.admitted {
            return AdmissionResult::Full;
        }
        self.leave(id);
        self.admitted.insert(id);
        AdmissionResult::Admitted
    }

    /// Forgets a connection that has ended or was displaced.
    pub fn leave(&mut self, id: ConnectionId) {
        self.admitted.remove(&id);
        let Some(PendingConnection { source, .. }) = self.pending.remove(&id) else { return };
        if let Some(ids) = self.pending_of_sources.get_mut(&source) {
            ids.remove(&id);
            if ids.is_empty() {
                self.pending_of_sources.remove(&source);
            }
        }
    }

    pub fn count_pending(&self) -> usize {
        self.pending.len()
    }

    pub fn count_admitted(&self) -> usize {
        self.admitted.len()
    }
}

/// Returns the address that a limit counts: a client with IPv6 usually has a whole /64 network.
fn find_source(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// Permits a few log lines per interval, and counts the rest.
#[derive(Debug)]
pub struct LogLimit {
    interval: Duration,
    max_lines: u32,
    started: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl LogLimit {
    pub const fn new(max_lines: u32, interval: Duration) -> Self {
        Self { interval, max_lines, started: None, lines: 0, suppressed: 0 }
    }

    /// Returns `None` where the line is not to be written, else the number of lines that were left out since the last one.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        if self.started.is_none_or(|started| now.saturating_duration_since(started) >= self.interval) {
            (self.started, self.lines) = (Some(now), 0);
        }
        if self.lines >= self.max_lines {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests;
