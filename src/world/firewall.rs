//! The kernel's port rules.

use std::time::Duration;

use async_trait::async_trait;

use crate::model::native_rule::NativeRule;
use crate::model::rules::{Family, Table, Tables, Transaction, Variant};

/// Why the rules could not be read or changed. After any of these the table is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirewallError {
    #[error("`{command}` is not installed")]
    Missing { command: String },
    #[error("`{command}` needs the capability `CAP_NET_ADMIN`: {stderr}")]
    NoPrivilege { command: String, stderr: String },
    #[error("another process holds the xtables lock: `{command}` gave up after {}", crate::model::duration::format(*.waited))]
    Locked { command: String, waited: Duration },
    #[error("`{command}` did not end within {}", crate::model::duration::format(*.waited))]
    TimedOut { command: String, waited: Duration },
    #[error("`{command}` failed with status {status}: {stderr}")]
    Failed { command: String, status: i32, stderr: String },
    #[error("the kernel has no {family} nat table: {cause}")]
    NoNat { family: Family, cause: String },
    #[error("`{command}` printed no rule listing: line {line} is: `{found}`")]
    Malformed { command: String, line: usize, found: String },
    #[error("cannot run `{command}`: {reason}")]
    StartFailed { command: String, reason: String },
}

impl FirewallError {
    /// Whether this host cannot have rules of the family at all, in contrast to a failure that may pass.
    pub const fn lacks_nat(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::NoNat { .. })
    }
}

#[async_trait]
pub trait Firewall: Send + Sync {
    /// The address families in which packets reach this host: IPv6 only where the kernel has it switched on.
    async fn families(&self) -> Result<Vec<Family>, FirewallError>;

    /// The nat tables of one family, in both variants. [`FirewallError::NoNat`] where the kernel has none.
    async fn nat(&self, family: Family) -> Result<Tables, FirewallError>;

    /// The filter table: whether the real port is reachable at all.
    async fn filter(&self, family: Family, variant: Variant) -> Result<Table, FirewallError>;

    /// The tables beside nat that decide whether a packet gets through, in both variants: `raw`, `mangle` and `filter`,
    /// each with its name. Those that the kernel does not have are left out.
    async fn packet_tables(&self, family: Family) -> Result<Vec<(String, Table)>, FirewallError>;

    /// The families whose legacy nat table is in the kernel while no program of this host can print it.
    async fn list_hidden_legacy(&self) -> Vec<Family> {
        vec![]
    }

    /// The rules of nftables that no iptables tool prints, as far as a hook reaches them and they decide about a packet to
    /// this host, in the kernel's order for each hook.
    async fn read_native_rules(&self) -> Result<Vec<NativeRule>, FirewallError>;

    /// Makes open connections outlive a moment without our rules: the kernel goes on tracking and translating them even
    /// when iptables' tables are empty. Idempotent; costs milliseconds. Kernels and machines without nftables cannot.
    async fn preserve_connections(&self) -> Result<(), FirewallError> {
        Ok(())
    }

    /// Commits one transaction: all of it or nothing.
    async fn commit(&self, transaction: &Transaction) -> Result<(), FirewallError>;
}
