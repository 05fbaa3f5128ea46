//! The surroundings of a real host of the site: a store and a kernel in memory that agree with the facts of the site.

use std::sync::Arc;

use async_trait::async_trait;

use super::site::{SharedSite, SiteHost};
use crate::model::example;
use crate::model::forward::ServiceRecord;
use crate::model::health::Health;
use crate::model::name::HostName;
use crate::model::port_forward::Switch;
use crate::model::rules::{Family, Table, Tables, Variant};
use crate::ops::host::rules::compute_desired;
use crate::plan::firewall;
use crate::world::HostWorld;
use crate::world::fake;
use crate::world::fake::firewall::FakeFirewall;
use crate::world::fake::paused::PausedClock;
use crate::world::fake::store::{FakeStore, StoreObserver};
use crate::world::probe::{Probe, ProbeError};

/// The kernel and the record of a host whose forward was switched on once.
pub(super) struct FirstState {
    record: ServiceRecord,
    table: Table,
}

impl FirstState {
    pub(super) fn new_in_service() -> Self {
        let record = example::make_record("shop", Switch::On);
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
    let observer = SiteObserver { name: name.clone(), site: site.clone(), kernel };
    let store = FakeStore::with_observer(first.record.clone(), observer);
    let probe = SiteProbe { name: name.clone(), site: site.clone() };
    HostWorld {
        store: Arc::new(store),
        probe: Arc::new(probe),
        clock: Arc::new(clock),
        commands: Arc::new(site.clone()),
        ..world
    }
}

/// Keeps the record of a host and the facts of the site the same. What another operator switched at the site is recorded, and in
/// the kernel, before the record is read; what is recorded here takes place at the site.
struct SiteObserver {
    name: HostName,
    site: SharedSite,
    kernel: Arc<FakeFirewall>,
}

impl StoreObserver for SiteObserver {
    fn prepare_read(&self, records: &mut [ServiceRecord]) {
        let (is_on, generation) = self.site.of(&self.name, |host| (host.forward, host.generation));
        let record = &mut records[0];
        if record.generation != generation {
            record.switch = if is_on { Switch::On } else { Switch::Off };
            record.generation = generation;
            self.kernel.tamper(Family::V4, |table| apply_record(record, table));
        }
    }

    fn notice_change(&self, records: &[ServiceRecord]) {
        self.site.switch(&self.name, records[0].switch == Switch::On, records[0].generation);
    }
}

/// The answer of the main vhost's real port.
struct SiteProbe {
    name: HostName,
    site: SharedSite,
}

#[async_trait]
impl Probe for SiteProbe {
    async fn ask(&self, address: std::net::SocketAddr, health: &Health) -> Result<(), ProbeError> {
        if self.site.of(&self.name, SiteHost::answer_probe) {
            return Ok(());
        }
        let (path, expected) = (health.path.clone(), health.status);
        Err(ProbeError::Status { address, path, found: 500, expected })
    }
}
