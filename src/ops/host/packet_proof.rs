//! The proof of a forward by packets: sends them, and reads the rules where the answer alone decides nothing.

use std::net::{IpAddr, SocketAddr};

use super::rules::{self, ChangeError};
use crate::model::forward::{ChangeResult, Intent, ServiceRecord};
use crate::model::packet_proof::{FamilyProof, PacketAnswer, PacketProof, PacketVerdict};
use crate::model::port_forward::Switch;
use crate::model::ports::Port;
use crate::model::rules::Family;
use crate::plan::packet_proof::{Claim, PacketFacts, explain_answer, judge_answer};
use crate::world::HostWorld;

/// Makes the intent true, and proves by packets that the check port does what is recorded.
pub async fn change_and_prove(world: &HostWorld, intent: &Intent) -> Result<ChangeResult, ChangeError> {
    let changed = rules::change(world, intent).await?;
    let Some(record) = rules::read_record(world, &intent.forward.service)? else { return Ok(changed) };
    let proof = prove_forward(world, &record).await;
    match proof.describe_contradiction() {
        Some(text) => Err(ChangeError::Contradicted(text)),
        None => Ok(ChangeResult { packet: Some(proof), ..changed }),
    }
}

/// Proves that the check port of a service does what its record requires.
pub async fn prove_forward(world: &HostWorld, record: &ServiceRecord) -> PacketProof {
    let claim = Claim::from_record(record);
    let unverified = |reason: String| {
        let verdict = PacketVerdict::Unverified { reason };
        PacketProof { check: claim.check, families: vec![FamilyProof { family: Family::V4, verdict }] }
    };
    let addresses = match world.machine.list_addresses() {
        Ok(addresses) => choose_addresses(&addresses, claim.check),
        Err(error) => return unverified(error.to_string()),
    };
    if addresses.is_empty() {
        return unverified("this host has no address but loopback".to_owned());
    }
    let answers = match world.packets.connect(&addresses).await {
        Ok(answers) => answers,
        Err(error) => return unverified(error.to_string()),
    };
    let mut families = Vec::new();
    for (address, answer) in addresses.into_iter().zip(answers) {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let verdict = match answer {
            Err(error) => PacketVerdict::Unverified { reason: error.to_string() },
            Ok(answer) => match judge_answer(claim, address, &answer) {
                Some(verdict) => verdict,
                None => match find_obstacle(world, claim, family).await {
                    Some(reason) => PacketVerdict::Unverified { reason },
                    None => explain(world, claim, family, address, &answer).await,
                },
            },
        };
        families.push(FamilyProof { family, verdict });
    }
    PacketProof { check: claim.check, families }
}

/// Returns why a forward that is on is not in a family.
async fn find_obstacle(world: &HostWorld, claim: Claim, family: Family) -> Option<String> {
    if family == Family::V4 || claim.switch == Switch::Off {
        return None;
    }
    let error = rules::find_ipv6_obstacle(world).await?;
    Some(format!("not covered, so balancers have to use IPv4: {error}"))
}

/// One address of each family: the first that the kernel lists.
fn choose_addresses(addresses: &[IpAddr], check: Port) -> Vec<SocketAddr> {
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    let v6 = addresses.iter().find(|address| address.is_ipv6());
    v4.into_iter().chain(v6).map(|address| SocketAddr::new(*address, check.get())).collect()
}

async fn explain(
    world: &HostWorld,
    claim: Claim,
    family: Family,
    address: SocketAddr,
    answer: &PacketAnswer,
) -> PacketVerdict {
    let (nat, tables, native) = tokio::join!(
        rules::observe(world),
        world.firewall.packet_tables(family),
        world.firewall.read_native_rules(),
    );
    let unreadable = |error: &dyn std::fmt::Display| PacketVerdict::Unverified {
        reason: format!("a packet to port {} {answer}, and the rules cannot be read: {error}", claim.check),
    };
    let (nat, tables, native) = match (nat, tables, native) {
        (Ok(nat), Ok(tables), Ok(native)) => (nat, tables, native),
        (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => return unreadable(&error),
    };
    let processes = world.machine.list_listeners(claim.check).unwrap_or_default();
    let facts = PacketFacts {
        nat: nat.into_iter().find(|(of, _)| *of == family).map(|(_, tables)| tables),
        tables,
        native,
        check_listeners: world.packets.list_listening_addresses(claim.check),
        target_listeners: world.packets.list_listening_addresses(claim.target),
        check_processes: processes.iter().map(|one| format!("{} (pid {})", one.name, one.pid)).collect(),
    };
    explain_answer(claim, family, address, answer, &facts)
}
