//! The slots of this host: claimed, kept, and released after a withdrawal.

use std::time::Duration;

use super::Registrar;
use crate::model::registration::{RegisteredService, RegistrationState, SlotClaim};
use crate::plan::slot_choice::{SlotCandidate, SlotChoice, SlotError, choose_slot, is_own_claim};
use crate::world::registry::RegistryResult;

/// The time from a withdrawal to the release of the slot. HAProxy forgets an address that is no longer in DNS after `timeout
/// resolve` and `hold obsolete`, 1.5 s together in the configuration that `init` writes: until then it sends users of the slot here.
const RELEASE_DELAY: Duration = Duration::from_secs(10);

impl Registrar<'_> {
    /// Claims the slot of a service, confirms the claim, or releases it after a withdrawal.
    pub(super) async fn update_slot(
        &mut self,
        registered: &RegisteredService,
        state: &RegistrationState,
    ) -> RegistryResult<()> {
        let claims = self.registry.list_claims(&registered.catalog_name).await?;
        if state.is_withdrawn {
            return self.release_slot(registered, state, &claims).await;
        }
        // This process has written its address into the claim: with another one there, another machine uses its session, as a
        // copy of a virtual machine does.
        let is_claimed = self.slots.contains_key(&registered.service) || self.warnings.contains_key("name");
        let session = state.session.clone().filter(|_| !is_claimed);
        let recorded = RegistrationState { session, ..state.clone() };
        let choose = |entries: &[_]| {
            let (host, count) = (&self.spec.host, self.spec.slots);
            choose_slot(&registered.catalog_name, host, &recorded, count, &claims, entries)
        };
        let choice = match choose(&[]) {
            Ok(SlotChoice::Acquire { .. }) => {
                choose(&self.registry.list_entries(&registered.catalog_name).await?)
            }
            choice => choice,
        };
        // The claims beyond a number of slots that is smaller now.
        let is_beyond =
            |claim: &&SlotClaim| claim.slot > self.spec.slots && is_own_claim(claim, &self.spec.host, state);
        let beyond: Vec<SlotClaim> = claims.iter().filter(is_beyond).cloned().collect();
        if self.session.is_none() {
            self.session = beyond.first().and_then(|claim| claim.session.clone());
        }
        let slot = match choice {
            Ok(SlotChoice::Keep { slot }) => {
                let held = claims.iter().find(|claim| claim.slot == slot).cloned();
                self.keep(registered, slot, held).await?
            }
            Ok(SlotChoice::Acquire { candidates }) => self.acquire(registered, &candidates).await?,
            Err(error) => Err(error),
        };
        let has_slot = slot.is_ok();
        self.record_slot(registered, state, slot);
        // Only now: the host is never without a claim.
        for claim in beyond.iter().filter(|_| has_slot) {
            self.registry.release_slot(&registered.catalog_name, claim).await?;
            log::info!("slot {} of `{}` is released", claim.slot, registered.catalog_name);
        }
        Ok(())
    }

    /// Keeps a slot that is held already, and writes another address of this host into its claim.
    async fn keep(
        &mut self,
        registered: &RegisteredService,
        slot: u16,
        held: Option<SlotClaim>,
    ) -> RegistryResult<Result<u16, SlotError>> {
        let Some(SlotClaim { owner, session: Some(session), .. }) = held else { return Ok(Ok(slot)) };
        let (name, host) = (&registered.catalog_name, &self.spec.host);
        if owner != *host {
            if !self.registry.acquire_slot(name, slot, &session, host).await? {
                return Ok(Err(SlotError::Delayed { name: name.clone() }));
            }
            log::info!("slot {slot} of `{name}` has the address {}, after {}", host.address, owner.address);
        }
        self.session = Some(session);
        Ok(Ok(slot))
    }

    async fn acquire(
        &mut self,
        registered: &RegisteredService,
        candidates: &[SlotCandidate],
    ) -> RegistryResult<Result<u16, SlotError>> {
        let name = &registered.catalog_name;
        for candidate in candidates {
            for entry in &candidate.stale {
                self.registry.remove_entry(entry).await?;
            }
            let session = match self.session.take() {
                Some(session) => session,
                None => self.registry.open_session(&self.spec.host.name).await?,
            };
            // After an error the session may have ended: the next attempt opens another one.
            let is_acquired =
                self.registry.acquire_slot(name, candidate.slot, &session, &self.spec.host).await?;
            self.session = Some(session);
            if is_acquired {
                log::info!("slot {} of `{name}` is claimed", candidate.slot);
                return Ok(Ok(candidate.slot));
            }
            // The session ended with a failure of the node, which is alive: the claim still names this host, and no other host may
            // take the slot of a living host. The users of the slot stay here until Consul gives the key back.
            if candidate.is_own {
                return Ok(Ok(candidate.slot));
            }
        }
        Ok(Err(SlotError::Delayed { name: name.clone() }))
    }

    async fn release_slot(
        &mut self,
        registered: &RegisteredService,
        state: &RegistrationState,
        claims: &[SlotClaim],
    ) -> RegistryResult<()> {
        let service = &registered.service;
        let own = claims.iter().find(|claim| is_own_claim(claim, &self.spec.host, state));
        let Some(own) = own else {
            self.slots.remove(service);
            self.save_state(
                registered,
                state,
                &RegistrationState { slot: None, session: None, problem: None, ..state.clone() },
            );
            return Ok(());
        };
        let is_unused = |since: &tokio::time::Instant| since.elapsed() >= RELEASE_DELAY;
        if self.withdrawn_since.get(service).is_some_and(is_unused) {
            self.registry.release_slot(&registered.catalog_name, own).await?;
            log::info!("slot {} of `{}` is released", own.slot, registered.catalog_name);
        }
        Ok(())
    }

    fn record_slot(
        &mut self,
        registered: &RegisteredService,
        state: &RegistrationState,
        slot: Result<u16, SlotError>,
    ) {
        let key = format!("slot of {}", registered.service);
        let (slot, session, problem) = match slot {
            Ok(slot) => {
                self.slots.insert(registered.service.clone(), slot);
                self.warnings.remove(&key);
                self.warnings.remove("name");
                (Some(slot), self.session.clone(), None)
            }
            Err(error) => {
                self.slots.remove(&registered.service);
                let is_conflict = matches!(error, SlotError::NameInUse { .. });
                let text = error.to_string();
                let key = if is_conflict { "name" } else { &key };
                self.warn_once(key, format!("cannot register this host for users: {text}"));
                (state.slot, state.session.clone(), Some(text))
            }
        };
        self.save_state(registered, state, &RegistrationState { slot, session, problem, ..state.clone() });
    }

    /// Records slot, session and problem; the withdrawal is an operator's to change.
    fn save_state(
        &mut self,
        registered: &RegisteredService,
        before: &RegistrationState,
        after: &RegistrationState,
    ) {
        if before == after && self.is_recorded(registered) {
            return;
        }
        let (slot, session, problem) = (after.slot, after.session.clone(), after.problem.clone());
        let saved = self.world.store.update_registration(&registered.service, &move |state| {
            state.slot = slot;
            state.session.clone_from(&session);
            state.problem.clone_from(&problem);
        });
        if let Err(error) = saved {
            self.warn_once("record", format!("cannot record the slot of `{}`: {error}", registered.service));
        }
    }

    fn is_recorded(&self, registered: &RegisteredService) -> bool {
        let states = self.world.store.load_registrations();
        states.is_ok_and(|states| states.contains_key(&registered.service))
    }
}
