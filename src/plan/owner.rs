//! Who may change a service that an operation took out of service.

use crate::model::history::Actor;
use crate::model::owner::Owner;

/// The refusal of a change, because another operation took the host out of service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the host was taken out of service by {owner}")]
pub struct OwnedByOther {
    pub owner: Box<Owner>,
}

/// Checks on the host that an actor may change a service that `owner` took out of service. Returns the owner that the actor
/// replaces: one of those that the actor read before, and no one who came since.
pub fn check_owner<'a>(owner: Option<&'a Owner>, actor: &Actor) -> Result<Option<&'a Owner>, OwnedByOther> {
    match owner {
        Some(owner) if actor.may_change(owner) => Ok(None),
        // A takeover has a reason: the host records it.
        Some(owner)
            if actor.replaces.iter().any(|replaced| replaced.is_same(owner))
                && !actor.purpose.trim().is_empty() =>
        {
            Ok(Some(owner))
        }
        Some(owner) => Err(OwnedByOther { owner: Box::new(owner.clone()) }),
        None => Ok(None),
    }
}

/// Returns the actor for a change of one host, whose owner was just read: an actor who takes over replaces exactly this owner.
pub fn claim_owner(owner: Option<&Owner>, actor: &Actor) -> Result<Actor, OwnedByOther> {
    let mut claim = Actor { takes_over: false, ..actor.clone() };
    if let Some(owner) = owner.filter(|owner| actor.takes_over && !actor.may_change(owner)) {
        claim.replaces = vec![owner.clone()];
    }
    check_owner(owner, &claim)?;
    Ok(claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(user: &str, machine: &str, roll: Option<&str>) -> Actor {
        let roll = roll.map(|roll| roll.parse().unwrap());
        Actor { machine: machine.into(), roll, ..Actor::new(user, 7) }
    }

    fn owned_by(actor: &Actor) -> Owner {
        actor.become_owner("disable-forward", jiff::Timestamp::UNIX_EPOCH)
    }

    const ROLL: &str = "r20261121-071503-5f3a";
    const OTHER_ROLL: &str = "r20261121-081503-5f3a";

    #[test]
    fn roll_admits_only_itself_from_any_machine() {
        let owner = owned_by(&actor("alice", "ops1", Some(ROLL)));
        for (other, admitted) in [
            (actor("alice", "ops1", Some(ROLL)), true),
            (actor("bob", "ops2", Some(ROLL)), true),
            (actor("alice", "ops1", Some(OTHER_ROLL)), false),
            (actor("alice", "ops1", None), false),
            (actor("bob", "ops2", None), false),
        ] {
            assert_eq!(check_owner(Some(&owner), &other).is_ok(), admitted, "{other:?}");
        }
    }

    #[test]
    fn maintenance_by_hand_admits_the_person_at_the_same_machine() {
        let owner = owned_by(&actor("alice", "ops1", None));
        for (other, admitted) in [
            (actor("alice", "ops1", None), true),
            (actor("alice", "ops1", Some(ROLL)), true),
            (actor("alice", "ops2", None), false),
            (actor("bob", "ops1", None), false),
            (actor("bob", "ops2", Some(ROLL)), false),
            (Actor { is_host: true, ..actor("switchman", "", None) }, true),
        ] {
            assert_eq!(check_owner(Some(&owner), &other).is_ok(), admitted, "{other:?}");
        }
        assert_eq!(check_owner(None, &actor("bob", "ops2", None)), Ok(None));
    }

    #[test]
    fn takeover_returns_the_replaced_owner() {
        let owner = owned_by(&actor("alice", "ops1", Some(ROLL)));
        let bob = Actor { takes_over: true, ..actor("bob", "ops2", None) };
        assert!(claim_owner(Some(&owner), &bob).is_err(), "without a reason");
        let bob = Actor { purpose: "alice is ill".into(), ..bob };
        assert!(check_owner(Some(&owner), &bob).is_err(), "without the owner that is replaced");
        let bob = claim_owner(Some(&owner), &bob).unwrap();
        assert_eq!(check_owner(Some(&owner), &bob), Ok(Some(&owner)));
        let alice = Actor { takes_over: true, ..actor("alice", "ops1", Some(ROLL)) };
        let alice = claim_owner(Some(&owner), &alice).unwrap();
        assert_eq!(check_owner(Some(&owner), &alice), Ok(None), "an owner takes nothing over");
    }

    #[test]
    fn takeover_replaces_only_the_owner_that_was_read() {
        let alice = owned_by(&actor("alice", "ops1", Some(ROLL)));
        let bob = actor("bob", "ops2", None).with_reason(Some("alice is ill"), true);
        let claim = claim_owner(Some(&alice), &bob).unwrap();
        let carol = owned_by(&actor("carol", "ops3", None));
        assert!(check_owner(Some(&carol), &claim).is_err(), "carol came in between");
        let alice_again = Owner { since: jiff::Timestamp::MAX, ..alice.clone() };
        assert!(check_owner(Some(&alice_again), &claim).is_err(), "another maintenance of alice's");
        let claim = claim_owner(None, &bob).unwrap();
        assert!(check_owner(Some(&carol), &claim).is_err(), "no owner was read");
        let sent = serde_json::to_string(&bob).unwrap();
        let read: Actor = serde_json::from_str(&sent).unwrap();
        assert!(check_owner(Some(&alice), &read).is_err(), "a claim names its owner");
    }

    #[test]
    fn client_cannot_claim_to_be_the_host() {
        let sent = r#"{"user": "bob", "pid": 1, "is_host": true}"#;
        let read = serde_json::from_str::<Actor>(sent);
        assert!(read.is_err() || !read.unwrap().is_host);
    }

    #[test]
    fn owner_is_one_sentence() {
        let mut alice = actor("alice", "ops1", Some(ROLL));
        alice.purpose = "./deploy.sh 2.0.0".into();
        assert_eq!(
            owned_by(&alice).to_string(),
            format!("alice on ops1, roll {ROLL}, since 1970-01-01T00:00:00Z: ./deploy.sh 2.0.0")
        );
        assert_eq!(
            owned_by(&actor("bob", "", None)).to_string(),
            "bob, by hand, since 1970-01-01T00:00:00Z: disable-forward"
        );
    }
}
