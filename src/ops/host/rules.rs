//! Kernel and record changed together: the part of a switch that is never left half done.

use std::time::Duration;

use crate::model::forward::{Changed, Intent, Recorded};
use crate::model::name::ServiceName;
use crate::model::rules::{Desired, Family, Tables, Transaction};
use crate::plan::firewall;
use crate::world::HostWorld;
use crate::world::firewall::FirewallError;
use crate::world::store::{Exclusive, Outcome, StoreError};

/// How long one switchman waits for another that is changing this host: the change itself takes milliseconds, or as
/// long as the xtables lock is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);
/// Somebody else may change our chain between our write and our read; a few rounds settle that.
const ROUNDS: usize = 3;

/// Why kernel and record were not changed. Unless it says otherwise, both are as before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("interrupted while waiting for another switchman")]
    Interrupted,
    #[error("somebody else keeps changing the chain SWITCHMAN of the {family} nat table")]
    Contested { family: Family },
    /// The only way to a disagreement: the change failed, and so did taking it back.
    #[error("{change}; and taking the change back failed too: {undo}")]
    HalfDone { change: Box<ChangeError>, undo: Box<ChangeError> },
}

/// Makes the intent true: recorded first, then committed, then read back. On failure both are put back.
pub async fn change(world: &HostWorld, intent: &Intent) -> Result<Changed, ChangeError> {
    change_as(world, &intent.action, |_| Ok::<_, ChangeError>(intent.clone())).await
}

/// The same with an intent that is made of what is recorded, while nobody else changes it.
pub async fn change_as<E: From<ChangeError>>(
    world: &HostWorld,
    purpose: &str,
    decide: impl FnOnce(&[Recorded]) -> Result<Intent, E>,
) -> Result<Changed, E> {
    let _held = lock(world, purpose).await?;
    let before = world.store.recorded().map_err(ChangeError::from)?;
    let intent = decide(&before)?;
    Ok(make(world, &before, &intent).await?)
}

/// The same where there may be nothing to change any more: `None`, and nothing is done.
pub async fn change_where<E: From<ChangeError>>(
    world: &HostWorld,
    purpose: &str,
    decide: impl FnOnce(&[Recorded]) -> Result<Option<Intent>, E>,
) -> Result<Option<Changed>, E> {
    let _held = lock(world, purpose).await?;
    let before = world.store.recorded().map_err(ChangeError::from)?;
    match decide(&before)? {
        Some(intent) => Ok(Some(make(world, &before, &intent).await?)),
        None => Ok(None),
    }
}

async fn make(world: &HostWorld, before: &[Recorded], intent: &Intent) -> Result<Changed, ChangeError> {
    let previous = before.iter().find(|record| record.forward.service == intent.forward.service);
    let observed = observe(world).await?;
    let wanted_before = desired(before, &observed);
    if let Some(previous) = previous
        && previous.is_same(&Recorded::after(Some(previous), intent, previous.changed_at))
        && planned(&wanted_before, &observed).is_empty()
    {
        return Ok(Changed {
            transactions: vec![],
            generation: previous.generation,
            unfinished_history: None,
        });
    }
    let (operation, mine) = world.store.begin(intent, world.clock.now())?;
    // From here on, whatever fails is taken back: nothing may leave this function early.
    let end = |outcome: &Outcome| world.store.end(operation, &intent.actor, outcome, world.clock.now());
    let wanted = desired(&with(before, &mine), &observed);
    match settle(world, &wanted, observed).await {
        Ok(transactions) => {
            let detail: Vec<String> =
                transactions.iter().map(|step| format!("{} {}", step.family, step.variant)).collect();
            let ended = end(&Outcome::Done { detail: detail.join(", ") });
            let unfinished_history = ended.err().map(|error| error.to_string());
            Ok(Changed { transactions, generation: mine.generation, unfinished_history })
        }
        Err(change) => {
            let kernel = put_back(world, &wanted_before).await;
            let record =
                end(&Outcome::Undone { previous: previous.cloned().map(Box::new), why: change.to_string() });
            Err(match kernel.and(record.map_err(ChangeError::from)) {
                Ok(()) => change,
                Err(undo) => ChangeError::HalfDone { change: Box::new(change), undo: Box::new(undo) },
            })
        }
    }
}

/// The records with one of them replaced or added.
fn with(before: &[Recorded], mine: &Recorded) -> Vec<Recorded> {
    let others = before.iter().filter(|record| record.forward.service != mine.forward.service);
    others.chain([mine]).cloned().collect()
}

/// What a reconcile found, and what it had to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mended {
    pub recorded: Vec<Recorded>,
    pub wanted: Desired,
    pub found: Vec<(Family, Tables)>,
    pub transactions: Vec<Transaction>,
}

/// Brings the kernel to what is recorded, if anything is.
pub async fn reconcile(world: &HostWorld, purpose: &str) -> Result<Mended, ChangeError> {
    let _held = lock(world, purpose).await?;
    let recorded = world.store.recorded()?;
    let found = observe(world).await?;
    let wanted = desired(&recorded, &found);
    let transactions =
        if recorded.is_empty() { vec![] } else { settle(world, &wanted, found.clone()).await? };
    Ok(Mended { recorded, wanted, found, transactions })
}

/// Until here a stop request may end the wait; from here on the change is finished first.
async fn lock(world: &HostWorld, purpose: &str) -> Result<Box<dyn Exclusive>, ChangeError> {
    tokio::select! {
        biased;
        held = world.store.lock(purpose, LOCK_PATIENCE) => Ok(held?),
        () = world.stop.requested() => Err(ChangeError::Interrupted),
    }
}

/// The nat tables of every family of this host.
pub async fn observe(world: &HostWorld) -> Result<Vec<(Family, Tables)>, FirewallError> {
    let families = world.firewall.families().await?;
    let looks = families
        .into_iter()
        .map(async |family| world.firewall.nat(family).await.map(|tables| (family, tables)));
    futures_util::future::try_join_all(looks).await
}

/// What our part of each table should be by the records, kept strangers' forwards among it.
pub fn desired(recorded: &[Recorded], observed: &[(Family, Tables)]) -> Desired {
    let chosen = observed.iter().filter_map(|(_, tables)| tables.of(firewall::variant(tables)));
    firewall::desired(recorded, chosen)
}

/// The record of a service now; `None` where nothing is recorded.
pub fn record(world: &HostWorld, service: &ServiceName) -> Result<Option<Recorded>, StoreError> {
    Ok(world.store.recorded()?.into_iter().find(|record| &record.forward.service == service))
}

fn planned(wanted: &Desired, observed: &[(Family, Tables)]) -> Vec<Transaction> {
    observed.iter().flat_map(|(family, tables)| firewall::plan(wanted, tables, *family)).collect()
}

/// Commits what is planned and reads back, until nothing is left to plan.
async fn settle(
    world: &HostWorld,
    wanted: &Desired,
    mut observed: Vec<(Family, Tables)>,
) -> Result<Vec<Transaction>, ChangeError> {
    let mut committed = Vec::new();
    let mut left = planned(wanted, &observed);
    for _ in 0..ROUNDS {
        if left.is_empty() {
            return Ok(committed);
        }
        // Families are tables of their own: they wait for the kernel side by side.
        let commits = left.iter().map(|transaction| world.firewall.commit(transaction));
        let ended = futures_util::future::join_all(commits).await;
        ended.into_iter().collect::<Result<Vec<()>, _>>()?;
        committed.append(&mut left);
        observed = observe(world).await?;
        left = planned(wanted, &observed);
    }
    left.first().map_or(Ok(committed), |step| Err(ChangeError::Contested { family: step.family }))
}

async fn put_back(world: &HostWorld, wanted: &Desired) -> Result<(), ChangeError> {
    let observed = observe(world).await?;
    settle(world, wanted, observed).await.map(|_| ())
}
