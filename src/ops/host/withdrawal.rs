//! Taking this host out of the catalogue's DNS and back. The agent's registration follows the record.

use super::warn::warn;
use crate::model::api::deployments::WithdrawRequest;
use crate::model::failure::ErrorCode;
use crate::model::name::ServiceName;
use crate::model::port_forward::Switch;
use crate::model::registration::RegistrationState;
use crate::ops::host::error_code::store_code;
use crate::plan::owner::check_owner;
use crate::world::HostWorld;
use crate::world::link::{LinkError, LinkResult};
use crate::world::store::{HistoryNote, StoreError};

fn refuse(code: ErrorCode, message: impl Into<String>) -> LinkError {
    LinkError::Refused { code, message: message.into() }
}

fn from_store_error(error: &StoreError) -> LinkError {
    refuse(store_code(error), error.to_string())
}

/// Records that the host leaves DNS. Only a host in maintenance does: the users of its main vhost would be cut off.
pub fn withdraw(
    world: &HostWorld,
    service: &ServiceName,
    request: &WithdrawRequest,
) -> LinkResult<RegistrationState> {
    let store = &world.store;
    let states = store.load_registrations().map_err(|error| from_store_error(&error))?;
    let Some(state) = states.get(service) else {
        let reason = format!("the agent of this host does not register `{service}`");
        return Err(refuse(ErrorCode::Unprocessable, reason));
    };
    let records = store.load_records().map_err(|error| from_store_error(&error))?;
    let record = records.iter().find(|record| record.forward.service == *service);
    if record.is_some_and(|record| record.switch == Switch::On) {
        return Err(refuse(ErrorCode::Unprocessable, "the forward is on: the host has to be in maintenance"));
    }
    let owner = record.and_then(|record| record.owner.as_ref());
    check_owner(owner, &request.actor).map_err(|error| refuse(ErrorCode::Owned, error.to_string()))?;
    if request.dry_run {
        return Ok(state.clone());
    }
    let changed = store.update_registration(service, &|state| state.is_withdrawn = true);
    changed.map_err(|error| from_store_error(&error))?;
    let note = HistoryNote {
        service: service.clone(),
        actor: request.actor.clone(),
        action: "deregister",
        detail: state.slot.map(|slot| format!("slot {slot}")).unwrap_or_default(),
    };
    if let Err(error) = store.add_note(&note, world.clock.now()) {
        warn(world, error.to_string());
    }
    Ok(RegistrationState { is_withdrawn: true, ..state.clone() })
}

/// Records that a host in service is in DNS. A failure is reported: the switch itself was made.
pub fn end_withdrawal(world: &HostWorld, service: &ServiceName) {
    let ended = world.store.load_registrations().and_then(|states| {
        if states.get(service).is_some_and(|state| state.is_withdrawn) {
            return world.store.update_registration(service, &|state| state.is_withdrawn = false);
        }
        Ok(())
    });
    if let Err(error) = ended {
        warn(world, format!("cannot register `{service}` again: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::example;
    use crate::world::fake;
    use crate::world::fake::firewall::FakeFirewall;

    #[test]
    fn only_a_registered_host_in_maintenance_is_withdrawn() {
        let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&[])));
        let service: ServiceName = "shop".parse().unwrap();
        let request = WithdrawRequest { actor: example::make_actor(), dry_run: false };
        let try_withdraw = || match withdraw(&fake.world, &service, &request) {
            Ok(state) => format!("withdrawn: {}", state.is_withdrawn),
            Err(LinkError::Refused { message, .. }) => message,
            Err(error) => error.to_string(),
        };
        fake.store.records.lock().unwrap().push(example::make_record("shop", Switch::On));
        assert_eq!(try_withdraw(), "the agent of this host does not register `shop`");
        fake.store.registrations.lock().unwrap().insert(service.clone(), RegistrationState::default());
        assert_eq!(try_withdraw(), "the forward is on: the host has to be in maintenance");
        fake.store.records.lock().unwrap()[0].switch = Switch::Off;
        assert_eq!(try_withdraw(), "withdrawn: true");
        assert!(fake.store.registrations.lock().unwrap()[&service].is_withdrawn);
        end_withdrawal(&fake.world, &service);
        assert!(!fake.store.registrations.lock().unwrap()[&service].is_withdrawn);
    }
}
