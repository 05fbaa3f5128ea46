//! Limits of the process on its host. Near its limits it stops copying, and goes on forwarding.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::slot::Ingress;
use crate::admission::Admission;
use crate::plan::admission::AdmissionLimits;

/// How often it is looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Share of the descriptors in use from which on copies stop.
const FILES_SHARE_LIMIT: (u64, u64) = (4, 5);
/// Memory of clients that have not sent a request yet, on the ports of services and on the gateway; and the share of each: hyper's
/// buffer and the head that is remembered for an upstream.
const SERVICES_BUDGET: usize = 128 << 20;
const GATEWAY_BUDGET: usize = 32 << 20;
const BYTES_PER_CLIENT: usize = 128 << 10;
/// Share of the descriptors that these clients may take together.
const PENDING_FILES_SHARE: (usize, usize) = (3, 4);
/// A client of a load balancer sends its request with the connection.
const PENDING_MIN_AGE: Duration = Duration::from_secs(1);
/// Looks after which a failed accept is forgotten.
const ACCEPT_FAILURE_POLLS: u64 = 5;

/// Shared by all threads.
pub struct ResourceLimits {
    is_exhausted: AtomicBool,
    /// Looks that a failed accept still counts for.
    accept_failure_polls: AtomicU64,
    resident_bytes: AtomicU64,
    max_resident_bytes: AtomicU64,
    max_files: u64,
    salt: u64,
    services: Arc<Admission>,
    gateway: Arc<Admission>,
}

impl ResourceLimits {
    /// Takes as many descriptors as the process may have.
    pub fn acquire() -> Self {
        let max_files = match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((_, hard)) => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
                Ok(()) => hard,
                Err(_) => getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft),
            },
            Err(_) => 1024,
        };
        Self {
            is_exhausted: AtomicBool::new(false),
            accept_failure_polls: AtomicU64::new(0),
            resident_bytes: AtomicU64::new(0),
            max_resident_bytes: AtomicU64::new(u64::MAX),
            max_files,
            salt: RandomState::new().hash_one(std::process::id()),
            services: Admission::new("service", derive_limits(SERVICES_BUDGET, max_files)),
            gateway: Admission::new("gateway", derive_limits(GATEWAY_BUDGET, max_files)),
        }
    }

    /// Returns the admission of the clients of a listener.
    pub const fn admission(&self, ingress: &Ingress) -> &Arc<Admission> {
        match ingress {
            Ingress::Service(_) => &self.services,
            Ingress::Gateway => &self.gateway,
        }
    }

    pub const fn salt(&self) -> u64 {
        self.salt
    }

    pub fn is_exhausted(&self) -> bool {
        self.is_exhausted.load(Ordering::Relaxed)
    }

    /// A connection could not be accepted.
    pub fn record_accept_failure(&self) {
        self.accept_failure_polls.store(ACCEPT_FAILURE_POLLS, Ordering::Relaxed);
        self.is_exhausted.store(true, Ordering::Relaxed);
        self.services.displace_oldest();
        self.gateway.displace_oldest();
    }

    pub fn set_max_resident(&self, resident: u64) {
        self.max_resident_bytes.store(resident, Ordering::Relaxed);
    }

    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes.load(Ordering::Relaxed)
    }

    /// Looks again and again, off the data path.
    pub async fn watch(&self) {
        loop {
            self.refresh();
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    pub fn refresh(&self) {
        self.resident_bytes.store(read_resident_bytes(), Ordering::Relaxed);
        let ran_out = self.accept_failure_polls.load(Ordering::Relaxed);
        self.accept_failure_polls.store(ran_out.saturating_sub(1), Ordering::Relaxed);
        let files =
            count_open_files() * FILES_SHARE_LIMIT.1 >= self.max_files.saturating_mul(FILES_SHARE_LIMIT.0);
        let memory = self.resident_bytes() > self.max_resident_bytes.load(Ordering::Relaxed);
        let short = files || memory || ran_out > 0;
        if short != self.is_exhausted.swap(short, Ordering::Relaxed) {
            log::warn!(
                "copies are {}",
                if short { "suspended: the proxy is at a limit" } else { "made again" }
            );
        }
    }
}

/// All users of a load balancer have its address, so that an address has no limit of its own. Clients that have sent a request are
/// limited by the descriptors alone.
fn derive_limits(budget: usize, max_files: u64) -> AdmissionLimits {
    let limits = AdmissionLimits::without_credentials(budget, BYTES_PER_CLIENT);
    let files =
        usize::try_from(max_files).unwrap_or(usize::MAX) / PENDING_FILES_SHARE.1 * PENDING_FILES_SHARE.0;
    let pending = limits.pending.min(files);
    AdmissionLimits { pending, pending_per_source: pending, admitted: usize::MAX, min_age: PENDING_MIN_AGE }
}

/// proc(5), statm: its second number is resident pages.
fn read_resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    pages * u64::try_from(size).unwrap_or(4096)
}

/// proc(5), fd: since Linux 6.2 its size is their number; before, they are counted.
fn count_open_files() -> u64 {
    let number = std::fs::metadata("/proc/self/fd").map_or(0, |dir| dir.len());
    if number > 0 { number } else { std::fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64) }
}
