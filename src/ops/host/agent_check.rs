//! The answer of this host to HAProxy's `agent-check`.
//!
//! Only the record is read. The kernel has a witness of its own: HAProxy's health check passes through the forward, and
//! HAProxy wants both before it shows UP. Reading the kernel here would give HAProxy nothing it does not see, and would
//! cost two programs and the xtables lock every few seconds for every HAProxy. It would also turn a flushed table, which
//! the check shows and `restore` repairs, into a maintenance that no operator requested.

use crate::model::agent_check::AgentCheckConfig;
use crate::model::name::ServiceName;
use crate::plan::agent_check::{self, AgentReply};
use crate::world::HostWorld;
use crate::world::store::StoreError;

pub fn build_line(
    world: &HostWorld,
    service: &ServiceName,
    config: AgentCheckConfig,
) -> Result<AgentReply, StoreError> {
    let recorded = world.store.load_records()?;
    let mine = recorded.iter().find(|record| &record.forward.service == service);
    Ok(agent_check::build_reply(mine.map(|record| record.switch), config))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::model::example;
    use crate::model::port_forward::Switch;
    use crate::world::fake::firewall::FakeFirewall;
    use crate::world::fake::{self, FakeWorld};

    /// A host with `shop` in maintenance and `blog` in service, and a kernel without a single rule.
    fn scene() -> FakeWorld {
        let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&[])));
        for (service, switch) in [("blog", Switch::On), ("shop", Switch::Off)] {
            fake.store.records.lock().unwrap().push(example::make_record(service, switch));
        }
        fake
    }

    #[test]
    fn agent_check_uses_only_the_record_of_its_service() {
        let fake = scene();
        for (service, switch) in [("blog", Some(Switch::On)), ("shop", Some(Switch::Off)), ("other", None)] {
            let config = AgentCheckConfig::default();
            let reply = build_line(&fake.world, &service.parse().unwrap(), config);
            assert_eq!(reply, Ok(agent_check::build_reply(switch, config)), "{service}");
        }
    }

    #[test]
    fn agent_check_fails_when_record_is_unreadable() {
        let fake = scene();
        let full = StoreError::Full { path: PathBuf::from("/state") };
        *fake.store.read_error.lock().unwrap() = Some(full.clone());
        assert_eq!(build_line(&fake.world, &"shop".parse().unwrap(), AgentCheckConfig::default()), Err(full));
    }
}
