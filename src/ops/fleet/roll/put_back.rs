//! Putting one host back after a failure, a stop or an abort: forward on only if its main vhost is healthy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Roll;
use crate::model::api::deployments::RollbackRequest;
use crate::model::api::{HostView, Probed, RunRequest};
use crate::model::forward::Switch;
use crate::model::host::Host;
use crate::model::journal::{HostEnd, What};
use crate::ops::fleet::balancer_wait::{self, NotSeen};
use crate::ops::fleet::forward::switch_host;
use crate::ops::fleet::reach;
use crate::world::link::{Heard, LinkError};
use crate::world::reporter::RollEvent;

/// How long a host that does not answer is tried: a link that was cut for a moment is back by then.
const UNHEARD: Duration = Duration::from_secs(10);
/// How many unhealthy answers in a row are enough, counted from the first that came at all.
const CHANCES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

impl Roll<'_> {
    /// Says how the host was left; `recorded` is false when the journal takes no more.
    pub(super) async fn settle(&self, host: &Host, recorded: bool) -> HostEnd {
        let (end, detail) = self.put_back(host).await;
        self.declare(host, end, detail, recorded)
    }

    /// Another command switched it, and knows why: the host is only looked at.
    pub(super) async fn leave_as_switched(&self, host: &Host, why: &str) -> HostEnd {
        let (end, detail) = self.not_put_back(host, why.to_owned(), true).await;
        self.declare(host, end, detail, true)
    }

    fn declare(&self, host: &Host, end: HostEnd, detail: String, recorded: bool) -> HostEnd {
        let settled = What::Settled { end, detail: detail.clone() };
        if recorded {
            // A failure is noticed by `still_sound`; the host is where it is.
            let _ = self.record(Some(&host.name), &settled);
        }
        self.tell(RollEvent::Settled { host: host.name.clone(), end, detail });
        end
    }

    async fn put_back(&self, host: &Host) -> (HostEnd, String) {
        if let Err(left) = self.command_is_over(host).await {
            return left;
        }
        let mut healthy = self.is_healthy(host).await;
        if let Some(new) = &self.plan.spec.assign
            && matches!(healthy, Ok(Err(_)))
        {
            // The new main failed: the last good one takes over, if it can. An old one that failed before is no reason to go
            // back further.
            let request = RollbackRequest {
                actor: self.actor.clone(),
                why: self.id.to_string(),
                from: Some(new.version.clone()),
            };
            let back =
                async { reach::link(self.world, host)?.rollback(&self.plan.spec.service, &request).await };
            if back.await.is_ok() {
                healthy = self.is_healthy(host).await;
            }
        }
        match healthy {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return self.not_put_back(host, why, false).await,
            Err(error) => return (HostEnd::Unreachable, error.to_string()),
        }
        let world = &self.to_the_end;
        let detail = format!("{}: put back", self.id);
        let deadline = Instant::now() + UNHEARD;
        let changed = loop {
            match switch_host(world, self.fleet, host, Switch::On, &self.actor, &detail).await {
                Ok(changed) => break changed,
                Err(error) if error.is_lost() && Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) if error.is_lost() => return (HostEnd::Unreachable, error.to_string()),
                Err(error) => return self.not_put_back(host, error.to_string(), true).await,
            }
        };
        self.seen_back(host, changed.generation).await
    }

    async fn seen_back(&self, host: &Host, mut generation: u32) -> (HostEnd, String) {
        let world = &self.to_the_end;
        loop {
            let why = match balancer_wait::wait(world, self.fleet, host, Switch::On, generation, None).await {
                Ok(_) => return (HostEnd::Returned, String::new()),
                Err(error @ NotSeen::Overtaken) => error.to_string(),
                Err(error) => return (HostEnd::NotUp, error.to_string()),
            };
            match self.looked(host).await.map(|view| generation_on(&view)) {
                Ok(Some(now)) => generation = now,
                Ok(None) => return (HostEnd::LeftOut, why),
                Err(error) => return (HostEnd::Unreachable, format!("{why}; {error}")),
            }
        }
    }

    /// It was not switched on, for this reason: its forward may be on all the same, by somebody else or because it never
    /// went off.
    async fn not_put_back(&self, host: &Host, why: String, healthy: bool) -> (HostEnd, String) {
        match self.looked(host).await {
            Err(error) => (HostEnd::Unreachable, format!("{why}; {error}")),
            Ok(view) => match (generation_on(&view), healthy) {
                (None, _) => (HostEnd::LeftOut, why),
                (Some(_), false) => (HostEnd::NotUp, why),
                (Some(generation), true) => self.seen_back(host, generation).await,
            },
        }
    }

    /// The host's own word on its forward.
    async fn looked(&self, host: &Host) -> Result<HostView, LinkError> {
        let deadline = Instant::now() + UNHEARD;
        loop {
            let view = reach::link(self.world, host)?.look(&reach::question(self.fleet, host)).await;
            match view {
                Err(error) if error.is_lost() && Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                view => return view,
            }
        }
    }

    /// A command whose end was not heard may still be at work on the main vhost, which may look healthy until it is
    /// restarted. Another run under the same key waits for whatever is left of it.
    async fn command_is_over(&self, host: &Host) -> Result<(), (HostEnd, String)> {
        if !self.unended().contains(&host.name) {
            return Ok(());
        }
        let request = RunRequest {
            key: self.command_key(host),
            argv: vec!["true".to_owned()],
            env: BTreeMap::new(),
            dir: None,
            timeout_ms: None,
        };
        let silent: Heard = Arc::new(|_: &str| {});
        let left = |why: String| (HostEnd::LeftOut, format!("the command may still be at work: {why}"));
        if !self.plan.spec.remote {
            return self
                .world
                .commands
                .run(&request, silent)
                .await
                .map(|_| ())
                .map_err(|error| left(error.to_string()));
        }
        let deadline = Instant::now() + UNHEARD;
        loop {
            let ran = async { reach::link(self.world, host)?.run(&request, silent.clone()).await };
            match ran.await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_lost() && Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
                Err(error) if error.is_lost() => return Err((HostEnd::Unreachable, error.to_string())),
                Err(error) => return Err(left(error.to_string())),
            }
        }
    }

    /// `rise` healthy answers in a row, or the last reason why not.
    async fn is_healthy(&self, host: &Host) -> Result<Result<(), String>, LinkError> {
        let world = &self.to_the_end;
        let deadline = Instant::now() + UNHEARD;
        let (mut passed, mut failed) = (0, 0);
        loop {
            match reach::probe(world, self.fleet, host).await {
                Ok(Probed::Healthy) => {
                    failed = 0;
                    passed += 1;
                    if passed >= self.fleet.health.rise {
                        return Ok(Ok(()));
                    }
                }
                Ok(Probed::Unhealthy { why }) => {
                    passed = 0;
                    failed += 1;
                    // One that answers every other time never fails so often in a row, and is not healthy either.
                    if failed >= CHANCES || Instant::now() >= deadline {
                        return Ok(Err(why));
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
fn generation_on(view: &HostView) -> Option<u32> {
    let families = view.kernel.as_ref().ok()?;
    let on = !families.is_empty() && families.iter().all(|family| family.switch() == Switch::On);
    let recorded = view.recorded.as_ref().ok()?.as_ref();
    on.then(|| recorded.map_or(0, |record| record.generation))
}
