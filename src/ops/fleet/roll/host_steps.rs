//! One host through its steps.

use std::time::Duration;

use tokio::time::Instant;

use super::{Left, Roll};
use crate::model::api::deployments::{AssignRequest, Part, Which};
use crate::model::api::{Probed, RunRequest};
use crate::model::duration;
use crate::model::forward::Switch;
use crate::model::host::Host;
use crate::model::journal::What;
use crate::model::name::HostName;
use crate::model::roll::{NewMain, Step};
use crate::ops::fleet::balancer_wait::{self, NotSeen};
use crate::ops::fleet::drain::{self, NotDrained};
use crate::ops::fleet::forward::switch_host;
use crate::ops::fleet::hooks::{self, Hook, heard, judge};
use crate::ops::fleet::reach;
use crate::plan::roll::progress::Turn;
use crate::world::FleetWorld;
use crate::world::notifier::NoticeEvent;
use crate::world::reporter::RollEvent;

/// What one host carries from step to step.
struct Walk<'a> {
    out: &'a [&'a HostName],
    /// Of the record on the host, after its last switch: tells that somebody else switched it.
    generation: u32,
    attempt: u32,
}

/// Why a step did not end well.
struct Failure {
    why: String,
    /// Another command switched the host: its word is the last.
    overtaken: bool,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self { why, overtaken: false }
    }
}

impl Roll<'_> {
    /// From its entry to the end, or to the step that fails. `out`: the hosts that are out together with it.
    pub(super) async fn through(&self, turn: &Turn, out: &[&HostName]) -> Left {
        let host = &self.hosts[turn.at];
        let began = Instant::now();
        let mut walk = Walk { out, generation: 0, attempt: turn.attempts + 1 };
        let mut step = Some(turn.entry);
        while let Some(now) = step {
            // Until the command has begun a host can be put back as it was; from then on it goes through.
            if now <= Step::Command && !self.may_go_on() {
                return self.leave(host, now).await;
            }
            if self.plan.steps.iter().any(|planned| planned.step == now)
                && let Err(left) = self.step(host, now, &mut walk).await
            {
                return left;
            }
            step = now.next();
        }
        if self.record(Some(&host.name), &What::Done).is_err() {
            return Left::Stands;
        }
        let took = began.elapsed();
        self.tell(RollEvent::HostDone { host: host.name.clone(), took });
        let text = format!("{} is done after {}", host.name, duration::show(took));
        self.notify(NoticeEvent::HostDone, Some(&host.name), &text);
        Left::Done
    }

    /// It goes no further, through no fault of its own.
    async fn leave(&self, host: &Host, at: Step) -> Left {
        if at > Step::ForwardOff && self.puts_back() && self.still_sound().is_ok() {
            self.settle(host, true).await;
        }
        Left::Stands
    }

    async fn step(&self, host: &Host, step: Step, walk: &mut Walk<'_>) -> Result<(), Left> {
        if self.record(Some(&host.name), &What::StepBegan { step }).is_err() {
            return Err(self.unrecorded(host, step > Step::ForwardOff && step.is_out()).await);
        }
        let planned = self.plan.steps.iter().find(|planned| planned.step == step);
        let at_most = planned.and_then(|planned| planned.at_most);
        self.tell(RollEvent::StepBegan { host: host.name.clone(), step, at_most });
        match self.act(host, step, walk).await {
            Ok(detail) => {
                let done = What::StepDone { step, detail: detail.clone() };
                if self.record(Some(&host.name), &done).is_err() {
                    return Err(self.unrecorded(host, step.is_out()).await);
                }
                self.tell(RollEvent::StepDone { host: host.name.clone(), step, detail });
                Ok(())
            }
            Err(_) if step < Step::Command && self.world.stop.is_requested() => {
                Err(self.leave(host, step.next().unwrap_or(step)).await)
            }
            Err(failure) => Err(self.failed(host, step, failure).await),
        }
    }

    /// The journal takes no more: the host is put back, as far as that is sound, and only the operator is told. With the
    /// lock lost, another may be at work on it.
    async fn unrecorded(&self, host: &Host, out: bool) -> Left {
        let lost = matches!(
            self.still_sound(),
            Err(crate::ops::fleet::roll::RollError::Journal(
                crate::world::journal::JournalError::LockLost { .. }
            ))
        );
        if !lost && out {
            self.settle(host, false).await;
        }
        Left::Stands
    }

    async fn failed(&self, host: &Host, step: Step, Failure { why, overtaken }: Failure) -> Left {
        *self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
        let recorded = self.record(Some(&host.name), &What::StepFailed { step, why: why.clone() });
        self.tell(RollEvent::StepFailed { host: host.name.clone(), step, why: why.clone() });
        self.notify(NoticeEvent::Failed, Some(&host.name), &format!("{} failed at {step}: {why}", host.name));
        if recorded.is_err() {
            return self.unrecorded(host, step.is_out() && !overtaken).await;
        }
        if overtaken {
            self.leave_as_switched(host, &why).await;
        } else if step >= Step::ForwardOff {
            self.settle(host, true).await;
        }
        let extra = [("SWITCHMAN_ERROR", why.as_str()), ("SWITCHMAN_FAILED_STEP", step.as_str())];
        let hook = hooks::run(self.world, self.fleet, &self.id, Hook::OnFailure, Some(host), &extra).await;
        if let Err(why) = hook {
            // The failure is what matters; a hook that fails on top of it is told and stops nothing.
            let text = format!("{}: {why}", host.name);
            self.world.reporter.report(&crate::world::reporter::Event::Warning { text });
        }
        Left::Failed
    }

    /// Does one step; the error is what people read.
    async fn act(&self, host: &Host, step: Step, walk: &mut Walk<'_>) -> Result<String, Failure> {
        let (world, fleet) = (if step < Step::Command { self.world } else { &self.to_the_end }, self.fleet);
        match step {
            Step::BeforeHost => Ok(self.hook(host, Hook::BeforeHost).await?),
            Step::AfterHost => Ok(self.hook(host, Hook::AfterHost).await?),
            Step::ForwardOff => {
                // The leave that was given is as old as the hooks took.
                if !fleet.hooks.before_host.is_empty() {
                    self.may_begin(walk.out).await?;
                }
                if let Some(new) = &self.plan.spec.assign {
                    // Its users stay on the version they know while it is out.
                    self.assign(host, new, Part::Backup).await?;
                }
                Ok(self.switch(host, Switch::Off, walk).await?)
            }
            Step::ForwardOn => Ok(self.switch(host, Switch::On, walk).await?),
            Step::Down => self.seen(world, host, Switch::Off, walk).await,
            Step::Up => self.seen(world, host, Switch::On, walk).await,
            Step::Drained => {
                let limit = self.plan.spec.drain_timeout;
                match drain::wait(world, fleet, host, walk.generation, limit).await {
                    Ok(after) => Ok(format!("drained after {}", duration::show(after))),
                    Err(NotDrained::Late { in_flight, .. }) if self.plan.spec.force => {
                        Ok(format!("--force: {in_flight} still in flight, cut by what comes next"))
                    }
                    Err(error) => {
                        Err(Failure { why: error.to_string(), overtaken: error == NotDrained::Overtaken })
                    }
                }
            }
            Step::Command => match &self.plan.spec.assign {
                Some(new) => Ok(self.assign(host, new, Part::Whole).await?),
                None => Ok(self.command(host, walk).await?),
            },
            Step::Healthy => Ok(self.healthy(world, host, self.plan.spec.health_timeout).await?),
        }
    }

    async fn hook(&self, host: &Host, hook: Hook) -> Result<String, String> {
        hooks::run(self.world, self.fleet, &self.id, hook, Some(host), &[]).await.map(|()| String::new())
    }

    async fn switch(&self, host: &Host, switch: Switch, walk: &mut Walk<'_>) -> Result<String, String> {
        let detail = self.id.to_string();
        let changed = switch_host(self.world, self.fleet, host, switch, &self.actor, &detail).await;
        let changed = changed.map_err(|error| error.to_string())?;
        walk.generation = changed.generation;
        Ok(if changed.transactions.is_empty() {
            format!("already {switch}")
        } else {
            format!("switched {switch}")
        })
    }

    async fn seen(
        &self,
        world: &FleetWorld,
        host: &Host,
        switch: Switch,
        walk: &Walk<'_>,
    ) -> Result<String, Failure> {
        let seen = balancer_wait::wait(world, self.fleet, host, switch, walk.generation, None).await;
        let seen =
            seen.map_err(|error| Failure { why: error.to_string(), overtaken: error == NotSeen::Overtaken })?;
        let one =
            |seen: &balancer_wait::Seen| format!("{} after {}", seen.balancer, duration::show(seen.after));
        Ok(seen.iter().map(one).collect::<Vec<_>>().join(", "))
    }

    /// Main or, before that, the backup vhost is led elsewhere.
    async fn assign(&self, host: &Host, new: &NewMain, part: Part) -> Result<String, String> {
        let service = self.plan.spec.service.clone();
        let request = AssignRequest {
            which: Which::Version { service: service.clone(), version: new.version.clone() },
            part,
            trial: new.trial,
            actor: self.actor.clone(),
            detail: self.id.to_string(),
        };
        let link = reach::link(self.world, host).map_err(|error| error.to_string())?;
        let assigned = link.assign(&service, &request).await.map_err(|error| error.to_string())?;
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
                format!("main was {}; {} idle connections to it closed", was.version, assigned.closed)
            }
            None => "main already".to_owned(),
        })
    }

    async fn command(&self, host: &Host, walk: &Walk<'_>) -> Result<String, String> {
        let spec = &self.plan.spec;
        let mut env = hooks::environment(self.fleet, &self.id, Some(host), Step::Command.as_str());
        env.insert("SWITCHMAN_ATTEMPT".to_owned(), walk.attempt.to_string());
        let bound = Some(spec.command_timeout).filter(|bound| !bound.is_zero());
        let request = RunRequest {
            key: self.command_key(host),
            argv: spec.command.clone(),
            env,
            dir: None,
            timeout_ms: bound.and_then(|bound| u64::try_from(bound.as_millis()).ok()),
        };
        self.unended().insert(host.name.clone());
        let heard = heard(self.world, &self.id, Some(&host.name));
        let ended = if spec.remote {
            let link = reach::link(self.world, host).map_err(|error| error.to_string())?;
            link.run(&request, heard).await.map_err(|error| error.to_string())?
        } else {
            self.world.commands.run(&request, heard).await.map_err(|error| error.to_string())?
        };
        self.unended().remove(&host.name);
        let kept = || self.world.outputs.place(&self.id, Some(&host.name));
        let kept = || kept().map(|place| format!(" (its output: {place})")).unwrap_or_default();
        judge(ended, spec.command_timeout).map_err(|why| format!("the command {why}{}", kept()))?;
        Ok(String::new())
    }

    /// All runs of the command on one host in one roll.
    pub(super) fn command_key(&self, host: &Host) -> String {
        format!("{}-{}", self.id, host.name)
    }

    /// The real port, `rise` times in a row.
    pub(super) async fn healthy(
        &self,
        world: &FleetWorld,
        host: &Host,
        limit: Duration,
    ) -> Result<String, String> {
        let deadline = Instant::now() + limit;
        let health = &self.fleet.health;
        let mut passed = 0;
        loop {
            let why = match reach::probe(world, self.fleet, host).await {
                Ok(Probed::Healthy) => {
                    passed += 1;
                    if passed >= health.rise {
                        return Ok(format!("{passed} healthy answers"));
                    }
                    String::new()
                }
                Ok(Probed::Unhealthy { why }) => {
                    passed = 0;
                    why
                }
                Err(error) => {
                    passed = 0;
                    error.to_string()
                }
            };
            if Instant::now() >= deadline && passed == 0 {
                let limit = duration::show(limit);
                return Err(format!("the main vhost is not healthy after {limit}: {why}"));
            }
            tokio::time::sleep(health.interval).await;
        }
    }
}
