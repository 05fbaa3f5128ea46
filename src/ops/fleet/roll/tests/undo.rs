//! Undo leaves every host as it was before, or as the journal has it, for any plan and any single failure.

use proptest::prelude::*;

use crate::model::example;
use crate::model::journal::HostOutcome;
use crate::model::roll::{Batch, OnFailure, RollSpec, Step};
use crate::ops::fleet::roll::{RollReport, run};
use crate::ops::testing::site::{FakeSite, SiteHost, site};
use crate::ops::testing::site_fault::HostFault;
use crate::plan::roll::progress::{HostProgress, StepState};
use crate::world::fake::MS;
use crate::world::fake::paused::wait_until;
use crate::world::reporter::{Event, RollEvent};

/// What fails from the moment the victim begins a step.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Host(HostFault),
    LinkDownForAWhile,
    MainDies,
    SwitchedByOther,
    BalancerUnread,
    JournalFull,
}

const KINDS: [Kind; 12] = [
    Kind::Host(HostFault::CommandFails),
    Kind::Host(HostFault::CommandBreaksMain),
    Kind::Host(HostFault::LinkDown),
    Kind::Host(HostFault::AnswersLost),
    Kind::Host(HostFault::SwitchRefused),
    Kind::Host(HostFault::NeverDrains),
    Kind::Host(HostFault::BackupDown),
    Kind::LinkDownForAWhile,
    Kind::MainDies,
    Kind::SwitchedByOther,
    Kind::BalancerUnread,
    Kind::JournalFull,
];

#[derive(Debug)]
struct Case {
    hosts: usize,
    spec: RollSpec,
    victim: usize,
    step: Step,
    kind: Kind,
}

fn case() -> impl Strategy<Value = Case> {
    let plan = (1usize..=6, 1u32..=6, 0u32..3, any::<bool>(), any::<bool>());
    let point =
        (any::<prop::sample::Index>(), prop::sample::select(&Step::ALL), prop::sample::select(&KINDS));
    (plan, point).prop_map(|((hosts, batch, max_failures, back, remote), (victim, step, kind))| {
        let on_failure = if back { OnFailure::Return } else { OnFailure::Stop };
        let names: Vec<String> = (1..=hosts).map(|number| format!("web{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let batch = Batch::Hosts(batch);
        let spec = RollSpec {
            batch,
            max_failures,
            on_failure,
            work: example::make_command(remote),
            ..example::make_roll_spec(&names)
        };
        Case { hosts, spec, victim: victim.index(hosts), step, kind }
    })
}

/// The failure comes when the host begins the step, and stays; never when it does not get there.
async fn fails(fake: &FakeSite, case: &Case) {
    let victim = &fake.fleet.hosts[case.victim].name;
    let begins = |event: &Event| {
        let Event::Roll { event: RollEvent::StepBegan { host, step, .. }, .. } = event else { return false };
        host == victim && *step == case.step
    };
    wait_until(MS, || fake.events.lock().unwrap().iter().any(begins)).await;
    let change = |change: &dyn Fn(&mut SiteHost)| fake.site.of(victim, change);
    match case.kind {
        // Once it is drained nothing new comes to a host that is DOWN.
        Kind::Host(HostFault::NeverDrains) if case.step > Step::Drained => {}
        Kind::Host(fault) => change(&|host| host.set_fault(fault, true)),
        Kind::LinkDownForAWhile => {
            change(&|host| host.is_reachable = false);
            tokio::time::sleep(MS * 3000).await;
            change(&|host| host.is_reachable = true);
        }
        Kind::MainDies => change(&|host| host.is_healthy = false),
        Kind::SwitchedByOther => change(&|host| host.switch_by_other(!host.forward)),
        Kind::BalancerUnread => drop(fake.site.lock().unreadable_balancers.insert("lb1".to_owned())),
        Kind::JournalFull => *fake.journal.free_entries.lock().unwrap() = Some(0),
    }
}

/// Why the host is neither as before nor as reported.
fn wrong(fake: &FakeSite, case: &Case, said: &HostProgress) -> Option<String> {
    fake.site.of(&said.host, |real| {
        let as_before = real.forward && real.began.is_empty();
        let as_said = match (said.state, said.end) {
            (StepState::Done, _) => real.forward && real.commands.last() == Some(&"ended"),
            (_, Some(HostOutcome::Restored)) => real.forward && real.is_healthy,
            (StepState::Waiting, None) => as_before,
            (_, Some(HostOutcome::LeftInMaintenance | HostOutcome::TakenOver)) => !real.forward,
            (_, Some(HostOutcome::Unreachable)) => !real.is_reachable,
            // A host of the batch that stayed at its step when another failed; it never began its command.
            (_, None) if said.may_be_out() => {
                case.spec.on_failure == OnFailure::Stop && !real.forward && real.began.is_empty()
            }
            (_, Some(HostOutcome::NotUp) | None) => real.forward,
        };
        // The last switch decides, even if the journal had another state before.
        (!as_said && !as_before && !real.is_switched_by_other)
            .then(|| format!("declared {said:?}, is {real:?}"))
    })
}

fn is_reported(report: &RollReport) -> bool {
    let failed = report.progress.hosts.iter().filter(|host| host.state == StepState::Failed);
    failed.into_iter().all(|host| !host.detail.is_empty() || host.end == Some(HostOutcome::Restored))
}

async fn holds(case: &Case) -> Result<(), String> {
    let mut fake = site(case.hosts, 2);
    fake.fleet.limits.min_up = 0;
    fake.fleet.hooks.before_host.push("./before.sh".to_owned());
    fake.fleet.hooks.after_host.push("./after.sh".to_owned());
    fake.site.lock().hook_duration = MS * 20;
    let actor = example::make_actor();
    let ended = tokio::select! {
        ended = run(&fake.world, &fake.fleet, &case.spec, &actor) => ended,
        () = async { fails(&fake, case).await; std::future::pending().await } => unreachable!(),
    };
    let state = || fake.site.lock().hosts.clone();
    if state().values().any(|host| host.commands.contains(&"began in service") || host.is_disturbed) {
        return Err(format!("a command in service: {:?}", state()));
    }
    match ended {
        Ok(report) if !is_reported(&report) => {
            Err(format!("a failure without a word: {:?}", report.progress))
        }
        Ok(report) => {
            let wrong: Vec<String> =
                report.progress.hosts.iter().filter_map(|host| wrong(&fake, case, host)).collect();
            if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
        }
        // The journal takes no more: every healthy host is put back, and the message states why the roll ended.
        Err(error) => match state().values().find(|host| host.is_healthy && !host.forward) {
            Some(out) => Err(format!("{error}, and left out: {out:?}")),
            None => Ok(()),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn undo_restores_every_host_or_reports_it(case in case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let held = runtime.unwrap().block_on(holds(&case));
        prop_assert!(held.is_ok(), "{}", held.unwrap_err());
    }
}
