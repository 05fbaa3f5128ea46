//! What the operator's machine exports: each host as it is seen from there, and the last roll and roll-out by the journal.

use super::{Family, Page, gauge};
use crate::model::api::HostView;
use crate::model::forward::Switch;
use crate::model::journal::RollResult;
use crate::model::name::{HostName, ServiceName};
use crate::plan::promote;
use crate::plan::roll::progress::{HostStanding, Reached, Standing};

mod promotions;

pub(super) use promotions::FAMILIES as ROLLOUTS;

const UP: Family = gauge("switchman_host_up", "Whether the host could be reached and driven from here.");
const FORWARD: Family = gauge(
    "switchman_host_forward_on",
    "Whether the kernel of the host has the forward; 0 is maintenance. Not there where it is not known.",
);
const RECORDED: Family =
    gauge("switchman_host_forward_recorded_on", "Whether the host has the forward recorded as on.");
const DRIFT: Family =
    gauge("switchman_host_drift", "Differences between the record of the host and the rules of its kernel.");
const HEALTHY: Family =
    gauge("switchman_host_main_healthy", "Whether the main vhost's real port answered its health check.");
const JOURNAL: Family =
    gauge("switchman_journal_readable", "Whether the journal of the fleet could be read.");
const HELD: Family = gauge("switchman_lock_held", "Whether somebody holds the lock of the fleet.");
const IN_PROGRESS: Family = gauge(
    "switchman_roll_in_progress",
    "Whether the last roll is not finished: it runs, has stopped or was cut off.",
);
const STATE: Family =
    gauge("switchman_roll_state", "How the last roll stands or ended: 1 for one of the states.");
const HOSTS: Family = gauge("switchman_roll_hosts", "Hosts of the last roll, by how far they are.");
const OUT: Family =
    gauge("switchman_roll_hosts_out", "Hosts that the last roll took out, as far as its journal knows.");
const BEGAN: Family = gauge("switchman_roll_began_timestamp_seconds", "When the last roll began.");
const CHANGED: Family =
    gauge("switchman_roll_changed_timestamp_seconds", "When the last roll took its last step, or ended.");

pub(super) const FAMILIES: &[&Family] = &[
    &UP,
    &FORWARD,
    &RECORDED,
    &DRIFT,
    &HEALTHY,
    &JOURNAL,
    &HELD,
    &IN_PROGRESS,
    &STATE,
    &HOSTS,
    &OUT,
    &BEGAN,
    &CHANGED,
];

/// A fleet at one moment.
#[derive(Debug, Clone)]
pub struct FleetNumbers {
    pub hosts: Vec<HostSeen>,
    pub services: Vec<ServiceNumbers>,
}

#[derive(Debug, Clone)]
pub struct HostSeen {
    pub host: HostName,
    pub is_up: bool,
    /// What it says of each service; a service that it says nothing of is not there.
    pub views: Vec<(ServiceName, HostView)>,
}

/// What the journal says of a service.
#[derive(Debug, Clone)]
pub struct ServiceNumbers {
    pub service: ServiceName,
    pub journal: Result<Journaled, String>,
}

#[derive(Debug, Clone)]
pub struct Journaled {
    /// The last roll.
    pub roll: Option<Standing>,
    /// The last roll-out.
    pub rollout: Option<promote::Standing>,
    pub is_held: bool,
    /// Whether the holder of the lock may be alive.
    pub is_alive: bool,
}

/// What a roll can be said to be.
const STATES: [&str; 7] =
    ["running", "stopped", "cut-off", "done", "done-with-failures", "aborted", "aborted-in-part"];

impl FleetNumbers {
    pub fn page(&self) -> String {
        let mut page = Page::default();
        let mut up = page.family(&UP);
        for seen in &self.hosts {
            up.flag(&[("host", seen.host.as_str())], seen.is_up);
        }
        self.views(&mut page, &FORWARD, |view| Some(u64::from(view.switch()? == Switch::On)));
        self.views(&mut page, &RECORDED, |view| {
            let record = view.recorded.as_ref().ok()?.as_ref()?;
            Some(u64::from(record.switch == Switch::On))
        });
        self.views(&mut page, &DRIFT, |view| u64::try_from(view.drift.len()).ok());
        self.views(&mut page, &HEALTHY, |view| Some(u64::from(view.main_health.is_ok())));
        self.journals(&mut page);
        page.0
    }

    fn views(&self, page: &mut Page, family: &'static Family, value: fn(&HostView) -> Option<u64>) {
        let mut samples = page.family(family);
        for seen in &self.hosts {
            for (service, view) in &seen.views {
                if let Some(value) = value(view) {
                    samples.add(&[("host", seen.host.as_str()), ("service", service.as_str())], value);
                }
            }
        }
    }

    fn journals(&self, page: &mut Page) {
        let mut readable = page.family(&JOURNAL);
        for of in &self.services {
            readable.flag(&[("service", of.service.as_str())], of.journal.is_ok());
        }
        let read: Vec<(&str, &Journaled)> = self
            .services
            .iter()
            .filter_map(|of| Some((of.service.as_str(), of.journal.as_ref().ok()?)))
            .collect();
        let mut held = page.family(&HELD);
        for (service, journaled) in &read {
            held.flag(&[("service", service)], journaled.is_held);
        }
        let mut in_progress = page.family(&IN_PROGRESS);
        for (service, journaled) in &read {
            let unfinished = journaled.roll.as_ref().is_some_and(|roll| !roll.is_finished());
            in_progress.flag(&[("service", service)], unfinished);
        }
        let rolls: Vec<(&str, &Standing, &str)> = read
            .iter()
            .filter_map(|(service, journaled)| {
                let roll = journaled.roll.as_ref()?;
                Some((*service, roll, state(roll, journaled.is_alive)))
            })
            .collect();
        about_rolls(page, &rolls);
        promotions::write(page, &read);
    }
}

fn about_rolls(page: &mut Page, rolls: &[(&str, &Standing, &str)]) {
    let mut states = page.family(&STATE);
    for (service, _, now) in rolls {
        for state in STATES {
            states.flag(&[("service", service), ("state", state)], state == *now);
        }
    }
    let mut hosts = page.family(&HOSTS);
    for (service, roll, _) in rolls {
        for (name, is_so) in HOST_STATES {
            let count = roll.hosts.iter().filter(|host| is_so(host)).count();
            hosts.add(&[("service", service), ("state", name)], count);
        }
    }
    let mut out = page.family(&OUT);
    for (service, roll, _) in rolls {
        out.add(&[("service", service)], roll.hosts.iter().filter(|host| host.may_be_out()).count());
    }
    let mut began = page.family(&BEGAN);
    for (service, roll, _) in rolls {
        began.add(&[("service", service)], roll.began_at.as_second());
    }
    let mut changed = page.family(&CHANGED);
    for (service, roll, _) in rolls {
        changed.add(&[("service", service)], roll.changed_at.as_second());
    }
}

type IsSo = fn(&HostStanding) -> bool;

/// Each host is in one of them.
const HOST_STATES: [(&str, IsSo); 4] = [
    ("waiting", |host| host.reached == Reached::Waiting),
    ("begun", |host| matches!(host.reached, Reached::Began | Reached::StepDone)),
    ("failed", |host| host.reached == Reached::Failed),
    ("done", |host| host.reached == Reached::Done),
];

fn state(roll: &Standing, is_alive: bool) -> &'static str {
    match roll.result {
        Some(RollResult::Done) => "done",
        Some(RollResult::DoneWithFailures) => "done-with-failures",
        Some(RollResult::Aborted) => "aborted",
        Some(RollResult::AbortedInPart) => "aborted-in-part",
        None if roll.stopped.is_some() => "stopped",
        None if is_alive => "running",
        None => "cut-off",
    }
}

#[cfg(test)]
mod tests;
