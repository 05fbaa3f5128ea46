//! Acting on a host that a finished roll left in maintenance: nobody else continues that roll.

use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::owner::{Owner, check_owner};
use crate::plan::roll::progress::build_progress;
use crate::world::FleetWorld;
use crate::world::reporter::Event;

use super::reach::find_link;

/// Returns the owner of a host's maintenance, or `None` if there is none or the host cannot be read now.
pub(super) async fn read_owner(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Option<Owner> {
    find_link(world, host).ok()?.fetch_activity(&fleet.service, fleet.ports.main).await.ok()?.owner
}

/// Returns the actor for a switch of a host, and reports whom the actor replaces.
pub(super) async fn decide_actor(world: &FleetWorld, fleet: &Fleet, host: &Host, actor: &Actor) -> Actor {
    let owner = read_owner(world, fleet, host).await;
    let actor = derive_actor(world, owner.as_ref(), actor);
    if let Ok(Some(replaced)) = check_owner(owner.as_ref(), &actor) {
        let text = format!("{}: taken over from {replaced}; reason: {}", host.name, actor.purpose);
        world.reporter.report(&Event::Warning { text });
    }
    actor
}

/// Returns the actor for a switch of a host. If the host was left in maintenance by a roll that this journal has as finished,
/// the actor takes it over: nothing waits for that roll any more.
pub(super) fn derive_actor(world: &FleetWorld, owner: Option<&Owner>, actor: &Actor) -> Actor {
    let left_by = owner.filter(|owner| !owner.admits(actor)).and_then(|owner| owner.roll.as_ref());
    let Some(roll) = left_by else { return actor.clone() };
    let entries = world.journal.load(roll, 0).unwrap_or_default();
    if !build_progress(&entries).is_some_and(|progress| progress.is_finished()) {
        return actor.clone();
    }
    let purpose =
        if actor.purpose.is_empty() { format!("roll {roll} is finished") } else { actor.purpose.clone() };
    Actor { takes_over: true, purpose, ..actor.clone() }
}
