//! The registration of this host in a service catalogue, which the agent keeps as the host is.
//!
//! A catalogue that is down, or slow, delays nothing but this story: no switch, no request of the API and no user waits for it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::warn::warn;
use crate::model::deployment::Deployment;
use crate::model::duration;
use crate::model::forward::ServiceRecord;
use crate::model::name::ServiceName;
use crate::model::registration::{RegisteredService, Registration, RegistrationSpec, RegistrationState};
use crate::plan::registration::{
    HealthResults, RegistrationStep, ServiceFacts, list_probes, list_registrations, plan_registration,
};
use crate::world::HostWorld;
use crate::world::registry::{Registry, RegistryError, RegistryResult};
use crate::world::store::StoreResult;

mod slot;
#[cfg(test)]
mod tests;

/// The interval between two looks at the record, which takes microseconds: a switch or an assign is in the catalogue within a second.
const RECORD_INTERVAL: Duration = Duration::from_millis(500);
/// The interval between two renewals: of health, checks and slots, and of what the catalogue lost.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(5);
const MIN_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// A catalogue is usually on this machine: what restarts it takes seconds.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Limit of the deregistration of a machine that shuts down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps the registrations as the host is, until a stop is requested. The stop itself changes nothing, so that an update of the
/// agent moves no user. If the whole machine stops, the host is deregistered.
pub async fn run(world: &HostWorld, registry: &dyn Registry, spec: &RegistrationSpec) {
    let mut registrar = Registrar::new(world, registry, spec);
    loop {
        let step = async {
            registrar.reconcile().await;
            tokio::time::sleep(RECORD_INTERVAL).await;
        };
        tokio::select! {
            biased;
            () = world.stop.wait() => break,
            () = step => {}
        }
    }
    if world.runner.is_machine_stopping().await {
        let left = tokio::time::timeout(SHUTDOWN_TIMEOUT, registrar.deregister_all()).await;
        match left {
            Ok(Ok(())) => log::info!("this machine stops: the host is deregistered"),
            Ok(Err(error)) => log::warn!("cannot deregister this host: {error}"),
            Err(_) => log::warn!("cannot deregister this host: no answer in time"),
        }
    }
}

/// All that the registrations follow from, except for health.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Snapshot {
    records: Vec<ServiceRecord>,
    deployments: Vec<Deployment>,
    states: BTreeMap<ServiceName, RegistrationState>,
}

impl Snapshot {
    fn state(&self, service: &ServiceName) -> RegistrationState {
        self.states.get(service).cloned().unwrap_or_default()
    }
}

struct Registrar<'a> {
    world: &'a HostWorld,
    registry: &'a dyn Registry,
    spec: &'a RegistrationSpec,
    /// The slots that the host holds, by service.
    slots: BTreeMap<ServiceName, u16>,
    /// The session that holds them; opened where it is needed.
    session: Option<String>,
    /// When the withdrawal of a service reached the catalogue.
    withdrawn_since: BTreeMap<ServiceName, Instant>,
    health: HealthResults,
    /// The snapshot that the catalogue has.
    applied: Option<Snapshot>,
    next_renewal: Instant,
    retry_at: Instant,
    failures: u32,
    warnings: BTreeMap<String, String>,
}

impl<'a> Registrar<'a> {
    fn new(world: &'a HostWorld, registry: &'a dyn Registry, spec: &'a RegistrationSpec) -> Self {
        let now = Instant::now();
        Self {
            world,
            registry,
            spec,
            slots: BTreeMap::new(),
            session: None,
            withdrawn_since: BTreeMap::new(),
            health: HealthResults::new(),
            applied: None,
            next_renewal: now,
            retry_at: now,
            failures: 0,
            warnings: BTreeMap::new(),
        }
    }

    /// Brings the catalogue to the state of the host where the host has changed, or a renewal is due.
    async fn reconcile(&mut self) {
        let snapshot = match self.read_snapshot() {
            Ok(snapshot) => snapshot,
            // An unreadable record is no reason to change what is registered.
            Err(error) => return self.warn_once("record", format!("cannot register this host: {error}")),
        };
        self.warnings.remove("record");
        let now = Instant::now();
        let (is_changed, is_due) = (self.applied.as_ref() != Some(&snapshot), now >= self.next_renewal);
        if now < self.retry_at || !(is_changed || is_due) {
            return;
        }
        match self.update_catalog(&snapshot, is_due).await {
            Ok(()) => self.handle_success(snapshot, is_due),
            Err(error) => self.handle_failure(&error),
        }
    }

    fn handle_success(&mut self, snapshot: Snapshot, is_renewed: bool) {
        if self.failures > 0 {
            log::info!("{} answers again: this host is registered", self.registry.label());
        }
        self.failures = 0;
        self.warnings.remove("catalogue");
        self.applied = Some(snapshot);
        if is_renewed {
            self.next_renewal = Instant::now() + RENEWAL_INTERVAL;
        }
    }

    fn handle_failure(&mut self, error: &RegistryError) {
        let factor = 2u32.saturating_pow(self.failures.min(8));
        let pause = MIN_RETRY_INTERVAL.saturating_mul(factor).min(MAX_RETRY_INTERVAL);
        self.failures = self.failures.saturating_add(1);
        let label = self.registry.label();
        self.warn_once("catalogue", format!("cannot register this host at {label}: {error}; users are not affected, and the agent retries every {}", duration::format(MAX_RETRY_INTERVAL)));
        self.applied = None;
        let now = Instant::now();
        (self.retry_at, self.next_renewal) = (now + pause, now);
    }

    fn read_snapshot(&self) -> StoreResult<Snapshot> {
        let (store, deployments) = (&self.world.store, &self.world.deployments);
        Ok(Snapshot {
            records: store.load_records()?,
            deployments: deployments.all()?,
            states: store.load_registrations()?,
        })
    }

    async fn update_catalog(&mut self, snapshot: &Snapshot, renews: bool) -> RegistryResult<()> {
        let is_withdrawal_changed = self.spec.services.iter().any(|registered| {
            let before = self.applied.as_ref().map(|before| before.state(&registered.service).is_withdrawn);
            before != Some(snapshot.state(&registered.service).is_withdrawn)
        });
        if renews || is_withdrawal_changed {
            for registered in &self.spec.services {
                self.update_slot(registered, &snapshot.state(&registered.service)).await?;
            }
        }
        // A switch is not delayed by a main that answers slowly.
        if !self.health.is_empty() {
            self.apply(snapshot, false).await?;
        }
        self.health = self.probe(snapshot).await;
        self.apply(snapshot, renews).await
    }

    async fn probe(&self, snapshot: &Snapshot) -> HealthResults {
        let probes: BTreeMap<_, _> = self
            .spec
            .services
            .iter()
            .flat_map(|registered| {
                let state = snapshot.state(&registered.service);
                list_probes(&self.build_facts(registered, snapshot, &state))
            })
            .collect();
        let results = probes.iter().map(async |(address, health)| {
            let result = self.world.probe.check(*address, health).await;
            (*address, result.map_err(|error| error.to_string()))
        });
        join_all(results).await.into_iter().collect()
    }

    fn build_facts<'b>(
        &'b self,
        registered: &'b RegisteredService,
        snapshot: &'b Snapshot,
        state: &'b RegistrationState,
    ) -> ServiceFacts<'b> {
        let service = &registered.service;
        ServiceFacts {
            host: &self.spec.host,
            registered,
            record: snapshot.records.iter().find(|record| record.forward.service == *service),
            deployments: &snapshot.deployments,
            state,
            slot: self.slots.get(service).copied(),
        }
    }

    /// Compares what is registered with what should be, and makes the difference.
    async fn apply(&mut self, snapshot: &Snapshot, renews: bool) -> RegistryResult<()> {
        // Another machine has this name: its registrations may be at the same agent, under the same ids.
        if self.warnings.contains_key("name") {
            return Ok(());
        }
        let observed = self.registry.list_registrations(&self.spec.host.name).await?;
        let wanted = self.spec.services.iter().flat_map(|registered| {
            let state = snapshot.state(&registered.service);
            list_registrations(&self.build_facts(registered, snapshot, &state), &observed, &self.health)
        });
        for step in plan_registration(&observed, wanted.collect(), renews) {
            self.carry_out(&step).await?;
        }
        for registered in &self.spec.services {
            let service = &registered.service;
            if snapshot.state(service).is_withdrawn {
                self.withdrawn_since.entry(service.clone()).or_insert_with(Instant::now);
            } else {
                self.withdrawn_since.remove(service);
            }
        }
        Ok(())
    }

    async fn carry_out(&self, step: &RegistrationStep) -> RegistryResult<()> {
        match step {
            RegistrationStep::Register(registration) => self.registry.register(registration).await,
            RegistrationStep::RenewCheck(registration) => self.registry.renew_check(registration).await,
            RegistrationStep::Deregister { id } => self.registry.deregister(id).await,
        }
    }

    async fn deregister_all(&self) -> RegistryResult<()> {
        let all: Vec<Registration> = self.registry.list_registrations(&self.spec.host.name).await?;
        for registration in all {
            self.registry.deregister(&registration.id).await?;
        }
        Ok(())
    }

    fn warn_once(&mut self, key: &str, text: String) {
        if self.warnings.get(key) != Some(&text) {
            warn(self.world, text.clone());
            self.warnings.insert(key.to_owned(), text);
        }
    }
}
