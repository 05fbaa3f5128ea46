//! Findings of `check` about a fleet, as seen from the operator machine.

use std::path::{Path, PathBuf};

use super::balancers::{check_capacity_floor, check_policy, check_servers, expects_main_up, require_view};
use super::clock::{ClockOffset, check_clock};
use super::finding::{build_finding, build_note, build_ok, build_problem, build_warning};
use super::mains::check_mains;
use super::private_hosts::{build_private_finding, check_access_differs, is_private};
use crate::model::address_conflict::AddressConflict;
use crate::model::api::{Hello, HostView};
use crate::model::balancer::{BackendView, BalancerSpec};
use crate::model::finding::{Finding, Severity};
use crate::model::fleet::Fleet;
use crate::model::forward::ServiceRecord;
use crate::model::host::{Host, Transport};
use crate::model::host_main::HostMain;
use crate::model::lock::{Liveness, LockView};
use crate::model::observation::ObservationError;
use crate::model::owner::Owner;
use crate::model::packet_proof::PacketProof;
use crate::model::port_conflict::PortConflict;
use crate::model::port_forward::Switch;
use crate::model::ssh::SshAttempt;
use crate::plan::promote::PromotionProgress;
use crate::plan::roll::progress::RollProgress;

/// A snapshot of a fleet. A part that could not be read is its error.
#[derive(Debug, Clone)]
pub struct FleetFacts {
    /// The hosts to check.
    pub hosts: Vec<HostFacts>,
    /// In the order of the fleet; `None`: not read by configuration.
    pub balancers: Vec<Option<Result<BackendView, ObservationError>>>,
    /// The files of [`local_files`] that do not exist.
    pub missing: Vec<LocalFile>,
    /// The last roll.
    pub roll: Result<Option<RollProgress>, ObservationError>,
    pub lock: Result<Option<LockView>, ObservationError>,
    /// The last promotion; `None` also where the journal cannot be read.
    pub promotion: Option<PromotionProgress>,
    /// The version of this program.
    pub version: &'static str,
}

#[derive(Debug, Clone)]
pub struct HostFacts {
    pub host: Host,
    /// How it is reached, as a command line where there is one.
    pub transport: String,
    pub hello: Result<Hello, LinkFailure>,
    /// `None` where it was not greeted.
    pub view: Option<Result<HostView, ObservationError>>,
    /// How far the host's clock is from this machine's; `None` where they may be equal.
    pub clock_offset: Option<ClockOffset>,
    /// Ports on which the configuration disagrees with the host or a balancer.
    pub port_conflicts: Vec<PortConflict>,
    /// Server lines of the host that have the address of another machine.
    pub address_conflicts: Vec<AddressConflict>,
}

impl HostFacts {
    /// Returns main of a host that was read.
    fn find_main(&self) -> Option<HostMain> {
        let view = self.view.as_ref()?.as_ref().ok()?;
        Some(HostMain { host: self.host.name.clone(), version: view.main_version.clone() })
    }

    fn expects_main_up(&self) -> bool {
        let view = self.view.as_ref().and_then(|view| view.as_ref().ok());
        view.is_some_and(|view| {
            let record = view.record.as_ref().ok().and_then(Option::as_ref);
            expects_main_up(record, &view.drift, &view.main_health)
        })
    }
}

/// Why a host did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkFailure {
    /// No connection could be made, or no agent answers on it. `ssh` is the call of ssh that failed.
    Unreachable { reason: String, ssh: Option<Box<SshAttempt>> },
    /// The agent answers, and speaks another version of the API.
    VersionMismatch(String),
    /// The agent answers, and refuses the request.
    Refused(String),
}

/// A file that the configuration names, on the operator's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    pub key: &'static str,
    pub path: PathBuf,
}

/// Programs of hooks, where the first word is a path; keys and certificates.
pub fn list_local_files(fleet: &Fleet) -> Vec<LocalFile> {
    let (hooks, reach) = (&fleet.hooks, &fleet.reach);
    let lines = [
        ("hooks.before_roll", &hooks.before_roll),
        ("hooks.before_host", &hooks.before_host),
        ("hooks.after_host", &hooks.after_host),
        ("hooks.after_roll", &hooks.after_roll),
        ("hooks.on_failure", &hooks.on_failure),
    ];
    let programs = lines
        .into_iter()
        .flat_map(|(key, lines)| lines.iter().filter_map(move |line| Some((key, find_program(line)?))));
    let keys = [
        ("agents.ca", &reach.ca),
        ("agents.certificate", &reach.certificate),
        ("agents.key", &reach.key),
        ("agents.token_file", &reach.token_file),
    ];
    let keys = keys.into_iter().filter_map(|(key, path)| Some((key, path.as_deref()?)));
    let journal = fleet.journal.list_files().into_iter().map(|(key, path)| (key, path.as_path()));
    programs.chain(keys).chain(journal).map(|(key, path)| LocalFile { key, path: path.to_owned() }).collect()
}

/// The program of a command line for a shell, where it is a path and needs no shell to be found out.
fn find_program(line: &str) -> Option<&Path> {
    let word = line.split_whitespace().next()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+@%".contains(c);
    (word.contains('/') && word.chars().all(plain)).then(|| Path::new(word))
}

/// All findings: hosts, balancers, the operator's own side.
pub fn collect_findings(fleet: &Fleet, facts: &FleetFacts) -> Vec<Finding> {
    let mut all: Vec<Finding> =
        facts.hosts.iter().flat_map(|host| check_reachable_host(fleet, facts, host)).collect();
    for (spec, view) in fleet.balancers.iter().zip(&facts.balancers) {
        match require_view(spec, view.as_ref()) {
            Err(finding) => all.push(finding),
            Ok(view) => all.extend(check_balancer(fleet, spec, view, &facts.hosts)),
        }
    }
    let mains: Vec<HostMain> = facts.hosts.iter().filter_map(HostFacts::find_main).collect();
    let roll = facts.roll.as_ref().ok().and_then(Option::as_ref);
    all.extend(check_mains(fleet, &mains, &facts.balancers, roll, facts.promotion.as_ref()));
    let views =
        facts.hosts.iter().filter_map(|host| Some((&host.host.name, host.view.as_ref()?.as_ref().ok()?)));
    all.extend(check_access_differs(fleet, &views.collect::<Vec<_>>()));
    all.extend(check_policy(fleet));
    all.extend(facts.missing.iter().map(build_missing_file_finding));
    all.extend(check_journal(facts));
    all
}

fn check_reachable_host(fleet: &Fleet, facts: &FleetFacts, host: &HostFacts) -> Vec<Finding> {
    let subject = host.host.name.as_str();
    let hello = match &host.hello {
        Ok(hello) => hello,
        Err(unheard) => return vec![check_unreachable_host(host, unheard)],
    };
    let (theirs, ours, via) = (&hello.version, facts.version, &host.transport);
    let mut all = vec![if theirs == ours {
        build_ok("host-reached", subject, format!("switchman {theirs} answers ({via})"))
    } else {
        build_note(
            "other-version",
            subject,
            format!("switchman {theirs} answers ({via}), this one is {ours}; they understand each other"),
            "install the same on both when there is time",
        )
    }];
    all.extend(check_clock(subject, host.clock_offset));
    match &host.view {
        None => {}
        Some(Err(error)) => all.push(build_problem("host-not-seen", subject, error.clone(), "see the error")),
        Some(Ok(view)) => all.extend(check_host_view(fleet, facts, &host.host, view)),
    }
    all.extend(check_conflicts(host));
    all
}

/// A switch and a roll refuse these.
fn check_conflicts(host: &HostFacts) -> Vec<Finding> {
    let subject = host.host.name.as_str();
    let ports = host.port_conflicts.iter().map(|conflict| {
        build_problem(
            "ports-differ",
            subject,
            conflict.to_string(),
            "write the same `ports:` into switchman.yaml on both sides and into haproxy.cfg; `enable-forward`, `disable-forward` \
             and `roll` refuse until then",
        )
    });
    let addresses = host.address_conflicts.iter().map(|conflict| {
        build_problem(
            "address-differs",
            subject,
            conflict.to_string(),
            "correct `address:` of the host in switchman.yaml, or the server line in haproxy.cfg; `enable-forward`, \
             `disable-forward` and `roll` refuse until then",
        )
    });
    ports.chain(addresses).collect()
}

fn check_unreachable_host(host: &HostFacts, unheard: &LinkFailure) -> Finding {
    let subject = host.host.name.as_str();
    match unheard {
        LinkFailure::VersionMismatch(error) => {
            build_problem("version-skew", subject, error.clone(), "install the same switchman on both")
        }
        LinkFailure::Refused(error) => build_problem(
            "host-refuses",
            subject,
            error.clone(),
            "see `agents:` in switchman.yaml, and the agent's flags",
        ),
        LinkFailure::Unreachable { reason, ssh: attempt } => {
            let fix = match (&host.host.transport, attempt) {
                (_, Some(attempt)) => attempt.advice(),
                (Transport::Socket(_) | Transport::Tls(_), None) => {
                    "start `switchman agent` there, and correct `agent:`".to_owned()
                }
                (Transport::Ssh(_) | Transport::Local, None) => "see the error".to_owned(),
            };
            build_problem("host-unreachable", subject, reason.clone(), fix)
        }
    }
}

/// Checks what the host reports of itself; the rest is reported by `check` on the host.
fn check_host_view(fleet: &Fleet, facts: &FleetFacts, host: &Host, view: &HostView) -> Vec<Finding> {
    let (subject, main) = (host.name.as_str(), fleet.ports.main);
    let mut all = Vec::new();
    if let Err(error) = &view.kernel {
        let fix = match host.transport {
            Transport::Ssh(_) => {
                "let switchman be root there: `ssh: {switchman: sudo -n switchman}` in switchman.yaml"
            }
            _ => "run the agent there as root",
        };
        all.push(build_problem("rules-unreadable", subject, error.clone(), fix));
    }
    let off = match &view.record {
        Err(error) => {
            all.push(build_problem(
                "state-unreadable",
                subject,
                error.clone(),
                "see the error; `--state-dir` names another place",
            ));
            false
        }
        Ok(Some(record)) if is_private(view) => {
            all.push(build_private_finding(host, record));
            true
        }
        Ok(None) => {
            all.push(build_note(
                "state-empty",
                subject,
                "nothing is recorded yet: it runs on its backup vhost until the first `enable-forward`",
                format!("`switchman enable-forward --host {subject}` when main is ready"),
            ));
            true
        }
        Ok(Some(record)) if record.switch == Switch::Off => {
            all.push(build_maintenance_finding(facts, subject, record));
            true
        }
        Ok(Some(_)) => false,
    };
    // Rules that are not those of the record explain a packet; what is left of it shows when they are repaired.
    let packet = view.packet.as_ref().filter(|_| view.drift.is_empty());
    if let Some(text) = packet.and_then(PacketProof::describe_contradiction) {
        all.push(build_problem(
            "packet-contradicts",
            subject,
            text,
            "remove the cause, then `switchman restore` on that host; `switchman status` sends the packet again",
        ));
    }
    for text in &view.drift {
        all.push(build_problem(
            "drift",
            subject,
            text.clone(),
            "`switchman restore` on that host; find out who changes its rules",
        ));
    }
    if let Some(problem) = view.registration.as_ref().and_then(|registration| registration.problem.as_ref()) {
        all.push(build_problem(
            "not-registered",
            subject,
            format!("its agent has not registered it as it should be: {problem}"),
            "remove the cause; the agent tries again by itself, and `switchman status` shows the slot",
        ));
    }
    if let Err(error) = &view.main_health {
        let severity = if off { Severity::Note } else { Severity::Problem };
        let reason = format!("the main vhost is not healthy on port {main}: {error}");
        all.push(build_finding(severity, "vhost-unhealthy", subject, reason, "look at its error log"));
    }
    all
}

/// The note on a host in maintenance. The owner of a running roll puts the host back.
fn build_maintenance_finding(facts: &FleetFacts, subject: &str, record: &ServiceRecord) -> Finding {
    let lock = facts.lock.as_ref().ok().and_then(Option::as_ref);
    let runs = lock.is_some_and(|lock| lock.liveness != Liveness::Dead);
    let unfinished = facts.roll.as_ref().ok().and_then(Option::as_ref).filter(|roll| !roll.is_finished());
    let owner = record.owner.as_ref().filter(|owner| owner.roll.is_some());
    let holds = |owner: &&Owner| unfinished.is_some_and(|roll| owner.roll.as_ref() == Some(&roll.roll));
    let fix = match owner.filter(holds) {
        Some(owner) if runs => format!("wait for {owner}: the roll puts the host back"),
        Some(owner) => {
            format!("`switchman roll --resume` or `--abort` puts the host back; it belongs to {owner}")
        }
        None => format!("`switchman enable-forward --host {subject}` when main is ready"),
    };
    let reason =
        format!("its forward is off since {:.0}: its users are on its backup vhost", record.changed_at);
    build_note("in-maintenance", subject, reason, fix)
}

/// Returns one finding where all is well, else only the problems: a fleet has many servers.
fn check_balancer(
    fleet: &Fleet,
    spec: &BalancerSpec,
    view: &BackendView,
    hosts: &[HostFacts],
) -> Vec<Finding> {
    let mut all: Vec<Finding> = Vec::new();
    for host in hosts {
        let found = check_servers(fleet, spec, view, &host.host, host.expects_main_up());
        all.extend(found.into_iter().filter(|one| one.severity > Severity::Ok));
    }
    all.extend(hosts.first().and_then(|host| check_capacity_floor(fleet, spec, view, &host.host.name)));
    if all.is_empty() {
        let lines = hosts.len() * 2;
        all.push(build_ok(
            "servers",
            spec.name.as_str(),
            format!("its {lines} server lines are there, every backup vhost is UP"),
        ));
    }
    all
}

fn build_missing_file_finding(file: &LocalFile) -> Finding {
    let reason = format!("`{}` is not there, seen from this directory", file.path.display());
    build_problem(
        "file-missing",
        file.key,
        reason,
        "correct the path; with a path from `/` it does not matter where you are",
    )
}

fn check_journal(facts: &FleetFacts) -> Vec<Finding> {
    let mut all = Vec::new();
    let unreadable = |error: &ObservationError| {
        build_problem(
            "journal-unreadable",
            "journal",
            error.clone(),
            "`--journal-dir` names another place, the same for every operator",
        )
    };
    match (&facts.roll, &facts.lock) {
        (Err(error), _) | (_, Err(error)) => all.push(unreadable(error)),
        (Ok(roll), Ok(lock)) => {
            if let Some(lock) = lock {
                let suffix = if lock.liveness == Liveness::Dead { ", whose process has ended" } else { "" };
                all.push(build_note(
                    "fleet-held",
                    "lock",
                    format!("the fleet is locked by {}{suffix}", lock.holder),
                    "`switchman lock status` shows the holder's details",
                ));
            }
            let runs = lock.as_ref().is_some_and(|lock| lock.liveness != Liveness::Dead);
            if let Some(roll) = roll.as_ref().filter(|roll| !roll.is_finished() && !runs) {
                all.push(build_warning(
                    "roll-unfinished",
                    "journal",
                    format!(
                        "the roll {} of {} is not finished: {} of {} hosts are done",
                        roll.roll,
                        roll.actor.user,
                        roll.count_done(),
                        roll.hosts.len()
                    ),
                    "`switchman roll --status`, then `--resume` or `--abort`",
                ));
            }
        }
    }
    all
}

#[cfg(test)]
pub(super) mod tests;
