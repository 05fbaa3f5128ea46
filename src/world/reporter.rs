//! Progress of a long command, reported to the operator.

use std::time::Duration;

use serde::Serialize;

use crate::model::balancer::ServerState;
use crate::model::duration;
use crate::model::journal::{HostOutcome, RollResult};
use crate::model::lock::LockView;
use crate::model::name::{BalancerName, HostName};
use crate::model::port_forward::Switch;
use crate::model::roll::{RollId, Step};
use crate::model::rules::Transaction;

/// An event, as values. The renderer does the wording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The kernel state was changed by these transactions.
    Committed {
        host: HostName,
        switch: Switch,
        transactions: Vec<Transaction>,
        elapsed: Duration,
    },
    /// Nothing to change in the kernel.
    Unchanged {
        host: HostName,
        switch: Switch,
    },
    /// A refusal that `--force` overrode.
    Overridden {
        refusal: String,
    },
    /// The real port answered as it should.
    Healthy {
        host: HostName,
        probes: u32,
    },
    /// A load balancer reports a new state of a server, or its first one.
    Observed {
        host: HostName,
        balancer: BalancerName,
        server: String,
        state: Option<ServerState>,
        detail: String,
        after: Duration,
    },
    /// No balancer can be read: the command waits for a computed time.
    WaitingForTimeout {
        host: HostName,
        balancer: BalancerName,
        timeout: Duration,
    },
    /// Work left on the host, on every look that differs from the last.
    Draining {
        host: HostName,
        in_flight: u64,
        busy_sockets: u64,
        after: Duration,
    },
    Drained {
        host: HostName,
        after: Duration,
    },
    /// A thing worth a line that stops nothing.
    Warning {
        text: String,
    },
    /// Another holder has the fleet lock, and the command waits for it.
    WaitingForLock {
        lock: Box<LockView>,
        timeout: Duration,
    },
    Roll {
        roll: RollId,
        event: RollEvent,
    },
    /// A step of work on a service's versions, with the host if the step concerns only one.
    DeploymentProgress {
        host: Option<HostName>,
        text: String,
    },
}

/// How a roll is getting on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum RollEvent {
    Began {
        hosts: Vec<HostName>,
        is_resumed: bool,
    },
    /// Counted from 1.
    Batch {
        number: usize,
        of: usize,
        hosts: Vec<HostName>,
    },
    StepBegan {
        host: HostName,
        step: Step,
        /// What the host does now.
        description: &'static str,
        #[serde(rename = "at_most_ms", serialize_with = "duration::serialize_optional_ms")]
        timeout: Option<Duration>,
    },
    StepDone {
        host: HostName,
        step: Step,
        /// What is so now.
        description: &'static str,
        detail: String,
    },
    StepFailed {
        host: HostName,
        step: Step,
        reason: String,
    },
    /// A line of the command's or a hook's output; `None`: of a hook of the whole roll.
    Output {
        host: Option<HostName>,
        line: String,
    },
    /// The host did not complete its turn. The outcome is the state it was left in.
    Settled {
        host: HostName,
        end: HostOutcome,
        detail: String,
    },
    HostDone {
        host: HostName,
        #[serde(rename = "took_ms", serialize_with = "duration::serialize_ms")]
        elapsed: Duration,
    },
    /// Waiting for something that is to come true before the next batch.
    Waiting {
        reason: String,
    },
    Aborting {
        hosts: Vec<HostName>,
    },
    Ended {
        result: Option<RollResult>,
        reason: String,
    },
}

pub trait Reporter: Send + Sync {
    fn report(&self, event: &Event);
}
