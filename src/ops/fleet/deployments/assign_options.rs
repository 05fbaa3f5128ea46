//! The options of `assign`, and its report.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::model::history::Actor;
use crate::model::name::{BalancerName, HostName};
use crate::model::roll::RollSpec;
use crate::model::version::Version;
use crate::ops::fleet::roll::RollReport;
use crate::world::balancer::{BalancerError, FlushResult};

/// How main is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Host by host under maintenance: no client sees the old version once its host is back.
    Rolling,
    /// Both ports at once, on every host: new connections are routed to the new version, old ones end on the old one.
    Flip,
}

#[derive(Debug, Clone)]
pub struct AssignOptions {
    /// How long the new main is watched on every host; zero: not at all.
    pub watch: Duration,
    /// Whether a flip waits until no connection is routed to the old version any more.
    pub wait: bool,
    pub actor: Actor,
    /// The roll that changes main on the same hosts; `None`: a flip.
    pub roll: Option<RollSpec>,
}

impl AssignOptions {
    /// A flip that is watched for `watch`.
    pub fn new_flip(watch: Duration, actor: &Actor) -> Self {
        Self { watch, wait: true, actor: actor.clone(), roll: None }
    }

    pub(super) const fn strategy(&self) -> Strategy {
        if self.roll.is_some() { Strategy::Rolling } else { Strategy::Flip }
    }
}

/// The result of a flip on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostAssigned {
    pub host: HostName,
    pub previous: Option<Version>,
    /// Each balancer's response to the request to close the idle connections it keeps to the old version.
    #[serde(serialize_with = "serialize_flushes")]
    pub flushed: Vec<(BalancerName, Result<FlushResult, BalancerError>)>,
    /// Connections through main's data port that the old version still holds; absent where the host could not count them.
    #[serde(rename = "left")]
    pub remaining_connections: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AssignReport {
    pub strategy: Strategy,
    /// Whether the version was main on every host already.
    pub is_already_main: bool,
    /// The hosts of a flip; empty for a rolling assignment.
    pub hosts: Vec<HostAssigned>,
    pub roll: Option<RollReport>,
}

/// Writes an error as its text.
fn serialize_flushes<S: Serializer>(
    flushes: &[(BalancerName, Result<FlushResult, BalancerError>)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let texts = flushes.iter().map(|(name, flush)| (name, flush.as_ref().map_err(ToString::to_string)));
    serializer.collect_seq(texts)
}
