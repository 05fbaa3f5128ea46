//! The recorded state of one service on one host, the changes of it, and the forward that the kernel holds.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::deployment::{Access, DeploymentId};
use super::history::{Actor, HistoryEntry, OperationId, Phase};
use super::owner::Owner;
use super::packet_proof::PacketProof;
use super::port_forward::{Forward, Switch};
use super::ports::Port;
use super::proxy::Layer7;
use super::rules::{Family, Transaction, Variant};

/// A data port of a managed service and its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// The port that HAProxy connects to.
    pub port: Port,
    pub deployment: DeploymentId,
    /// The port where the deployment's first instance answers on this host.
    pub target: Port,
    /// The ports of its other instances; absent where it has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_targets: Vec<Port>,
}

impl Route {
    /// Makes the route to a deployment with one instance.
    pub const fn new(port: Port, deployment: DeploymentId, target: Port) -> Self {
        Self { port, deployment, target, more_targets: vec![] }
    }

    /// Returns the ports of all instances of the deployment.
    pub fn targets(&self) -> impl Iterator<Item = Port> {
        std::iter::once(self.target).chain(self.more_targets.iter().copied())
    }
}

/// The routes of a managed service: both data ports. The two routes may have one deployment as their target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Routes {
    pub main: Route,
    /// The last good main: main itself once it has shown that it is good, until then the one before it.
    pub backup: Route,
    /// The good main before this one: where a rollback goes.
    #[serde(default)]
    pub previous: Option<DeploymentId>,
    /// The rollback that made main what it is; absent where another change did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Box<Rollback>>,
    /// Ports of instances that do not answer their health check, of versions with several instances: no new connection goes to
    /// them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unhealthy: BTreeSet<Port>,
}

impl Routes {
    /// Makes the routes of a service that had no main before.
    pub const fn new(main: Route, backup: Route) -> Self {
        Self { main, backup, previous: None, rollback: None, unhealthy: BTreeSet::new() }
    }

    /// Returns the ports that get new connections of a route: those of healthy instances, or all if none is healthy.
    pub fn healthy_targets(&self, route: &Route) -> Vec<Port> {
        self.choose_healthy(route.targets())
    }

    /// Returns the healthy ones of the ports of a version's instances, or all if none is healthy.
    pub fn choose_healthy(&self, ports: impl Iterator<Item = Port>) -> Vec<Port> {
        let all: Vec<Port> = ports.collect();
        let healthy: Vec<Port> = all.iter().filter(|port| !self.unhealthy.contains(port)).copied().collect();
        if healthy.is_empty() { all } else { healthy }
    }
}

/// The actor of a rollback, and the reason. A watch of the main that was taken back reports both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rollback {
    pub actor: Actor,
    /// Empty where the actor gave none.
    pub reason: String,
}

/// A main that is new: when it turns unhealthy before `until`, `previous` comes back by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Trial {
    #[schemars(with = "String")]
    pub until: jiff::Timestamp,
    pub previous: DeploymentId,
}

/// The recorded desired state of one service's rules on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceRecord {
    /// The forward; if the service is managed, its target is the target of main's route.
    pub forward: Forward,
    pub switch: Switch,
    /// Whether checks come from this host itself, through the OUTPUT chain.
    #[serde(alias = "from_self")]
    pub balancer_is_local: bool,
    /// Increases by one with every recorded change of the switch, so that a waiting command detects that it was overtaken.
    pub generation: u32,
    /// When the forward was last changed; the history has the changes of versions.
    #[schemars(with = "String")]
    pub changed_at: jiff::Timestamp,
    /// Absent where no deployment is main: the vhosts listen on the data ports themselves.
    #[serde(default)]
    pub routes: Option<Routes>,
    #[serde(default)]
    pub access: Access,
    #[serde(default)]
    pub trial: Option<Trial>,
    /// The shadows and the canary, and whether the proxy is inserted before main.
    #[serde(default)]
    pub layer7: Layer7,
    /// The operation that took the main vhost out of service; absent while it is in service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

impl Intent {
    /// Returns the row of the history that records the begin of the change.
    pub fn to_entry(&self, operation: OperationId, now: jiff::Timestamp) -> HistoryEntry {
        HistoryEntry {
            operation,
            at: now,
            actor: self.actor.without_caller(),
            caller: self.actor.caller.clone(),
            service: self.forward.service.clone(),
            action: self.action.clone(),
            phase: Phase::Began,
            detail: self.detail.clone(),
        }
    }
}

impl ServiceRecord {
    /// Returns an intent that keeps everything as it is recorded, for a change of routes, access or layer 7 alone.
    pub fn build_intent(&self, actor: &Actor, action: &str, detail: impl Into<String>) -> Intent {
        Intent {
            forward: self.forward.clone(),
            switch: self.switch,
            balancer_is_local: self.balancer_is_local,
            actor: actor.clone(),
            action: action.to_owned(),
            detail: detail.into(),
            route_change: RouteChange::Keep,
            access: None,
            layer7: None,
        }
    }

    /// Returns the record that follows from an intent; `previous`: the record before it.
    pub fn from_intent(previous: Option<&Self>, intent: &Intent, now: jiff::Timestamp) -> Self {
        let is_rerouted = intent.route_change != RouteChange::Keep || intent.layer7.is_some();
        let (generation, changed_at) = match previous {
            // A command that waits for DOWN or UP is not overtaken by another version: the forward is as it was.
            Some(record) if is_rerouted && record.switch == intent.switch => {
                (record.generation, record.changed_at)
            }
            record => (record.map_or(0, |record| record.generation) + 1, now),
        };
        let (routes, trial) = match &intent.route_change {
            RouteChange::Keep => (
                previous.and_then(|record| record.routes.clone()),
                previous.and_then(|record| record.trial.clone()),
            ),
            RouteChange::Set { routes, trial } => (Some(routes.clone()), trial.clone()),
            RouteChange::Remove => (None, None),
        };
        let mut forward = intent.forward.clone();
        if let Some(routes) = &routes {
            forward.target = routes.main.target;
        }
        Self {
            forward,
            switch: intent.switch,
            balancer_is_local: intent.balancer_is_local,
            generation,
            changed_at,
            routes,
            access: intent.access.unwrap_or_else(|| previous.map(|record| record.access).unwrap_or_default()),
            trial,
            layer7: derive_layer7(previous, intent),
            owner: derive_owner(previous, intent, now),
        }
    }

    /// Returns the record with another id of one of its deployments. What it requests of the kernel is the same.
    #[must_use]
    pub fn rename_deployment(mut self, from: &DeploymentId, to: &DeploymentId) -> Self {
        let routes = self.routes.iter_mut();
        let in_routes = routes.flat_map(|routes| {
            [&mut routes.main.deployment, &mut routes.backup.deployment]
                .into_iter()
                .chain(&mut routes.previous)
        });
        let in_trial = self.trial.iter_mut().map(|trial| &mut trial.previous);
        let split = &mut self.layer7.traffic_split;
        let in_mirrors = split.mirrors.iter_mut().map(|mirror| &mut mirror.deployment);
        let in_canary = split.canary.iter_mut().map(|canary| &mut canary.deployment);
        for id in in_routes.chain(in_trial).chain(in_mirrors).chain(in_canary).filter(|id| *id == from) {
            id.clone_from(to);
        }
        self
    }

    /// Returns whether both records request the same state, regardless of when they were recorded.
    pub fn is_equivalent(&self, other: &Self) -> bool {
        let neutral =
            |record: &Self| Self { generation: 0, changed_at: jiff::Timestamp::UNIX_EPOCH, ..record.clone() };
        neutral(self) == neutral(other)
    }

    /// Returns the ports of this service that HAProxy connects to, or that are routed without being an instance's.
    pub fn ports(&self) -> impl Iterator<Item = Port> {
        let routes = self.routes.iter().flat_map(|routes| [routes.main.port, routes.backup.port]);
        let proxy = self.layer7.place.map(|place| place.port);
        std::iter::once(self.forward.check).chain(routes).chain(proxy)
    }

    /// Returns the ports to which the kernel redirects connections to a port of this service: the proxy's where it is inserted before
    /// main, else those of healthy instances.
    pub fn effective_targets(&self, port: Port) -> Vec<Port> {
        let to_main = self.routes.as_ref().is_some_and(|routes| routes.main.port == port);
        match (self.layer7.inserted().filter(|_| to_main), self.find_route(port)) {
            (Some(proxy), _) => vec![proxy],
            (None, Some((routes, route))) => routes.healthy_targets(route),
            (None, None) => vec![port],
        }
    }

    /// Returns the ports to which the kernel redirects health checks while the forward is on.
    pub fn check_targets(&self) -> Vec<Port> {
        match (self.layer7.inserted(), &self.routes) {
            (Some(proxy), _) => vec![proxy],
            (None, Some(routes)) => routes.healthy_targets(&routes.main),
            (None, None) => vec![self.forward.target],
        }
    }

    /// Returns the port of a healthy instance behind a port of this service: a target of a route, else the port itself.
    pub fn instance_port(&self, port: Port) -> Port {
        let healthy = self.find_route(port).map(|(routes, route)| routes.healthy_targets(route));
        healthy.and_then(|healthy| healthy.first().copied()).unwrap_or(port)
    }

    /// Returns the ports of all instances behind a port of this service: requests may be in flight on an unhealthy one.
    pub fn instance_ports(&self, port: Port) -> Vec<Port> {
        self.find_route(port).map_or_else(|| vec![port], |(_, route)| route.targets().collect())
    }

    fn find_route(&self, port: Port) -> Option<(&Routes, &Route)> {
        let routes = self.routes.as_ref()?;
        [&routes.main, &routes.backup]
            .into_iter()
            .find(|route| route.port == port)
            .map(|route| (routes, route))
    }
}

/// Derives the owner of the maintenance. A change of versions or traffic leaves it as it is.
fn derive_owner(previous: Option<&ServiceRecord>, intent: &Intent, now: jiff::Timestamp) -> Option<Owner> {
    let before = previous.and_then(|record| record.owner.clone());
    match intent.switch {
        Switch::On => None,
        Switch::Off if !intent.is_forward_alone() => before,
        Switch::Off => before
            .filter(|owner| intent.actor.is_host || intent.actor.continues(owner))
            .or_else(|| Some(intent.actor.become_owner(&intent.action, now))),
    }
}

/// Main answers users: it gets neither copies nor a share.
fn derive_layer7(previous: Option<&ServiceRecord>, intent: &Intent) -> Layer7 {
    let before = || previous.map(|record| record.layer7.clone()).unwrap_or_default();
    let layer7 = intent.layer7.clone().unwrap_or_else(before);
    match &intent.route_change {
        RouteChange::Keep => layer7,
        RouteChange::Set { routes, .. } => Layer7 {
            traffic_split: layer7.traffic_split.without_deployment(&routes.main.deployment),
            ..layer7
        },
        RouteChange::Remove => Layer7::default(),
    }
}

/// The effect of a change on the routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one lives at a time, for as long as a change")]
pub enum RouteChange {
    /// The routes stay as they are recorded, and so does a trial.
    #[default]
    Keep,
    Set {
        routes: Routes,
        trial: Option<Trial>,
    },
    /// The service is not managed any more.
    Remove,
}

/// A change that is about to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    pub forward: Forward,
    pub switch: Switch,
    pub balancer_is_local: bool,
    pub actor: Actor,
    /// The command, as the history calls it.
    pub action: String,
    /// The overridden safety checks (`--force`), or the roll it belongs to; empty otherwise.
    pub detail: String,
    pub route_change: RouteChange,
    /// `None`: stays as it is.
    pub access: Option<Access>,
    /// `None`: stays as it is, and goes with the routes.
    pub layer7: Option<Layer7>,
}

impl Intent {
    /// Returns whether nothing but the forward changes.
    fn is_forward_alone(&self) -> bool {
        self.route_change == RouteChange::Keep && self.access.is_none() && self.layer7.is_none()
    }
}

/// The result of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeResult {
    /// The transactions committed to the kernel; empty if the rules were already as requested.
    pub transactions: Vec<Transaction>,
    /// The record's generation after the change.
    pub generation: u32,
    /// The reason why the history has no successful end for the change, which is made and recorded.
    pub unfinished_history: Option<String>,
    /// The proof of the forward by packets; absent where none was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<PacketProof>,
}

/// The forward of one service in one address family, as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KernelForward {
    pub family: Family,
    pub variant: Variant,
    pub forward: Option<Forward>,
    /// Whether packets reach our chain at all.
    pub hooked: bool,
}

impl KernelForward {
    pub fn switch(&self) -> Switch {
        if self.forward.is_some() && self.hooked { Switch::On } else { Switch::Off }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example::port;

    /// Older versions of switchman read a record, and this one reads theirs.
    #[test]
    fn route_to_one_instance_is_recorded_as_before() {
        let route = Route::new(port(8080), "dp_0123456789".parse().unwrap(), port(20001));
        let recorded = r#"{"port":8080,"deployment":"dp_0123456789","target":20001}"#;
        assert_eq!(serde_json::to_string(&route).unwrap(), recorded);
        assert_eq!(serde_json::from_str::<Route>(recorded).unwrap(), route);
        let spread = Route { more_targets: vec![port(20002)], ..route.clone() };
        let recorded = r#"{"port":8080,"deployment":"dp_0123456789","target":20001,"more_targets":[20002]}"#;
        assert_eq!(serde_json::to_string(&spread).unwrap(), recorded);
        let routes = serde_json::to_value(Routes::new(route.clone(), route)).unwrap();
        assert_eq!(routes.as_object().unwrap().keys().collect::<Vec<_>>(), ["backup", "main", "previous"]);
    }
}
