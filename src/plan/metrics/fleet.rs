//! Metrics of the operator machine: each host as it is seen from there, and the last roll and promotion by the journal.

use super::family::{MetricFamily, families, new_gauge};
use super::page::MetricsPage;
use crate::model::api::HostView;
use crate::model::journal::RollResult;
use crate::model::port_forward::Switch;
use crate::plan::roll::progress::{HostProgress, RollProgress, StepState};

use self::snapshot::{HostSnapshot, JournalSnapshot, ServiceSnapshot};

pub(super) mod promotions;
pub mod snapshot;

families! {
    UP = new_gauge("switchman_host_up", "Whether the host could be reached and driven from here.");
    FORWARD = new_gauge(
        "switchman_host_forward_on",
        "Whether the kernel of the host has the forward; 0 is maintenance. Not there where it is not known."
    );
    FORWARD_RECORDED = new_gauge(
        "switchman_host_forward_recorded_on",
        "Whether the host has the forward recorded as on."
    );
    DRIFT = new_gauge(
        "switchman_host_drift",
        "Differences between the record of the host and the rules of its kernel."
    );
    HEALTHY = new_gauge(
        "switchman_host_main_healthy",
        "Whether the main vhost's real port answered its health check."
    );
    JOURNAL = new_gauge("switchman_journal_readable", "Whether the journal of the fleet could be read.");
    LOCK_HELD = new_gauge("switchman_lock_held", "Whether the fleet is locked.");
    IN_PROGRESS = new_gauge(
        "switchman_roll_in_progress",
        "Whether the last roll is not finished: it runs, has stopped or was cut off."
    );
    STATE = new_gauge("switchman_roll_state", "State of the last roll: 1 for one of the states.");
    HOSTS = new_gauge("switchman_roll_hosts", "Hosts of the last roll, by how far they are.");
    HOSTS_OUT = new_gauge(
        "switchman_roll_hosts_out",
        "Hosts that the last roll took out, as far as its journal knows."
    );
    BEGAN_AT = new_gauge("switchman_roll_began_timestamp_seconds", "When the last roll began.");
    CHANGED_AT = new_gauge(
        "switchman_roll_changed_timestamp_seconds",
        "When the last roll took its last step, or ended."
    );
}

/// A fleet at one moment.
#[derive(Debug, Clone)]
pub struct FleetMetrics {
    pub hosts: Vec<HostSnapshot>,
    pub services: Vec<ServiceSnapshot>,
}

/// The values of the label `state` of a roll.
const STATES: [&str; 7] =
    ["running", "stopped", "cut-off", "done", "done-with-failures", "aborted", "aborted-in-part"];

impl FleetMetrics {
    pub fn render(&self) -> String {
        let mut page = MetricsPage::default();
        page.add_each(&UP, &self.hosts, |up, host| up.add_flag(&[("host", host.host.as_str())], host.is_up));
        self.write_host_values(&mut page, &FORWARD, |view| Some(u64::from(view.switch()? == Switch::On)));
        self.write_host_values(&mut page, &FORWARD_RECORDED, |view| {
            let record = view.record.as_ref().ok()?.as_ref()?;
            Some(u64::from(record.switch == Switch::On))
        });
        self.write_host_values(&mut page, &DRIFT, |view| u64::try_from(view.drift.len()).ok());
        self.write_host_values(&mut page, &HEALTHY, |view| Some(u64::from(view.main_health.is_ok())));
        self.write_journals(&mut page);
        page.into_text()
    }

    fn write_host_values(
        &self,
        page: &mut MetricsPage,
        family: &'static MetricFamily,
        value: fn(&HostView) -> Option<u64>,
    ) {
        page.add_each(family, &self.hosts, |samples, host| {
            for (service, view) in &host.views {
                if let Some(value) = value(view) {
                    samples.add_gauge(&[("host", host.host.as_str()), ("service", service.as_str())], value);
                }
            }
        });
    }

    fn write_journals(&self, page: &mut MetricsPage) {
        page.add_each(&JOURNAL, &self.services, |readable, of| {
            readable.add_flag(&[("service", of.service.as_str())], of.journal.is_ok());
        });
        let read: Vec<(&str, &JournalSnapshot)> = self
            .services
            .iter()
            .filter_map(|of| Some((of.service.as_str(), of.journal.as_ref().ok()?)))
            .collect();
        page.add_each(&LOCK_HELD, &read, |held, (service, journaled)| {
            held.add_flag(&[("service", service)], journaled.is_locked);
        });
        page.add_each(&IN_PROGRESS, &read, |in_progress, (service, journaled)| {
            let unfinished = journaled.roll.as_ref().is_some_and(|roll| !roll.is_finished());
            in_progress.add_flag(&[("service", service)], unfinished);
        });
        let rolls: Vec<(&str, &RollProgress, &str)> = read
            .iter()
            .filter_map(|(service, journaled)| {
                let roll = journaled.roll.as_ref()?;
                Some((*service, roll, derive_state(roll, journaled.is_holder_alive)))
            })
            .collect();
        write_rolls(page, &rolls);
        promotions::write(page, &read);
    }
}

fn write_rolls(page: &mut MetricsPage, rolls: &[(&str, &RollProgress, &str)]) {
    page.add_each(&STATE, rolls, |states, (service, _, now)| {
        for state in STATES {
            states.add_flag(&[("service", service), ("state", state)], state == *now);
        }
    });
    page.add_each(&HOSTS, rolls, |hosts, (service, roll, _)| {
        for (name, is_so) in HOST_STATES {
            let count = roll.hosts.iter().filter(|host| is_so(host)).count();
            hosts.add_gauge(&[("service", service), ("state", name)], count);
        }
    });
    page.add_each(&HOSTS_OUT, rolls, |out, (service, roll, _)| {
        out.add_gauge(&[("service", service)], roll.hosts.iter().filter(|host| host.may_be_out()).count());
    });
    page.add_each(&BEGAN_AT, rolls, |began, (service, roll, _)| {
        began.add_gauge(&[("service", service)], roll.began_at.as_second());
    });
    page.add_each(&CHANGED_AT, rolls, |changed, (service, roll, _)| {
        changed.add_gauge(&[("service", service)], roll.changed_at.as_second());
    });
}

type HostPredicate = fn(&HostProgress) -> bool;

/// Each host is in one of them.
const HOST_STATES: [(&str, HostPredicate); 4] = [
    ("waiting", |host| host.state == StepState::Waiting),
    ("begun", |host| matches!(host.state, StepState::Began | StepState::StepDone)),
    ("failed", |host| host.state == StepState::Failed),
    ("done", |host| host.state == StepState::Done),
];

fn derive_state(roll: &RollProgress, is_alive: bool) -> &'static str {
    match roll.result {
        Some(RollResult::Done) => "done",
        Some(RollResult::DoneWithFailures) => "done-with-failures",
        Some(RollResult::Aborted) => "aborted",
        Some(RollResult::PartiallyAborted) => "aborted-in-part",
        None if roll.stop_reason.is_some() => "stopped",
        None if is_alive => "running",
        None => "cut-off",
    }
}

#[cfg(test)]
mod tests;
