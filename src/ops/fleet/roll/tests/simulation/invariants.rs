//! The invariants that must hold under every fault.

use crate::model::journal::{HostOutcome, RollEntry, RollEntryKind};
use crate::model::port_forward::Switch;
use crate::model::roll::{RollSpec, Step};
use crate::ops::testing::site::{FakeSite, SiteHost};
use crate::plan::roll::plan_roll;
use crate::plan::roll::progress::{HostProgress, RollProgress, StepState, build_progress};

/// Checks what the site has observed: the floor, and the command.
pub fn never_broken(fake: &FakeSite, spec: &RollSpec) -> Result<(), String> {
    let state = fake.site.lock();
    let floor = usize::try_from(fake.fleet.limits.min_up).unwrap();
    if state.min_up_observed < floor {
        return Err(format!("{} in service, the floor is {floor}", state.min_up_observed));
    }
    for (name, host) in &state.hosts {
        if host.commands.contains(&"began in service") && !spec.force {
            return Err(format!("the command began on {name} in service"));
        }
        if host.is_disturbed {
            return Err(format!("{name} came into service while the command was at work"));
        }
        if host.forward && !host.is_healthy && !host.is_switched_by_other && !host.running {
            return Err(format!("{name} is in service and not healthy"));
        }
    }
    Ok(())
}

/// The rows of each host, run by run: steps in their order, none left out, none done without its row before it.
pub fn in_order(fake: &FakeSite, spec: &RollSpec) -> Result<(), String> {
    let rows = fake.journal.rolls.lock().unwrap().clone();
    let plan = plan_roll(&fake.fleet, spec).map_err(|error| error.to_string())?;
    let steps: Vec<Step> = plan.steps.iter().map(|planned| planned.step).collect();
    let heads: Vec<usize> = (0..rows.len()).filter(|at| begins_run(&rows[*at])).collect();
    for (number, head) in heads.iter().enumerate() {
        let end = heads.get(number + 1).copied().unwrap_or(rows.len());
        let before = build_progress(&rows[..=*head]).ok_or("no first row")?;
        let aborting = matches!(rows[*head].kind, RollEntryKind::Aborting { .. });
        one_run(&before, &rows[head + 1..end], &steps, aborting)?;
    }
    ran_once(fake, &rows)
}

fn begins_run(row: &RollEntry) -> bool {
    use RollEntryKind::{Aborting, Began, Resumed};
    matches!(row.kind, Began { .. } | Resumed { .. } | Aborting { .. })
}

fn one_run(before: &RollProgress, rows: &[RollEntry], steps: &[Step], aborting: bool) -> Result<(), String> {
    let mut by_host: std::collections::BTreeMap<_, Vec<&RollEntryKind>> = std::collections::BTreeMap::new();
    let batch = before.spec.batch.size(before.spec.hosts.len());
    let mut out = std::collections::BTreeSet::new();
    let mut failed = 0;
    for row in rows {
        let Some(host) = &row.host else { continue };
        by_host.entry(host).or_default().push(&row.kind);
        match &row.kind {
            RollEntryKind::StepBegan { step: Step::ForwardOff } => {
                out.insert(host);
                if failed > before.spec.max_failures {
                    return Err(format!("{host} was taken out after {failed} failures"));
                }
                if out.len() > batch {
                    return Err(format!("{} hosts out together, a batch is {batch}: {out:?}", out.len()));
                }
            }
            RollEntryKind::StepFailed { .. } => failed += 1,
            RollEntryKind::Settled { .. } | RollEntryKind::Done => drop(out.remove(host)),
            _ => {}
        }
    }
    for (name, whats) in by_host {
        let host = before.find_host(name).ok_or("a row of an unknown host")?;
        let walked = if aborting { only_settled(&whats) } else { walk(host, &whats, steps) };
        walked.map_err(|why| format!("the rows of {name}: {why}: {whats:?}"))?;
    }
    Ok(())
}

fn only_settled(whats: &[&RollEntryKind]) -> Result<(), String> {
    match whats {
        [RollEntryKind::Settled { .. }] => Ok(()),
        _ => Err("an abort does no step".to_owned()),
    }
}

/// The steps of one host in one run.
fn walk(before: &HostProgress, whats: &[&RollEntryKind], steps: &[Step]) -> Result<(), String> {
    let entry = before.resume_step(false).ok_or("it was done")?;
    let mut expected = steps.iter().filter(|step| **step >= entry);
    let mut under_way = None;
    let mut failed = false;
    for (at, what) in whats.iter().enumerate() {
        let rest = &whats[at + 1..];
        match what {
            RollEntryKind::StepBegan { step } if under_way.is_none() && expected.next() == Some(step) => {
                under_way = Some(step);
            }
            RollEntryKind::StepDone { step, .. } if under_way == Some(step) => under_way = None,
            RollEntryKind::StepFailed { step, .. } if under_way == Some(step) => failed = true,
            RollEntryKind::Settled { .. } if rest.is_empty() => {}
            RollEntryKind::Done
                if !failed && under_way.is_none() && expected.next().is_none() && rest.is_empty() => {}
            _ => return Err(format!("{what:?} was not to come")),
        }
        if failed && rest.iter().any(|what| !matches!(what, RollEntryKind::Settled { .. })) {
            return Err("it went on after its failure".to_owned());
        }
    }
    Ok(())
}

/// A command whose good end is recorded is not run again.
fn ran_once(fake: &FakeSite, rows: &[RollEntry]) -> Result<(), String> {
    let state = fake.site.lock();
    for row in rows {
        let (Some(name), RollEntryKind::StepDone { step: Step::Command, .. }) = (&row.host, &row.kind) else {
            continue;
        };
        let host = &state.hosts[name];
        if host.began.iter().any(|began| fake.clock.at(*began) > row.at) {
            return Err(format!("the command ran again on {name} after its end was recorded"));
        }
        if !host.commands.contains(&"ended") {
            return Err(format!("the end of the command on {name} is recorded, and it did not end"));
        }
    }
    Ok(())
}

/// Checks that each host is as the journal has it. `killed`: a host may have been on its way back, of which no row records
/// that it arrived.
pub fn agrees(fake: &FakeSite, standing: &RollProgress, killed: bool) -> Result<(), String> {
    let state = fake.site.lock();
    for host in &standing.hosts {
        let real = &state.hosts[&host.host];
        // What another operator does later is not in the journal.
        if real.is_switched_by_other || (killed && host.end.is_none() && host.may_be_out()) {
            continue;
        }
        let is = if real.forward { Switch::On } else { Switch::Off };
        if declared(host).is_some_and(|declared| declared != is) {
            return Err(format!("the forward is {is}, declared is {host:?}"));
        }
        untouched_or_done(host, real)?;
    }
    Ok(())
}

fn untouched_or_done(host: &HostProgress, real: &SiteHost) -> Result<(), String> {
    let well = host.end.is_some_and(HostOutcome::is_restored) || host.state == StepState::Done;
    if well && !real.is_healthy && !real.running {
        return Err(format!("it is not healthy, declared is {host:?}"));
    }
    if host.state == StepState::Waiting && !real.began.is_empty() {
        return Err(format!("the command ran there, declared is {host:?}"));
    }
    if host.state == StepState::Done && !real.commands.contains(&"ended") {
        return Err(format!("the command never ended there, declared is {host:?}"));
    }
    Ok(())
}

/// The forward as the journal has it; `None`: not recorded.
fn declared(host: &HostProgress) -> Option<Switch> {
    if host.state == StepState::Done {
        return Some(Switch::On);
    }
    match host.end {
        Some(HostOutcome::Restored | HostOutcome::NotUp) => return Some(Switch::On),
        Some(HostOutcome::LeftInMaintenance | HostOutcome::TakenOver) => return Some(Switch::Off),
        Some(HostOutcome::Unreachable) => return None,
        None => {}
    }
    let done = host.state == StepState::StepDone;
    match host.step {
        Some(Step::ForwardOff) => done.then_some(Switch::Off),
        Some(Step::ForwardOn) => done.then_some(Switch::On),
        Some(Step::Down | Step::Drained | Step::Command | Step::Healthy) => Some(Switch::Off),
        None | Some(Step::BeforeHost | Step::Up | Step::AfterHost) => Some(Switch::On),
    }
}

/// After one interrupt every host this run touched has got through, or is declared as left.
pub fn nobody_in_between(fake: &FakeSite, standing: &RollProgress) -> Result<(), String> {
    let rows = fake.journal.rolls.lock().unwrap();
    let since = rows.iter().rposition(begins_run);
    for host in &standing.hosts {
        let touched = rows[since.unwrap_or(0)..].iter().any(|row| row.host.as_ref() == Some(&host.host));
        if touched && host.may_be_out() && host.end.is_none() {
            return Err(format!("interrupted, and left in between: {host:?}"));
        }
    }
    Ok(())
}

/// Every main vhost that is healthy is in service; all of them when `all` were repaired.
pub fn is_mended(fake: &FakeSite, every: bool) -> Result<(), String> {
    let state = fake.site.lock();
    for (name, host) in &state.hosts {
        if every && host.is_healthy && !(host.forward && host.is_up()) {
            return Err(format!("{name} is healthy and not in service: {host:?}"));
        }
    }
    Ok(())
}
