//! The line that follows from an entry of the journal.

use crate::model::promote::{PromotionEntryKind, PromotionId, PromotionSpec, StepVerdict};

/// Returns the line for people about an entry. What takes effect before its entry, or has none, is reported where it is done.
pub(super) fn describe_entry(
    promotion: &PromotionId,
    spec: &PromotionSpec,
    kind: &PromotionEntryKind,
) -> Option<String> {
    let PromotionSpec { service, version, steps, .. } = spec;
    Some(match kind {
        PromotionEntryKind::Began { .. } => format!("promotion {promotion} of {service} {version} began"),
        PromotionEntryKind::Resumed { .. } => format!("promotion {promotion} goes on"),
        PromotionEntryKind::Compared { passed: true, reason } => format!("as a shadow: {reason}"),
        PromotionEntryKind::StepBegan { step } => {
            let share = steps.share_at(*step).unwrap_or_default();
            format!("step {} of {}: {share}", step + 1, steps.shares().len())
        }
        PromotionEntryKind::Judged { judgement, .. } => match &judgement.verdict {
            StepVerdict::Hold { reason } => format!("holding: {reason}"),
            StepVerdict::Advance | StepVerdict::Done | StepVerdict::Breach { .. } => return None,
        },
        PromotionEntryKind::AwaitingApproval { .. } => {
            format!("passed, waiting for `switchman promote {service} --approve`")
        }
        PromotionEntryKind::RollingBack { reason, .. } => format!("{reason}: main answers everything"),
        PromotionEntryKind::Compared { passed: false, .. }
        | PromotionEntryKind::StepSet { .. }
        | PromotionEntryKind::StepPassed { .. }
        | PromotionEntryKind::Requested { .. }
        | PromotionEntryKind::Promoting
        | PromotionEntryKind::Stopped { .. }
        | PromotionEntryKind::Ended { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example;
    use crate::model::promote::{Judgement, PromotionResult, RequestSample};

    #[test]
    fn step_hold_and_roll_back_are_described() {
        let (id, spec) =
            (PromotionId::new(jiff::Timestamp::UNIX_EPOCH, 1), example::make_promotion_spec(&["web1"]));
        let describe = |kind| describe_entry(&id, &spec, &kind);
        assert_eq!(describe(PromotionEntryKind::StepBegan { step: 1 }).as_deref(), Some("step 2 of 5: 5%"));
        let judged = |verdict| {
            let (canary, main) = (RequestSample::default(), RequestSample::default());
            PromotionEntryKind::Judged { step: 0, judgement: Judgement { verdict, canary, main } }
        };
        let hold = StepVerdict::Hold { reason: "5 requests".into() };
        assert_eq!(describe(judged(hold)).as_deref(), Some("holding: 5 requests"));
        assert_eq!(describe(judged(StepVerdict::Advance)), None);
        let result = PromotionResult::RolledBack;
        let back = PromotionEntryKind::RollingBack { result, reason: "worse".into() };
        assert_eq!(describe(back).as_deref(), Some("worse: main answers everything"));
    }
}
