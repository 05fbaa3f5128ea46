use super::*;
use crate::model::example::{self, deployment, make_split_request as asking, port};
use crate::model::forward::{Route, Routes};
use crate::model::port_forward::{Forward, Switch};

fn record(main: &Deployment) -> ServiceRecord {
    let leg = |at| Route::new(port(at), main.id.clone(), main.instance.port);
    let service = main.service.clone();
    ServiceRecord {
        forward: Forward { service, check: port(8888), target: main.instance.port },
        routes: Some(Routes::new(leg(8080), leg(80))),
        ..example::make_record("shop", Switch::On)
    }
}

fn mirror(of: &Deployment) -> Mirror {
    Mirror {
        methods: vec!["GET".into()],
        paths: vec!["/api/**".into()],
        without_headers: vec!["authorization".into()],
        compare: true,
        ..example::make_mirror(&of.id)
    }
}

fn set_mirror(of: &Deployment) -> TrafficSplitChange {
    TrafficSplitChange::SetMirror(mirror(of))
}

fn canary(of: &Deployment) -> Canary {
    example::make_canary(&of.id, "100")
}

/// Once enabled, the client's address is forwarded for as long as the proxy is inserted.
#[test]
fn forwarded_is_cleared_with_the_last_split() {
    let all = versions();
    let mut record = record(&all[0]);
    let on = TrafficSplitRequest { forwarded: Some(true), ..asking(set_mirror(&all[1])) };
    record.layer7.traffic_split = apply_change(&record, &all, &on).unwrap();
    record.layer7.place = Some(ProxyPlacement { port: port(29999), inserted: true });
    assert!(build_config(std::slice::from_ref(&record), &all).services[0].traffic_split.forwarded);
    let again = asking(TrafficSplitChange::SetMirror(Mirror { percent: Percent::ZERO, ..mirror(&all[1]) }));
    record.layer7.traffic_split = apply_change(&record, &all, &again).unwrap();
    assert!(record.layer7.traffic_split.forwarded);
    let off = asking(TrafficSplitChange::RemoveMirror(all[1].id.clone()));
    assert_eq!(apply_change(&record, &all, &off), Ok(TrafficSplit::default()));
}

fn versions() -> Vec<Deployment> {
    vec![
        deployment("shop", "1.0.0", 20000),
        deployment("shop", "2.0.0", 20001),
        deployment("blog", "3.0.0", 20002),
    ]
}

#[test]
fn split_refuses_main_and_double_roles() {
    let all = versions();
    let mut record = record(&all[0]);
    let asked = |record: &ServiceRecord, one| apply_change(record, &all, &asking(one));
    let main = asked(&record, set_mirror(&all[0]));
    assert!(matches!(main, Err(TrafficSplitError::IsMain { .. })));
    let stranger = asked(&record, set_mirror(&all[2]));
    assert!(matches!(stranger, Err(TrafficSplitError::Deployment(DeployRefusal::NoVersion(_)))));

    record.layer7.traffic_split = asked(&record, set_mirror(&all[1])).unwrap();
    let shadow = asked(&record, TrafficSplitChange::SetCanary(canary(&all[1])));
    assert!(matches!(shadow, Err(TrafficSplitError::RoleConflict { .. })));
    let half = Mirror { percent: "50".parse().unwrap(), ..mirror(&all[1]) };
    let changed = asked(&record, TrafficSplitChange::SetMirror(half.clone())).unwrap();
    assert_eq!(changed.mirrors, [half]);
    let off = asked(&record, TrafficSplitChange::RemoveMirror(all[1].id.clone())).unwrap();
    assert!(off.is_empty());

    record.access = Access::Private;
    let private = asked(&record, set_mirror(&all[1]));
    assert!(matches!(private, Err(TrafficSplitError::Private(_))));
}

#[test]
fn split_refuses_invalid_headers_and_paths() {
    let all = versions();
    let record = record(&all[0]);
    let bad =
        |one| matches!(apply_change(&record, &all, &asking(one)), Err(TrafficSplitError::BadText { .. }));
    let with = |change: fn(&mut Mirror)| {
        let mut one = mirror(&all[1]);
        change(&mut one);
        TrafficSplitChange::SetMirror(one)
    };
    assert!(bad(with(|one| one.methods = vec!["GE T".into()])));
    assert!(bad(with(|one| one.methods = vec!["get".into()])));
    assert!(bad(with(|one| one.paths = vec!["api".into()])));
    assert!(bad(with(|one| one.paths = vec!["/a\nb".into()])));
    assert!(bad(with(|one| one.without_headers = vec!["a: b".into()])));
    let with = |change: fn(&mut Canary)| {
        let mut one = canary(&all[1]);
        change(&mut one);
        TrafficSplitChange::SetCanary(one)
    };
    let mark =
        |name: &str, value: Option<&str>| FieldMatch { name: name.into(), value: value.map(Into::into) };
    assert!(bad(with(|one| one.sticky = Some(Sticky::Header("x y".into())))));
    let header = |mark| TrafficSplitChange::SetCanary(Canary { header: Some(mark), ..canary(&all[1]) });
    assert!(bad(header(mark("x-beta:", None))));
    assert!(bad(header(mark("x-beta", Some("a\r\nb: c")))));
    // Seed row E7: presence counts, and a value may be empty.
    assert!(apply_change(&record, &all, &asking(header(mark("X-MISTERY-SHOPPER", None)))).is_ok());
    assert!(apply_change(&record, &all, &asking(header(mark("X-MISTERY-SHOPPER", Some(""))))).is_ok());
    let nothing = with(|one| one.percent = None);
    assert_eq!(apply_change(&record, &all, &asking(nothing)), Err(TrafficSplitError::EmptyCanary));
}

#[test]
fn proxy_config_has_no_split_unless_inserted() {
    let all = versions();
    let mut record = record(&all[0]);
    let place = |inserted| Some(ProxyPlacement { port: port(29999), inserted });
    record.layer7 = Layer7 {
        traffic_split: TrafficSplit { mirrors: vec![mirror(&all[1])], ..TrafficSplit::default() },
        place: place(false),
    };
    let told =
        |record: &ServiceRecord| build_config(std::slice::from_ref(record), &all).services.pop().unwrap();
    assert_eq!(derive_placement(&record), DesiredPlacement::Inserted(port(29999)));
    assert!(told(&record).traffic_split.is_empty() && !told(&record).draining);
    record.layer7.place = place(true);
    assert_eq!(told(&record).traffic_split.mirrors, [mirror(&all[1])]);
    assert_eq!(told(&record).main.address.port(), 20000);
    assert_eq!(told(&record).other_upstreams.len(), 1);
    // A shadow that no longer exists gets no request.
    let main_alone = build_config(&[record.clone()], &all[..1]).services.pop().unwrap();
    assert!(main_alone.traffic_split.is_empty());
    record.layer7.traffic_split = TrafficSplit::default();
    assert_eq!(derive_placement(&record), DesiredPlacement::Bypassed(port(29999)));
    assert!(told(&record).draining);
    record.layer7.place = None;
    assert_eq!(derive_placement(&record), DesiredPlacement::Unneeded);
    assert_eq!(build_config(&[record], &all).services, []);
}

#[test]
fn placement_refuses_an_outdated_insert() {
    let all = versions();
    let mut record = record(&all[0]);
    record.layer7.place = Some(ProxyPlacement { port: port(29999), inserted: false });
    assert_eq!(set_inserted(&record, port(29999), true), None);
    record.layer7.traffic_split.canary = Some(canary(&all[1]));
    assert!(set_inserted(&record, port(29999), true).is_some());
    assert_eq!(set_inserted(&record, port(29998), true), None);
    assert_eq!(set_inserted(&record, port(29999), false), None);
}

#[test]
fn revert_keeps_changes_of_others() {
    let all = versions();
    let (two, three) = (&all[1], &all[2]);
    let with = |mirrors: &[Mirror], canary: Option<Canary>| TrafficSplit {
        mirrors: mirrors.to_vec(),
        canary,
        ..TrafficSplit::default()
    };
    let (before, after) = (with(&[], Some(canary(three))), with(&[mirror(two)], Some(canary(three))));
    assert_eq!(revert_change(&after, &before, &after, &all), before);
    // In between the canary was removed, the mirror changed, or its version killed.
    assert_eq!(revert_change(&with(&[mirror(two)], None), &before, &after, &all), with(&[], None));
    let changed = with(&[Mirror { percent: Percent::ZERO, ..mirror(two) }], Some(canary(three)));
    assert_eq!(revert_change(&changed, &before, &after, &all), changed);
    assert_eq!(revert_change(&after, &before, &after, &all[..2]), with(&[], None));
    // What was taken away comes back.
    assert_eq!(revert_change(&before, &after, &before, &all), after);
}
