//! The messages about shadows and canaries between an operator's switchman and a host.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::deployment::DeploymentId;
use super::history::Actor;
use super::ports::Port;
use super::proxy::{Canary, Mirror, TrafficSplit};

/// A change of a service's mirrors or canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TrafficSplitChange {
    /// Makes the deployment a shadow, or changes the terms of its mirror.
    #[serde(alias = "mirror")]
    SetMirror(Mirror),
    /// Ends the deployment's mirror.
    #[serde(alias = "no-mirror")]
    RemoveMirror(DeploymentId),
    /// Makes the deployment the service's canary, in place of any other.
    #[serde(alias = "canary")]
    SetCanary(Canary),
    /// There is no canary any more.
    #[serde(alias = "no-canary")]
    RemoveCanary,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficSplitRequest {
    pub change: TrafficSplitChange,
    /// Port range of the proxy: first and last.
    #[serde(alias = "range")]
    pub port_range: (Port, Port),
    /// Whether the proxy sends the client's address to main as `X-Forwarded-For`; unchanged where absent.
    #[serde(default)]
    pub forwarded: Option<bool>,
    pub actor: Actor,
    /// Detail for the history, such as the promotion it belongs to; empty otherwise.
    #[serde(default)]
    pub detail: String,
    /// Everything is checked, nothing is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// The result of a change of the traffic split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficSplitResponse {
    /// All of the service that is in force now.
    #[serde(alias = "splits")]
    pub traffic_split: TrafficSplit,
    /// Whether the proxy is inserted before main now.
    pub inserted: bool,
    /// Whether the split was so already, and nothing was done.
    pub known: bool,
}
