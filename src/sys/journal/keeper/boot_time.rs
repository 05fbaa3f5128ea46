//! The clock of leases: the time since the boot of this machine, which no change of the date moves.

use std::fs;
use std::time::Duration;

use crate::sys::identity::read_boot_id;

/// A moment of one boot. Moments of different boots cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootTime {
    pub boot_id: String,
    pub millis: i64,
}

impl BootTime {
    /// Reads /proc/uptime (proc(5)), which counts suspended time too.
    pub fn read() -> Self {
        let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds: Option<f64> = text.split(' ').next().and_then(|first| first.parse().ok());
        let uptime = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let millis = uptime.and_then(|uptime| i64::try_from(uptime.as_millis()).ok()).unwrap_or(0);
        Self { boot_id: read_boot_id(), millis }
    }
}
