//! The last change in a host's history: what was refused, or taken back, is none.

use std::collections::BTreeSet;

use super::routes::{KILL_BEGUN, KILL_REFUSED};
use crate::model::history::{HistoryEntry, Phase};

/// Finds the last change of a history, which is sorted from old to new. A change whose end is not recorded counts.
pub fn find_last_change(history: &[HistoryEntry]) -> Option<&HistoryEntry> {
    let (mut ended, mut reverted) = (BTreeSet::new(), BTreeSet::new());
    let mut is_refused_kill = false;
    history.iter().rev().find(|entry| {
        let operation = entry.operation.0;
        let is_unfinished = ended.insert(operation) && entry.phase == Phase::Began;
        if entry.phase == Phase::Failed {
            reverted.insert(operation);
        }
        if entry.action == KILL_REFUSED {
            is_refused_kill = true;
            return is_unfinished;
        }
        let is_step_of_refused = is_refused_kill && entry.action == KILL_BEGUN;
        is_refused_kill &= is_step_of_refused;
        !is_step_of_refused && !reverted.contains(&operation)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example;
    use crate::model::history::OperationId;

    fn make_history(rows: &[(i64, &str, Phase)]) -> Vec<HistoryEntry> {
        let entry = |(operation, action, phase): &(i64, &str, Phase)| HistoryEntry {
            operation: OperationId(*operation),
            at: jiff::Timestamp::from_second(*operation).unwrap(),
            actor: example::make_actor(),
            caller: None,
            service: "shop".parse().unwrap(),
            action: (*action).to_owned(),
            phase: *phase,
            detail: String::new(),
        };
        rows.iter().map(entry).collect()
    }

    #[test]
    fn last_change_is_neither_refused_nor_taken_back() {
        use Phase::{Began, Done, Failed};
        let deploy = (1, "deploy", Done);
        let begun = [(2, KILL_BEGUN, Began), (2, KILL_BEGUN, Done)];
        let refused = [(3, KILL_REFUSED, Began), (3, KILL_REFUSED, Done)];
        let failed = [(4, "disable-forward", Began), (4, "disable-forward", Failed)];
        let find = |rows: &[&[(i64, &str, Phase)]]| {
            let history = make_history(&rows.concat());
            find_last_change(&history).map(|entry| (entry.operation.0, entry.phase))
        };
        assert_eq!(find(&[]), None);
        assert_eq!(find(&[&[deploy], &begun]), Some((2, Done)), "a kill that waits");
        assert_eq!(find(&[&[deploy], &begun, &refused]), Some((1, Done)));
        assert_eq!(find(&[&[deploy], &begun, &refused[..1]]), Some((3, Began)), "cut off");
        assert_eq!(find(&[&[deploy], &begun, &begun, &refused, &refused]), Some((1, Done)), "with a share");
        assert_eq!(find(&[&[deploy], &failed]), Some((1, Done)));
        assert_eq!(find(&[&[deploy], &failed[..1]]), Some((4, Began)), "cut off");
        assert_eq!(find(&[&begun, &[deploy], &begun, &refused, &failed]), Some((1, Done)));
    }
}
