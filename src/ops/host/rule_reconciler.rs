//! Repair of the kernel's rules: when another process flushes, restores or edits them, ours are back within a second, as
//! recorded. A maintenance stays a maintenance, and rules of others stay as they are.

use std::time::Duration;

use tokio::time::Instant;

use super::restore::restore;
use super::rules::{self, ChangeError, ReconcileReport};
use super::warn::warn;
use crate::model::duration;
use crate::model::history::Actor;
use crate::model::rules::Variant;
use crate::plan::firewall::{self, drift::describe_drift};
use crate::plan::repair_backoff::RepairBackoff;
use crate::world::HostWorld;
use crate::world::store::HistoryNote;
use crate::world::watch::RuleSubscription;

/// After a look that failed, the next one does not wait for a change.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Begins with what `restore` does. What changes from here on is not missed, whenever it is kept.
pub async fn start<'a>(world: &'a HostWorld, actor: &'a Actor) -> RuleReconciler<'a> {
    // Before the first look, so that no change falls between the two.
    let watching = world.rule_watch.start();
    let mut reconciler = RuleReconciler {
        world,
        actor,
        watch: watching,
        next: NextStep::CheckNow,
        is_conntrack_held: false,
        backoff: RepairBackoff::default(),
        last_warning: None,
    };
    if let Err(error) = restore(world, actor).await {
        reconciler.next = reconciler.handle_failure(&error);
    }
    reconciler
}

/// The action that follows a look.
#[derive(Debug, Clone, Copy)]
enum NextStep {
    CheckNow,
    CheckAfter(Duration),
    WaitForChange { in_legacy: bool },
}

/// Keeps the rules of this host.
pub struct RuleReconciler<'a> {
    world: &'a HostWorld,
    actor: &'a Actor,
    watch: Box<dyn RuleSubscription>,
    next: NextStep,
    /// Whether connections outlive the next flush.
    is_conntrack_held: bool,
    backoff: RepairBackoff,
    /// The last warning, so that it is logged once.
    last_warning: Option<String>,
}

impl RuleReconciler<'_> {
    /// Repairs whenever the rules drift, until a stop is requested.
    pub async fn run(mut self) {
        let stop = self.world.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.wait() => return,
                () = self.wait_until_due() => {}
            }
            self.next = match self.check_and_repair().await {
                Ok(next) => next,
                Err(error) => self.handle_failure(&error),
            };
        }
    }

    async fn wait_until_due(&mut self) {
        match self.next {
            NextStep::CheckNow => {}
            NextStep::CheckAfter(pause) => tokio::time::sleep(pause).await,
            NextStep::WaitForChange { in_legacy } => self.watch.wait_for_change(in_legacy).await,
        }
    }

    /// Looks once and, where it is needed, repairs.
    async fn check_and_repair(&mut self) -> Result<NextStep, ChangeError> {
        let Some(in_legacy) = self.check().await? else { return self.repair().await };
        self.last_warning = None;
        self.hold_connections().await;
        Ok(NextStep::WaitForChange { in_legacy })
    }

    async fn hold_connections(&mut self) {
        if !self.is_conntrack_held
            && !self.world.store.load_records().is_ok_and(|recorded| recorded.is_empty())
        {
            self.is_conntrack_held = true;
            if let Err(error) = self.world.firewall.preserve_connections().await {
                // Less protection than possible, but nothing that an operator has to fix.
                log::info!("open connections may not outlive a flush: {error}");
            }
        }
    }

    /// Whether rules of ours are in legacy iptables; `None`: they differ from the record. Without the lock: most changes are
    /// not ours, and a switch under way is not held up by them.
    async fn check(&self) -> Result<Option<bool>, ChangeError> {
        let recorded = self.world.store.load_records()?;
        if recorded.is_empty() {
            return Ok(Some(false));
        }
        let observed = rules::observe(self.world).await?;
        let wanted = rules::compute_desired(&recorded, &observed);
        let is_so = observed
            .iter()
            .all(|(family, tables)| firewall::plan_transactions(&wanted, tables, *family).is_empty());
        let in_legacy =
            observed.iter().any(|(_, tables)| firewall::choose_variant(tables) == Variant::Legacy);
        Ok(is_so.then_some(in_legacy))
    }

    /// Another switchman that is switching holds the lock: when it is done, there may be nothing to repair.
    async fn repair(&mut self) -> Result<NextStep, ChangeError> {
        let report = rules::reconcile(self.world, "repair").await?;
        if report.transactions.is_empty() {
            return Ok(NextStep::CheckNow);
        }
        // The process that removed our rules may have removed that too.
        self.is_conntrack_held = false;
        self.report_repairs(&report);
        let Some(pause) = self.backoff.record_repair(Instant::now().into_std()) else {
            return Ok(NextStep::CheckNow);
        };
        self.warn(format!(
            "another process keeps changing the port rules (put back {} times in a row): the next look is in {}",
            self.backoff.consecutive(),
            duration::format(pause)
        ));
        Ok(NextStep::CheckAfter(pause))
    }

    /// A row for each service that was touched.
    fn report_repairs(&self, report: &ReconcileReport) {
        let services = report.recorded.iter().map(|record| &record.forward.service);
        for (service, detail) in describe_drift(&report.wanted, &report.observed, services) {
            self.warn(format!("the port rules of `{service}` were changed and are put back: {detail}"));
            let actor = self.actor.clone();
            let note =
                HistoryNote { service, actor, action: "repair", detail: format!("put back: {detail}") };
            if let Err(error) = self.world.store.add_note(&note, self.world.clock.now()) {
                self.warn(error.to_string());
            }
        }
    }

    fn handle_failure(&mut self, error: &ChangeError) -> NextStep {
        // The stop request that ended the wait ends the run.
        if *error == ChangeError::Interrupted {
            return NextStep::CheckNow;
        }
        let text = format!("the port rules cannot be kept: {error}");
        if self.last_warning.as_ref() != Some(&text) {
            self.warn(text.clone());
            self.last_warning = Some(text);
        }
        NextStep::CheckAfter(self.backoff.record_repair(Instant::now().into_std()).unwrap_or(RETRY_INTERVAL))
    }

    fn warn(&self, text: String) {
        warn(self.world, text);
    }
}

#[cfg(test)]
mod tests;
