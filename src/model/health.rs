//! The health check of a main vhost: the same request HAProxy sends.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration;

/// How a real port proves that it can take traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// Path and query of a GET, beginning with `/`.
    pub path: String,
    /// The one status code that means healthy.
    pub status: u16,
    /// The Host header; the address that is probed when absent.
    pub host: Option<String>,
    /// Timeout of one probe, connect to last header.
    #[serde(rename = "timeout_ms", with = "duration::ms")]
    #[schemars(with = "duration::Milliseconds")]
    pub timeout: Duration,
    /// Interval between two probes.
    #[serde(rename = "interval_ms", with = "duration::ms")]
    #[schemars(with = "duration::Milliseconds")]
    pub interval: Duration,
    /// Consecutive healthy answers before a port counts as healthy.
    pub rise: u32,
}
