//! The mains of the hosts of a rolling assign, compared with what its journal records.

use super::{RollError, RollRun};
use crate::model::name::HostName;
use crate::model::plural::Count;
use crate::ops::fleet::mains::read_mains;
use crate::plan::mains::{DifferenceCause, find_difference};
use crate::plan::roll::progress::RollProgress;
use crate::world::reporter::Event;

impl RollRun<'_> {
    /// Refuses to continue an assign where another command changed main of a host that the roll is done with: to go on would
    /// report hosts as done that have another version.
    pub(super) async fn check_mains(&self, progress: &RollProgress) -> Result<(), RollError> {
        let Some(new_main) = self.plan.spec.work.new_main() else { return Ok(()) };
        let mains = read_mains(self.world, &self.plan.spec.service, &self.hosts).await;
        let changed = progress.find_changed_mains(&mains.known);
        if !changed.is_empty() {
            let (roll, version) = (self.id.clone(), new_main.version.clone());
            let service = self.plan.spec.service.clone();
            return Err(RollError::MainChanged { roll, service, version, hosts: changed });
        }
        for (host, error) in &mains.unread {
            // A host that the roll still has to work on fails by itself.
            if progress.has_new_main(host) {
                let text =
                    format!("{host}: it is not known whether {} is still main: {error}", new_main.version);
                self.world.reporter.report(&Event::Warning { text });
            }
        }
        Ok(())
    }

    /// Warns where an assign that is not complete leaves hosts with different mains. With `is_ended`, no resume follows.
    pub(super) async fn warn_of_different_mains(&self, is_ended: bool) {
        if self.plan.spec.work.new_main().is_none() {
            return;
        }
        let service = &self.plan.spec.service;
        let mains = read_mains(self.world, service, &self.hosts).await;
        let cause = (!is_ended).then(|| DifferenceCause::Roll(self.id.clone()));
        let difference = find_difference(service, &mains.known, cause);
        let mut texts: Vec<String> = difference
            .map(|difference| format!("{difference}; next: {}", difference.describe_next()))
            .into_iter()
            .collect();
        if !mains.unread.is_empty() {
            let names: Vec<&str> = mains.unread.iter().map(|(host, _)| HostName::as_str(host)).collect();
            let count = Count(names.len(), "host");
            texts.push(format!("main of {count} is not known: {}", names.join(", ")));
        }
        for text in texts {
            self.world.reporter.report(&Event::Warning { text });
        }
    }
}
