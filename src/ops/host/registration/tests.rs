use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::*;
use crate::model::example;
use crate::model::name::HostName;
use crate::model::port_forward::Switch;
use crate::model::registration::{CatalogEntry, HostIdentity, RegistrationCheck, SlotClaim};
use crate::world::fake::firewall::FakeFirewall;
use crate::world::fake::{self, FakeWorld};
use crate::world::reporter::Event;

/// A catalogue that several hosts share, with one Consul agent for all.
#[derive(Default)]
struct FakeRegistry {
    registrations: Mutex<BTreeMap<String, Registration>>,
    claims: Mutex<BTreeMap<u16, SlotClaim>>,
    sessions: Mutex<u32>,
    is_down: Mutex<bool>,
    /// Slots that the lock delay protects.
    delayed: Mutex<Vec<u16>>,
    index: Mutex<u64>,
}

impl FakeRegistry {
    fn check(&self) -> RegistryResult<()> {
        if *self.is_down.lock().unwrap() {
            return Err(RegistryError { reason: "connection refused".to_owned() });
        }
        Ok(())
    }

    /// The tags and the check of the entry that load balancers resolve.
    fn describe(&self, host: &str) -> String {
        let all = self.registrations.lock().unwrap();
        let Some(entry) = all.get(&format!("switchman:{host}:shop")) else { return "none".to_owned() };
        let check = entry.check.as_ref().map_or("in DNS", |check| &check.output);
        format!("[{}] {check}", entry.tags.join(" "))
    }

    fn find_main_check(&self, host: &str) -> RegistrationCheck {
        let all = self.registrations.lock().unwrap();
        all[&format!("switchman:{host}:shop-main")].check.clone().unwrap()
    }

    /// Ends the sessions, as the failure of a node does.
    fn end_sessions(&self) {
        for claim in self.claims.lock().unwrap().values_mut() {
            claim.session = None;
        }
    }

    fn list_owners(&self) -> Vec<(u16, String)> {
        let claims = self.claims.lock().unwrap();
        claims.values().map(|claim| (claim.slot, claim.owner.name.to_string())).collect()
    }
}

#[async_trait]
impl Registry for FakeRegistry {
    fn label(&self) -> String {
        "Consul".to_owned()
    }

    async fn list_registrations(&self, host: &HostName) -> RegistryResult<Vec<Registration>> {
        self.check()?;
        let prefix = Registration::id_prefix(host);
        let all = self.registrations.lock().unwrap();
        Ok(all.values().filter(|one| one.id.starts_with(&prefix)).cloned().collect())
    }

    async fn register(&self, registration: &Registration) -> RegistryResult<()> {
        self.check()?;
        self.registrations.lock().unwrap().insert(registration.id.clone(), registration.clone());
        Ok(())
    }

    async fn renew_check(&self, registration: &Registration) -> RegistryResult<()> {
        self.register(registration).await
    }

    async fn deregister(&self, id: &str) -> RegistryResult<()> {
        self.check()?;
        self.registrations.lock().unwrap().remove(id);
        Ok(())
    }

    async fn list_entries(&self, catalog_name: &str) -> RegistryResult<Vec<CatalogEntry>> {
        self.check()?;
        let all = self.registrations.lock().unwrap();
        let entry = |one: &Registration| CatalogEntry {
            node: "n0".to_owned(),
            id: one.id.clone(),
            host: one.meta.get("switchman-host").cloned(),
            tags: one.tags.clone(),
            is_node_failed: false,
        };
        Ok(all.values().filter(|one| one.name == catalog_name).map(entry).collect())
    }

    async fn remove_entry(&self, entry: &CatalogEntry) -> RegistryResult<()> {
        self.deregister(&entry.id).await
    }

    async fn list_claims(&self, _: &str) -> RegistryResult<Vec<SlotClaim>> {
        self.check()?;
        Ok(self.claims.lock().unwrap().values().cloned().collect())
    }

    async fn open_session(&self, _: &HostName) -> RegistryResult<String> {
        self.check()?;
        *self.sessions.lock().unwrap() += 1;
        Ok(format!("session-{}", self.sessions.lock().unwrap()))
    }

    async fn acquire_slot(
        &self,
        _: &str,
        slot: u16,
        session: &str,
        owner: &HostIdentity,
    ) -> RegistryResult<bool> {
        self.check()?;
        let mut claims = self.claims.lock().unwrap();
        let by_other = |claim: &SlotClaim| claim.session.as_ref().is_some_and(|held| held != session);
        let is_held = claims.get(&slot).is_some_and(by_other);
        if is_held || self.delayed.lock().unwrap().contains(&slot) {
            return Ok(false);
        }
        *self.index.lock().unwrap() += 1;
        let modified_index = *self.index.lock().unwrap();
        let session = Some(session.to_owned());
        claims.insert(slot, SlotClaim { slot, owner: owner.clone(), session, modified_index });
        Ok(true)
    }

    async fn release_slot(&self, _: &str, claim: &SlotClaim) -> RegistryResult<()> {
        self.check()?;
        self.claims.lock().unwrap().remove(&claim.slot);
        Ok(())
    }
}

/// A host in service whose vhosts answer.
fn new_host() -> FakeWorld {
    let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&[])));
    fake.store.records.lock().unwrap().push(example::make_record("shop", Switch::On));
    fake
}

fn spec(name: &str, last: u8, slots: u16) -> RegistrationSpec {
    RegistrationSpec {
        host: HostIdentity { name: name.parse().unwrap(), address: [10, 0, 0, last].into() },
        slots,
        services: vec![RegisteredService {
            service: "shop".parse().unwrap(),
            catalog_name: "shop".to_owned(),
            ports: example::make_ports(),
            health: example::fleet().health,
        }],
    }
}

fn state(fake: &FakeWorld) -> RegistrationState {
    fake.store.registrations.lock().unwrap().get(&"shop".parse().unwrap()).cloned().unwrap_or_default()
}

fn withdraw(fake: &FakeWorld, is_withdrawn: bool) {
    let service = "shop".parse().unwrap();
    fake.store.registrations.lock().unwrap().entry(service).or_default().is_withdrawn = is_withdrawn;
}

fn count_warnings(fake: &FakeWorld) -> usize {
    let events = fake.host.events.lock().unwrap();
    events.iter().filter(|event| matches!(event, Event::Warning { .. })).count()
}

/// Lets the agent look as often as it does in a while.
async fn pass(registrar: &mut Registrar<'_>, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        registrar.reconcile().await;
        tokio::time::sleep(RECORD_INTERVAL).await;
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn switch_is_in_the_catalogue_within_a_second_and_the_slot_stays_in_dns() {
    let (registry, fake, spec) = (FakeRegistry::default(), new_host(), spec("web1", 1, 3));
    let mut registrar = Registrar::new(&fake.world, &registry, &spec);
    pass(&mut registrar, SECOND).await;
    assert_eq!(registry.describe("web1"), "[1] in DNS");
    assert!(registry.find_main_check("web1").is_passing);
    fake.store.records.lock().unwrap()[0].switch = Switch::Off;
    pass(&mut registrar, SECOND).await;
    assert_eq!(registry.describe("web1"), "[1] in DNS");
    assert_eq!(registry.find_main_check("web1").output, "the forward is off: maintenance");
    assert_eq!(state(&fake).slot, Some(1));
}

#[tokio::test(start_paused = true)]
async fn slot_is_kept_by_an_agent_that_starts_again_and_by_a_host_whose_session_ended() {
    let (registry, fake, spec) = (FakeRegistry::default(), new_host(), spec("web1", 1, 3));
    let other = self::spec("web2", 2, 3);
    let other_fake = new_host();
    let mut second = Registrar::new(&other_fake.world, &registry, &other);
    pass(&mut second, SECOND).await;
    pass(&mut Registrar::new(&fake.world, &registry, &spec), SECOND).await;
    let owners = vec![(1, "web2".to_owned()), (2, "web1".to_owned())];
    assert_eq!(registry.list_owners(), owners);
    let mut registrar = Registrar::new(&fake.world, &registry, &spec);
    pass(&mut registrar, SECOND).await;
    assert_eq!((registry.list_owners(), *registry.sessions.lock().unwrap()), (owners.clone(), 2));
    // The node failed for a moment: the keys are locked against everyone, and the users stay.
    registry.end_sessions();
    *registry.delayed.lock().unwrap() = vec![1, 2];
    pass(&mut registrar, RENEWAL_INTERVAL * 3).await;
    pass(&mut second, RENEWAL_INTERVAL).await;
    assert_eq!(
        (registry.describe("web1"), registry.describe("web2")),
        ("[2] in DNS".into(), "[1] in DNS".into())
    );
    registry.delayed.lock().unwrap().clear();
    pass(&mut second, RENEWAL_INTERVAL * 2).await;
    pass(&mut registrar, RENEWAL_INTERVAL * 2).await;
    assert_eq!(registry.list_owners(), owners);
    assert!(registry.claims.lock().unwrap().values().all(|claim| claim.session.is_some()));
    assert_eq!(count_warnings(&fake), 0);
}

#[tokio::test(start_paused = true)]
async fn host_without_a_slot_is_listed_and_gets_one_that_is_released() {
    let registry = FakeRegistry::default();
    let (one, two) = (new_host(), new_host());
    let (first, second) = (spec("web1", 1, 1), spec("web2", 2, 1));
    let mut holder = Registrar::new(&one.world, &registry, &first);
    let mut waiting = Registrar::new(&two.world, &registry, &second);
    pass(&mut holder, SECOND).await;
    pass(&mut waiting, SECOND * 20).await;
    let taken = "all 1 slots of `shop` are taken: 1 by web1";
    assert_eq!(registry.describe("web2"), format!("[] {taken}"));
    assert_eq!((state(&two).problem.as_deref(), count_warnings(&two)), (Some(taken), 1));
    // Out of DNS at once, and the slot is free only after HAProxy has forgotten the address.
    withdraw(&one, true);
    pass(&mut holder, SECOND).await;
    assert_eq!(registry.describe("web1"), "none");
    pass(&mut waiting, RENEWAL_INTERVAL).await;
    assert_eq!(registry.describe("web2"), format!("[] {taken}"));
    pass(&mut holder, SECOND * 20).await;
    pass(&mut waiting, RENEWAL_INTERVAL * 2).await;
    assert_eq!(registry.describe("web2"), "[1] in DNS");
    assert_eq!(state(&two).problem, None);
    assert_eq!(state(&one).slot, None);
    // An agent that starts again leaves it out; the operator brings it back.
    pass(&mut Registrar::new(&one.world, &registry, &first), SECOND).await;
    assert_eq!(registry.describe("web1"), "none");
    withdraw(&one, false);
    let wider = RegistrationSpec { slots: 2, ..first.clone() };
    pass(&mut Registrar::new(&one.world, &registry, &wider), SECOND).await;
    assert_eq!(registry.describe("web1"), "[2] in DNS");
}

#[tokio::test(start_paused = true)]
async fn catalogue_that_is_down_is_reported_once_and_registrations_come_back() {
    let (registry, fake, spec) = (FakeRegistry::default(), new_host(), spec("web1", 1, 3));
    let mut registrar = Registrar::new(&fake.world, &registry, &spec);
    pass(&mut registrar, SECOND).await;
    *registry.is_down.lock().unwrap() = true;
    registry.registrations.lock().unwrap().clear();
    registry.claims.lock().unwrap().clear();
    pass(&mut registrar, SECOND * 60).await;
    assert_eq!(count_warnings(&fake), 1);
    *registry.is_down.lock().unwrap() = false;
    pass(&mut registrar, MAX_RETRY_INTERVAL + SECOND).await;
    assert_eq!(registry.describe("web1"), "[1] in DNS");
    assert_eq!(registry.list_owners(), [(1, "web1".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn second_machine_of_one_name_changes_nothing_of_the_first() {
    let registry = FakeRegistry::default();
    let (one, two) = (new_host(), new_host());
    let (first, second) = (spec("web1", 1, 3), spec("web1", 2, 3));
    pass(&mut Registrar::new(&one.world, &registry, &first), SECOND).await;
    let before = registry.registrations.lock().unwrap().clone();
    two.store.records.lock().unwrap()[0].switch = Switch::Off;
    pass(&mut Registrar::new(&two.world, &registry, &second), SECOND * 20).await;
    assert_eq!(*registry.registrations.lock().unwrap(), before);
    assert_eq!(count_warnings(&two), 1);
    assert!(state(&two).problem.unwrap().contains("the names of hosts have to differ"));
}

/// HAProxy resolves as many slots as its configuration has.
#[tokio::test(start_paused = true)]
async fn slot_beyond_a_smaller_number_of_slots_is_exchanged() {
    let (registry, other, fake) = (FakeRegistry::default(), new_host(), new_host());
    let (second, wide, narrow) = (spec("web2", 2, 3), spec("web1", 1, 3), spec("web1", 1, 2));
    let mut holder = Registrar::new(&other.world, &registry, &second);
    pass(&mut holder, SECOND).await;
    pass(&mut Registrar::new(&fake.world, &registry, &wide), SECOND).await;
    let claim = registry.claims.lock().unwrap().remove(&2).unwrap();
    registry.claims.lock().unwrap().insert(3, SlotClaim { slot: 3, ..claim });
    pass(&mut Registrar::new(&fake.world, &registry, &wide), SECOND).await;
    assert_eq!((registry.describe("web1"), state(&fake).slot), ("[3] in DNS".into(), Some(3)));
    pass(&mut Registrar::new(&fake.world, &registry, &narrow), SECOND).await;
    assert_eq!((registry.describe("web1"), state(&fake).slot), ("[2] in DNS".into(), Some(2)));
    assert_eq!(registry.list_owners(), [(1, "web2".to_owned()), (2, "web1".to_owned())]);
}

/// DHCP, or a move to another network: the session in Consul outlives the old address.
#[tokio::test(start_paused = true)]
async fn host_with_another_address_keeps_its_slot_and_can_release_it() {
    let (registry, fake) = (FakeRegistry::default(), new_host());
    let (before, after) = (spec("web1", 1, 3), spec("web1", 7, 3));
    pass(&mut Registrar::new(&fake.world, &registry, &before), SECOND).await;
    let mut registrar = Registrar::new(&fake.world, &registry, &after);
    pass(&mut registrar, SECOND * 20).await;
    assert_eq!(registry.describe("web1"), "[1] in DNS");
    assert_eq!(registry.claims.lock().unwrap()[&1].owner, after.host);
    let entry = registry.registrations.lock().unwrap()["switchman:web1:shop"].clone();
    assert_eq!((entry.address, state(&fake).problem), (after.host.address, None));
    withdraw(&fake, true);
    pass(&mut registrar, SECOND).await;
    // The agent starts again at its old address before the slot is free.
    let mut moved = Registrar::new(&fake.world, &registry, &before);
    pass(&mut moved, SECOND * 30).await;
    assert!(registry.claims.lock().unwrap().is_empty(), "{:?}", registry.list_owners());
}

/// A copy of a virtual machine, with the state of the first one: the one that was there first stops to renew, with a warning.
#[tokio::test(start_paused = true)]
async fn copy_of_a_host_is_reported_and_takes_no_turns() {
    let (registry, fake, copy) = (FakeRegistry::default(), new_host(), new_host());
    let (first, second) = (spec("web1", 1, 3), spec("web1", 2, 3));
    let mut original = Registrar::new(&fake.world, &registry, &first);
    pass(&mut original, SECOND).await;
    copy.store.registrations.lock().unwrap().insert("shop".parse().unwrap(), state(&fake));
    let mut copied = Registrar::new(&copy.world, &registry, &second);
    for _ in 0..5 {
        pass(&mut copied, RENEWAL_INTERVAL).await;
        pass(&mut original, RENEWAL_INTERVAL).await;
    }
    assert_eq!(registry.claims.lock().unwrap()[&1].owner, second.host);
    assert!(state(&fake).problem.unwrap().contains("the names of hosts have to differ"));
    assert_eq!((count_warnings(&fake), count_warnings(&copy)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn stop_of_the_agent_keeps_everything_and_stop_of_the_machine_deregisters() {
    for is_machine_stopping in [false, true] {
        let (registry, fake, spec) = (FakeRegistry::default(), new_host(), spec("web1", 1, 3));
        *fake.versions.is_machine_stopping.lock().unwrap() = is_machine_stopping;
        let stop = async {
            tokio::time::sleep(SECOND * 3).await;
            assert_eq!(registry.describe("web1"), "[1] in DNS");
            fake.stopper.stop();
        };
        tokio::join!(run(&fake.world, &registry, &spec), stop);
        let left = if is_machine_stopping { "none" } else { "[1] in DNS" };
        assert_eq!(registry.describe("web1"), left);
        assert_eq!(registry.list_owners(), [(1, "web1".to_owned())], "the slot waits for the host");
    }
}
