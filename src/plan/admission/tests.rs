use super::*;

const LIMITS: AdmissionLimits =
    AdmissionLimits { pending: 8, pending_per_source: 4, admitted: 2, min_age: Duration::ZERO };

fn address(last: u8) -> IpAddr {
    [127, 0, 0, last].into()
}

fn table(limits: AdmissionLimits) -> (AdmissionTable, Instant) {
    (AdmissionTable::new(limits), Instant::now())
}

#[test]
fn source_at_its_limit_displaces_its_own_oldest() {
    let (mut table, now) = table(LIMITS);
    let (other, _) = table.enter(address(9), now);
    let first = table.enter(address(1), now).0;
    let second = table.enter(address(1), now).0;
    assert_eq!([(); 2].map(|()| table.enter(address(1), now).1), [vec![], vec![]]);
    assert_eq!(table.enter(address(1), now).1, vec![first]);
    assert_eq!(table.enter(address(1), now).1, vec![second]);
    assert_eq!(table.admit(other), AdmissionResult::Admitted, "another source loses nothing");
}

/// An operator at the address of many clients without a token has just connected, and is not displaced by theirs.
#[test]
fn full_table_displaces_oldest_of_all_sources() {
    let (mut table, now) = table(LIMITS);
    let entered: Vec<_> = (0..LIMITS.pending)
        .map(|number| table.enter(address(u8::try_from(number / 2).unwrap()), now).0)
        .collect();
    for (number, oldest) in entered.into_iter().enumerate() {
        let (id, displaced) = table.enter(address(u8::try_from(100 + number).unwrap()), now);
        assert_eq!(displaced, vec![oldest]);
        assert!(id > oldest);
    }
    assert_eq!(table.count_pending(), LIMITS.pending);
}

#[test]
fn pending_connections_take_no_share_of_admitted_ones() {
    let (mut table, now) = table(LIMITS);
    let operator = table.enter(address(1), now).0;
    assert_eq!(table.admit(operator), AdmissionResult::Admitted);
    for attempt in 0..300 {
        let displaced = table.enter(address(u8::try_from(attempt % 50).unwrap()), now).1;
        assert!(!displaced.contains(&operator));
    }
    let second = table.enter(address(1), now).0;
    assert_eq!(table.admit(second), AdmissionResult::Admitted);
    let third = table.enter(address(1), now).0;
    assert_eq!(table.admit(third), AdmissionResult::Full);
    table.leave(operator);
    assert_eq!(table.admit(third), AdmissionResult::Admitted);
    assert_eq!(table.count_admitted(), 2);
}

#[test]
fn displaced_connection_is_not_admitted() {
    let (mut table, now) = table(AdmissionLimits { pending_per_source: 1, ..LIMITS });
    let first = table.enter(address(1), now).0;
    assert_eq!(table.enter(address(1), now).1, vec![first]);
    assert_eq!(table.admit(first), AdmissionResult::Displaced);
}

#[test]
fn young_connection_is_not_displaced() {
    let min_age = Duration::from_secs(1);
    let (mut table, now) = table(AdmissionLimits { min_age, ..LIMITS });
    let first = table.enter(address(1), now).0;
    for _ in 0..20 {
        assert_eq!(table.enter(address(1), now + Duration::from_millis(999)).1, vec![]);
    }
    assert_eq!(table.displace_oldest(now), None);
    let displaced = table.enter(address(1), now + min_age).1;
    assert_eq!(displaced, [first], "the others are younger");
    let displaced = table.enter(address(1), now + min_age * 2).1;
    assert_eq!((displaced.len(), table.count_pending()), (18, LIMITS.pending_per_source));
    assert!(table.displace_oldest(now + min_age * 2).is_some());
}

#[test]
fn network_of_ipv6_client_is_one_source() {
    let (mut table, now) = table(LIMITS);
    let own = |last: u16| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last));
    let first = table.enter(own(1), now).0;
    for last in 2..5 {
        assert_eq!(table.enter(own(last), now).1, vec![]);
    }
    assert_eq!(table.enter(own(5), now).1, vec![first]);
    let mapped = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    assert_eq!(find_source(mapped.into()), address(1), "a mapped address is its IPv4 address");
}

#[test]
fn memory_budget_bounds_all_connections() {
    let limits = AdmissionLimits::from_budget(32 << 20, 64 << 10);
    assert_eq!((limits.pending, limits.pending_per_source, limits.admitted), (256, 64, 256));
    let limits = AdmissionLimits::without_credentials(8 << 20, 64 << 10);
    assert_eq!((limits.pending, limits.pending_per_source, limits.admitted), (128, 32, 0));
}

#[test]
fn log_limit_counts_suppressed_lines() {
    let (mut limit, now) = (LogLimit::new(2, Duration::from_secs(10)), Instant::now());
    assert_eq!([(); 4].map(|()| limit.take(now)), [Some(0), Some(0), None, None]);
    assert_eq!(limit.take(now + Duration::from_secs(10)), Some(2));
    assert_eq!(limit.take(now + Duration::from_secs(11)), Some(0));
}
