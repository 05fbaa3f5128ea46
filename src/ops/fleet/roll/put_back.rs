//! Putting one host back after a failure, a stop or an abort: forward on only if its main vhost is healthy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::RollRun;
use super::sleep_watch::SleepWatch;
use crate::model::api::deployments::RollbackRequest;
use crate::model::api::{HostView, ProbeResult, RunRequest};
use crate::model::host::Host;
use crate::model::journal::{HostOutcome, RollEntryKind};
use crate::model::port_forward::Switch;
use crate::model::roll::Work;
use crate::ops::fleet::balancer_wait::{self, BalancerWaitError};
use crate::ops::fleet::forward::{build_switch_request, send_switch};
use crate::ops::fleet::reach;
use crate::world::journal_store::JournalError;
use crate::world::link::{LinkError, SharedLineSink};

/// How long a host that does not answer is tried: a link that was cut for a moment is back by then.
const UNREACHABLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many unhealthy answers in a row are enough, counted from the first that came at all.
const MAX_UNHEALTHY: u32 = 3;
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

impl RollRun<'_> {
    /// Puts the host back and reports its state; `recorded` is false when the journal takes no more.
    pub(super) async fn settle(&self, host: &Host, recorded: bool) -> HostOutcome {
        let (end, detail) = self.put_back(host).await;
        self.record_settled(host, end, detail, recorded).await
    }

    /// Another command switched it, and knows why: the host is only looked at.
    pub(super) async fn settle_overtaken(&self, host: &Host, reason: &str) -> HostOutcome {
        let (end, detail) = self.classify_not_put_back(host, reason.to_owned(), true).await;
        self.record_settled(host, end, detail, true).await
    }

    async fn record_settled(
        &self,
        host: &Host,
        end: HostOutcome,
        detail: String,
        recorded: bool,
    ) -> HostOutcome {
        let settled = RollEntryKind::Settled { end, detail };
        if recorded {
            // A failure is found by `check_journal`; the host is where it is.
            let _ = self.append_entry(Some(&host.name), &settled).await;
        }
        self.announce(Some(&host.name), &settled, Duration::ZERO);
        end
    }

    async fn put_back(&self, host: &Host) -> (HostOutcome, String) {
        let mut watch = SleepWatch::new(self.world);
        if let Err(left) = watch.run(self.wait_for_command_end(host)).await {
            return left;
        }
        let mut healthy = watch.run(self.check_healthy(host)).await;
        if let Some(new_main) = self.plan.spec.work.new_main()
            && matches!(healthy, Ok(ProbeResult::Unhealthy { .. }))
        {
            // The new main failed: the last good one takes over, if it can. An old one that failed before is no reason to go
            // back further.
            let request = RollbackRequest {
                actor: self.actor.clone(),
                reason: self.id.to_string(),
                from: Some(new_main.version.clone()),
                dry_run: false,
            };
            if let Some(taken) = self.find_lock_loss(&watch).await {
                return taken;
            }
            let back = async {
                reach::find_link(self.world, host)?.rollback(&self.plan.spec.service, &request).await
            };
            if watch.run(back).await.is_ok() {
                healthy = watch.run(self.check_healthy(host)).await;
            }
        }
        match healthy {
            Ok(ProbeResult::Healthy) => {}
            Ok(ProbeResult::Unhealthy { reason }) => {
                return self.classify_not_put_back(host, reason, false).await;
            }
            Err(error) => return (HostOutcome::Unreachable, error.to_string()),
        }
        let world = &self.unstoppable_world;
        let detail = format!("{}: put back", self.id);
        let deadline = Instant::now() + UNREACHABLE_TIMEOUT;
        let changed = loop {
            let request = build_switch_request(world, self.fleet, host, Switch::On, &self.actor, &detail);
            let request = watch.run(request).await;
            if let Some(taken) = self.find_lock_loss(&watch).await {
                return taken;
            }
            match send_switch(world, host, &request).await {
                Ok(changed) => break changed,
                Err(error) if error.is_connection_lost() && Instant::now() < deadline => {
                    watch.run(tokio::time::sleep(RETRY_INTERVAL)).await;
                }
                Err(error) if error.is_connection_lost() => {
                    return (HostOutcome::Unreachable, error.to_string());
                }
                Err(error) => return self.classify_not_put_back(host, error.to_string(), true).await,
            }
        };
        self.wait_until_up(host, changed.generation).await
    }

    /// After a sleep, right before a request that changes the host: with the lock lost, another operator has the host.
    async fn find_lock_loss(&self, watch: &SleepWatch<'_>) -> Option<(HostOutcome, String)> {
        if !watch.has_slept() {
            return None;
        }
        match self.confirm_lock().await {
            Err(error @ JournalError::LockLost { .. }) => Some((HostOutcome::TakenOver, error.to_string())),
            _ => None,
        }
    }

    async fn wait_until_up(&self, host: &Host, mut generation: u32) -> (HostOutcome, String) {
        let world = &self.unstoppable_world;
        loop {
            let reason =
                match balancer_wait::wait(world, self.fleet, host, Switch::On, generation, None).await {
                    Ok(_) => return (HostOutcome::Restored, String::new()),
                    Err(error @ BalancerWaitError::Overtaken) => error.to_string(),
                    Err(error) => return (HostOutcome::NotUp, error.to_string()),
                };
            match self.read_host_view(host).await.map(|view| find_generation_if_on(&view)) {
                Ok(Some(now)) => generation = now,
                Ok(None) => return self.classify_left_out(host, reason).await,
                Err(error) => return (HostOutcome::Unreachable, format!("{reason}; {error}")),
            }
        }
    }

    /// Classifies a host whose forward was not turned on: the forward may still be on, by another command or because it was never
    /// off.
    async fn classify_not_put_back(
        &self,
        host: &Host,
        reason: String,
        healthy: bool,
    ) -> (HostOutcome, String) {
        match self.read_host_view(host).await {
            Err(error) => (HostOutcome::Unreachable, format!("{reason}; {error}")),
            Ok(view) => match (find_generation_if_on(&view), healthy) {
                (None, _) => self.classify_owner(&view, reason),
                (Some(_), false) => (HostOutcome::NotUp, reason),
                (Some(generation), true) => self.wait_until_up(host, generation).await,
            },
        }
    }

    async fn classify_left_out(&self, host: &Host, reason: String) -> (HostOutcome, String) {
        match self.read_host_view(host).await {
            Ok(view) => self.classify_owner(&view, reason),
            Err(_) => (HostOutcome::LeftInMaintenance, reason),
        }
    }

    /// Classifies a host that is out of service by the operation that keeps it out.
    fn classify_owner(&self, view: &HostView, reason: String) -> (HostOutcome, String) {
        let owner =
            view.record.as_ref().ok().and_then(Option::as_ref).and_then(|record| record.owner.as_ref());
        match owner.filter(|owner| !self.actor.continues(owner)) {
            Some(owner) => (HostOutcome::TakenOver, format!("the host was taken over by {owner}")),
            None => (HostOutcome::LeftInMaintenance, reason),
        }
    }

    /// Reads the forward as the host reports it.
    pub(super) async fn read_host_view(&self, host: &Host) -> Result<HostView, LinkError> {
        let deadline = Instant::now() + UNREACHABLE_TIMEOUT;
        loop {
            let view = reach::find_link(self.world, host)?
                .fetch_status(&reach::build_status_request(self.fleet, host))
                .await;
            match view {
                Err(error) if error.is_connection_lost() && Instant::now() < deadline => {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                view => return view,
            }
        }
    }

    /// A command whose end was not received may still be at work on the main vhost, which may look healthy until it is
    /// restarted. Another run under the same key waits until the first one has ended.
    async fn wait_for_command_end(&self, host: &Host) -> Result<(), (HostOutcome, String)> {
        let Work::Command { remote, .. } = &self.plan.spec.work else { return Ok(()) };
        if !self.lock_unfinished_commands().contains(&host.name) {
            return Ok(());
        }
        let request = RunRequest {
            key: self.command_key(host),
            argv: vec!["true".to_owned()],
            env: BTreeMap::new(),
            dir: None,
            timeout_ms: None,
        };
        let silent: SharedLineSink = Arc::new(|_: &str| {});
        let left = |reason: String| {
            (HostOutcome::LeftInMaintenance, format!("the command may still be at work: {reason}"))
        };
        if !*remote {
            return self
                .world
                .commands
                .run(&request, silent)
                .await
                .map(|_| ())
                .map_err(|error| left(error.to_string()));
        }
        let deadline = Instant::now() + UNREACHABLE_TIMEOUT;
        loop {
            let ran = async { reach::find_link(self.world, host)?.run(&request, silent.clone()).await };
            match ran.await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_connection_lost() && Instant::now() < deadline => {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(error) if error.is_connection_lost() => {
                    return Err((HostOutcome::Unreachable, error.to_string()));
                }
                Err(error) => return Err(left(error.to_string())),
            }
        }
    }

    /// Returns `Healthy` after `rise` healthy answers in a row, or the last unhealthy answer.
    async fn check_healthy(&self, host: &Host) -> Result<ProbeResult, LinkError> {
        let world = &self.unstoppable_world;
        let deadline = Instant::now() + UNREACHABLE_TIMEOUT;
        let (mut passed, mut failed) = (0, 0);
        loop {
            match reach::probe_main(world, self.fleet, host).await {
                Ok(ProbeResult::Healthy) => {
                    failed = 0;
                    passed += 1;
                    if passed >= self.fleet.health.rise {
                        return Ok(ProbeResult::Healthy);
                    }
                }
                Ok(unhealthy @ ProbeResult::Unhealthy { .. }) => {
                    passed = 0;
                    failed += 1;
                    // One that answers every other time never fails so often in a row, and is not healthy either.
                    if failed >= MAX_UNHEALTHY || Instant::now() >= deadline {
                        return Ok(unhealthy);
                    }
                }
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => passed = 0,
            }
            tokio::time::sleep(self.fleet.health.interval).await;
        }
    }
}

/// On in the kernel in every family, with the record's generation; `None`: off somewhere, or not known.
fn find_generation_if_on(view: &HostView) -> Option<u32> {
    let families = view.kernel.as_ref().ok()?;
    let on = !families.is_empty() && families.iter().all(|family| family.switch() == Switch::On);
    let recorded = view.record.as_ref().ok()?.as_ref();
    on.then(|| recorded.map_or(0, |record| record.generation))
}
