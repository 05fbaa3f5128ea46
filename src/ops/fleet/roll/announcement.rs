//! The event and the notice that follow from an entry of the journal.

use std::time::Duration;

use crate::model::duration;
use crate::model::journal::RollEntryKind;
use crate::model::name::HostName;
use crate::model::plural::Count;
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
pub(super) fn build_event(context: &EntryContext<'_>, kind: &RollEntryKind) -> Option<RollEvent> {
    let host = context.host.cloned();
    Some(match kind.clone() {
        RollEntryKind::Began { spec, .. } => RollEvent::Began { hosts: spec.hosts, is_resumed: false },
        RollEntryKind::Resumed { .. } => {
            RollEvent::Began { hosts: context.plan.spec.hosts.clone(), is_resumed: true }
        }
        RollEntryKind::Aborting { .. } => return None,
        RollEntryKind::StepBegan { step } => {
            let planned = context.plan.steps.iter().find(|planned| planned.step == step);
            RollEvent::StepBegan {
                host: host?,
                step,
                description: step.describe_begun(&context.plan.spec.work),
                timeout: planned.and_then(|planned| planned.timeout),
            }
        }
        RollEntryKind::StepDone { step, detail } => {
            let description = step.describe_done(&context.plan.spec.work);
            RollEvent::StepDone { host: host?, step, description, detail }
        }
        RollEntryKind::StepFailed { step, reason } => RollEvent::StepFailed { host: host?, step, reason },
        RollEntryKind::Settled { end, detail } => RollEvent::Settled { host: host?, end, detail },
        RollEntryKind::Done => RollEvent::HostDone { host: host?, elapsed: context.elapsed },
        RollEntryKind::Stopped { reason } => RollEvent::Ended { result: None, reason },
        RollEntryKind::Ended { result, reason } => RollEvent::Ended { result: Some(result), reason },
    })
}

/// Returns what is sent to the webhooks about an entry: an event, and a sentence for people.
pub(super) fn build_notice(
    context: &EntryContext<'_>,
    kind: &RollEntryKind,
) -> Option<(NoticeEvent, String)> {
    Some(match kind {
        RollEntryKind::Began { spec, .. } => {
            (NoticeEvent::Started, format!("roll over {} began", Count(spec.hosts.len(), "host")))
        }
        RollEntryKind::StepFailed { step, reason } => {
            (NoticeEvent::Failed, format!("{} failed at {step}: {reason}", context.host?))
        }
        RollEntryKind::Done => {
            let elapsed = duration::format(context.elapsed);
            (NoticeEvent::HostDone, format!("{} is done after {elapsed}", context.host?))
        }
        RollEntryKind::Stopped { reason } => (NoticeEvent::Finished, format!("roll stopped: {reason}")),
        RollEntryKind::Ended { reason, .. } => (NoticeEvent::Finished, format!("roll ended: {reason}")),
        RollEntryKind::Resumed { .. }
        | RollEntryKind::Aborting { .. }
        | RollEntryKind::StepBegan { .. }
        | RollEntryKind::StepDone { .. }
        | RollEntryKind::Settled { .. } => return None,
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

        let began = RollEntryKind::Began { spec: spec.clone(), actor, overridden: vec![] };
        let event = RollEvent::Began { hosts: spec.hosts.clone(), is_resumed: false };
        assert_eq!(build_event(&roll, &began), Some(event));
        let notice = (NoticeEvent::Started, "roll over 1 host began".to_owned());
        assert_eq!(build_notice(&roll, &began), Some(notice));

        let drained = RollEntryKind::StepBegan { step: Step::Drained };
        let timeout = Some(spec.drain_timeout);
        let event = RollEvent::StepBegan {
            host: name.clone(),
            step: Step::Drained,
            description: "draining",
            timeout,
        };
        assert_eq!(build_event(&host, &drained), Some(event));
        assert_eq!((build_event(&roll, &drained), build_notice(&host, &drained)), (None, None));

        let failed = RollEntryKind::StepFailed { step: Step::Up, reason: "DOWN".into() };
        let notice = (NoticeEvent::Failed, "web1 failed at up: DOWN".to_owned());
        assert_eq!(build_notice(&host, &failed), Some(notice));
        let notice = (NoticeEvent::HostDone, "web1 is done after 3s".to_owned());
        assert_eq!(build_notice(&host, &RollEntryKind::Done), Some(notice));

        let ended = RollEntryKind::Ended { result: RollResult::Done, reason: "done".into() };
        let event = RollEvent::Ended { result: Some(RollResult::Done), reason: "done".into() };
        assert_eq!(build_event(&roll, &ended), Some(event));
        let stopped = RollEntryKind::Stopped { reason: "interrupted".into() };
        let notice = (NoticeEvent::Finished, "roll stopped: interrupted".to_owned());
        assert_eq!(build_notice(&roll, &stopped), Some(notice));
    }
}
