//! The surroundings of a real host of the site: a store and a kernel in memory that agree with the facts of the site.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::site::{SharedSite, SiteHost};
use crate::model::deployment::Access;
use crate::model::example;
use crate::model::forward::{Intent, ServiceRecord};
use crate::model::health::Health;
use crate::model::history::{Actor, HistoryEntry, OperationId};
use crate::model::name::{HostName, ServiceName};
use crate::model::port_forward::{Forward, Switch};
use crate::model::proxy::Layer7;
use crate::model::rules::{Family, Table, Tables, Variant};
use crate::ops::host::rules::compute_desired;
use crate::plan::firewall;
use crate::world::HostWorld;
use crate::world::fake;
use crate::world::fake::firewall::FakeFirewall;
use crate::world::fake::paused::PausedClock;
use crate::world::fake::store::FakeStore;
use crate::world::probe::{Probe, ProbeError};
use crate::world::store::{ChangeOutcome, HistoryNote, LockGuard, Store, StoreError};

/// The kernel and the record of a host whose forward was switched on once.
pub(super) struct FirstState {
    record: ServiceRecord,
    table: Table,
}

impl FirstState {
    pub(super) fn new_in_service() -> Self {
        let ports = example::make_ports();
        let record = ServiceRecord {
            forward: Forward { service: example::fleet().service, check: ports.check, target: ports.main },
            switch: Switch::On,
            balancer_is_local: false,
            generation: 1,
            changed_at: jiff::Timestamp::UNIX_EPOCH,
            routes: None,
            access: Access::Public,
            trial: None,
            layer7: Layer7::default(),
        };
        let mut table = Table::empty_nat();
        apply_record(&record, &mut table);
        Self { record, table }
    }
}

/// Changes the kernel's table to what a record requests.
fn apply_record(record: &ServiceRecord, table: &mut Table) {
    let tables = Tables { default: Variant::NfTables, nf_tables: Some(table.clone()), legacy: None };
    let desired = compute_desired(std::slice::from_ref(record), &[(Family::V4, tables.clone())]);
    for transaction in firewall::plan_transactions(&desired, &tables, Family::V4) {
        table.apply_transaction(&transaction).unwrap();
    }
}

/// Builds the world of one host. Nothing but its service's forward is recorded there.
pub(super) fn build_host_world(
    name: &HostName,
    site: &SharedSite,
    clock: PausedClock,
    first: &FirstState,
) -> HostWorld {
    let kernel = Arc::new(FakeFirewall::new(&[Family::V4]));
    kernel.tamper(Family::V4, |table| *table = first.table.clone());
    let world = fake::world(vec![], kernel.clone()).world;
    let store = FakeStore::default();
    store.records.lock().unwrap().push(first.record.clone());
    let store = SiteStore { name: name.clone(), site: site.clone(), store, kernel };
    let probe = SiteProbe { name: name.clone(), site: site.clone() };
    HostWorld {
        store: Arc::new(store),
        probe: Arc::new(probe),
        clock: Arc::new(clock),
        commands: Arc::new(site.clone()),
        ..world
    }
}

/// The record of a host. What another operator switched at the site is recorded, and in the kernel, before the record is read;
/// what is recorded here takes place at the site.
struct SiteStore {
    name: HostName,
    site: SharedSite,
    store: FakeStore,
    kernel: Arc<FakeFirewall>,
}

impl SiteStore {
    fn record_others_switch(&self) {
        let (is_on, generation) = self.site.of(&self.name, |host| (host.forward, host.generation));
        let mut records = self.store.records.lock().unwrap();
        let record = &mut records[0];
        if record.generation != generation {
            record.switch = if is_on { Switch::On } else { Switch::Off };
            record.generation = generation;
            self.kernel.tamper(Family::V4, |table| apply_record(record, table));
        }
    }

    fn switch_site(&self) {
        let (switch, generation) = {
            let records = self.store.records.lock().unwrap();
            (records[0].switch, records[0].generation)
        };
        self.site.switch(&self.name, switch == Switch::On, generation);
    }
}

#[async_trait]
impl Store for SiteStore {
    async fn lock(&self, purpose: &str, patience: Duration) -> Result<Box<dyn LockGuard>, StoreError> {
        self.store.lock(purpose, patience).await
    }

    async fn lock_proxy(&self, purpose: &str, patience: Duration) -> Result<Box<dyn LockGuard>, StoreError> {
        self.store.lock_proxy(purpose, patience).await
    }

    fn load_records(&self) -> Result<Vec<ServiceRecord>, StoreError> {
        self.record_others_switch();
        self.store.load_records()
    }

    fn begin(
        &self,
        intent: &Intent,
        now: jiff::Timestamp,
    ) -> Result<(OperationId, ServiceRecord), StoreError> {
        let begun = self.store.begin(intent, now)?;
        self.switch_site();
        Ok(begun)
    }

    fn end(
        &self,
        operation: OperationId,
        actor: &Actor,
        outcome: &ChangeOutcome,
        now: jiff::Timestamp,
    ) -> Result<(), StoreError> {
        self.store.end(operation, actor, outcome, now)?;
        self.switch_site();
        Ok(())
    }

    fn add_note(&self, entry: &HistoryNote, now: jiff::Timestamp) -> Result<(), StoreError> {
        self.store.add_note(entry, now)
    }

    fn load_history(
        &self,
        service: Option<&ServiceName>,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        self.store.load_history(service, limit)
    }
}

/// The answer of the main vhost's real port.
struct SiteProbe {
    name: HostName,
    site: SharedSite,
}

#[async_trait]
impl Probe for SiteProbe {
    async fn check(&self, address: std::net::SocketAddr, health: &Health) -> Result<(), ProbeError> {
        if self.site.of(&self.name, SiteHost::answer_probe) {
            return Ok(());
        }
        let (path, expected) = (health.path.clone(), health.status);
        Err(ProbeError::Status { address, path, found: 500, expected })
    }
}
