//! What is said between an operator's switchman and a host about shadows and canaries.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::deployment::DeploymentId;
use super::history::Actor;
use super::ports::Port;
use super::proxy::{Canary, Mirror, Splits};

/// One change of who gets copies or a share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SplitChange {
    /// It becomes a shadow, or the one it is gets these terms.
    Mirror(Mirror),
    /// It is a shadow no more.
    NoMirror(DeploymentId),
    /// It becomes the service's canary, in place of any other.
    Canary(Canary),
    /// There is no canary any more.
    NoCanary,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SplitRequest {
    pub change: SplitChange,
    /// Where the proxy gets its port from: first and last.
    pub range: (Port, Port),
    /// Whether main is told who asked, as `X-Forwarded-For`; as it is where absent.
    #[serde(default)]
    pub forwarded: Option<bool>,
    pub actor: Actor,
    /// For the history, such as the roll-out it belongs to; empty otherwise.
    #[serde(default)]
    pub detail: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Split {
    /// All of the service that is in force now.
    pub splits: Splits,
    /// Whether the proxy stands before main now.
    pub inserted: bool,
    /// It was so already, and nothing was done.
    pub known: bool,
}
