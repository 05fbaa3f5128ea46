//! The proof of a forward by packets: sends them, and reads the rules where the answer alone decides nothing.

use std::net::{IpAddr, SocketAddr};

use super::rules::{self, ChangeError};
use crate::model::forward::{ChangeResult, Intent, ServiceRecord};
use crate::model::packet_proof::{DataPortProof, FamilyProof, PacketAnswer, PacketProof, PacketVerdict};
use crate::model::port_forward::Switch;
use crate::model::ports::Port;
use crate::model::rules::Family;
use crate::plan::packet_proof::{Claim, PacketFacts, PortRole, explain_answer, judge_answer};
use crate::world::HostWorld;
use crate::world::packet_probe::PacketProbeError;

/// Makes the intent true, and proves by packets that the check port and the data port do what is recorded. `addresses`: those that
/// balancers use for this host.
pub async fn change_and_prove(
    world: &HostWorld,
    intent: &Intent,
    addresses: &[IpAddr],
) -> Result<ChangeResult, ChangeError> {
    let changed = rules::change(world, intent).await?;
    let Some(record) = rules::read_record(world, &intent.forward.service)? else { return Ok(changed) };
    let proof = prove_forward(world, &record, addresses).await;
    match proof.describe_contradiction() {
        Some(found) => Err(ChangeError::Contradicted { switch: record.switch, found }),
        None => Ok(ChangeResult { packet: Some(proof), ..changed }),
    }
}

/// Proves that the ports of a service do what its record requires.
pub async fn prove_forward(world: &HostWorld, record: &ServiceRecord, addresses: &[IpAddr]) -> PacketProof {
    let check = Claim::from_record(record);
    let data = Claim::from_data_port(record);
    let spread = |claim: Claim| match claim.role {
        PortRole::Check => record.check_targets(),
        PortRole::Data => record.effective_targets(claim.port),
    };
    let claims: Vec<(Claim, Vec<Port>)> =
        std::iter::once(check).chain(data).map(|claim| (claim, spread(claim))).collect();
    let mut proofs = prove_claims(world, &claims, addresses).await.into_iter();
    let families = proofs.next().unwrap_or_default();
    let data = data.zip(proofs.next()).map(|(claim, families)| DataPortProof { port: claim.port, families });
    PacketProof { check: check.port, families, data }
}

/// Proves that users reach a data port. `target` accepts its packets.
pub async fn prove_data_port(
    world: &HostWorld,
    port: Port,
    target: Port,
    addresses: &[IpAddr],
) -> DataPortProof {
    let claims = [(Claim::from_open_port(port, target), vec![target])];
    let families = prove_claims(world, &claims, addresses).await.into_iter().next().unwrap_or_default();
    DataPortProof { port, families }
}

/// Sends a packet to each address for each claim, all of them at once. A claim is proven by any of its targets. Returns the verdicts
/// of each claim.
async fn prove_claims(
    world: &HostWorld,
    claims: &[(Claim, Vec<Port>)],
    wanted: &[IpAddr],
) -> Vec<Vec<FamilyProof>> {
    let unverified = |reason: String| {
        let verdict = PacketVerdict::Unverified { reason };
        vec![vec![FamilyProof { family: Family::V4, address: None, verdict }]; claims.len()]
    };
    let addresses = match world.machine.list_addresses() {
        Ok(addresses) => choose_addresses(&addresses, wanted),
        Err(error) => return unverified(error.to_string()),
    };
    if addresses.is_empty() {
        return unverified("this host has no address but loopback".to_owned());
    }
    let sent: Vec<(&(Claim, Vec<Port>), SocketAddr)> = claims
        .iter()
        .flat_map(|spread| {
            addresses.iter().map(move |address| (spread, SocketAddr::new(*address, spread.0.port.get())))
        })
        .collect();
    let destinations: Vec<SocketAddr> = sent.iter().map(|(_, address)| *address).collect();
    let answers = match world.packets.connect(&destinations).await {
        Ok(answers) => answers,
        Err(error) => return unverified(error.to_string()),
    };
    let mut verdicts = Vec::new();
    for (((claim, targets), address), answer) in sent.into_iter().zip(answers) {
        let claim = answer.as_ref().map_or(*claim, |answer| claim.narrow_to(targets, answer));
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let verdict = judge(world, claim, family, address, answer).await;
        verdicts.push(FamilyProof { family, address: Some(address.ip()), verdict });
    }
    verdicts.chunks(addresses.len()).map(<[FamilyProof]>::to_vec).collect()
}

async fn judge(
    world: &HostWorld,
    claim: Claim,
    family: Family,
    address: SocketAddr,
    answer: Result<PacketAnswer, PacketProbeError>,
) -> PacketVerdict {
    let answer = match answer {
        Err(error) => return PacketVerdict::Unverified { reason: error.to_string() },
        Ok(answer) => answer,
    };
    if let Some(verdict) = judge_answer(claim, address, &answer) {
        return verdict;
    }
    match find_obstacle(world, claim, family).await {
        Some(reason) => PacketVerdict::Unverified { reason },
        None => explain(world, claim, family, address, &answer).await,
    }
}

/// Returns why a forward that is on is not in a family.
async fn find_obstacle(world: &HostWorld, claim: Claim, family: Family) -> Option<String> {
    let is_redirected = claim.port != claim.target;
    if family == Family::V4 || claim.switch == Switch::Off || !is_redirected {
        return None;
    }
    let error = rules::find_ipv6_obstacle(world).await?;
    Some(format!("not covered, so balancers have to use IPv4: {error}"))
}

/// The most addresses that get a packet.
const MAX_ADDRESSES: usize = 8;

/// Chooses the addresses that balancers use, and where none of a family is known to be this host's, the first that the kernel
/// lists.
fn choose_addresses(own: &[IpAddr], wanted: &[IpAddr]) -> Vec<IpAddr> {
    let mut chosen: Vec<IpAddr> = Vec::new();
    for is_v4 in [true, false] {
        let of_family: Vec<IpAddr> =
            own.iter().filter(|address| address.is_ipv4() == is_v4).copied().collect();
        let used: Vec<IpAddr> =
            of_family.iter().filter(|address| wanted.contains(address)).copied().collect();
        chosen.extend(if used.is_empty() { of_family.into_iter().take(1).collect() } else { used });
    }
    chosen.truncate(MAX_ADDRESSES);
    chosen
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
        reason: format!("a packet to port {} {answer}, and the rules cannot be read: {error}", claim.port),
    };
    let (nat, tables) = match (nat, tables) {
        (Ok(nat), Ok(tables)) => (nat, tables),
        (Err(error), _) | (_, Err(error)) => return unreadable(&error),
    };
    let native_obstacle = native.as_ref().err().map(ToString::to_string);
    let processes = world.machine.list_listeners(claim.port).unwrap_or_default();
    let facts = PacketFacts {
        nat: nat.into_iter().find(|(of, _)| *of == family).map(|(_, tables)| tables),
        tables,
        native: native.unwrap_or_default(),
        native_obstacle,
        check_listeners: world.packets.list_listening_addresses(claim.port).ok(),
        target_listeners: world.packets.list_listening_addresses(claim.target).ok(),
        check_processes: processes.iter().map(|one| format!("{} (pid {})", one.name, one.pid)).collect(),
    };
    explain_answer(claim, family, address, answer, &facts)
}
