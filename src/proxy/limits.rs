//! What the process may use of the machine. Near its limits it stops copying, and goes on forwarding.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How often it is looked at.
const PAUSE: Duration = Duration::from_secs(1);
/// From here on, of the descriptors.
const FULL: (u64, u64) = (4, 5);
/// Looks after which a failed accept is forgotten.
const REMEMBERED: u64 = 5;

/// Shared by all threads.
#[derive(Debug)]
pub struct Room {
    short: AtomicBool,
    /// Looks that a failed accept still counts for.
    ran_out: AtomicU64,
    resident: AtomicU64,
    most_resident: AtomicU64,
    most_files: u64,
    salt: u64,
}

impl Room {
    /// Takes as many descriptors as the process may have.
    pub fn take() -> Self {
        let most_files = match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((_, hard)) => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
                Ok(()) => hard,
                Err(_) => getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft),
            },
            Err(_) => 1024,
        };
        Self {
            short: AtomicBool::new(false),
            ran_out: AtomicU64::new(0),
            resident: AtomicU64::new(0),
            most_resident: AtomicU64::new(u64::MAX),
            most_files,
            salt: RandomState::new().hash_one(std::process::id()),
        }
    }

    pub const fn salt(&self) -> u64 {
        self.salt
    }

    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// A connection could not be accepted.
    pub fn ran_out(&self) {
        self.ran_out.store(REMEMBERED, Ordering::Relaxed);
        self.short.store(true, Ordering::Relaxed);
    }

    pub fn allow(&self, resident: u64) {
        self.most_resident.store(resident, Ordering::Relaxed);
    }

    pub fn resident(&self) -> u64 {
        self.resident.load(Ordering::Relaxed)
    }

    /// Looks again and again, off the data path.
    pub async fn watch(&self) {
        loop {
            self.look();
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub fn look(&self) {
        self.resident.store(resident_bytes(), Ordering::Relaxed);
        let ran_out = self.ran_out.load(Ordering::Relaxed);
        self.ran_out.store(ran_out.saturating_sub(1), Ordering::Relaxed);
        let files = open_files() * FULL.1 >= self.most_files.saturating_mul(FULL.0);
        let memory = self.resident() > self.most_resident.load(Ordering::Relaxed);
        let short = files || memory || ran_out > 0;
        if short != self.short.swap(short, Ordering::Relaxed) {
            log::warn!(
                "copies are {}",
                if short { "suspended: the proxy is at a limit" } else { "made again" }
            );
        }
    }
}

/// proc(5), statm: its second number is resident pages.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    pages * u64::try_from(size).unwrap_or(4096)
}

/// proc(5), fd: since Linux 6.2 its size is their number; before, they are counted.
fn open_files() -> u64 {
    let number = std::fs::metadata("/proc/self/fd").map_or(0, |dir| dir.len());
    if number > 0 { number } else { std::fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64) }
}
