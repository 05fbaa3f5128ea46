use super::*;

fn host(name: &str, last: u8) -> HostIdentity {
    HostIdentity { name: name.parse().unwrap(), address: [10, 0, 0, last].into() }
}

fn claim(slot: u16, owner: &HostIdentity, is_held: bool) -> SlotClaim {
    let session = is_held.then(|| "s".to_owned());
    SlotClaim { slot, owner: owner.clone(), session, modified_index: 100 - u64::from(slot) }
}

fn entry(host: &str, slot: u16, is_node_failed: bool) -> CatalogEntry {
    CatalogEntry {
        node: format!("node-{host}"),
        id: format!("switchman:{host}:shop"),
        host: Some(host.to_owned()),
        tags: vec![slot.to_string()],
        is_node_failed,
    }
}

/// The slots to try, or the error, of web1 at 10.0.0.1 with three slots.
fn choose(recorded: Option<u16>, claims: &[SlotClaim], entries: &[CatalogEntry]) -> String {
    choose_by(&RegistrationState { slot: recorded, ..RegistrationState::default() }, claims, entries)
}

fn choose_by(recorded: &RegistrationState, claims: &[SlotClaim], entries: &[CatalogEntry]) -> String {
    match choose_slot("shop", &host("web1", 1), recorded, 3, claims, entries) {
        Ok(SlotChoice::Keep { slot }) => format!("keep {slot}"),
        Ok(SlotChoice::Acquire { candidates }) => {
            let one = |candidate: &SlotCandidate| match candidate.stale.len() {
                0 => candidate.slot.to_string(),
                stale => format!("{} without {stale}", candidate.slot),
            };
            candidates.iter().map(one).collect::<Vec<_>>().join(", ")
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn host_keeps_the_slot_that_its_session_holds() {
    let (web1, web2) = (host("web1", 1), host("web2", 2));
    let claims = [claim(1, &web2, true), claim(3, &web1, true)];
    assert_eq!(choose(None, &claims, &[]), "keep 3");
    assert_eq!(choose(Some(2), &claims, &[entry("web2", 1, false)]), "keep 3");
}

#[test]
fn host_returns_to_its_own_slot_first_and_takes_those_of_failed_hosts_last() {
    let (web1, web2) = (host("web1", 1), host("web2", 2));
    assert_eq!(choose(None, &[], &[]), "1, 2, 3");
    assert_eq!(choose(Some(2), &[], &[]), "2, 1, 3", "the key-value store was lost");
    assert_eq!(choose(Some(1), &[claim(3, &web1, false)], &[]), "3, 1, 2", "the session was lost");
    assert_eq!(choose(None, &[claim(1, &web2, false)], &[]), "2, 3, 1", "web2 may be rebooting");
    let claims = [claim(1, &web2, false), claim(2, &host("web3", 3), false), claim(3, &web2, true)];
    assert_eq!(choose(None, &claims, &[]), "2, 1", "the oldest first");
    assert_eq!(choose(Some(9), &claims, &[]), "2, 1", "slot 9 was one of a larger number");
    let beyond = |is_held| [claim(9, &host("web1", 1), is_held)];
    for is_held in [false, true] {
        assert_eq!(choose(Some(9), &beyond(is_held), &[]), "1, 2, 3", "no load balancer resolves slot 9");
    }
}

#[test]
fn slot_of_another_living_host_is_never_taken() {
    let (web2, web3) = (host("web2", 2), host("web3", 3));
    let claims = [claim(1, &web2, false), claim(2, &web2, true), claim(3, &web3, false)];
    let entries = [entry("web2", 1, false), entry("web3", 3, true)];
    assert_eq!(choose(None, &claims, &entries), "3 without 1", "web2 has lost its session and is alive");
    let taken = "all 3 slots of `shop` are taken: 1 by web2, 2 by web2, 3 by web3";
    assert_eq!(choose(None, &claims, &[entry("web2", 1, false), entry("web3", 3, false)]), taken);
    let unclaimed = [entry("a", 1, false), entry("b", 2, false), entry("c", 3, false)];
    assert_eq!(choose(None, &[], &unclaimed), "all 3 slots of `shop` are taken: 1 by a, 2 by b, 3 by c");
}

#[test]
fn second_machine_with_the_same_name_is_refused() {
    let claims = [claim(2, &host("web1", 9), true)];
    assert_eq!(
        choose(None, &claims, &[]),
        "slot 2 of `shop` is taken by `web1` at 10.0.0.9: the names of hosts have to differ"
    );
    // After a reboot the host may have another address.
    assert_eq!(choose(None, &[claim(2, &host("web1", 9), false)], &[]), "2, 1, 3");
}

#[test]
fn host_with_another_address_is_known_by_its_session() {
    let claims = [claim(2, &host("web1", 9), true)];
    let by_session = |session: &str| {
        let session = Some(session.to_owned());
        choose_by(&RegistrationState { slot: Some(2), session, ..RegistrationState::default() }, &claims, &[])
    };
    assert_eq!(by_session("s"), "keep 2");
    assert!(by_session("another").contains("the names of hosts have to differ"));
}
