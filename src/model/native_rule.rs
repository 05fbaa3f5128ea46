//! A rule of nftables that no iptables tool manages, as far as it decides about connections to a port.

use std::fmt;

use super::ports::Port;
use super::rules::Family;

/// The effect of a native rule on a packet that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NativeEffect {
    /// The rule redirects or translates the destination.
    Translate,
    Accept,
    Drop,
    /// The rule refuses the packet with an answer.
    Reject,
    /// The rule turns connection tracking off.
    Notrack,
    /// The rule sets a mark, which may choose another routing table.
    Mark,
    /// The rule moves the connection into another zone of connection tracking.
    Zone,
}

/// A native rule that a hook of the kernel reaches, directly or by jumps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeRule {
    /// The family of the table as nft prints it: `ip`, `ip6`, `inet`.
    pub family: String,
    pub table: String,
    pub chain: String,
    pub handle: u64,
    /// The hook and the priority of the base chain from which the rule is reached.
    pub hook: String,
    pub priority: i64,
    /// The type of that chain: `nat`, `filter`, `route`.
    pub chain_type: String,
    /// The rule as nft prints it.
    pub text: String,
    /// The destination ports that the rule matches, with sets and maps resolved; empty: every port.
    pub ports: Vec<(u16, u16)>,
    pub effect: NativeEffect,
    /// Whether the rule matches on more than the destination port and the protocol.
    pub is_conditional: bool,
    /// Whether the rule matches only packets whose destination was translated before: `ct status dnat`.
    pub is_translated_only: bool,
}

impl NativeRule {
    pub fn matches_port(&self, port: Port) -> bool {
        self.ports.is_empty() || self.names_port(port)
    }

    /// Returns whether the rule matches this port by its number.
    pub fn names_port(&self, port: Port) -> bool {
        self.ports.iter().any(|(low, high)| (*low..=*high).contains(&port.get()))
    }

    pub fn matches_family(&self, family: Family) -> bool {
        match self.family.as_str() {
            "ip" => family == Family::V4,
            "ip6" => family == Family::V6,
            _ => true,
        }
    }

    /// Returns the command that deletes the rule.
    pub fn delete_command(&self) -> String {
        format!("nft delete rule {} {} {} handle {}", self.family, self.table, self.chain, self.handle)
    }
}

impl fmt::Display for NativeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}: {} (handle {}, {} priority {})",
            self.family, self.table, self.chain, self.text, self.handle, self.hook, self.priority
        )
    }
}
