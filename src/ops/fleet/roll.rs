//! `roll`: host by host under maintenance, one batch after another. Every step is recorded before it is done, so that
//! `resume` and `abort` know where to begin after any crash.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::host_main::HostMain;
use crate::model::journal::{RollEntry, RollEntryKind, RollResult};
use crate::model::lock::{Holder, LockPurpose};
use crate::model::name::{HostName, ServiceName};
use crate::model::owner::Owner;
use crate::model::roll::{OnFailure, RollId, RollSpec};
use crate::model::run_id::derive_salt;
use crate::model::version::Version;
use crate::plan::roll::progress::{HostProgress, HostTurn, RollProgress, build_progress};
use crate::plan::roll::{PlanError, RollPlan, plan_resumed, plan_roll};
use crate::plan::switch::{Refusal, compute_wait_timeout};
use crate::world::FleetWorld;
use crate::world::journal_store::JournalError;
use crate::world::notifier::Notice;
use crate::world::reporter::{Event, RollEvent};
use crate::world::stop::StopToken;

use super::forward;
use super::hooks::{self, Hook};
use super::lock::{self, LockError};
use super::owner::{decide_actor, format_owned_hosts, read_owner, require_owned};

mod announcement;
mod host_steps;
mod mains;
mod overrides;
mod preflight;
mod put_back;
mod routed_ports;
mod sleep_watch;

use announcement::{EntryContext, build_event, build_notice};

/// The interval between two checks of the condition that holds the next batch.
const RECHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The progress of a roll, so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RollReport {
    pub progress: RollProgress,
    #[serde(rename = "took_ms", serialize_with = "duration::serialize_ms")]
    pub took: Duration,
    /// The notices that no webhook accepted.
    pub undelivered: Vec<String>,
}

impl RollReport {
    /// Every host is done, or put back by an abort.
    pub fn is_complete(&self) -> bool {
        matches!(self.progress.result, Some(RollResult::Done | RollResult::Aborted))
    }
}

/// Why there was no roll at all.
#[derive(Debug, thiserror::Error)]
pub enum RollError {
    #[error("cannot plan the roll: {0}")]
    Plan(#[from] PlanError),
    #[error("cannot run the roll: {0}")]
    Lock(#[from] LockError),
    #[error("cannot start a roll: roll {} is not finished", .progress.roll)]
    Unfinished { progress: Box<RollProgress> },
    #[error("cannot {verb} a roll: the journal has none")]
    NotFound { verb: &'static str },
    #[error("cannot {verb} roll {roll}: it finished at {at:.0} with the result `{result}`")]
    Finished { roll: RollId, at: jiff::Timestamp, result: RollResult, verb: &'static str },
    #[error("cannot start the roll: {}", join_refusals(.refusals))]
    Refused { refusals: Vec<Refusal> },
    #[error("cannot start the roll: {}", .hosts.iter().map(|(host, reason)| format!("`{host}`: {reason}")).collect::<Vec<_>>().join("; "))]
    Unreachable { hosts: Vec<(HostName, String)> },
    #[error("cannot start the roll: {}", format_owned_hosts(.hosts))]
    Owned { hosts: Vec<(HostName, Owner)> },
    #[error("cannot start the roll: {0}")]
    Hook(String),
    /// Found before the first host is touched.
    #[error("cannot start the roll: {what} cannot run: {reason}")]
    NotStartable { what: String, reason: String },
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error("cannot continue the roll: its host `{0}` is not in the configuration any more")]
    UnknownHost(HostName),
    /// The configuration has other ports than a host or a balancer. Nothing was touched.
    #[error("cannot {verb} the roll: {}", join_refusals(.refusals))]
    PortsChanged { verb: &'static str, refusals: Vec<Refusal> },
    /// Another command changed main of hosts that the roll is done with. Nothing was touched.
    #[error("cannot continue roll {roll}: it made {version} main, and another command changed that: {}", .hosts.iter().map(format_changed_main).collect::<Vec<_>>().join("; "))]
    MainChanged { roll: RollId, service: ServiceName, version: Version, hosts: Vec<HostMain> },
}

fn format_changed_main(main: &HostMain) -> String {
    match &main.version {
        Some(version) => format!("`{}` has main {version}", main.host),
        None => format!("`{}` has no main", main.host),
    }
}

/// A running roll: the state that all of its hosts share.
struct RollRun<'a> {
    world: &'a FleetWorld,
    /// The world without its stop signal: for steps that must complete after a stop request.
    unstoppable_world: FleetWorld,
    fleet: &'a Fleet,
    id: RollId,
    plan: RollPlan,
    holder: Holder,
    /// The operator, with this roll as the operation.
    actor: Actor,
    /// Whether hosts are taken over from another owner: `--force --reason TEXT`.
    takes_over: bool,
    replaced_owners: Mutex<Vec<Owner>>,
    hosts: Vec<Host>,
    failures: Mutex<u32>,
    /// The hosts where the command began and its end is not known: it may still be running.
    unfinished_commands: Mutex<BTreeSet<HostName>>,
    /// The refusals that `--force` overrode.
    overridden: Mutex<Vec<String>>,
    /// The first write to the journal that failed: nothing may be done any more that is not recorded.
    journal_error: Mutex<Option<JournalError>>,
}

/// Why the next hosts cannot go into maintenance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum CapacityError {
    #[error("interrupted")]
    Interrupted,
    #[error("{}", join_refusals(.0))]
    Refused(Vec<Refusal>),
}

fn join_refusals(refusals: &[Refusal]) -> String {
    refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("; ")
}

/// How one host left the roll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HostOutcome {
    Done,
    Failed,
    /// The host stays at its step: the roll was stopped, or the journal failed.
    Stopped,
}

/// A new roll.
pub async fn run(
    world: &FleetWorld,
    fleet: &Fleet,
    spec: &RollSpec,
    actor: &Actor,
) -> Result<RollReport, RollError> {
    let plan = plan_roll(fleet, spec)?;
    check_no_unfinished_roll(world).await?;
    // The id has the time of the roll, not that of the wait.
    lock::wait_until_free(world).await?;
    let id = make_roll_id(world.clock.now(), actor);
    let roll = RollRun::new(world, fleet, id, plan, &spec.hosts, actor).await?;
    lock::run_as_holder(world, &roll.holder, async {
        // Another process may have begun one between the first read and the lock.
        if let Some(progress) = read_unfinished(world).await? {
            return Err(RollError::Unfinished { progress: Box::new(progress) });
        }
        let overridden = roll.check_start().await?;
        let found_hosts = if fleet.discovery.is_empty() { vec![] } else { fleet.hosts.clone() };
        let (spec, actor) = (RollSpec { found_hosts, ..spec.clone() }, actor.clone());
        roll.record(None, &RollEntryKind::Began { spec, actor, overridden }).await?;
        let hook = hooks::run(world, fleet, &roll.id, Hook::BeforeRoll, None, &[]).await;
        if let Err(reason) = hook.map_err(|error| error.to_string()) {
            roll.end(RollResult::Aborted, reason.clone()).await?;
            return Err(RollError::Hook(reason));
        }
        roll.run_batches().await
    })
    .await
}

/// Plans a roll with the ports that the hosts have, and changes nothing: what [`check`] finds is no error here.
pub async fn plan(world: &FleetWorld, fleet: &Fleet, spec: &RollSpec) -> Result<RollPlan, PlanError> {
    let plan = plan_roll(fleet, spec)?;
    let targets = routed_ports::read_main_targets(world, fleet, &spec.hosts).await;
    Ok(plan.with_main_ports(fleet, &targets))
}

/// Runs every check of a new roll, without the lock, and changes nothing.
pub async fn check(
    world: &FleetWorld,
    fleet: &Fleet,
    spec: &RollSpec,
    actor: &Actor,
) -> Result<(), RollError> {
    let plan = plan_roll(fleet, spec)?;
    check_no_unfinished_roll(world).await?;
    lock::check_no_live_holder(world).await?;
    let id = make_roll_id(world.clock.now(), actor);
    let holder = world.lock.holder(&actor.user, LockPurpose::Roll { roll: id.clone() }, world.clock.now());
    RollRun::build(world, fleet, holder, id, plan, &spec.hosts, actor)?.check_start().await.map(drop)
}

/// Resumes the last roll at its current step.
pub async fn resume(world: &FleetWorld, fleet: &Fleet, actor: &Actor) -> Result<RollReport, RollError> {
    let (roll, progress) = lock_last_roll(world, fleet, actor, "resume").await?;
    lock::run_as_holder(world, &roll.holder, async {
        let turns = progress.remaining_turns().concat();
        let going: Vec<&HostName> =
            turns.iter().filter(|turn| turn.needs_maintenance()).map(|turn| roll.host_name(turn)).collect();
        if !going.is_empty() {
            roll.check_programs().await?;
            roll.check_server_names(&going).await?;
        }
        roll.check_mains(&progress).await?;
        let overridden = roll.check_overridable(&roll.list_remaining_hosts(&progress)).await;
        let overridden =
            overridden.map_err(|refusals| RollError::PortsChanged { verb: "resume", refusals })?;
        roll.note_owners().await;
        roll.record(None, &RollEntryKind::Resumed { actor: actor.clone(), overridden }).await?;
        roll.run_batches().await
    })
    .await
}

/// Puts every touched host of the last roll back.
pub async fn abort(world: &FleetWorld, fleet: &Fleet, actor: &Actor) -> Result<RollReport, RollError> {
    let (roll, progress) = lock_last_roll(world, fleet, actor, "abort").await?;
    lock::run_as_holder(world, &roll.holder, async {
        let out = |host: &&Host| progress.find_host(&host.name).is_some_and(HostProgress::may_be_out);
        let touched: Vec<Host> = roll.hosts.iter().filter(out).cloned().collect();
        // A forward that goes on by other ports than it had would serve no user.
        let overridden = roll.check_overridable(&touched).await;
        overridden.map_err(|refusals| RollError::PortsChanged { verb: "abort", refusals })?;
        roll.record(None, &RollEntryKind::Aborting { actor: actor.clone() }).await?;
        roll.report(RollEvent::Aborting { hosts: touched.iter().map(|host| host.name.clone()).collect() });
        let ends = futures_util::future::join_all(touched.iter().map(|host| roll.settle(host, true))).await;
        roll.check_journal()?;
        let whole = ends.iter().all(|end| end.is_restored());
        let result = if whole { RollResult::Aborted } else { RollResult::PartiallyAborted };
        roll.end(result, "aborted".to_owned()).await
    })
    .await
}

/// Returns the progress of the last roll; `None` if there never was one.
pub async fn read_last(world: &FleetWorld) -> Result<Option<RollProgress>, JournalError> {
    match world.journal.find_last().await? {
        Some(roll) => Ok(build_progress(&world.journal.load(&roll, 0).await?)),
        None => Ok(None),
    }
}

/// The latest `limit` rolls, oldest first.
pub async fn read_past(world: &FleetWorld, limit: u32) -> Result<Vec<RollProgress>, JournalError> {
    let rolls = world.journal.list(limit).await?;
    let mut past = Vec::new();
    for roll in &rolls {
        past.extend(build_progress(&world.journal.load(roll, 0).await?));
    }
    Ok(past)
}

async fn check_no_unfinished_roll(world: &FleetWorld) -> Result<(), RollError> {
    if read_unfinished(world).await?.is_some() {
        // One that is being run is no business of `--resume`.
        lock::check_no_live_holder(world).await?;
        // It may have ended during the wait for its lock.
        if let Some(progress) = read_unfinished(world).await? {
            return Err(RollError::Unfinished { progress: Box::new(progress) });
        }
    }
    Ok(())
}

async fn read_unfinished(world: &FleetWorld) -> Result<Option<RollProgress>, JournalError> {
    Ok(read_last(world).await?.filter(|progress| !progress.is_finished()))
}

/// The last roll, under its own lock.
async fn lock_last_roll<'a>(
    world: &'a FleetWorld,
    fleet: &'a Fleet,
    actor: &Actor,
    verb: &'static str,
) -> Result<(RollRun<'a>, RollProgress), RollError> {
    let mut progress = require_unfinished(world, verb).await?;
    loop {
        let plan = plan_resumed(fleet, &progress.spec);
        let names = match verb {
            // A host that was never touched, or is back, may have left the configuration since: a mistyped name, for example.
            "abort" => list_hosts_to_abort(fleet, &progress),
            _ => progress.spec.hosts.clone(),
        };
        let roll = RollRun::new(world, fleet, progress.roll.clone(), plan, &names, actor).await?;
        // What another process wrote until it lost the lock counts.
        match require_unfinished(world, verb).await {
            Ok(now) if now.roll == progress.roll => {
                roll.lock_unfinished_commands().extend(now.unfinished_commands().cloned());
                return Ok((roll, now));
            }
            // That roll ended during the wait for the lock, and another one began and stopped.
            Ok(now) => progress = now,
            Err(error) => {
                lock::release_own(world, &roll.holder).await;
                return Err(error);
            }
        }
        lock::release_own(world, &roll.holder).await;
    }
}

async fn require_unfinished(world: &FleetWorld, verb: &'static str) -> Result<RollProgress, RollError> {
    let progress = read_last(world).await?.ok_or(RollError::NotFound { verb })?;
    match progress.result {
        None => Ok(progress),
        Some(result) => {
            Err(RollError::Finished { roll: progress.roll, at: progress.changed_at, result, verb })
        }
    }
}

/// Lists the hosts of the roll without those that are not configured and need not be put back.
fn list_hosts_to_abort(fleet: &Fleet, progress: &RollProgress) -> Vec<HostName> {
    let is_needed =
        |host: &&HostProgress| host.may_be_out() || fleet.find_recorded_host(&host.host).is_some();
    progress.hosts.iter().filter(is_needed).map(|host| host.host.clone()).collect()
}

fn find_hosts(fleet: &Fleet, names: &[HostName]) -> Result<Vec<Host>, RollError> {
    let host =
        |name: &HostName| fleet.find_recorded_host(name).ok_or_else(|| RollError::UnknownHost(name.clone()));
    names.iter().map(host).collect()
}

fn make_roll_id(now: jiff::Timestamp, actor: &Actor) -> RollId {
    RollId::new(now, derive_salt(now, actor.pid))
}

impl<'a> RollRun<'a> {
    async fn new(
        world: &'a FleetWorld,
        fleet: &'a Fleet,
        id: RollId,
        plan: RollPlan,
        names: &[HostName],
        actor: &Actor,
    ) -> Result<Self, RollError> {
        find_hosts(fleet, names)?;
        let holder = lock::acquire(world, &actor.user, LockPurpose::Roll { roll: id.clone() }).await?;
        Self::build(world, fleet, holder, id, plan, names, actor)
    }

    fn build(
        world: &'a FleetWorld,
        fleet: &'a Fleet,
        holder: Holder,
        id: RollId,
        plan: RollPlan,
        names: &[HostName],
        actor: &Actor,
    ) -> Result<Self, RollError> {
        let hosts = find_hosts(fleet, names)?;
        let (failures, unfinished_commands, journal_error) =
            (Mutex::new(0), Mutex::default(), Mutex::new(None));
        let overridden = Mutex::default();
        let to_the_end = FleetWorld { stop: StopToken::without_handle(), ..world.clone() };
        let takes_over = actor.takes_over;
        let purpose = plan.spec.format_command();
        let purpose = if takes_over { format!("{purpose} ({})", actor.purpose) } else { purpose };
        let actor =
            Actor { roll: Some(id.clone()), purpose, takes_over: false, replaces: vec![], ..actor.clone() };
        Ok(Self {
            world,
            unstoppable_world: to_the_end,
            fleet,
            id,
            plan,
            holder,
            actor,
            takes_over,
            replaced_owners: Mutex::default(),
            hosts,
            failures,
            unfinished_commands,
            overridden,
            journal_error,
        })
    }

    /// Runs batch after batch, each host from its current step.
    async fn run_batches(&self) -> Result<RollReport, RollError> {
        // Read once: while the lock is ours, no other process writes entries of a host that has not begun.
        let groups = self.read_progress().await?.remaining_turns();
        for (at, group) in groups.iter().enumerate() {
            if self.world.stop.is_requested() {
                return self.stop("interrupted").await;
            }
            // Hosts that are out, or may be, do not count as capacity for another host.
            let later = groups[at + 1..].iter().flatten().filter(|turn| turn.may_be_out);
            let out: Vec<&HostName> = group.iter().chain(later).map(|turn| self.host_name(turn)).collect();
            if group.iter().any(HostTurn::needs_maintenance)
                && let Err(error) = self.wait_for_capacity(&out).await
            {
                return self.stop(&error.to_string()).await;
            }
            let hosts = group.iter().map(|turn| self.host_name(turn).clone()).collect();
            self.report(RollEvent::Batch { number: at + 1, of: groups.len(), hosts });
            let through = group.iter().map(|turn| self.run_host(turn, &out));
            let left = futures_util::future::join_all(through).await;
            self.check_journal()?;
            if self.has_too_many_failures() {
                let (failed, most) = (self.failures(), self.plan.spec.max_failures);
                return self.stop(&format!("{failed} failed, at most {most} may")).await;
            }
            if left.contains(&HostOutcome::Stopped) {
                return self.stop("interrupted").await;
            }
        }
        let failed = self.read_progress().await?.count_failures();
        let result = if failed == 0 { RollResult::Done } else { RollResult::DoneWithFailures };
        let text = if failed == 0 { "done".to_owned() } else { format!("done, {failed} failed") };
        if let Err(error) = hooks::run(self.world, self.fleet, &self.id, Hook::AfterRoll, None, &[]).await {
            return self.stop(&error.to_string()).await;
        }
        self.end(result, text).await
    }

    fn host_name(&self, turn: &HostTurn) -> &HostName {
        &self.hosts[turn.index].name
    }

    /// `--force` overrides a server line of another backend, which `check_overridable` has reported, and no other refusal.
    async fn find_refusals(&self, out: &[&HostName]) -> Vec<Refusal> {
        let mut refusals = forward::find_refusals(self.world, self.fleet, out).await;
        if self.plan.spec.force {
            refusals.retain(|refusal| !matches!(refusal, Refusal::OtherLine { .. }));
        }
        refusals
    }

    /// Nothing is begun while a backup vhost is not UP or the floor would break with these hosts out; a little patience,
    /// for what came back a moment ago may still be rising.
    async fn wait_for_capacity(&self, out: &[&HostName]) -> Result<(), CapacityError> {
        let on = crate::model::port_forward::Switch::On;
        let longest = self.fleet.balancers.iter().map(|spec| compute_wait_timeout(&spec.check, on)).max();
        let deadline = Instant::now() + longest.unwrap_or_default();
        let mut reported = Vec::new();
        loop {
            let refusals = self.find_refusals(out).await;
            if refusals.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(CapacityError::Refused(refusals));
            }
            if refusals != reported {
                self.report(RollEvent::Waiting { reason: join_refusals(&refusals) });
                reported = refusals;
            }
            tokio::select! {
                () = self.world.stop.wait() => return Err(CapacityError::Interrupted),
                () = tokio::time::sleep(RECHECK_INTERVAL) => {}
            }
        }
    }

    /// Refuses, before anything is touched, hosts that another operation took out of service.
    async fn check_owners(&self) -> Result<(), RollError> {
        let actor = Actor { takes_over: self.takes_over, ..self.actor.clone() };
        let owned = require_owned(self.world, self.fleet, &self.hosts, &actor).await;
        owned.map_err(|hosts| RollError::Owned { hosts })?;
        self.note_owners().await;
        Ok(())
    }

    /// Keeps the owners that the operator takes the hosts over from: those of this moment. Later ones have the last word.
    async fn note_owners(&self) {
        if self.takes_over {
            let read = self.hosts.iter().map(|host| read_owner(self.world, self.fleet, host));
            let owners = futures_util::future::join_all(read).await.into_iter().flatten().collect();
            *self.replaced_owners.lock().unwrap_or_else(PoisonError::into_inner) = owners;
        }
    }

    /// The actor that takes this host out of service: only then is another owner replaced.
    async fn derive_first_actor(&self, host: &Host) -> Actor {
        let owner = read_owner(self.world, self.fleet, host).await;
        let replaced = self.replaced_owners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let takes_over = owner.as_ref().is_some_and(|owner| replaced.contains(owner));
        let actor = Actor { takes_over, ..self.actor.clone() };
        decide_actor(self.world, host, owner.as_ref(), &actor).await
    }

    async fn stop(&self, reason: &str) -> Result<RollReport, RollError> {
        self.record(None, &RollEntryKind::Stopped { reason: reason.to_owned() }).await?;
        self.warn_of_different_mains(false).await;
        self.build_report().await
    }

    async fn end(&self, result: RollResult, reason: String) -> Result<RollReport, RollError> {
        self.record(None, &RollEntryKind::Ended { result, reason }).await?;
        if result != RollResult::Done {
            self.warn_of_different_mains(true).await;
        }
        self.build_report().await
    }

    async fn build_report(&self) -> Result<RollReport, RollError> {
        let progress = self.read_progress().await?;
        let took =
            Duration::try_from(progress.changed_at.duration_since(progress.began_at)).unwrap_or_default();
        Ok(RollReport { progress, took, undelivered: self.world.notifier.flush().await })
    }

    async fn read_progress(&self) -> Result<RollProgress, RollError> {
        let entries = self.world.journal.load(&self.id, 0).await?;
        build_progress(&entries).ok_or(RollError::NotFound { verb: "read" })
    }

    /// Records an entry and announces it.
    async fn record(&self, host: Option<&HostName>, kind: &RollEntryKind) -> Result<(), JournalError> {
        self.append_entry(host, kind).await?;
        self.announce(host, kind, Duration::ZERO);
        Ok(())
    }

    /// Records an entry before its action is done. After a failed write nothing more is done: see [`RollRun::check_journal`].
    async fn append_entry(&self, host: Option<&HostName>, kind: &RollEntryKind) -> Result<(), JournalError> {
        let at = self.world.clock.now();
        let entry = RollEntry { roll: self.id.clone(), at, host: host.cloned(), kind: kind.clone() };
        let written = self.world.journal.append(&self.holder, &entry).await;
        if let Err(error) = &written {
            let mut broken = self.journal_error.lock().unwrap_or_else(PoisonError::into_inner);
            broken.get_or_insert_with(|| error.clone());
        }
        written
    }

    fn check_journal(&self) -> Result<(), RollError> {
        let broken = self.journal_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        broken.map_or(Ok(()), |error| Err(error.into()))
    }

    fn lock_unfinished_commands(&self) -> MutexGuard<'_, BTreeSet<HostName>> {
        self.unfinished_commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> u32 {
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_too_many_failures(&self) -> bool {
        self.failures() > self.plan.spec.max_failures
    }

    /// Whether a host that has not begun its command may go on.
    fn can_continue(&self) -> bool {
        !self.world.stop.is_requested() && !self.has_too_many_failures() && self.check_journal().is_ok()
    }

    /// Whether a host that does not go on is put back.
    fn should_put_back(&self) -> bool {
        self.world.stop.is_requested() || self.plan.spec.on_failure == OnFailure::Return
    }

    fn report(&self, event: RollEvent) {
        self.world.reporter.report(&Event::Roll { roll: self.id.clone(), event });
    }

    /// Reports the event of an entry and sends its notice.
    fn announce(&self, host: Option<&HostName>, kind: &RollEntryKind, elapsed: Duration) {
        let context = EntryContext { plan: &self.plan, host, elapsed };
        if let Some(event) = build_event(&context, kind) {
            self.report(event);
        }
        if let Some((event, text)) = build_notice(&context, kind) {
            self.world.notifier.send(Notice {
                event,
                roll: self.id.clone(),
                service: self.fleet.service.clone(),
                host: host.cloned(),
                text,
                at: self.world.clock.now(),
            });
        }
    }
}

#[cfg(test)]
mod tests;
