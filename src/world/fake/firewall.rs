//! A kernel's nat tables in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::model::native_rule::NativeRule;
use crate::model::rules::{Family, Table, Tables, Transaction, Variant};
use crate::world::firewall::{Firewall, FirewallError};

pub struct FakeFirewall {
    tables: Mutex<BTreeMap<Family, Tables>>,
    /// Everything that was committed.
    pub committed: Mutex<Vec<Transaction>>,
    /// The number of next commits of a family that fail.
    pub failures_left: Mutex<BTreeMap<Family, u32>>,
    changed_at: Mutex<Option<Instant>>,
    pub fuse: Mutex<crate::world::fake::fuse::FailurePoint>,
}

impl FakeFirewall {
    pub fn new(families: &[Family]) -> Self {
        let tables = Tables { default: Variant::NfTables, nf_tables: Some(Table::empty_nat()), legacy: None };
        Self {
            tables: Mutex::new(families.iter().map(|family| (*family, tables.clone())).collect()),
            committed: Mutex::default(),
            failures_left: Mutex::default(),
            changed_at: Mutex::default(),
            fuse: Mutex::default(),
        }
    }

    pub fn table(&self, family: Family) -> Table {
        self.tables.lock().unwrap()[&family].nf_tables.clone().unwrap()
    }

    /// Changes the table as another process does.
    pub fn tamper(&self, family: Family, change: impl FnOnce(&mut Table)) {
        change(self.tables.lock().unwrap().get_mut(&family).unwrap().nf_tables.as_mut().unwrap());
    }

    /// Whether any forward is on, and since when it has been as it is.
    pub fn read_forward_state(&self) -> (bool, Option<Instant>) {
        let tables = self.tables.lock().unwrap();
        let on = tables.values().any(|tables| {
            let table = tables.nf_tables.as_ref().unwrap();
            table.rules.iter().any(|rule| rule.option_value("-j") == Some("REDIRECT"))
        });
        (on, *self.changed_at.lock().unwrap())
    }
}

#[async_trait]
impl Firewall for FakeFirewall {
    async fn families(&self) -> Result<Vec<Family>, FirewallError> {
        Ok(self.tables.lock().unwrap().keys().copied().collect())
    }

    async fn nat(&self, family: Family) -> Result<Tables, FirewallError> {
        Ok(self.tables.lock().unwrap()[&family].clone())
    }

    async fn filter(&self, _: Family, _: Variant) -> Result<Table, FirewallError> {
        Ok(Table::default())
    }

    async fn packet_tables(&self, _: Family) -> Result<Vec<(String, Table)>, FirewallError> {
        Ok(vec![])
    }

    async fn read_native_rules(&self) -> Result<Vec<NativeRule>, FirewallError> {
        Ok(vec![])
    }

    async fn commit(&self, transaction: &Transaction) -> Result<(), FirewallError> {
        let command =
            format!("{}-{}-restore", transaction.family.command_stem(), transaction.variant.infix());
        let killed = || FirewallError::StartFailed { command: command.clone(), reason: "killed".into() };
        self.fuse.lock().unwrap().proceed_or(killed)?;
        if let Some(left) = self.failures_left.lock().unwrap().get_mut(&transaction.family)
            && *left > 0
        {
            *left -= 1;
            return Err(FirewallError::Failed { command, status: 1, stderr: "made to fail".into() });
        }
        let mut tables = self.tables.lock().unwrap();
        let table = tables.get_mut(&transaction.family).unwrap().nf_tables.as_mut().unwrap();
        let restored = table.apply_transaction(transaction);
        restored.map_err(|error| FirewallError::Failed { command, status: 2, stderr: error.to_string() })?;
        self.committed.lock().unwrap().push(transaction.clone());
        *self.changed_at.lock().unwrap() = Some(Instant::now());
        Ok(())
    }
}
