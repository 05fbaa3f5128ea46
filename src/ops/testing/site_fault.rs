//! The faults of one host of the site, which come and may go.

use super::site::SiteHost;
use super::site_link::build_locked_error;
use crate::world::fake::MS;

#[derive(Debug, Clone, Copy)]
pub enum HostFault {
    CommandFails,
    CommandBreaksMain,
    CommandIsSlow,
    LinkDown,
    AnswersLost,
    NeverDrains,
    BackupDown,
    SwitchRefused,
    Flapping,
    /// Another operator takes it out, and puts it back later.
    TakenOutByOther,
    /// Another operator puts the host into service, regardless of its step.
    PutBackByOther,
}

impl SiteHost {
    /// Lets a fault begin or end.
    pub fn set_fault(&mut self, fault: HostFault, begins: bool) {
        match fault {
            HostFault::CommandFails => self.command_status = if begins { 9 } else { 0 },
            HostFault::CommandBreaksMain => self.command_breaks_health = begins,
            HostFault::CommandIsSlow => self.command_duration = if begins { MS * 20_000 } else { MS * 300 },
            HostFault::LinkDown => self.is_reachable = !begins,
            HostFault::AnswersLost => self.lost_answers = u32::from(begins),
            HostFault::NeverDrains => self.drain_duration = if begins { None } else { Some(MS * 1500) },
            HostFault::BackupDown => self.is_backup_up = !begins,
            HostFault::SwitchRefused => self.switch_error = begins.then(build_locked_error),
            HostFault::Flapping => self.is_flapping = begins,
            HostFault::TakenOutByOther if begins => self.switch_by_other(false),
            HostFault::TakenOutByOther if self.is_switched_by_other => self.switch_by_other(true),
            HostFault::PutBackByOther if begins => self.switch_by_other(true),
            HostFault::TakenOutByOther | HostFault::PutBackByOther => {}
        }
    }
}
