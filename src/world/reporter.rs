//! Telling the operator how a long command is getting on.

use std::time::Duration;

use crate::model::balancer::Verdict;
use crate::model::forward::Switch;
use crate::model::name::{BalancerName, HostName};
use crate::model::rules::Transaction;

/// What happened, as values; the wording is the renderer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The kernel state was changed by these transactions.
    Committed {
        host: HostName,
        switch: Switch,
        transactions: Vec<Transaction>,
        took: Duration,
    },
    /// Nothing to change in the kernel.
    AlreadySo {
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
    /// A load balancer's word on a server changed (or is the first one heard).
    Heard {
        balancer: BalancerName,
        server: String,
        verdict: Option<Verdict>,
        detail: String,
        after: Duration,
    },
    /// No balancer can be read: waiting a computed bound.
    WaitingBound {
        balancer: BalancerName,
        bound: Duration,
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
}

pub trait Reporter: Send + Sync {
    fn report(&self, event: &Event);
}
