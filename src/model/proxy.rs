//! The proxy in a service's data path while the service has a shadow or a canary on a host: the record, the proxy's
//! configuration, and its counters.
//!
//! Times are whole milliseconds, latencies whole microseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::capped::{Merge, absorb_fields};
use super::deployment::{Access, DeploymentId};
use super::name::ServiceName;
use super::percent::Percent;
use super::ports::Port;
use super::version::Version;

/// A mirror: copies of a share of the requests go to a deployment whose answers no client gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Mirror {
    pub deployment: DeploymentId,
    /// Share of the requests that match `methods` and `paths`.
    pub percent: Percent,
    /// Upper case; empty: all.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Globs over the path without its query: `*` within a segment, `**` over segments; empty: all.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Fields that the copy does not carry, such as `authorization`; lower case.
    #[serde(default)]
    pub without_headers: Vec<String>,
    /// Whether the answers are compared with main's.
    #[serde(default)]
    pub compare: bool,
    /// Share of the compared GET and HEAD requests that the proxy sends to main a second time, to learn what main answers
    /// differently by itself.
    #[serde(default)]
    pub control: Percent,
}

/// A share of the requests, or marked ones, are answered by a deployment that is not main.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Canary {
    pub deployment: DeploymentId,
    /// Share of the requests that carry no mark.
    #[serde(default)]
    pub percent: Option<Percent>,
    /// Whether the share is one of users instead of requests.
    #[serde(default)]
    pub sticky: Option<Sticky>,
    /// The mark: requests that carry it go to the canary, regardless of the share.
    #[serde(default)]
    pub header: Option<FieldMatch>,
    #[serde(default)]
    pub cookie: Option<FieldMatch>,
}

/// The key that identifies a user. The same user keeps the same version while the share grows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Sticky {
    /// A cookie that the proxy sets: `swm_SERVICE`, holding a number below 10,000.
    Cookie,
    /// The hash of a header's value, for clients without cookies; without the header: each request on its own.
    Header(String),
}

/// A header or cookie that is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldMatch {
    /// The name. For a header in any case, for a cookie exactly.
    pub name: String,
    /// Absent: its presence counts, even with an empty value (E7).
    #[serde(default)]
    pub value: Option<String>,
}

/// The layer 7 part of a service's record on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficSplit {
    /// The mirrors in the order in which they were requested; at most one for each deployment.
    #[serde(default)]
    pub mirrors: Vec<Mirror>,
    #[serde(default)]
    pub canary: Option<Canary>,
    /// Whether `X-Forwarded-For` and `X-Forwarded-Proto` are appended, which the service did not see before.
    #[serde(default)]
    pub forwarded: bool,
}

impl TrafficSplit {
    pub fn is_empty(&self) -> bool {
        self.mirrors.is_empty() && self.canary.is_none()
    }

    /// Returns the splits without those of a deployment that is main now, or no longer exists.
    #[must_use]
    pub fn without_deployment(&self, deployment: &DeploymentId) -> Self {
        Self {
            mirrors: self.mirrors.iter().filter(|mirror| mirror.deployment != *deployment).cloned().collect(),
            canary: self.canary.clone().filter(|canary| canary.deployment != *deployment),
            forwarded: self.forwarded,
        }
    }
}

/// The proxy's place in a service's data path on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProxyPlacement {
    /// The port where the proxy listens for the service; kept until no connection uses it any more.
    pub port: Port,
    /// Whether route and forward lead through the proxy. `false` with splits recorded: the proxy died and the rules bypass it to main;
    /// without: it is draining.
    pub inserted: bool,
}

/// Layer 7 of a service on a host, as it is recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Layer7 {
    #[serde(default)]
    #[serde(alias = "splits")]
    pub traffic_split: TrafficSplit,
    #[serde(default)]
    pub place: Option<ProxyPlacement>,
}

impl Layer7 {
    /// Returns the port that replaces main's in the rules while the proxy is inserted.
    pub fn inserted(&self) -> Option<Port> {
        self.place.filter(|place| place.inserted).map(|place| place.port)
    }
}

/// The addresses where a version answers on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    pub deployment: DeploymentId,
    pub version: Version,
    pub address: SocketAddr,
    /// The addresses of further healthy instances; absent where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_addresses: Vec<SocketAddr>,
}

impl Upstream {
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.address).chain(self.more_addresses.iter().copied())
    }
}

/// The whole configuration of the proxy of a host; every push replaces all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyConfig {
    pub services: Vec<ProxiedService>,
    /// The port of `/services/NAME/` and `/services/NAME_VERSION/` (seed rows D7, D33: docs/design/seed-systems.md#mvi-and-daeploy), on the loopback addresses.
    #[serde(default)]
    pub gateway: Option<Port>,
    #[serde(default)]
    #[serde(alias = "limits")]
    pub proxy_limits: ProxyLimits,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxiedService {
    pub service: ServiceName,
    /// The port where the proxy listens for the service, on all IPv4 and IPv6 addresses.
    pub port: Port,
    /// Connections that were made to this port (`SO_ORIGINAL_DST`) are HAProxy's health checks: always main's to answer,
    /// neither copied nor counted.
    pub check: Port,
    #[serde(default)]
    pub access: Access,
    pub main: Upstream,
    /// The versions beside main that can be reached through the gateway.
    #[serde(default)]
    #[serde(alias = "others")]
    pub other_upstreams: Vec<Upstream>,
    #[serde(default)]
    #[serde(alias = "splits")]
    pub traffic_split: TrafficSplit,
    /// No rule routes to this listener any more: each connection is closed after its next answer.
    #[serde(default)]
    pub draining: bool,
}

/// The report of a proxy whose every part works.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyHealth {
    /// The ports where the proxy listens for services; empty before its first configuration with a service.
    #[serde(default)]
    pub ports: BTreeSet<Port>,
    /// The ports where the proxy should listen, and why it cannot; it keeps retrying.
    #[serde(default)]
    pub missing: BTreeMap<Port, String>,
}

/// Limits of the proxy's own memory and timeouts. The defaults are design values of docs/design/proxy.md#limits; the agent sends
/// no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyLimits {
    /// Bytes of one request that a shadow may be behind.
    pub backlog_bytes: usize,
    /// Bytes retained for all shadows of a worker.
    pub retained_bytes: usize,
    /// Copies in flight per shadow.
    #[serde(alias = "in_flight")]
    pub max_in_flight: usize,
    /// A whole copy, from its start to the end of its answer.
    #[serde(alias = "copy_ms")]
    pub copy_timeout_ms: u64,
    #[serde(alias = "connect_ms")]
    pub connect_timeout_ms: u64,
    /// Idle connections per shadow and worker.
    #[serde(alias = "idle")]
    pub idle_connections: usize,
    /// Bytes of one answer that are kept to be compared.
    pub compare_bytes: usize,
    /// Bytes of both answers of all requests that wait to be compared.
    pub compare_retained_bytes: usize,
    /// Limit for the whole process: above it copies are suspended, and requests are forwarded all the same.
    pub resident_bytes: u64,
}

impl Default for ProxyLimits {
    fn default() -> Self {
        Self {
            backlog_bytes: 256 << 10,
            retained_bytes: 32 << 20,
            max_in_flight: 64,
            copy_timeout_ms: 5_000,
            connect_timeout_ms: 1_000,
            idle_connections: 64,
            compare_bytes: 256 << 10,
            compare_retained_bytes: 16 << 20,
            resident_bytes: 512 << 20,
        }
    }
}

/// Counts since the proxy began, all workers together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProxyStats {
    pub services: Vec<ServiceStats>,
    pub pid: u32,
    /// Resident memory of the process, in bytes.
    pub resident_bytes: u64,
    /// Whether copies are suspended because the proxy itself is at a limit.
    #[serde(alias = "suspended")]
    pub is_suspended: bool,
    /// The reason why there is no gateway though the configuration has one; the proxy keeps retrying.
    #[serde(default)]
    pub gateway: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceStats {
    pub service: ServiceName,
    /// Open client connections, health checks apart.
    pub connections: u64,
    /// Connections among them that were upgraded and are passed through.
    pub upgraded: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// The versions that answered users: main, the canary, and mains before.
    #[serde(alias = "legs")]
    pub upstreams: Vec<UpstreamStats>,
    pub shadows: Vec<ShadowStats>,
    /// Requests that the proxy itself answered, by reason: `connect` (502), `private`; and, as `passed_through`, connections
    /// whose head it did not understand, which main answered from there on.
    pub rejected: BTreeMap<String, u64>,
}

/// The counters of a version that answered users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamStats {
    pub deployment: DeploymentId,
    pub version: Version,
    /// Answers by the first digit of the status: `"2"`, `"5"`.
    pub answers: BTreeMap<String, u64>,
    /// Requests that ended without an answer, by reason: `connect`, `reset`, `client`.
    pub errors: BTreeMap<String, u64>,
    /// Time from the head of the request to the head of the answer.
    pub latency: Latencies,
    /// Canary requests that main answered because the canary did not take them.
    pub fallbacks: u64,
}

/// The counters of a shadow; where its answers are compared, since its evidence began. `selected` = answered + failed + aborted + in flight; dropped ones are counted apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShadowStats {
    pub deployment: DeploymentId,
    pub version: Version,
    /// Requests that were to be copied and were begun.
    pub selected: u64,
    pub answered: u64,
    pub in_flight: u64,
    /// Not begun, by reason: `inflight`, `memory`, `breaker`, `slow` (a long body, to one that fell
    /// behind a moment ago), `sampled_out`, `method`, `path`, `upgrade`, `loop`.
    pub dropped: BTreeMap<String, u64>,
    /// Aborted copies by reason: `backlog`, `client`, `main_early`.
    pub aborted: BTreeMap<String, u64>,
    /// Failed copies by reason: `connect`, `reset`, `timeout`, `protocol`.
    pub failed: BTreeMap<String, u64>,
    /// Pairs of first digits, main's and the shadow's: `"2/5"`.
    pub statuses: BTreeMap<String, u64>,
    pub latency: Latencies,
}

impl Merge for UpstreamStats {
    fn absorb(&mut self, other: Self) {
        absorb_fields!(self, other: answers, errors, latency, fallbacks);
    }
}

impl Merge for ShadowStats {
    fn absorb(&mut self, other: Self) {
        absorb_fields!(self, other: selected, answered, in_flight, dropped);
        absorb_fields!(self, other: aborted, failed, statuses, latency);
    }
}

/// Counts by duration: upper end of a bucket in microseconds -> how many. Buckets are at most 2 % wide, so those of several
/// hosts and of two moments can be added and subtracted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Latencies(pub BTreeMap<u64, u64>);
