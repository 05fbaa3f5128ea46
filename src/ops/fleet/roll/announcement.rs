//! The event and the notice that follow from an entry of the journal.

use std::time::Duration;

use crate::model::duration;
use crate::model::journal::JournalEntryKind;
use crate::model::name::HostName;
use crate::plan::roll::RollPlan;
use crate::world::notifier::NoticeEvent;
use crate::world::reporter::RollEvent;

/// The circumstances of an entry that are not in it.
pub(super) struct EntryContext<'a> {
    pub(super) plan: &'a RollPlan,
    /// `None`: the entry is about the roll as a whole.
    pub(super) host: Option<&'a HostName>,
    /// The time since this process began with the host.
    pub(super) elapsed: Duration,
}

/// Returns the event of an entry. An abort is reported by the code that knows which hosts it puts back.
pub(super) fn build_event(context: &EntryContext<'_>, kind: &JournalEntryKind) -> Option<RollEvent> {
    let host = context.host.cloned();
    Some(match kind.clone() {
        JournalEntryKind::Began { spec, .. } => RollEvent::Began { hosts: spec.hosts, is_resumed: false },
        JournalEntryKind::Resumed { .. } => {
            RollEvent::Began { hosts: context.plan.spec.hosts.clone(), is_resumed: true }
        }
        JournalEntryKind::Aborting { .. } => return None,
        JournalEntryKind::StepBegan { step } => {
            let planned = context.plan.steps.iter().find(|planned| planned.step == step);
            RollEvent::StepBegan { host: host?, step, timeout: planned.and_then(|planned| planned.timeout) }
        }
        JournalEntryKind::StepDone { step, detail } => RollEvent::StepDone { host: host?, step, detail },
        JournalEntryKind::StepFailed { step, why } => RollEvent::StepFailed { host: host?, step, why },
        JournalEntryKind::Settled { end, detail } => RollEvent::Settled { host: host?, end, detail },
        JournalEntryKind::Done => RollEvent::HostDone { host: host?, elapsed: context.elapsed },
        JournalEntryKind::Stopped { why } => RollEvent::Ended { result: None, why },
        JournalEntryKind::Ended { result, why } => RollEvent::Ended { result: Some(result), why },
    })
}

/// Returns what is sent to the webhooks about an entry: an event, and a sentence for people.
pub(super) fn build_notice(
    context: &EntryContext<'_>,
    kind: &JournalEntryKind,
) -> Option<(NoticeEvent, String)> {
    Some(match kind {
        JournalEntryKind::Began { spec, .. } => {
            (NoticeEvent::Started, format!("roll over {} hosts began", spec.hosts.len()))
        }
        JournalEntryKind::StepFailed { step, why } => {
            (NoticeEvent::Failed, format!("{} failed at {step}: {why}", context.host?))
        }
        JournalEntryKind::Done => {
            let elapsed = duration::format(context.elapsed);
            (NoticeEvent::HostDone, format!("{} is done after {elapsed}", context.host?))
        }
        JournalEntryKind::Stopped { why } => (NoticeEvent::Finished, format!("roll stopped: {why}")),
        JournalEntryKind::Ended { why, .. } => (NoticeEvent::Finished, format!("roll ended: {why}")),
        JournalEntryKind::Resumed { .. }
        | JournalEntryKind::Aborting { .. }
        | JournalEntryKind::StepBegan { .. }
        | JournalEntryKind::StepDone { .. }
        | JournalEntryKind::Settled { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example;
    use crate::model::history::Actor;
    use crate::model::journal::RollResult;
    use crate::model::roll::Step;
    use crate::plan::roll::plan_resumed;

    #[test]
    fn began_step_failure_and_end_are_announced() {
        let (spec, actor) = (example::make_roll_spec(&["web1"]), Actor::new("ops", 7));
        let plan = plan_resumed(&example::fleet(), &spec);
        let (name, elapsed) = (spec.hosts[0].clone(), Duration::from_secs(3));
        let roll = EntryContext { plan: &plan, host: None, elapsed: Duration::ZERO };
        let host = EntryContext { plan: &plan, host: Some(&name), elapsed };

        let began = JournalEntryKind::Began { spec: spec.clone(), actor };
        let event = RollEvent::Began { hosts: spec.hosts.clone(), is_resumed: false };
        assert_eq!(build_event(&roll, &began), Some(event));
        let notice = (NoticeEvent::Started, "roll over 1 hosts began".to_owned());
        assert_eq!(build_notice(&roll, &began), Some(notice));

        let drained = JournalEntryKind::StepBegan { step: Step::Drained };
        let timeout = Some(spec.drain_timeout);
        let event = RollEvent::StepBegan { host: name.clone(), step: Step::Drained, timeout };
        assert_eq!(build_event(&host, &drained), Some(event));
        assert_eq!((build_event(&roll, &drained), build_notice(&host, &drained)), (None, None));

        let failed = JournalEntryKind::StepFailed { step: Step::Up, why: "DOWN".into() };
        let notice = (NoticeEvent::Failed, "web1 failed at up: DOWN".to_owned());
        assert_eq!(build_notice(&host, &failed), Some(notice));
        let notice = (NoticeEvent::HostDone, "web1 is done after 3s".to_owned());
        assert_eq!(build_notice(&host, &JournalEntryKind::Done), Some(notice));

        let ended = JournalEntryKind::Ended { result: RollResult::Done, why: "done".into() };
        let event = RollEvent::Ended { result: Some(RollResult::Done), why: "done".into() };
        assert_eq!(build_event(&roll, &ended), Some(event));
        let stopped = JournalEntryKind::Stopped { why: "interrupted".into() };
        let notice = (NoticeEvent::Finished, "roll stopped: interrupted".to_owned());
        assert_eq!(build_notice(&roll, &stopped), Some(notice));
    }
}
