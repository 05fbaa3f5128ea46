//! A kernel, a record and a clock in memory: what is repaired, and when.

use std::sync::Arc;

use super::*;
use crate::model::example::make_intent;
use crate::model::port_forward::Switch;
use crate::model::rules::{Family, Rule, Table};
use crate::world::fake::firewall::FakeFirewall;
use crate::world::fake::{self, FakeWorld, MS};
use crate::world::reporter::Event;
use crate::world::store::StoreError;

const BOTH: [Family; 2] = [Family::V4, Family::V6];

fn actor() -> Actor {
    Actor { user: "agent".into(), pid: 7 }
}

/// A kept host with `shop` as given; what is done to it, and an end.
async fn kept(switch: Switch, story: impl AsyncFnOnce(&FakeWorld)) {
    let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&BOTH)));
    rules::change(&fake.world, &make_intent(switch, "test")).await.unwrap();
    while_kept(&fake, story).await;
}

/// Runs the reconciler beside a story.
async fn while_kept(fake: &FakeWorld, story: impl AsyncFnOnce(&FakeWorld)) {
    let (world, actor) = (fake.world.clone(), actor());
    let keeping = tokio::spawn(async move { start(&world, &actor).await.run().await });
    tokio::time::sleep(MS).await;
    story(fake).await;
    fake.stopper.stop();
    keeping.await.unwrap();
}

/// Another process changes both tables, and the kernel notifies.
async fn change(fake: &FakeWorld, what: impl Fn(&mut Table)) {
    for family in BOTH {
        fake.firewall.tamper(family, &what);
    }
    fake.host.rules_changed.notify_one();
    tokio::time::sleep(MS).await;
}

fn repairs(fake: &FakeWorld) -> Vec<String> {
    let history = fake.store.history.lock().unwrap();
    history.iter().filter(|row| row.action == "repair").map(|row| row.detail.clone()).collect()
}

fn warnings(fake: &FakeWorld) -> Vec<String> {
    let events = fake.host.events.lock().unwrap();
    let texts = events.iter().filter_map(|event| match event {
        Event::Warning { text } => Some(text.clone()),
        _ => None,
    });
    texts.collect()
}

#[tokio::test(start_paused = true)]
async fn flush_is_repaired_and_reported_once() {
    kept(Switch::On, async |fake| {
        let before = BOTH.map(|family| fake.firewall.table(family));
        change(fake, |table| *table = Table::empty_nat()).await;
        assert_eq!(BOTH.map(|family| fake.firewall.table(family)), before);
        let gone = "put back: the chain SWITCHMAN was missing (IPv4, IPv6); the jump from PREROUTING was missing (IPv4, IPv6)";
        assert_eq!(repairs(fake), [gone]);
        // Our own commit is notified too, and repairs nothing.
        change(fake, |_| {}).await;
        assert_eq!(repairs(fake).len(), 1);
        assert_eq!(fake.store.records.lock().unwrap()[0].generation, 1, "a repair overtakes no change");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn repair_keeps_maintenance() {
    kept(Switch::Off, async |fake| {
        change(fake, |table| table.rules.clear()).await;
        assert!(!fake.firewall.read_forward_state().0);
        let on = "-A SWITCHMAN -p tcp -m tcp --dport 8888 -m comment --comment switchman:shop:forward -j REDIRECT --to-ports 8080";
        change(fake, |table| table.rules.push(Rule::parse(on).unwrap())).await;
        assert!(!fake.firewall.read_forward_state().0, "nor does another process end it");
        assert_eq!(repairs(fake).len(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn foreign_rules_are_not_drift() {
    kept(Switch::On, async |fake| {
        let theirs = Rule::parse("-A PREROUTING -p tcp --dport 2222 -j ACCEPT").unwrap();
        change(fake, |table| table.rules.push(theirs.clone())).await;
        assert_eq!(repairs(fake), Vec::<String>::new());
        change(fake, |table| table.rules.retain(|rule| *rule == theirs)).await;
        assert_eq!(repairs(fake).len(), 1);
        assert!(fake.firewall.table(Family::V4).rules.contains(&theirs));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn switch_in_progress_is_not_drift() {
    kept(Switch::On, async |fake| {
        let held = fake.world.store.lock("a switch", Duration::ZERO).await.unwrap();
        let before = BOTH.map(|family| fake.firewall.table(family));
        change(fake, |table| table.rules.clear()).await;
        assert!(!fake.firewall.read_forward_state().0, "not while another one is at it");
        for (family, table) in BOTH.into_iter().zip(before) {
            fake.firewall.tamper(family, |now| *now = table);
        }
        drop(held);
        tokio::time::sleep(MS).await;
        assert_eq!(repairs(fake), Vec::<String>::new());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn repeated_changes_are_repaired_with_backoff() {
    kept(Switch::On, async |fake| {
        for _ in 0..5 {
            change(fake, |table| table.rules.clear()).await;
            assert!(fake.firewall.read_forward_state().0, "at once");
        }
        change(fake, |table| table.rules.clear()).await;
        assert!(fake.firewall.read_forward_state().0);
        let keeps =
            "another process keeps changing the port rules (put back 6 times in a row): the next look is in 1s";
        assert_eq!(warnings(fake).last().unwrap(), keeps);
        change(fake, |table| table.rules.clear()).await;
        assert!(!fake.firewall.read_forward_state().0, "not yet");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(fake.firewall.read_forward_state().0, "and put back all the same");
        assert_eq!(repairs(fake).len(), 7);
        tokio::time::sleep(Duration::from_mins(3)).await;
        change(fake, |table| table.rules.clear()).await;
        change(fake, |table| table.rules.clear()).await;
        assert!(fake.firewall.read_forward_state().0, "at once again");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn failed_repair_is_reported_once_and_retried() {
    kept(Switch::On, async |fake| {
        let full = StoreError::Full { path: "/state".into() };
        *fake.store.read_error.lock().unwrap() = Some(full);
        change(fake, |table| table.rules.clear()).await;
        tokio::time::sleep(Duration::from_mins(5)).await;
        assert_eq!(warnings(fake), ["the port rules cannot be kept: the disk that holds `/state` is full"]);
        assert!(!fake.firewall.read_forward_state().0);
        *fake.store.read_error.lock().unwrap() = None;
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(fake.firewall.read_forward_state().0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn empty_record_leaves_rules_untouched() {
    let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&BOTH)));
    while_kept(&fake, async |fake| change(fake, |table| table.rules.clear()).await).await;
    assert_eq!(*fake.firewall.committed.lock().unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn reconciler_starts_with_restore() {
    let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&BOTH)));
    rules::change(&fake.world, &make_intent(Switch::On, "test")).await.unwrap();
    for family in BOTH {
        fake.firewall.tamper(family, |table| *table = Table::empty_nat());
    }
    while_kept(&fake, async |fake| {
        assert!(fake.firewall.read_forward_state().0);
        assert_eq!(fake.store.history.lock().unwrap().last().unwrap().action, "restore");
    })
    .await;
}
