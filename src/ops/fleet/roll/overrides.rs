//! The refusals that `--force` of a roll overrides: reported, recorded in the journal, and in the history of every host.

use std::sync::PoisonError;

use super::RollRun;
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::ops::fleet::forward;
use crate::ops::fleet::port_conflicts::find_config_refusals;
use crate::plan::roll::progress::RollProgress;
use crate::plan::switch::Refusal;
use crate::world::reporter::Event;

impl RollRun<'_> {
    /// Finds the refusals of these hosts that `--force` overrides, and reports them. Without `--force`, ports and addresses that
    /// differ are the error.
    pub(super) async fn check_overridable(&self, hosts: &[Host]) -> Result<Vec<String>, Vec<Refusal>> {
        let names: Vec<&HostName> = hosts.iter().map(|host| &host.name).collect();
        let mut refusals = find_config_refusals(self.world, self.fleet, hosts).await;
        if !self.plan.spec.force {
            return if refusals.is_empty() { Ok(vec![]) } else { Err(refusals) };
        }
        let mut lines = forward::find_refusals(self.world, self.fleet, &names).await;
        lines.retain(|refusal| matches!(refusal, Refusal::OtherLine { .. }));
        refusals.append(&mut lines);
        let texts: Vec<String> = refusals.iter().map(Refusal::to_string).collect();
        for refusal in &texts {
            self.world.reporter.report(&Event::Overridden { refusal: refusal.clone() });
        }
        self.overridden.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&texts);
        Ok(texts)
    }

    /// The hosts of a roll that are not done.
    pub(super) fn list_remaining_hosts(&self, progress: &RollProgress) -> Vec<Host> {
        let turns = progress.remaining_turns().concat();
        turns.iter().map(|turn| self.hosts[turn.index].clone()).collect()
    }

    /// The detail of a switch in the history of a host: the roll, and what it overrode.
    pub(super) fn describe_switch(&self) -> String {
        let overridden = self.overridden.lock().unwrap_or_else(PoisonError::into_inner);
        let texts = overridden.iter().map(|refusal| format!("overrode: {refusal}"));
        std::iter::once(self.id.to_string()).chain(texts).collect::<Vec<_>>().join("; ")
    }
}
