//! The slots of this host: claimed, kept, and released after a withdrawal.

use std::time::Duration;

use super::Registrar;
use crate::model::registration::{RegisteredService, RegistrationState, SlotClaim};
use crate::plan::slot_choice::{SlotCandidate, SlotChoice, SlotError, choose_slot};
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
        let choose = |entries: &[_]| {
            let (host, count) = (&self.spec.host, self.spec.slots);
            choose_slot(&registered.catalog_name, host, state.slot, count, &claims, entries)
        };
        let choice = match choose(&[]) {
            Ok(SlotChoice::Acquire { .. }) => {
                choose(&self.registry.list_entries(&registered.catalog_name).await?)
            }
            choice => choice,
        };
        let slot = match choice {
            Ok(SlotChoice::Keep { slot }) => {
                let held = claims.into_iter().find(|claim| claim.slot == slot);
                self.session = held.and_then(|claim| claim.session);
                Ok(slot)
            }
            Ok(SlotChoice::Acquire { candidates }) => self.acquire(registered, &candidates).await?,
            Err(error) => Err(error),
        };
        self.record_slot(registered, state, slot);
        Ok(())
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
        let own = claims.iter().find(|claim| claim.owner == self.spec.host);
        let Some(own) = own else {
            self.slots.remove(service);
            self.save_state(
                registered,
                state,
                &RegistrationState { slot: None, problem: None, ..state.clone() },
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
        let (slot, problem) = match slot {
            Ok(slot) => {
                self.slots.insert(registered.service.clone(), slot);
                self.warnings.remove(&key);
                self.warnings.remove("name");
                (Some(slot), None)
            }
            Err(error) => {
                self.slots.remove(&registered.service);
                let is_conflict = matches!(error, SlotError::NameInUse { .. });
                let text = error.to_string();
                let key = if is_conflict { "name" } else { &key };
                self.warn_once(key, format!("cannot register this host for users: {text}"));
                (state.slot, Some(text))
            }
        };
        self.save_state(registered, state, &RegistrationState { slot, problem, ..state.clone() });
    }

    /// Records slot and problem; the withdrawal is an operator's to change.
    fn save_state(
        &mut self,
        registered: &RegisteredService,
        before: &RegistrationState,
        after: &RegistrationState,
    ) {
        if before == after && self.is_recorded(registered) {
            return;
        }
        let (slot, problem) = (after.slot, after.problem.clone());
        let saved = self.world.store.update_registration(&registered.service, &move |state| {
            state.slot = slot;
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
