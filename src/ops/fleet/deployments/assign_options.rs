//! The options of `assign`, and its report.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::model::fleet::Fleet;
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
    pub strategy: Strategy,
    /// How long the new main is watched on every host; zero: not at all.
    pub watch: Duration,
    /// Whether a flip waits until no connection is routed to the old version any more.
    pub wait: bool,
    pub actor: Actor,
    /// The settings of the roll for `rolling`, without its hosts and command.
    pub roll: RollSpec,
}

impl AssignOptions {
    /// A flip that is watched for `watch`.
    pub fn new_flip(fleet: &Fleet, watch: Duration, actor: &Actor) -> Self {
        let roll = RollSpec {
            service: fleet.service.clone(),
            hosts: vec![],
            batch: fleet.roll.batch,
            max_failures: fleet.roll.max_failures,
            on_failure: fleet.roll.on_failure,
            drain_timeout: fleet.limits.drain_timeout,
            health_timeout: fleet.roll.health_timeout,
            command: vec![],
            remote: false,
            command_timeout: Duration::ZERO,
            force: false,
            assign: None,
        };
        Self { strategy: Strategy::Flip, watch, wait: true, actor: actor.clone(), roll }
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
