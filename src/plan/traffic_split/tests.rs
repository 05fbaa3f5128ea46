use super::*;
use crate::model::example::{deployment, port};
use crate::model::forward::{Forward, Leg, Routes, Switch};

fn record(main: &Deployment) -> Recorded {
    let leg = |at| Leg { port: port(at), deployment: main.id.clone(), target: main.instance.port };
    let service = main.service.clone();
    Recorded {
        forward: Forward { service, check: port(8888), target: main.instance.port },
        switch: Switch::On,
        from_self: false,
        generation: 1,
        changed_at: jiff::Timestamp::UNIX_EPOCH,
        routes: Some(Routes { main: leg(8080), backup: leg(80), previous: None }),
        access: Access::Public,
        trial: None,
        layer7: Layer7::default(),
    }
}

fn mirror(of: &Deployment) -> Mirror {
    Mirror {
        deployment: of.id.clone(),
        percent: Percent::ALL,
        methods: vec!["GET".into()],
        paths: vec!["/api/**".into()],
        without_headers: vec!["authorization".into()],
        compare: true,
        control: Percent::ZERO,
    }
}

fn canary(of: &Deployment) -> Canary {
    Canary {
        deployment: of.id.clone(),
        percent: Some(Percent::ALL),
        sticky: None,
        header: None,
        cookie: None,
    }
}

fn asking(change: SplitChange) -> SplitRequest {
    let actor = Actor { user: "ops".into(), pid: 7 };
    SplitRequest { change, range: (port(20000), port(29999)), forwarded: None, actor, detail: String::new() }
}

/// Who asked is said for as long as the proxy stands, when it was asked for once.
#[test]
fn forwarded_goes_with_the_last_split() {
    let all = versions();
    let mut record = record(&all[0]);
    let on = SplitRequest { forwarded: Some(true), ..asking(SplitChange::Mirror(mirror(&all[1]))) };
    record.layer7.splits = change(&record, &all, &on).unwrap();
    record.layer7.place = Some(Place { port: port(29999), inserted: true });
    assert!(config(std::slice::from_ref(&record), &all).services[0].splits.forwarded);
    let again = asking(SplitChange::Mirror(Mirror { percent: Percent::ZERO, ..mirror(&all[1]) }));
    record.layer7.splits = change(&record, &all, &again).unwrap();
    assert!(record.layer7.splits.forwarded);
    let off = asking(SplitChange::NoMirror(all[1].id.clone()));
    assert_eq!(change(&record, &all, &off), Ok(Splits::default()));
}

fn versions() -> Vec<Deployment> {
    vec![
        deployment("shop", "1.0.0", 20000),
        deployment("shop", "2.0.0", 20001),
        deployment("blog", "3.0.0", 20002),
    ]
}

#[test]
fn a_split_is_for_a_version_that_is_not_main_and_is_one_thing_at_a_time() {
    let all = versions();
    let mut record = record(&all[0]);
    let asked = |record: &Recorded, one| change(record, &all, &asking(one));
    assert!(matches!(asked(&record, SplitChange::Mirror(mirror(&all[0]))), Err(SplitRefused::IsMain { .. })));
    let stranger = asked(&record, SplitChange::Mirror(mirror(&all[2])));
    assert!(matches!(stranger, Err(SplitRefused::Version(Refused::NoVersion(_)))));

    record.layer7.splits = asked(&record, SplitChange::Mirror(mirror(&all[1]))).unwrap();
    assert!(matches!(asked(&record, SplitChange::Canary(canary(&all[1]))), Err(SplitRefused::Both { .. })));
    let half = Mirror { percent: "50".parse().unwrap(), ..mirror(&all[1]) };
    let changed = asked(&record, SplitChange::Mirror(half.clone())).unwrap();
    assert_eq!(changed.mirrors, [half]);
    let off = asked(&record, SplitChange::NoMirror(all[1].id.clone())).unwrap();
    assert!(off.is_empty());

    record.access = Access::Private;
    assert!(matches!(asked(&record, SplitChange::Mirror(mirror(&all[1]))), Err(SplitRefused::Private(_))));
}

#[test]
fn what_no_request_can_carry_is_refused() {
    let all = versions();
    let record = record(&all[0]);
    let bad = |one| matches!(change(&record, &all, &asking(one)), Err(SplitRefused::BadText { .. }));
    let with = |change: fn(&mut Mirror)| {
        let mut one = mirror(&all[1]);
        change(&mut one);
        SplitChange::Mirror(one)
    };
    assert!(bad(with(|one| one.methods = vec!["GE T".into()])));
    assert!(bad(with(|one| one.methods = vec!["get".into()])));
    assert!(bad(with(|one| one.paths = vec!["api".into()])));
    assert!(bad(with(|one| one.paths = vec!["/a\nb".into()])));
    assert!(bad(with(|one| one.without_headers = vec!["a: b".into()])));
    let with = |change: fn(&mut Canary)| {
        let mut one = canary(&all[1]);
        change(&mut one);
        SplitChange::Canary(one)
    };
    let mark = |name: &str, value: Option<&str>| Mark { name: name.into(), value: value.map(Into::into) };
    assert!(bad(with(|one| one.sticky = Some(Sticky::Header("x y".into())))));
    let header = |mark| SplitChange::Canary(Canary { header: Some(mark), ..canary(&all[1]) });
    assert!(bad(header(mark("x-beta:", None))));
    assert!(bad(header(mark("x-beta", Some("a\r\nb: c")))));
    // E7: presence counts, and a value may be empty.
    assert!(change(&record, &all, &asking(header(mark("X-MISTERY-SHOPPER", None)))).is_ok());
    assert!(change(&record, &all, &asking(header(mark("X-MISTERY-SHOPPER", Some(""))))).is_ok());
    let nothing = with(|one| one.percent = None);
    assert_eq!(change(&record, &all, &asking(nothing)), Err(SplitRefused::Nothing));
}

#[test]
fn nothing_is_copied_before_the_rules_lead_here_nor_after() {
    let all = versions();
    let mut record = record(&all[0]);
    let place = |inserted| Some(Place { port: port(29999), inserted });
    record.layer7 = Layer7 {
        splits: Splits { mirrors: vec![mirror(&all[1])], canary: None, ..Splits::default() },
        place: place(false),
    };
    let told = |record: &Recorded| config(std::slice::from_ref(record), &all).services.pop().unwrap();
    assert_eq!(wanted(&record), Wanted::Inserted(port(29999)));
    assert!(told(&record).splits.is_empty() && !told(&record).draining);
    record.layer7.place = place(true);
    assert_eq!(told(&record).splits.mirrors, [mirror(&all[1])]);
    assert_eq!(told(&record).main.address.port(), 20000);
    assert_eq!(told(&record).others.len(), 1);
    // A shadow that is gone is not asked.
    let main_alone = config(&[record.clone()], &all[..1]).services.pop().unwrap();
    assert!(main_alone.splits.is_empty());
    record.layer7.splits = Splits::default();
    assert_eq!(wanted(&record), Wanted::Straight(port(29999)));
    assert!(told(&record).draining);
    record.layer7.place = None;
    assert_eq!(wanted(&record), Wanted::Nothing);
    assert_eq!(config(&[record], &all).services, []);
}

#[test]
fn the_rules_are_not_led_to_a_proxy_that_nobody_wants_any_more() {
    let all = versions();
    let mut record = record(&all[0]);
    record.layer7.place = Some(Place { port: port(29999), inserted: false });
    assert_eq!(moved(&record, port(29999), true), None);
    record.layer7.splits.canary = Some(canary(&all[1]));
    assert!(moved(&record, port(29999), true).is_some());
    assert_eq!(moved(&record, port(29998), true), None);
    assert_eq!(moved(&record, port(29999), false), None);
}

#[test]
fn a_change_is_taken_back_and_nobody_elses_with_it() {
    let all = versions();
    let (two, three) = (&all[1], &all[2]);
    let with = |mirrors: &[Mirror], canary: Option<Canary>| Splits {
        mirrors: mirrors.to_vec(),
        canary,
        ..Splits::default()
    };
    let (before, after) = (with(&[], Some(canary(three))), with(&[mirror(two)], Some(canary(three))));
    assert_eq!(undone(&after, &before, &after, &all), before);
    // Meanwhile the canary was taken off, the mirror changed, or its version killed.
    assert_eq!(undone(&with(&[mirror(two)], None), &before, &after, &all), with(&[], None));
    let changed = with(&[Mirror { percent: Percent::ZERO, ..mirror(two) }], Some(canary(three)));
    assert_eq!(undone(&changed, &before, &after, &all), changed);
    assert_eq!(undone(&after, &before, &after, &all[..2]), with(&[], None));
    // What was taken away comes back.
    assert_eq!(undone(&before, &after, &before, &all), after);
}
