//! The plan of a roll, step by step: what `--dry-run` prints is what runs.

pub mod programs;
pub mod progress;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::switch::{compute_detection_time, compute_wait_timeout};
use crate::model::balancer::BalancerSpec;
use crate::model::duration::{format, serialize_optional_ms};
use crate::model::fleet::Fleet;
use crate::model::name::HostName;
use crate::model::plural::Count;
use crate::model::port_forward::Switch;
use crate::model::ports::Port;
use crate::model::roll::{RollSpec, Step, Work};
use crate::model::shell::join_words;

/// The whole of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RollPlan {
    pub spec: RollSpec,
    pub before_roll: Vec<String>,
    /// Hosts of one batch are out together.
    pub batches: Vec<Vec<HostName>>,
    /// The steps of every host, in this order.
    pub steps: Vec<PlannedStep>,
    pub after_roll: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    pub step: Step,
    pub description: String,
    /// How long it may take at most; `None`: as long as the command takes.
    #[serde(rename = "at_most_ms", serialize_with = "serialize_optional_ms")]
    pub timeout: Option<Duration>,
}

/// Why a roll of these hosts makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("there is no host to roll over")]
    NoHosts,
    #[error("no command is given")]
    NoCommand,
    #[error("a batch of {batch} leaves {left} of {all} hosts, `roll.min_up` requires {min_up}")]
    CapacityFloor { batch: usize, left: usize, all: usize, min_up: u32 },
}

impl RollPlan {
    /// Describes the steps with the ports that the hosts have. `targets`: the port of main where a version has the data ports.
    #[must_use]
    pub fn with_main_ports(mut self, fleet: &Fleet, targets: &BTreeMap<HostName, Port>) -> Self {
        let mut hosts: BTreeMap<Port, Vec<&str>> = BTreeMap::new();
        for name in &self.spec.hosts {
            let port = targets.get(name).copied().unwrap_or(fleet.ports.main);
            hosts.entry(port).or_default().push(name.as_str());
        }
        let (probed, forwarded): (Vec<String>, Vec<String>) = match hosts.first_key_value() {
            Some((port, _)) if hosts.len() == 1 => (vec![port.to_string()], vec![port.to_string()]),
            _ => hosts
                .iter()
                .map(|(port, names)| (port.to_string(), format!("{port} on {}", names.join(", "))))
                .unzip(),
        };
        for planned in &mut self.steps {
            match planned.step {
                Step::Healthy => planned.description = describe_probe(fleet, &probed.join(" or ")),
                Step::ForwardOn => planned.description = describe_forward_on(fleet, &forwarded.join("; ")),
                _ => {}
            }
        }
        self
    }
}

fn describe_probe(fleet: &Fleet, main: &str) -> String {
    let health = &fleet.health;
    format!("probe {main}{} until {} x {} in a row", health.path, health.rise, health.status)
}

fn describe_forward_on(fleet: &Fleet, main: &str) -> String {
    format!("forward on: {} -> {main}", fleet.ports.check)
}

pub fn plan_roll(fleet: &Fleet, spec: &RollSpec) -> Result<RollPlan, PlanError> {
    if spec.hosts.is_empty() {
        return Err(PlanError::NoHosts);
    }
    if matches!(&spec.work, Work::Command { argv, .. } if argv.is_empty()) {
        return Err(PlanError::NoCommand);
    }
    let all = fleet.hosts.len();
    let batch = spec.batches().map(<[HostName]>::len).max().unwrap_or(0);
    let (left, min_up) = (all.saturating_sub(batch), fleet.limits.min_up);
    // Without `hosts:` the others are not known here; the balancers are read before each batch.
    if all > 0 && left < usize::try_from(min_up).unwrap_or(usize::MAX) {
        return Err(PlanError::CapacityFloor { batch, left, all, min_up });
    }
    Ok(plan_resumed(fleet, spec))
}

/// The plan of a roll that has begun: whether it made sense then is no question any more. What goes out yet needs leave of the
/// balancers, and putting back needs none.
pub fn plan_resumed(fleet: &Fleet, spec: &RollSpec) -> RollPlan {
    RollPlan {
        spec: spec.clone(),
        before_roll: fleet.hooks.before_roll.clone(),
        batches: spec.batches().map(<[HostName]>::to_vec).collect(),
        steps: Step::ALL.into_iter().filter_map(|step| plan_step(fleet, spec, step)).collect(),
        after_roll: fleet.hooks.after_roll.clone(),
    }
}

/// `None`: there is nothing to do in it.
fn plan_step(fleet: &Fleet, spec: &RollSpec, step: Step) -> Option<PlannedStep> {
    let hooks = |lines: &[String]| {
        let timeout = fleet.hooks.timeout * u32::try_from(lines.len()).unwrap_or(u32::MAX);
        (!lines.is_empty()).then(|| (lines.join("; "), Some(timeout)))
    };
    // A balancer that is read gets more time than its check settings require; for the others the computed time is waited.
    let longest = |spec: &BalancerSpec, switch| match spec.stats_endpoint {
        Some(_) => compute_wait_timeout(&spec.check, switch),
        None => compute_detection_time(&spec.check, switch),
    };
    let seen = |switch| fleet.balancers.iter().map(|spec| longest(spec, switch)).max();
    let balancers = || match fleet.balancers.as_slice() {
        [] => "no balancer".to_owned(),
        balancers => balancers.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", "),
    };
    let (check, main) = (fleet.ports.check, fleet.ports.main.to_string());
    let (does, at_most) = match step {
        Step::BeforeHost => hooks(&fleet.hooks.before_host)?,
        Step::ForwardOff => (format!("forward off: {check} is refused"), None),
        Step::Down => (format!("wait until it is DOWN: {}", balancers()), seen(Switch::Off)),
        Step::Drained => ("wait until nothing is in flight".to_owned(), Some(spec.drain_timeout)),
        Step::Command => match &spec.work {
            Work::Command { argv, remote, timeout } => {
                let location = if *remote { "on the host" } else { "here" };
                (format!("run {location}: {}", join_words(argv)), *timeout)
            }
            Work::Assign(new_main) => {
                let text = format!(
                    "route both data ports to {} {}, and close idle connections to the old one",
                    spec.service, new_main.version
                );
                (text, None)
            }
        },
        Step::Healthy => (describe_probe(fleet, &main), Some(spec.health_timeout)),
        Step::ForwardOn => (describe_forward_on(fleet, &main), None),
        Step::Up => (format!("wait until it is UP: {}", balancers()), seen(Switch::On)),
        Step::AfterHost => hooks(&fleet.hooks.after_host)?,
    };
    Some(PlannedStep { step, description: does, timeout: at_most })
}

impl fmt::Display for RollPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = &self.spec;
        let hosts = spec.hosts.len();
        writeln!(
            f,
            "service {}: {} in {}, at most {} failed",
            spec.service,
            Count(hosts, "host"),
            Count(self.batches.len(), "batch"),
            spec.max_failures
        )?;
        for line in &self.before_roll {
            writeln!(f, "first: {line}")?;
        }
        for (number, batch) in (1..).zip(&self.batches) {
            let names: Vec<&str> = batch.iter().map(HostName::as_str).collect();
            writeln!(f, "batch {number}: {}", names.join(", "))?;
        }
        writeln!(f, "each host:")?;
        for planned in &self.steps {
            let bound =
                planned.timeout.map(|bound| format!(" (at most {})", format(bound))).unwrap_or_default();
            writeln!(f, "  {:<12} {}{bound}", planned.step, planned.description)?;
        }
        for line in &self.after_roll {
            writeln!(f, "last: {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example;
    use crate::model::roll::Batch;

    fn make_fleet(hosts: usize) -> Fleet {
        let hosts = (1..=hosts).map(|n| example::host(&format!("web{n}"), &format!("10.0.0.{n}"))).collect();
        Fleet { hosts, balancers: vec![example::balancer("lb1", None)], ..example::fleet() }
    }

    #[test]
    fn roll_plan_lists_every_step_and_timeout() {
        let mut fleet = make_fleet(3);
        fleet.hooks.before_host = vec!["./warm.sh".into()];
        let spec = RollSpec { batch: Batch::Hosts(2), ..example::make_roll_spec(&["web1", "web2", "web3"]) };
        let text = plan_roll(&fleet, &spec).unwrap().to_string();
        let expected = "\
service shop: 3 hosts in 2 batches, at most 0 failed
batch 1: web1, web2
batch 2: web3
each host:
  before-host  ./warm.sh (at most 1m)
  forward-off  forward off: 8888 is refused
  down         wait until it is DOWN: lb1 (at most 8s)
  drained      wait until nothing is in flight (at most 5s)
  command      run here: ./deploy.sh
  healthy      probe 8080/health until 2 x 200 in a row (at most 10s)
  forward-on   forward on: 8888 -> 8080
  up           wait until it is UP: lb1 (at most 6s)
";
        assert_eq!(text, expected);
    }

    #[test]
    fn roll_plan_names_ports_of_hosts() {
        let fleet = make_fleet(3);
        let spec = example::make_roll_spec(&["web1", "web2", "web3"]);
        let describe = |targets: &[(&str, u16)]| {
            let targets = targets.iter().map(|(host, port)| (host.parse().unwrap(), example::port(*port)));
            plan_roll(&fleet, &spec).unwrap().with_main_ports(&fleet, &targets.collect()).to_string()
        };
        let same = describe(&[("web1", 20001), ("web2", 20001), ("web3", 20001)]);
        assert!(same.contains("probe 20001/health until") && same.contains("8888 -> 20001\n"), "{same}");
        let mixed = describe(&[("web2", 20001)]);
        assert!(mixed.contains("forward on: 8888 -> 8080 on web1, web3; 20001 on web2\n"), "{mixed}");
    }

    #[test]
    fn readable_balancer_gets_twice_the_detection_time() {
        let socket = Some(crate::model::balancer::StatsEndpoint::Unix("/run/x.sock".into()));
        let read = Fleet { balancers: vec![example::balancer("lb1", socket)], ..make_fleet(2) };
        let text = plan_roll(&read, &example::make_roll_spec(&["web1"])).unwrap().to_string();
        assert!(text.contains("wait until it is DOWN: lb1 (at most 21s)"), "{text}");
    }

    #[test]
    fn plan_rejects_impossible_rolls() {
        let refused = |hosts, spec: &RollSpec| plan_roll(&make_fleet(hosts), spec).unwrap_err().to_string();
        assert_eq!(refused(2, &example::make_roll_spec(&[])), "there is no host to roll over");
        let spec = RollSpec { batch: Batch::Percent(100), ..example::make_roll_spec(&["web1", "web2"]) };
        assert_eq!(refused(2, &spec), "a batch of 2 leaves 0 of 2 hosts, `roll.min_up` requires 1");
        assert!(plan_roll(&make_fleet(3), &spec).is_ok());
        let work = Work::Command { argv: vec![], remote: false, timeout: None };
        let none = RollSpec { work, ..example::make_roll_spec(&["web1"]) };
        assert_eq!(refused(2, &none), "no command is given");
    }
}
