//! The slot that a host takes among those of a service.
//!
//! A load balancer resolves one name for each slot, and takes its answer for both vhosts of a host. Two hosts must never have one
//! slot. What holds that, from the strongest to the weakest:
//!
//! 1. A slot is a key that one session at a time can hold. The session ends when the node fails (`serfHealth`), and Consul then
//!    refuses the key to everyone for the lock delay of 15 s
//!    (<https://developer.hashicorp.com/consul/docs/dynamic-app-config/sessions>). It has no TTL: an agent that is down, or that is
//!    being updated, loses nothing.
//! 2. The same failure removes the host from DNS: Consul's DNS leaves out every service of a failed node. So the name has no
//!    address before the key is free.
//! 3. A slot is not taken from a host whose node is alive and whose registration has the slot, also where its session is lost:
//!    an operator may have destroyed it. That host takes its slot back.
//! 4. Slots that no host has claimed come first, so that a host that reboots finds its own slot again. A slot of a failed host
//!    comes last, and the stale registration is removed from the catalogue before.
//! 5. A failed node that comes back may register the old slot again until its switchman agent has read the claim, which takes
//!    seconds at most. The agent then withdraws the registration. HAProxy keeps the address that it has for as long as the answer
//!    contains it, so it does not move in between.
//! 6. A host whose address changed is known by the session that it has recorded: it keeps its slot, and writes its new address
//!    into the claim. Another machine of the same name has another session.

use crate::model::registration::{CatalogEntry, HostIdentity, RegistrationState, SlotClaim};

/// What a host does about its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotChoice {
    /// The host holds this slot.
    Keep { slot: u16 },
    /// The slots to try in this order.
    Acquire { candidates: Vec<SlotCandidate> },
}

/// A slot that the host may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotCandidate {
    pub slot: u16,
    /// Whether the claim names this host: its session has ended.
    pub is_own: bool,
    /// Registrations of failed hosts that have to be removed first.
    pub stale: Vec<CatalogEntry>,
}

/// Why a host has no slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    #[error("all {count} slots of `{name}` are taken: {}", .owners.join(", "))]
    AllTaken { name: String, count: u16, owners: Vec<String> },
    #[error("slot {slot} of `{name}` is taken by {owner}: the names of hosts have to differ")]
    NameInUse { name: String, slot: u16, owner: HostIdentity },
    #[error("no slot of `{name}` can be acquired yet: Consul keeps a slot for 15 s after its host failed")]
    Delayed { name: String },
}

/// Chooses the slot of a host. `recorded` has the slot and the session that it had last.
pub fn choose_slot(
    name: &str,
    host: &HostIdentity,
    recorded: &RegistrationState,
    count: u16,
    claims: &[SlotClaim],
    entries: &[CatalogEntry],
) -> Result<SlotChoice, SlotError> {
    let mut named = claims.iter().filter(|claim| claim.owner.name == host.name);
    if let Some(other) = named.find(|claim| !is_own_claim(claim, host, recorded)) {
        let (name, owner) = (name.to_owned(), other.owner.clone());
        return Err(SlotError::NameInUse { name, slot: other.slot, owner });
    }
    let is_valid = |slot: u16| (1..=count).contains(&slot);
    let mut own = claims.iter().filter(|claim| claim.owner.name == host.name && is_valid(claim.slot));
    if let Some(held) = own.clone().find(|claim| claim.session.is_some()) {
        return Ok(SlotChoice::Keep { slot: held.slot });
    }
    let find_claim = |slot: u16| claims.iter().find(|claim| claim.slot == slot);
    let is_unclaimed = |slot: &u16| find_claim(*slot).is_none();
    let mut failed: Vec<&SlotClaim> = claims.iter().filter(|claim| is_valid(claim.slot)).collect();
    failed.sort_by_key(|claim| claim.modified_index);
    let mut order: Vec<u16> = Vec::new();
    order.extend(own.next().map(|claim| claim.slot));
    order.extend(recorded.slot.filter(|slot| is_valid(*slot)).filter(is_unclaimed));
    order.extend((1..=count).filter(is_unclaimed));
    order.extend(failed.iter().map(|claim| claim.slot));
    let mut candidates: Vec<SlotCandidate> = Vec::new();
    for slot in order {
        let is_known = candidates.iter().any(|candidate| candidate.slot == slot);
        if is_known || find_claim(slot).is_some_and(|claim| claim.session.is_some()) {
            continue;
        }
        let stale = find_entries_of_others(host, slot, entries);
        if stale.iter().all(|entry| entry.is_node_failed) {
            let is_own = find_claim(slot).is_some_and(|claim| claim.owner.name == host.name);
            candidates.push(SlotCandidate { slot, is_own, stale: stale.into_iter().cloned().collect() });
        }
    }
    if candidates.is_empty() {
        let owners = (1..=count).map(|slot| describe_owner(slot, find_claim(slot), host, entries)).collect();
        return Err(SlotError::AllTaken { name: name.to_owned(), count, owners });
    }
    Ok(SlotChoice::Acquire { candidates })
}

/// Returns whether a claim is this host's. Of two machines that have one name, each finds the other's claim held by a session
/// that it does not know. Without a session the host had failed, and may have another address since.
pub fn is_own_claim(claim: &SlotClaim, host: &HostIdentity, recorded: &RegistrationState) -> bool {
    let is_recorded = claim.session == recorded.session;
    claim.owner.name == host.name
        && (claim.session.is_none() || is_recorded || claim.owner.address == host.address)
}

fn find_entries_of_others<'a>(
    host: &HostIdentity,
    slot: u16,
    entries: &'a [CatalogEntry],
) -> Vec<&'a CatalogEntry> {
    let tag = slot.to_string();
    let is_other = |entry: &&CatalogEntry| entry.host.as_deref() != Some(host.name.as_str());
    entries.iter().filter(|entry| entry.tags.contains(&tag)).filter(is_other).collect()
}

fn describe_owner(
    slot: u16,
    claim: Option<&SlotClaim>,
    host: &HostIdentity,
    entries: &[CatalogEntry],
) -> String {
    let claimed = claim.map(|claim| claim.owner.name.to_string());
    let registered = || {
        let others = find_entries_of_others(host, slot, entries);
        others.first().map(|entry| entry.host.clone().unwrap_or_else(|| entry.node.clone()))
    };
    format!("{slot} by {}", claimed.or_else(registered).unwrap_or_else(|| "another host".to_owned()))
}

#[cfg(test)]
mod tests;
