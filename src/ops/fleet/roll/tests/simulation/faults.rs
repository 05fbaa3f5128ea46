//! Faults at the site while a roll runs.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::rng::Dice;
use crate::model::example;
use crate::model::lock::{Holder, LockPurpose};
use crate::model::name::HostName;
use crate::ops::testing::site::FakeSite;
use crate::ops::testing::site_fault::HostFault;
use crate::world::fake::MS;
use crate::world::fake::journal::StoreFault;

const HOST_FAULTS: [HostFault; 11] = [
    HostFault::CommandFails,
    HostFault::CommandBreaksMain,
    HostFault::CommandIsSlow,
    HostFault::LinkDown,
    HostFault::AnswersLost,
    HostFault::NeverDrains,
    HostFault::BackupDown,
    HostFault::SwitchRefused,
    HostFault::Flapping,
    HostFault::TakenOutByOther,
    HostFault::PutBackByOther,
];

#[derive(Debug, Clone)]
pub enum Fault {
    Host(HostName, HostFault),
    BalancerUnread(String),
    /// The number of further rows that fit on the disk.
    JournalFull(usize),
    /// The server of the journal cannot be reached.
    StoreUnreachable(StoreFault),
    /// Each call of the store, and each answer, takes this long.
    StoreSlow(Duration),
    /// The lease of the lock ends while its holder works; the flag: another operator takes the lock then.
    LockLost(bool),
}

/// A fault begins or ends.
#[derive(Debug, Clone)]
pub struct Change {
    at: Duration,
    fault: Fault,
    begins: bool,
}

/// All that goes wrong in one story, in the order of time.
#[derive(Debug)]
pub struct Weather {
    began: Instant,
    pub changes: Vec<Change>,
    next: Cell<usize>,
}

impl Weather {
    /// `length`: about how long the roll takes when all goes well.
    pub fn new(dice: &mut Dice, fake: &FakeSite, length: Duration) -> Self {
        let mut changes = Vec::new();
        let mut add = |dice: &mut Dice, fault: Fault| {
            let at = if dice.percent(20) { Duration::ZERO } else { dice.moment(length) };
            let ends = at + dice.pick(&[MS * 50, MS * 1000, MS * 8000, MS * 30_000, length * 2]);
            changes.push(Change { at, fault: fault.clone(), begins: true });
            changes.push(Change { at: ends, fault, begins: false });
        };
        let bad = dice.pick(&[0, 3, 10, 30]);
        for host in &fake.fleet.hosts {
            if dice.percent(bad) {
                let kind = dice.pick(&HOST_FAULTS);
                add(dice, Fault::Host(host.name.clone(), kind));
            }
        }
        for balancer in &fake.fleet.balancers {
            if dice.percent(10) {
                add(dice, Fault::BalancerUnread(balancer.name.to_string()));
            }
        }
        if dice.percent(15) {
            let room = dice.below(fake.fleet.hosts.len());
            add(dice, Fault::JournalFull(room));
        }
        // Thrown with dice of its own: stories without it stay the same.
        let mut store_dice = Dice(dice.0 ^ 0x5704);
        if store_dice.percent(25) {
            let kind = store_dice.pick(&[StoreFault::RequestLost, StoreFault::AnswerLost]);
            add(&mut store_dice, Fault::StoreUnreachable(kind));
        }
        let mut lock_dice = Dice(dice.0 ^ 0x10c4);
        if lock_dice.percent(15) {
            add(&mut lock_dice, Fault::StoreUnreachable(StoreFault::OldLeader));
        }
        if lock_dice.percent(15) {
            let delay = lock_dice.pick(&[MS * 20, MS * 300, MS * 2500]);
            add(&mut lock_dice, Fault::StoreSlow(delay));
        }
        if lock_dice.percent(15) {
            let is_taken = lock_dice.percent(50);
            add(&mut lock_dice, Fault::LockLost(is_taken));
        }
        changes.sort_by_key(|change| change.at);
        Self { began: Instant::now(), changes, next: Cell::new(0) }
    }

    /// Goes on from the last change that was made; never returns.
    pub async fn goes_on(&self, fake: &FakeSite) -> std::convert::Infallible {
        while let Some(change) = self.changes.get(self.next.get()) {
            tokio::time::sleep_until(self.began + change.at).await;
            self.next.set(self.next.get() + 1);
            apply(fake, &change.fault, change.begins);
        }
        std::future::pending().await
    }

    /// Ends every fault; the flag: what commands broke is repaired as well.
    pub fn ends(&self, fake: &FakeSite, mended: bool) {
        self.next.set(self.changes.len());
        *fake.journal.free_entries.lock().unwrap() = None;
        fake.journal.set_unreachable(None);
        fake.journal.set_delay(Duration::ZERO);
        fake.journal.remove_lock(&make_other_holder());
        let mut state = fake.site.lock();
        state.unreadable_balancers.clear();
        for host in state.hosts.values_mut() {
            for kind in HOST_FAULTS {
                host.set_fault(kind, false);
            }
            host.is_healthy |= mended;
            if host.is_switched_by_other {
                host.switch_by_other(true);
            }
        }
    }
}

fn apply(fake: &FakeSite, fault: &Fault, begins: bool) {
    match fault {
        Fault::Host(name, kind) => fake.site.of(name, |host| host.set_fault(*kind, begins)),
        Fault::BalancerUnread(name) if begins => {
            fake.site.lock().unreadable_balancers.insert(name.clone());
        }
        Fault::BalancerUnread(name) => {
            fake.site.lock().unreadable_balancers.remove(name);
        }
        Fault::StoreSlow(delay) => fake.journal.set_delay(if begins { *delay } else { Duration::ZERO }),
        Fault::LockLost(is_taken) if begins => fake.journal.lose_lock(is_taken.then(make_other_holder)),
        Fault::LockLost(_) => fake.journal.remove_lock(&make_other_holder()),
        Fault::StoreUnreachable(kind) => fake.journal.set_unreachable(begins.then_some(*kind)),
        Fault::JournalFull(room) => *fake.journal.free_entries.lock().unwrap() = begins.then_some(*room),
    }
}

/// An operator of another machine, who took the lock as that of a dead process.
fn make_other_holder() -> Holder {
    let purpose = LockPurpose::Operator { message: "at work".to_owned() };
    Holder { machine: "other".to_owned(), ..example::make_holder(purpose) }
}
