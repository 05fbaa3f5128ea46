//! What is said between an operator's switchman and a host about shadows and canaries.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::deployment::DeploymentId;
use super::history::Actor;
use super::ports::Port;
use super::proxy::{Canary, Mirror, TrafficSplit};

/// One change of who gets copies or a share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TrafficSplitChange {
    /// It becomes a shadow, or the one it is gets these terms.
    #[serde(alias = "mirror")]
    SetMirror(Mirror),
    /// It is a shadow no more.
    #[serde(alias = "no-mirror")]
    RemoveMirror(DeploymentId),
    /// It becomes the service's canary, in place of any other.
    #[serde(alias = "canary")]
    SetCanary(Canary),
    /// There is no canary any more.
    #[serde(alias = "no-canary")]
    RemoveCanary,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficSplitRequest {
    pub change: TrafficSplitChange,
    /// Where the proxy gets its port from: first and last.
    #[serde(alias = "range")]
    pub port_range: (Port, Port),
    /// Whether main is told who asked, as `X-Forwarded-For`; as it is where absent.
    #[serde(default)]
    pub forwarded: Option<bool>,
    pub actor: Actor,
    /// For the history, such as the promotion it belongs to; empty otherwise.
    #[serde(default)]
    pub detail: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficSplitResponse {
    /// All of the service that is in force now.
    #[serde(alias = "splits")]
    pub traffic_split: TrafficSplit,
    /// Whether the proxy stands before main now.
    pub inserted: bool,
    /// It was so already, and nothing was done.
    pub known: bool,
}
