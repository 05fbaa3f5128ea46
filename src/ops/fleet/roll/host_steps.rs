//! Runs one host through its steps.

use std::time::Duration;

use tokio::time::Instant;

use super::sleep_watch::SleepWatch;
use super::{CapacityError, HostOutcome, RollError, RollRun};
use crate::model::api::deployments::{AssignRequest, AssignScope, DeploymentRef};
use crate::model::api::{HostView, ProbeResult, RunRequest};
use crate::model::duration;
use crate::model::failure::ErrorCode;
use crate::model::forward::ServiceRecord;
use crate::model::history::HistoryEntry;
use crate::model::host::Host;
use crate::model::journal::RollEntryKind;
use crate::model::name::HostName;
use crate::model::plural::Count;
use crate::model::port_forward::Switch;
use crate::model::roll::{NewMain, Step, Work};
use crate::ops::fleet::balancer_wait::{self, BalancerWaitError};
use crate::ops::fleet::drain::{self, DrainError};
use crate::ops::fleet::forward::{build_switch_request, send_switch};
use crate::ops::fleet::hooks::{
    self, Hook, HookError, LastLine, RunFailure, check_run_end, make_output_sink,
};
use crate::ops::fleet::reach;
use crate::plan::owner::check_owner;
use crate::plan::roll::progress::HostTurn;
use crate::world::FleetWorld;
use crate::world::commands::CommandError;
use crate::world::journal_store::JournalError;
use crate::world::link::LinkError;

/// The state of one host from step to step.
struct StepContext<'a> {
    hosts_out: &'a [&'a HostName],
    /// The generation of the host's record after its last switch: another one means that another command switched it.
    generation: u32,
    attempt: u32,
}

/// Why a step did not end well.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Capacity(#[from] CapacityError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Balancers(#[from] BalancerWaitError),
    #[error(transparent)]
    NotDrained(#[from] DrainError),
    #[error(transparent)]
    CommandNotRun(#[from] CommandError),
    #[error("the command {source}{last_line}{}", .output.as_ref().map(|file| format!(" (its output: {file})")).unwrap_or_default())]
    CommandFailed { source: RunFailure, last_line: LastLine, output: Option<String> },
    #[error("the main vhost is not healthy after {}: {reason}", duration::format(*.waited))]
    NotHealthy { waited: Duration, reason: String },
    /// Names the operation that switched the host in between.
    #[error("{0}")]
    Overtaken(String),
    /// The process slept, and its lock could not be confirmed afterwards.
    #[error(transparent)]
    LockNotConfirmed(#[from] JournalError),
}

impl StepError {
    /// Whether another command switched the host: its change stays.
    const fn is_overtaken(&self) -> bool {
        matches!(
            self,
            Self::Balancers(BalancerWaitError::Overtaken)
                | Self::NotDrained(DrainError::Overtaken)
                | Self::Link(LinkError::Refused { code: ErrorCode::Owned, .. })
                | Self::Overtaken(_)
        )
    }
}

impl RollRun<'_> {
    /// Runs a host from its entry to the end, or to the step that fails. `out`: the hosts that are out together with it.
    pub(super) async fn run_host(&self, turn: &HostTurn, out: &[&HostName]) -> HostOutcome {
        let host = &self.hosts[turn.index];
        let began = Instant::now();
        let mut walk = StepContext { hosts_out: out, generation: 0, attempt: turn.attempts + 1 };
        let mut step = Some(turn.resume_step);
        while let Some(now) = step {
            // Until the command has begun a host can be put back as it was; from then on it goes through.
            if now <= Step::Command && !self.can_continue() {
                return self.stop_host(host, now).await;
            }
            if self.plan.steps.iter().any(|planned| planned.step == now)
                && let Err(left) = self.run_step(host, now, &mut walk).await
            {
                return left;
            }
            step = now.next_step();
        }
        if self.append_entry(Some(&host.name), &RollEntryKind::Done).await.is_err() {
            return HostOutcome::Stopped;
        }
        self.announce(Some(&host.name), &RollEntryKind::Done, began.elapsed());
        HostOutcome::Done
    }

    /// Stops a host that has not failed itself.
    async fn stop_host(&self, host: &Host, at: Step) -> HostOutcome {
        if at > Step::ForwardOff && self.should_put_back() && self.check_journal().is_ok() {
            self.settle(host, true).await;
        }
        HostOutcome::Stopped
    }

    async fn run_step(&self, host: &Host, step: Step, walk: &mut StepContext<'_>) -> Result<(), HostOutcome> {
        let out = step > Step::ForwardOff && step.is_out_of_service();
        let mut watch = SleepWatch::new(self.world);
        if watch.run(self.record(Some(&host.name), &RollEntryKind::StepBegan { step })).await.is_err() {
            return Err(self.handle_journal_failure(host, out).await);
        }
        let checked = watch.run(self.check_not_overtaken(host, step, walk)).await;
        if watch.has_slept() && self.confirm_lock().await.is_err() {
            return Err(self.handle_journal_failure(host, out && checked.is_ok()).await);
        }
        let performed = match checked {
            Ok(()) => self.perform_step(host, step, walk, &mut watch).await,
            Err(overtaken) => Err(overtaken),
        };
        match performed {
            Ok(detail) => {
                if self.record(Some(&host.name), &RollEntryKind::StepDone { step, detail }).await.is_err() {
                    return Err(self.handle_journal_failure(host, step.is_out_of_service()).await);
                }
                Ok(())
            }
            Err(StepError::LockNotConfirmed(_)) => Err(self.handle_journal_failure(host, out).await),
            Err(_) if step < Step::Command && self.world.stop.is_requested() => {
                Err(self.stop_host(host, step.next_step().unwrap_or(step)).await)
            }
            Err(failure) => Err(self.handle_failure(host, step, failure).await),
        }
    }

    /// Checks that this process still holds the lock. Otherwise nothing more is done, as after a failed write.
    pub(super) async fn confirm_lock(&self) -> Result<(), JournalError> {
        let confirmed = self.world.lock.send_heartbeat(&self.holder).await;
        if let Err(error) = &confirmed {
            let mut broken = self.journal_error.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            broken.get_or_insert_with(|| error.clone());
        }
        confirmed
    }

    /// Checks the lock right before a request that changes the host. A process that sleeps between its last look and the request
    /// would send it when another one has repaired the host.
    async fn confirm_lock_after_sleep(&self, watch: &SleepWatch<'_>) -> Result<(), JournalError> {
        if watch.has_slept() { self.confirm_lock().await } else { Ok(()) }
    }

    /// The journal takes no more: the host is put back, as far as that is sound, and only the operator gets a message. With the
    /// lock lost, another may be at work on it.
    async fn handle_journal_failure(&self, host: &Host, out: bool) -> HostOutcome {
        let lost = matches!(self.check_journal(), Err(RollError::Journal(JournalError::LockLost { .. })));
        if !lost && out {
            self.settle(host, false).await;
        }
        HostOutcome::Stopped
    }

    async fn handle_failure(&self, host: &Host, step: Step, error: StepError) -> HostOutcome {
        let (reason, overtaken) = (error.to_string(), error.is_overtaken());
        *self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
        let failed = RollEntryKind::StepFailed { step, reason: reason.clone() };
        let recorded = self.append_entry(Some(&host.name), &failed);
        self.announce(Some(&host.name), &failed, Duration::ZERO);
        if recorded.await.is_err() {
            return self.handle_journal_failure(host, step.is_out_of_service() && !overtaken).await;
        }
        if overtaken {
            self.settle_overtaken(host, &reason).await;
        } else if step >= Step::ForwardOff {
            self.settle(host, true).await;
        }
        let extra = [("SWITCHMAN_ERROR", reason.as_str()), ("SWITCHMAN_FAILED_STEP", step.as_str())];
        let hook = hooks::run(self.world, self.fleet, &self.id, Hook::OnFailure, Some(host), &extra).await;
        if let Err(error) = hook {
            // The failure is what matters; a hook that fails as well is reported and stops nothing.
            let text = format!("{}: {error}", host.name);
            self.world.reporter.report(&crate::world::reporter::Event::Warning { text });
        }
        HostOutcome::Failed
    }

    /// Checks before a step of a host in maintenance that the host is still this roll's. A host that cannot be read is not
    /// overtaken: its step fails by itself.
    async fn check_not_overtaken(
        &self,
        host: &Host,
        step: Step,
        walk: &StepContext<'_>,
    ) -> Result<(), StepError> {
        if step <= Step::ForwardOff || step > Step::ForwardOn {
            return Ok(());
        }
        let Ok(link) = reach::find_link(self.world, host) else { return Ok(()) };
        let read = link.fetch_activity(&self.fleet.service, self.fleet.ports.main).await;
        let Ok(activity) = read else { return Ok(()) };
        let is_other_generation = walk.generation != 0 && activity.generation != walk.generation;
        let is_owned = check_owner(activity.owner.as_ref(), &self.actor).is_err();
        if !is_other_generation && !is_owned {
            return Ok(());
        }
        Err(StepError::Overtaken(self.describe_overtaking(host).await))
    }

    /// Names the operation that switched the host in between, as far as the host knows.
    async fn describe_overtaking(&self, host: &Host) -> String {
        let view = self.read_host_view(host).await.ok();
        if let Some(HostView { record: Ok(Some(ServiceRecord { owner: Some(owner), .. })), .. }) = &view
            && !self.actor.continues(owner)
        {
            return format!("the host was taken over by {owner}");
        }
        match view.and_then(|view| view.last_entry) {
            Some(HistoryEntry { action, actor, .. }) if actor.purpose.is_empty() => {
                format!("another operation switched the host: {action} by {actor}")
            }
            Some(HistoryEntry { action, actor, .. }) => {
                format!("another operation switched the host: {action} by {actor}: {}", actor.purpose)
            }
            None => "another operation switched the host".to_owned(),
        }
    }

    /// Does one step. Returns the detail for the journal.
    async fn perform_step(
        &self,
        host: &Host,
        step: Step,
        walk: &mut StepContext<'_>,
        watch: &mut SleepWatch<'_>,
    ) -> Result<String, StepError> {
        let (world, fleet) =
            (if step < Step::Command { self.world } else { &self.unstoppable_world }, self.fleet);
        match step {
            Step::BeforeHost => self.run_hook(host, Hook::BeforeHost).await,
            Step::AfterHost => self.run_hook(host, Hook::AfterHost).await,
            Step::ForwardOff => {
                // The leave that was given is as old as the hooks took.
                if !fleet.hooks.before_host.is_empty() {
                    watch.run(self.wait_for_capacity(walk.hosts_out)).await?;
                }
                if let Some(new_main) = self.plan.spec.work.new_main() {
                    // Its users stay on the version they know while it is out.
                    self.assign_version(host, new_main, AssignScope::BackupOnly, watch).await?;
                }
                self.switch_forward(host, Switch::Off, walk, watch).await
            }
            Step::ForwardOn => self.switch_forward(host, Switch::On, walk, watch).await,
            Step::Down => self.wait_for_balancers(world, host, Switch::Off, walk).await,
            Step::Up => self.wait_for_balancers(world, host, Switch::On, walk).await,
            Step::Drained => {
                let limit = self.plan.spec.drain_timeout;
                match drain::wait(world, fleet, host, walk.generation, limit).await {
                    Ok(drained) => Ok(drained.to_string()),
                    Err(DrainError::TimedOut { in_flight, .. }) if self.plan.spec.force => {
                        Ok(format!("--force: {in_flight} still in flight, cut by what comes next"))
                    }
                    Err(error) => Err(error.into()),
                }
            }
            Step::Command => match &self.plan.spec.work {
                Work::Command { argv, remote, timeout } => {
                    self.run_command(host, walk.attempt, argv, *remote, *timeout).await
                }
                Work::Assign(new_main) => {
                    self.assign_version(host, new_main, AssignScope::MainAndBackup, watch).await
                }
            },
            Step::Healthy => self.wait_until_healthy(world, host, self.plan.spec.health_timeout).await,
        }
    }

    async fn run_hook(&self, host: &Host, hook: Hook) -> Result<String, StepError> {
        hooks::run(self.world, self.fleet, &self.id, hook, Some(host), &[]).await?;
        Ok(String::new())
    }

    async fn switch_forward(
        &self,
        host: &Host,
        switch: Switch,
        walk: &mut StepContext<'_>,
        watch: &mut SleepWatch<'_>,
    ) -> Result<String, StepError> {
        let detail = self.describe_switch();
        let build = async {
            let actor = match switch {
                Switch::Off => self.derive_first_actor(host).await,
                Switch::On => self.actor.clone(),
            };
            build_switch_request(self.world, self.fleet, host, switch, &actor, &detail).await
        };
        let request = watch.run(build).await;
        self.confirm_lock_after_sleep(watch).await?;
        let changed = send_switch(self.world, host, &request).await?;
        walk.generation = changed.generation;
        Ok(if changed.transactions.is_empty() { format!("already {switch}") } else { String::new() })
    }

    async fn wait_for_balancers(
        &self,
        world: &FleetWorld,
        host: &Host,
        switch: Switch,
        walk: &StepContext<'_>,
    ) -> Result<String, StepError> {
        let observed = balancer_wait::wait(world, self.fleet, host, switch, walk.generation, None).await?;
        let describe = |observed: &balancer_wait::BalancerObserved| {
            format!("{} after {}", observed.balancer, duration::format(observed.elapsed))
        };
        Ok(observed.iter().map(describe).collect::<Vec<_>>().join(", "))
    }

    /// Changes the route of main or, before that, of the backup vhost.
    async fn assign_version(
        &self,
        host: &Host,
        new: &NewMain,
        scope: AssignScope,
        watch: &mut SleepWatch<'_>,
    ) -> Result<String, StepError> {
        let service = self.plan.spec.service.clone();
        let actor = match scope {
            AssignScope::BackupOnly => watch.run(self.derive_first_actor(host)).await,
            AssignScope::MainAndBackup => self.actor.clone(),
        };
        let request = AssignRequest {
            which: DeploymentRef::Version { service: service.clone(), version: new.version.clone() },
            scope,
            trial: new.trial,
            actor,
            detail: self.id.to_string(),
            dry_run: false,
        };
        self.confirm_lock_after_sleep(watch).await?;
        let assigned = reach::find_link(self.world, host)?.assign(&service, &request).await?;
        if !assigned.all_closed {
            let text = format!(
                "{}: idle connections to the old version may be left: single clients may see it until they end",
                host.name
            );
            self.world.reporter.report(&crate::world::reporter::Event::Warning { text });
        }
        let was = assigned.previous.filter(|was| was.id != assigned.deployment.id);
        Ok(match was {
            Some(was) => {
                format!(
                    "main was {}; {} to it closed",
                    was.version,
                    Count(assigned.closed_connections, "idle connection")
                )
            }
            None => "main already".to_owned(),
        })
    }

    async fn run_command(
        &self,
        host: &Host,
        attempt: u32,
        argv: &[String],
        remote: bool,
        timeout: Option<Duration>,
    ) -> Result<String, StepError> {
        let mut env = hooks::build_env(self.fleet, &self.id, Some(host), Step::Command.as_str());
        env.insert("SWITCHMAN_ATTEMPT".to_owned(), attempt.to_string());
        if !remote {
            env.extend(self.fleet.reach.ssh_files.to_env());
        }
        let request = RunRequest {
            key: self.command_key(host),
            argv: argv.to_vec(),
            env,
            dir: None,
            timeout_ms: timeout.and_then(|timeout| u64::try_from(timeout.as_millis()).ok()),
        };
        self.lock_unfinished_commands().insert(host.name.clone());
        let last_line = LastLine::default();
        let sink = make_output_sink(self.world, &self.id, Some(&host.name), &last_line);
        let ended = if remote {
            reach::find_link(self.world, host)?.run(&request, sink).await?
        } else {
            self.world.commands.run(&request, sink).await?
        };
        self.lock_unfinished_commands().remove(&host.name);
        let ended = check_run_end(ended, timeout.unwrap_or_default());
        if ended.is_err() {
            self.world.outputs.share_failure(&self.id, Some(&host.name)).await;
        }
        ended.map_err(|source| StepError::CommandFailed {
            source,
            last_line,
            output: self.world.outputs.locate(&self.id, Some(&host.name)),
        })?;
        Ok(String::new())
    }

    /// All runs of the command on one host in one roll.
    pub(super) fn command_key(&self, host: &Host) -> String {
        format!("{}-{}", self.id, host.name)
    }

    /// The real port, `rise` times in a row.
    async fn wait_until_healthy(
        &self,
        world: &FleetWorld,
        host: &Host,
        limit: Duration,
    ) -> Result<String, StepError> {
        let deadline = Instant::now() + limit;
        let health = &self.fleet.health;
        let mut passed = 0;
        loop {
            let reason = match reach::probe_main(world, self.fleet, host).await {
                Ok(ProbeResult::Healthy) => {
                    passed += 1;
                    if passed >= health.rise {
                        return Ok(format!("{passed} healthy answers"));
                    }
                    String::new()
                }
                Ok(ProbeResult::Unhealthy { reason }) => {
                    passed = 0;
                    reason
                }
                Err(error) => {
                    passed = 0;
                    error.to_string()
                }
            };
            if Instant::now() >= deadline && passed == 0 {
                return Err(StepError::NotHealthy { waited: limit, reason });
            }
            tokio::time::sleep(health.interval).await;
        }
    }
}
