//! Kernel and record changed together: the part of a switch that is never left half done.

use std::collections::BTreeSet;
use std::time::Duration;

use super::warn::warn;
use crate::model::forward::{ChangeResult, Intent, ServiceRecord};
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::owner::Owner;
use crate::model::port_forward::Switch;
use crate::model::ports::Port;
use crate::model::rules::{DesiredRules, Family, Tables, Transaction};
use crate::plan::firewall;
use crate::plan::owner::{OwnedByOther, check_owner};
use crate::world::HostWorld;
use crate::world::firewall::FirewallError;
use crate::world::store::{ChangeOutcome, LockGuard, StoreError};

/// How long one switchman waits for another that is changing this host: the change itself takes milliseconds, or as
/// long as the xtables lock is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);
/// Another process may change our chain between our write and our read; a few rounds settle that.
const MAX_ROUNDS: usize = 3;

/// Why kernel and record were not changed. Both are as before, unless the variant states otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Owned(#[from] OwnedByOther),
    #[error("interrupted while waiting for another switchman process")]
    Interrupted,
    #[error("another program keeps changing the chain `SWITCHMAN` of the {family} nat table")]
    Contested { family: Family },
    /// The only error after which rules and record are as requested.
    #[error("kernel and record have the forward {switch}, and packets find otherwise: {found}")]
    Contradicted { switch: Switch, found: String },
    /// The only way to a disagreement: the change failed, and so did taking it back.
    #[error("{change}; the change could not be reverted: {undo}")]
    HalfDone { change: Box<ChangeError>, undo: Box<ChangeError> },
}

/// Makes the intent true: recorded first, then committed, then read back. On failure both are put back.
pub async fn change(world: &HostWorld, intent: &Intent) -> Result<ChangeResult, ChangeError> {
    change_with(world, &intent.action, |_| Ok::<_, ChangeError>(intent.clone())).await
}

/// Applies an intent that is made from the record, under the lock, so that no other switchman process changes the record in
/// between.
pub async fn change_with<E: From<ChangeError>>(
    world: &HostWorld,
    purpose: &str,
    decide: impl FnOnce(&[ServiceRecord]) -> Result<Intent, E>,
) -> Result<ChangeResult, E> {
    let _held = lock_rules(world, purpose).await?;
    let before = world.store.load_records().map_err(ChangeError::from)?;
    let intent = decide(&before)?;
    Ok(apply_intent(world, &before, &intent).await?)
}

/// Applies an intent that may turn out to be unneeded: then returns `None` and does nothing.
pub async fn change_if_needed<E: From<ChangeError>>(
    world: &HostWorld,
    purpose: &str,
    decide: impl FnOnce(&[ServiceRecord]) -> Result<Option<Intent>, E>,
) -> Result<Option<ChangeResult>, E> {
    let _held = lock_rules(world, purpose).await?;
    let before = world.store.load_records().map_err(ChangeError::from)?;
    match decide(&before)? {
        Some(intent) => Ok(Some(apply_intent(world, &before, &intent).await?)),
        None => Ok(None),
    }
}

/// Applies an intent as [`change_with`] does, or with `is_dry_run` only computes what it would commit.
pub async fn change_or_preview<E: From<ChangeError>>(
    world: &HostWorld,
    purpose: &str,
    is_dry_run: bool,
    decide: impl FnOnce(&[ServiceRecord]) -> Result<Intent, E>,
) -> Result<ChangeResult, E> {
    if !is_dry_run {
        return change_with(world, purpose, decide).await;
    }
    let records = world.store.load_records().map_err(ChangeError::from)?;
    let intent = decide(&records)?;
    Ok(preview(world, &records, &intent).await?)
}

/// Computes the transactions of a change, and commits none.
pub async fn preview(
    world: &HostWorld,
    before: &[ServiceRecord],
    intent: &Intent,
) -> Result<ChangeResult, ChangeError> {
    let previous = before.iter().find(|record| record.forward.service == intent.forward.service);
    check_owner(previous.and_then(|record| record.owner.as_ref()), &intent.actor)?;
    let after = ServiceRecord::from_intent(previous, intent, world.clock.now());
    let observed = observe(world).await?;
    let wanted = compute_desired(&replace_record(before, &after), &observed);
    Ok(ChangeResult {
        transactions: plan_transactions(&wanted, &observed),
        generation: previous.map_or(0, |record| record.generation),
        unfinished_history: None,
        packet: None,
    })
}

async fn apply_intent(
    world: &HostWorld,
    before: &[ServiceRecord],
    intent: &Intent,
) -> Result<ChangeResult, ChangeError> {
    let previous = before.iter().find(|record| record.forward.service == intent.forward.service);
    let replaced = check_owner(previous.and_then(|record| record.owner.as_ref()), &intent.actor)?;
    let intent = &record_takeover(intent, replaced);
    let observed = observe(world).await?;
    let wanted_before = compute_desired(before, &observed);
    if let Some(previous) = previous
        && previous.is_equivalent(&ServiceRecord::from_intent(Some(previous), intent, previous.changed_at))
        && plan_transactions(&wanted_before, &observed).is_empty()
    {
        return Ok(ChangeResult {
            transactions: vec![],
            generation: previous.generation,
            unfinished_history: None,
            packet: None,
        });
    }
    let (operation, mine) = world.store.begin(intent, world.clock.now())?;
    // From here on, every failure is taken back: nothing may leave this function early.
    let end = |outcome: &ChangeOutcome| world.store.end(operation, &intent.actor, outcome, world.clock.now());
    let wanted = compute_desired(&replace_record(before, &mine), &observed);
    match commit_until_stable(world, &wanted, observed).await {
        Ok(transactions) => {
            let detail: Vec<String> =
                transactions.iter().map(|step| format!("{} {}", step.family, step.variant)).collect();
            let ended = end(&ChangeOutcome::Done { detail: detail.join(", ") });
            let unfinished_history = ended.err().map(|error| error.to_string());
            Ok(ChangeResult { transactions, generation: mine.generation, unfinished_history, packet: None })
        }
        Err(change) => {
            let kernel = restore_kernel(world, &wanted_before).await;
            let record = end(&ChangeOutcome::RolledBack {
                previous: previous.cloned().map(Box::new),
                reason: change.to_string(),
            });
            Err(match kernel.and(record.map_err(ChangeError::from)) {
                Ok(()) => change,
                Err(undo) => ChangeError::HalfDone { change: Box::new(change), undo: Box::new(undo) },
            })
        }
    }
}

/// Checks that an actor may change a service here, before work that takes long. The change itself checks again.
pub fn check_actor(world: &HostWorld, service: &ServiceName, actor: &Actor) -> Result<(), ChangeError> {
    let record = read_record(world, service)?;
    check_owner(record.as_ref().and_then(|record| record.owner.as_ref()), actor)?;
    Ok(())
}

/// Adds the replaced owner and the reason to what the history records of a change.
fn record_takeover(intent: &Intent, replaced: Option<&Owner>) -> Intent {
    let mut intent = intent.clone();
    if let Some(owner) = replaced {
        let separator = if intent.detail.is_empty() { "" } else { "; " };
        let taken = format!("{separator}took over from {owner}; reason: {}", intent.actor.purpose);
        intent.detail.push_str(&taken);
    }
    intent
}

/// The records with one of them replaced or added.
fn replace_record(before: &[ServiceRecord], mine: &ServiceRecord) -> Vec<ServiceRecord> {
    let others = before.iter().filter(|record| record.forward.service != mine.forward.service);
    others.chain([mine]).cloned().collect()
}

/// The result of a reconcile: what it observed, and what it had to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconcileReport {
    pub recorded: Vec<ServiceRecord>,
    pub wanted: DesiredRules,
    pub observed: Vec<(Family, Tables)>,
    pub transactions: Vec<Transaction>,
}

/// Brings the kernel to what is recorded, if anything is.
pub async fn reconcile(world: &HostWorld, purpose: &str) -> Result<ReconcileReport, ChangeError> {
    let _held = lock_rules(world, purpose).await?;
    let recorded = world.store.load_records()?;
    let observed = observe(world).await?;
    let wanted = compute_desired(&recorded, &observed);
    let transactions = if recorded.is_empty() {
        vec![]
    } else {
        commit_until_stable(world, &wanted, observed.clone()).await?
    };
    Ok(ReconcileReport { recorded, wanted, observed, transactions })
}

/// Waits for the lock of the rules. A stop request ends the wait; a change that has the lock is finished first.
pub(super) async fn lock_rules(world: &HostWorld, purpose: &str) -> Result<Box<dyn LockGuard>, ChangeError> {
    tokio::select! {
        biased;
        held = world.store.lock(purpose, LOCK_TIMEOUT) => Ok(held?),
        () = world.stop.wait() => Err(ChangeError::Interrupted),
    }
}

/// The nat tables of every family of this host. A host that cannot have rules for IPv6 goes on with IPv4.
pub async fn observe(world: &HostWorld) -> Result<Vec<(Family, Tables)>, FirewallError> {
    let families = world.firewall.families().await?;
    let looks = families.into_iter().map(async |family| match world.firewall.nat(family).await {
        Ok(tables) => Ok(Some((family, tables))),
        Err(error) if family == Family::V6 && error.lacks_nat() => {
            log::debug!("no rules for IPv6: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    });
    Ok(futures_util::future::try_join_all(looks).await?.into_iter().flatten().collect())
}

/// Returns why this host cannot have rules for IPv6; `None` where it has them, or no packet comes by IPv6.
pub async fn find_ipv6_obstacle(world: &HostWorld) -> Option<FirewallError> {
    if !world.firewall.families().await.ok()?.contains(&Family::V6) {
        return None;
    }
    world.firewall.nat(Family::V6).await.err().filter(FirewallError::lacks_nat)
}

/// Computes what our part of each table should be by the records, including strangers' forwards that are kept.
pub fn compute_desired(recorded: &[ServiceRecord], observed: &[(Family, Tables)]) -> DesiredRules {
    let chosen = observed.iter().filter_map(|(_, tables)| tables.of(firewall::choose_variant(tables)));
    firewall::build_desired_rules(recorded, chosen)
}

/// The record of a service now; `None` where nothing is recorded.
pub fn read_record(world: &HostWorld, service: &ServiceName) -> Result<Option<ServiceRecord>, StoreError> {
    Ok(world.store.load_records()?.into_iter().find(|record| &record.forward.service == service))
}

fn plan_transactions(wanted: &DesiredRules, observed: &[(Family, Tables)]) -> Vec<Transaction> {
    observed
        .iter()
        .flat_map(|(family, tables)| firewall::plan_transactions(wanted, tables, *family))
        .collect()
}

/// Commits what is planned and reads back, until nothing is left to plan.
async fn commit_until_stable(
    world: &HostWorld,
    wanted: &DesiredRules,
    mut observed: Vec<(Family, Tables)>,
) -> Result<Vec<Transaction>, ChangeError> {
    let mut committed = track_open_connections(world, wanted, &observed).await?;
    if !committed.is_empty() {
        observed = observe(world).await?;
    }
    let mut lacks_ipv6 = false;
    let mut left = plan_transactions(wanted, &observed);
    for _ in 0..MAX_ROUNDS {
        if left.is_empty() {
            return Ok(committed);
        }
        lacks_ipv6 |= commit_all(world, &left).await?;
        let is_covered = |family: Family| family == Family::V4 || !lacks_ipv6;
        committed.extend(left.drain(..).filter(|transaction| is_covered(transaction.family)));
        observed = observe(world).await?;
        observed.retain(|(family, _)| is_covered(*family));
        left = plan_transactions(wanted, &observed);
    }
    left.first().map_or(Ok(committed), |step| Err(ChangeError::Contested { family: step.family }))
}

/// Families are tables of their own: they wait for the kernel side by side. Returns whether the kernel turned out to have no nat
/// for IPv6, which leaves IPv4.
async fn commit_all(world: &HostWorld, transactions: &[Transaction]) -> Result<bool, FirewallError> {
    let commits = transactions.iter().map(|transaction| world.firewall.commit(transaction));
    let ended = futures_util::future::join_all(commits).await;
    let mut lacks_ipv6 = false;
    for (transaction, result) in transactions.iter().zip(ended) {
        match result {
            Err(error) if transaction.family == Family::V6 && error.lacks_nat() => {
                log::warn!("no rules for IPv6: {error}");
                lacks_ipv6 = true;
            }
            result => result?,
        }
    }
    Ok(lacks_ipv6)
}

/// Tracks open connections before a data port is redirected for the first time: they stay with the process that has
/// them. Tracking begins first, so that no connection comes in between. Returns what was committed for that.
async fn track_open_connections(
    world: &HostWorld,
    wanted: &DesiredRules,
    observed: &[(Family, Tables)],
) -> Result<Vec<Transaction>, ChangeError> {
    let routes = |tables| firewall::find_new_routes(wanted, tables);
    let ports: BTreeSet<Port> = observed.iter().flat_map(|(_, tables)| routes(tables)).collect();
    if ports.is_empty() {
        return Ok(vec![]);
    }
    let untracked = observed.iter().filter(|(_, tables)| !routes(tables).is_empty());
    let begin = untracked.filter_map(|(family, tables)| firewall::plan_tracking(wanted, tables, *family));
    let mut begin: Vec<Transaction> = begin.collect();
    let lacks_ipv6 = commit_all(world, &begin).await?;
    begin.retain(|transaction| transaction.family == Family::V4 || !lacks_ipv6);
    for port in ports {
        if let Err(error) = world.flows.track_open(port).await {
            warn(
                world,
                format!("{error}; a connection that was quiet until now may be cut when it is used again"),
            );
        }
    }
    Ok(begin)
}

async fn restore_kernel(world: &HostWorld, wanted: &DesiredRules) -> Result<(), ChangeError> {
    let observed = observe(world).await?;
    commit_until_stable(world, wanted, observed).await.map(|_| ())
}
