//! The outcome for a main that is no longer on trial, by the present routes and by the history.

use crate::model::api::deployments::TrialOutcome;
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::forward::Rollback;
use crate::model::history::{Actor, HistoryEntry, Phase};

use super::routes::{ASSIGN, DEPLOY, KILL, ROLLBACK};

/// Judges the trial of `expected`. `main` is main now, `rollback` is the one that made it main, and `entries` are the latest
/// of the service, oldest first.
pub fn judge_trial(
    expected: &DeploymentId,
    main: Option<Deployment>,
    rollback: Option<&Rollback>,
    entries: &[HistoryEntry],
) -> TrialOutcome {
    let actions: &[&str] = if main.is_some() { &[DEPLOY, ASSIGN, ROLLBACK] } else { &[KILL] };
    let last = find_last(entries, actions);
    match (main, rollback, last) {
        (Some(main), _, _) if main.id == *expected => TrialOutcome::Passed,
        (Some(main), Some(rollback), _) => {
            let reason = describe_rollback(&rollback.actor, &rollback.reason);
            TrialOutcome::RolledBack { reason, previous: Box::new(main) }
        }
        // Recorded by a switchman that left the rollback out of the routes.
        (Some(main), None, Some(last)) if last.action == ROLLBACK => {
            TrialOutcome::RolledBack { reason: describe_rollback(&last.actor, ""), previous: Box::new(main) }
        }
        (main, _, last) => {
            TrialOutcome::Overtaken { main: main.map(Box::new), actor: last.map(|last| last.actor.clone()) }
        }
    }
}

/// Finds how the last of such changes began that did not fail. One that has not ended yet is recorded all the same.
fn find_last<'a>(entries: &'a [HistoryEntry], actions: &[&str]) -> Option<&'a HistoryEntry> {
    let failed = |one: &HistoryEntry| {
        entries.iter().any(|entry| entry.operation == one.operation && entry.phase == Phase::Failed)
    };
    let began =
        |entry: &&HistoryEntry| entry.phase == Phase::Began && actions.contains(&entry.action.as_str());
    entries.iter().rev().filter(began).find(|entry| !failed(entry))
}

fn describe_rollback(actor: &Actor, reason: &str) -> String {
    if reason.is_empty() { format!("{actor} took it back") } else { reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example::{self, make_actor};
    use crate::model::history::OperationId;

    fn make_entry(operation: i64, action: &str, phase: Phase, detail: &str) -> HistoryEntry {
        HistoryEntry {
            operation: OperationId(operation),
            at: jiff::Timestamp::UNIX_EPOCH,
            actor: make_actor(),
            caller: None,
            service: "shop".parse().unwrap(),
            action: action.to_owned(),
            phase,
            detail: detail.to_owned(),
        }
    }

    fn make_deployment(version: &str) -> Deployment {
        example::deployment("shop", version, 20000)
    }

    fn make_history(last: &str, detail: &str) -> Vec<HistoryEntry> {
        vec![
            make_entry(1, DEPLOY, Phase::Began, "shop 1.0.0 is main"),
            make_entry(1, DEPLOY, Phase::Done, ""),
            make_entry(2, ASSIGN, Phase::Began, "shop 2.0.0, flip"),
            make_entry(2, ASSIGN, Phase::Done, ""),
            make_entry(3, last, Phase::Began, detail),
            // What came after it has failed, or moves no main.
            make_entry(4, ROLLBACK, Phase::Began, "shop 0.9.0, never"),
            make_entry(4, ROLLBACK, Phase::Failed, "xtables is locked"),
            make_entry(5, "watch", Phase::Began, ""),
            make_entry(6, "restore", Phase::Done, ""),
        ]
    }

    /// Judges the trial of 2.0.0 where `main` is main now.
    fn judge(main: Option<&str>, reason: Option<&str>, history: &[HistoryEntry]) -> TrialOutcome {
        let rollback = reason.map(|reason| Rollback { actor: make_actor(), reason: reason.to_owned() });
        let main = main.map(make_deployment);
        judge_trial(&make_deployment("2.0.0").id, main, rollback.as_ref(), history)
    }

    #[test]
    fn trial_of_the_present_main_passed_in_any_history() {
        let history = make_history(ROLLBACK, "shop 2.0.0, by itself: 503");
        assert_eq!(judge(Some("2.0.0"), None, &history), TrialOutcome::Passed);
        assert_eq!(judge(Some("2.0.0"), Some("by itself: 503"), &history), TrialOutcome::Passed);
    }

    #[test]
    fn rolled_back_trial_has_the_recorded_reason() {
        // The sentence of the history is for people: no reason is taken out of it.
        let history = make_history(ROLLBACK, "shop 1.0.0, never");
        for (recorded, reason) in [
            (Some("by itself: 503"), "by itself: 503"),
            (Some(""), "ops (pid 7) took it back"),
            (None, "ops (pid 7) took it back"),
        ] {
            let previous = Box::new(make_deployment("1.0.0"));
            let expected = TrialOutcome::RolledBack { previous, reason: reason.to_owned() };
            assert_eq!(judge(Some("1.0.0"), recorded, &history), expected);
        }
        // The history is shorter than what the routes know.
        let end = judge(Some("1.0.0"), Some("503"), &[]);
        assert!(matches!(end, TrialOutcome::RolledBack { ref reason, .. } if reason == "503"), "{end:?}");
    }

    #[test]
    fn overtaken_trial_names_the_actor() {
        let end = judge(Some("3.0.0"), None, &make_history(ASSIGN, "shop 3.0.0"));
        let main = Some(Box::new(make_deployment("3.0.0")));
        assert_eq!(end, TrialOutcome::Overtaken { main, actor: Some(make_actor()) });
        let end = judge(None, None, &make_history(KILL, "shop 2.0.0"));
        assert_eq!(end, TrialOutcome::Overtaken { main: None, actor: Some(make_actor()) });
        // Its history entries no longer exist.
        let end = judge(Some("3.0.0"), None, &[]);
        assert!(matches!(end, TrialOutcome::Overtaken { main: Some(_), actor: None }), "{end:?}");
    }
}
