//! The host survives: whoever flushes, restores or edits the kernel's rules, ours are back within a second, as recorded. A
//! maintenance stays a maintenance, and rules of others stay as they are.

use std::time::Duration;

use tokio::time::Instant;

use super::restore::restore;
use super::rules::{self, ChangeError, Mended};
use crate::model::duration;
use crate::model::history::Actor;
use crate::model::rules::Variant;
use crate::plan::firewall::{self, drift::drift};
use crate::plan::repair_backoff::Pace;
use crate::world::HostWorld;
use crate::world::reporter::Event;
use crate::world::store::Note;
use crate::world::watch::Watching;

/// After a look that failed, the next one does not wait for a change.
const AGAIN: Duration = Duration::from_secs(1);

/// Begins with what `restore` does. What changes from here on is not missed, whenever it is kept.
pub async fn begin<'a>(world: &'a HostWorld, actor: &'a Actor) -> Keeper<'a> {
    // Before the first look, so that no change falls between the two.
    let watching = world.watch.start();
    let mut keeper = Keeper {
        world,
        actor,
        watching,
        next: Next::Look,
        held: false,
        pace: Pace::default(),
        trouble: None,
    };
    if let Err(why) = restore(world, actor).await {
        keeper.next = keeper.failed(&why);
    }
    keeper
}

/// What comes after a look.
#[derive(Debug, Clone, Copy)]
enum Next {
    Look,
    LookAfter(Duration),
    Wait { in_legacy: bool },
}

/// Keeps the rules of this host.
pub struct Keeper<'a> {
    world: &'a HostWorld,
    actor: &'a Actor,
    watching: Box<dyn Watching>,
    next: Next,
    /// Whether connections outlive the next flush.
    held: bool,
    pace: Pace,
    /// What was said last, so that it is said once.
    trouble: Option<String>,
}

impl Keeper<'_> {
    /// Repairs whenever the rules drift, until a stop is requested.
    pub async fn keep(mut self) {
        let stop = self.world.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.requested() => return,
                () = self.due() => {}
            }
            self.next = match self.turn().await {
                Ok(next) => next,
                Err(why) => self.failed(&why),
            };
        }
    }

    async fn due(&mut self) {
        match self.next {
            Next::Look => {}
            Next::LookAfter(pause) => tokio::time::sleep(pause).await,
            Next::Wait { in_legacy } => self.watching.changed(in_legacy).await,
        }
    }

    /// One look and, where it is needed, a repair.
    async fn turn(&mut self) -> Result<Next, ChangeError> {
        let Some(in_legacy) = self.look().await? else { return self.repair().await };
        self.trouble = None;
        self.hold().await;
        Ok(Next::Wait { in_legacy })
    }

    async fn hold(&mut self) {
        if !self.held && !self.world.store.recorded().is_ok_and(|recorded| recorded.is_empty()) {
            self.held = true;
            if let Err(why) = self.world.firewall.hold().await {
                // Less than could be, and nothing that anybody has to mend.
                log::info!("open connections may not outlive a flush: {why}");
            }
        }
    }

    /// Whether rules of ours are in legacy iptables; `None`: they differ from the record. Without the lock: most changes are
    /// not ours, and a switch under way is not held up by them.
    async fn look(&self) -> Result<Option<bool>, ChangeError> {
        let recorded = self.world.store.recorded()?;
        if recorded.is_empty() {
            return Ok(Some(false));
        }
        let observed = rules::observe(self.world).await?;
        let wanted = rules::desired(&recorded, &observed);
        let is_so =
            observed.iter().all(|(family, tables)| firewall::plan(&wanted, tables, *family).is_empty());
        let in_legacy = observed.iter().any(|(_, tables)| firewall::variant(tables) == Variant::Legacy);
        Ok(is_so.then_some(in_legacy))
    }

    /// Another switchman that is switching holds the lock: when it is done, there may be nothing to repair.
    async fn repair(&mut self) -> Result<Next, ChangeError> {
        let mended = rules::reconcile(self.world, "repair").await?;
        if mended.transactions.is_empty() {
            return Ok(Next::Look);
        }
        // Whoever took our rules may have taken that too.
        self.held = false;
        self.tell(&mended);
        let Some(pause) = self.pace.repaired(Instant::now().into_std()) else { return Ok(Next::Look) };
        self.warn(format!(
            "somebody keeps changing the port rules (put back {} times in a row): the next look is in {}",
            self.pace.in_a_row(),
            duration::show(pause)
        ));
        Ok(Next::LookAfter(pause))
    }

    /// A row for each service that was touched.
    fn tell(&self, mended: &Mended) {
        let services = mended.recorded.iter().map(|record| &record.forward.service);
        for (service, detail) in drift(&mended.wanted, &mended.found, services) {
            self.warn(format!("the port rules of `{service}` were changed and are put back: {detail}"));
            let actor = self.actor.clone();
            let note = Note { service, actor, action: "repair", detail: format!("put back: {detail}") };
            if let Err(error) = self.world.store.note(&note, self.world.clock.now()) {
                self.warn(error.to_string());
            }
        }
    }

    fn failed(&mut self, why: &ChangeError) -> Next {
        // The stop request that ended the wait ends the keeping.
        if *why == ChangeError::Interrupted {
            return Next::Look;
        }
        let why = format!("the port rules cannot be kept: {why}");
        if self.trouble.as_ref() != Some(&why) {
            self.warn(why.clone());
            self.trouble = Some(why);
        }
        Next::LookAfter(self.pace.repaired(Instant::now().into_std()).unwrap_or(AGAIN))
    }

    fn warn(&self, text: String) {
        self.world.reporter.report(&Event::Warning { text });
    }
}

#[cfg(test)]
mod tests;
