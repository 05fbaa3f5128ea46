//! The outcome for a main that is no longer on trial, by the present routes and by the history.

use crate::model::api::deployments::TrialOutcome;
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::history::{HistoryEntry, Phase};

use super::routes::{ASSIGN, DEPLOY, KILL, ROLLBACK};

/// `main`: which is main now; `rows`: the latest of the service, oldest first.
pub fn ended(expected: &DeploymentId, main: Option<Deployment>, rows: &[HistoryEntry]) -> TrialOutcome {
    let actions: &[&str] = if main.is_some() { &[DEPLOY, ASSIGN, ROLLBACK] } else { &[KILL] };
    let last = last(rows, actions);
    match (main, last) {
        (Some(main), _) if main.id == *expected => TrialOutcome::Passed,
        (Some(main), Some(last)) if last.action == ROLLBACK => {
            TrialOutcome::RolledBack { why: describe_rollback(last, &main), previous: Box::new(main) }
        }
        (main, last) => {
            TrialOutcome::Overtaken { main: main.map(Box::new), actor: last.map(|last| last.actor.clone()) }
        }
    }
}

/// How the last of such changes began that did not fail. One that has not ended yet is recorded all the same.
fn last<'a>(rows: &'a [HistoryEntry], actions: &[&str]) -> Option<&'a HistoryEntry> {
    let failed = |one: &HistoryEntry| {
        rows.iter().any(|row| row.operation == one.operation && row.phase == Phase::Failed)
    };
    let began = |row: &&HistoryEntry| row.phase == Phase::Began && actions.contains(&row.action.as_str());
    rows.iter().rev().filter(began).find(|row| !failed(row))
}

/// Returns the detail of the history entry, without the name of the deployment that is main again.
fn describe_rollback(row: &HistoryEntry, main: &Deployment) -> String {
    let named = format!("{} {}, ", main.service, main.version);
    match row.detail.strip_prefix(&named) {
        Some(why) => why.to_owned(),
        None => format!("{} took it back", row.actor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example;
    use crate::model::history::{Actor, OperationId};

    fn row(operation: i64, action: &str, phase: Phase, detail: &str) -> HistoryEntry {
        HistoryEntry {
            operation: OperationId(operation),
            at: jiff::Timestamp::UNIX_EPOCH,
            actor: ops(),
            service: "shop".parse().unwrap(),
            action: action.to_owned(),
            phase,
            detail: detail.to_owned(),
        }
    }

    fn ops() -> Actor {
        Actor { user: "ops".into(), pid: 7 }
    }

    fn one(version: &str) -> Deployment {
        example::deployment("shop", version, 20000)
    }

    fn history(last: &str, detail: &str) -> Vec<HistoryEntry> {
        vec![
            row(1, DEPLOY, Phase::Began, "shop 1.0.0 is main"),
            row(1, DEPLOY, Phase::Done, ""),
            row(2, ASSIGN, Phase::Began, "shop 2.0.0, flip"),
            row(2, ASSIGN, Phase::Done, ""),
            row(3, last, Phase::Began, detail),
            // What came after it has failed, or moves no main.
            row(4, ROLLBACK, Phase::Began, "shop 0.9.0, never"),
            row(4, ROLLBACK, Phase::Failed, "xtables is locked"),
            row(5, "watch", Phase::Began, ""),
            row(6, "restore", Phase::Done, ""),
        ]
    }

    #[test]
    fn the_one_that_is_main_is_good_whatever_the_history_says() {
        let history = history(ROLLBACK, "shop 2.0.0, by itself: 503");
        assert_eq!(ended(&one("2.0.0").id, Some(one("2.0.0")), &history), TrialOutcome::Passed);
    }

    #[test]
    fn one_that_was_put_back_is_not_good_and_the_history_says_why() {
        for (detail, why) in
            [("shop 1.0.0, by itself: 503", "by itself: 503"), ("shop 1.0.0", "ops (pid 7) took it back")]
        {
            let end = ended(&one("2.0.0").id, Some(one("1.0.0")), &history(ROLLBACK, detail));
            let previous = Box::new(one("1.0.0"));
            assert_eq!(end, TrialOutcome::RolledBack { previous, why: why.to_owned() });
        }
    }

    #[test]
    fn whoever_made_another_one_main_is_named() {
        let end = ended(&one("2.0.0").id, Some(one("3.0.0")), &history(ASSIGN, "shop 3.0.0"));
        let main = Some(Box::new(one("3.0.0")));
        assert_eq!(end, TrialOutcome::Overtaken { main, actor: Some(ops()) });
        let end = ended(&one("2.0.0").id, None, &history(KILL, "shop 2.0.0"));
        assert_eq!(end, TrialOutcome::Overtaken { main: None, actor: Some(ops()) });
        // Its history entries no longer exist.
        let end = ended(&one("2.0.0").id, Some(one("3.0.0")), &[]);
        assert!(matches!(end, TrialOutcome::Overtaken { main: Some(_), actor: None }), "{end:?}");
    }
}
