//! Acting on hosts that may be in the maintenance of another operation: who may, and on whose behalf.

use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::lock::Liveness;
use crate::model::name::HostName;
use crate::model::owner::Owner;
use crate::plan::owner::{check_owner, claim_owner};
use crate::plan::roll::progress::build_progress;
use crate::world::FleetWorld;
use crate::world::reporter::Event;

use super::reach::find_link;

/// The hosts that other operations took out of service.
pub(super) type OwnedHosts = Vec<(HostName, Owner)>;

/// Formats the hosts of a refusal: `` `web1` was taken out of service by ann on ops1, by hand, since ... ``
pub(super) fn format_owned_hosts(hosts: &OwnedHosts) -> String {
    let one = |(host, owner): &(HostName, Owner)| format!("`{host}` was taken out of service by {owner}");
    hosts.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Returns the owner of a host's maintenance, or `None` if there is none or the host cannot be read now.
pub(super) async fn read_owner(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Option<Owner> {
    find_link(world, host).ok()?.fetch_activity(&fleet.service, fleet.ports.main).await.ok()?.owner
}

/// The actor of a command for each of its hosts: what replaces an owner on one host replaces none on another.
pub(super) struct HostActors {
    of_hosts: Vec<(HostName, Actor)>,
    /// Returns the actor for a host that was not read, which replaces no owner.
    default: Actor,
}

impl HostActors {
    pub(super) fn find(&self, host: &HostName) -> Actor {
        let found = self.of_hosts.iter().find(|(name, _)| name == host);
        found.map_or(&self.default, |(_, actor)| actor).clone()
    }
}

/// Returns the actors for a change of these hosts, before anything is touched, or the hosts that belong to other operations. A
/// host that cannot be read now refuses later by itself.
pub(super) async fn require_owned(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    actor: &Actor,
) -> Result<HostActors, OwnedHosts> {
    let (actors, owned) = claim_hosts(world, fleet, hosts, actor).await;
    if owned.is_empty() { Ok(actors) } else { Err(owned) }
}

/// Returns the actors for these hosts, and the hosts that belong to other operations and will refuse.
pub(super) async fn claim_hosts(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    actor: &Actor,
) -> (HostActors, OwnedHosts) {
    let read = hosts.iter().map(async |host| (host.name.clone(), read_owner(world, fleet, host).await));
    let mut of_hosts = Vec::new();
    let mut owned = OwnedHosts::new();
    for (host, owner) in futures_util::future::join_all(read).await {
        match claim_owner(owner.as_ref(), &derive_actor(world, owner.as_ref(), actor).await) {
            Ok(claim) => of_hosts.push((host, claim)),
            Err(refused) => owned.push((host, *refused.owner)),
        }
    }
    let default = Actor { takes_over: false, replaces: vec![], ..actor.clone() };
    (HostActors { of_hosts, default }, owned)
}

/// Returns the actor for a switch of a host with this owner, and reports whom the actor replaces.
pub(super) async fn decide_actor(
    world: &FleetWorld,
    host: &Host,
    owner: Option<&Owner>,
    actor: &Actor,
) -> Actor {
    let derived = derive_actor(world, owner, actor).await;
    let Ok(claim) = claim_owner(owner, &derived) else { return Actor { takes_over: false, ..derived } };
    if let Ok(Some(replaced)) = check_owner(owner, &claim) {
        let text = format!("{}: taken over from {replaced}; reason: {}", host.name, claim.purpose);
        world.reporter.report(&Event::Warning { text });
    }
    claim
}

/// Returns the actor for a change of a host. A roll that this journal knows is continued where nothing else can: a finished one
/// by every operator, and one that is stopped by the person who started it.
async fn derive_actor(world: &FleetWorld, owner: Option<&Owner>, actor: &Actor) -> Actor {
    let Some(owner) = owner.filter(|owner| !actor.may_change(owner)) else { return actor.clone() };
    let Some(roll) = &owner.roll else { return actor.clone() };
    let Some(progress) = build_progress(&world.journal.load(roll, 0).await.unwrap_or_default()) else {
        return actor.clone();
    };
    if progress.is_finished() {
        let finished = || format!("roll {roll} is finished");
        let purpose = if actor.purpose.is_empty() { finished() } else { actor.purpose.clone() };
        return Actor { takes_over: true, purpose, ..actor.clone() };
    }
    let is_running =
        world.lock.read_holder().await.ok().flatten().is_some_and(|lock| lock.liveness != Liveness::Dead);
    let is_same_person = (&owner.user, &owner.machine) == (&actor.user, &actor.machine);
    if is_same_person && !is_running {
        return Actor { roll: Some(roll.clone()), ..actor.clone() };
    }
    actor.clone()
}
