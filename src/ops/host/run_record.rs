//! The rows of the history about a program that a client runs on the host.

use super::warn::warn;
use crate::model::api::{RunOutcome, RunRequest};
use crate::model::history::{Actor, OperationId, Phase, RUN_ACTION};
use crate::model::name::ServiceName;
use crate::model::roll::RollId;
use crate::model::shell::join_words;
use crate::model::terminal_text::clean_line;
use crate::world::HostWorld;
use crate::world::commands::CommandError;
use crate::world::store::{HistoryNote, StoreResult};

/// Longer command lines are cut, in characters.
const MAX_COMMAND_LENGTH: usize = 1000;

/// A run whose begin is recorded. If this is dropped before the end of the run, its caller has disconnected.
pub(super) struct RunRecord {
    world: HostWorld,
    note: HistoryNote,
    operation: OperationId,
    has_ended: bool,
}

impl RunRecord {
    /// Records that a run begins: its command, not its environment, which may hold secrets. A run that cannot be recorded is not
    /// made.
    pub(super) fn begin(world: &HostWorld, actor: Actor, request: &RunRequest) -> StoreResult<Self> {
        let roll = request.env.get("SWITCHMAN_ROLL_ID").and_then(|id| id.parse().ok());
        let note = HistoryNote {
            service: find_service(world, request)?,
            actor: Actor { roll: roll.or_else(|| read_roll(&request.key)), ..actor },
            action: RUN_ACTION,
            detail: describe_command(&request.argv),
        };
        let operation = world.store.add_phase(&note, Phase::Began, None, world.clock.now())?;
        Ok(Self { world: world.clone(), note, operation, has_ended: false })
    }

    /// Records how the run ended.
    pub(super) fn end(mut self, ended: &Result<RunOutcome, CommandError>) {
        let (phase, detail) = match ended {
            Ok(RunOutcome { status, timed_out: true }) => {
                (Phase::Failed, format!("timed out, status {status}"))
            }
            Ok(RunOutcome { status: 0, .. }) => (Phase::Done, "status 0".to_owned()),
            Ok(RunOutcome { status, .. }) => (Phase::Failed, format!("status {status}")),
            Err(error) => (Phase::Failed, clean_line(&error.to_string()).into_owned()),
        };
        self.record_end(phase, detail);
    }

    fn record_end(&mut self, phase: Phase, detail: String) {
        self.has_ended = true;
        let note = HistoryNote { detail, ..self.note.clone() };
        let now = self.world.clock.now();
        if let Err(error) = self.world.store.add_phase(&note, phase, Some(self.operation), now) {
            warn(&self.world, format!("the history has no end for the run `{}`: {error}", self.note.detail));
        }
    }
}

impl Drop for RunRecord {
    fn drop(&mut self) {
        if !self.has_ended {
            self.record_end(Phase::Failed, "the caller disconnected, and the program was ended".to_owned());
        }
    }
}

/// Returns the service that the environment of a roll names, or the only one of the host.
fn find_service(world: &HostWorld, request: &RunRequest) -> StoreResult<ServiceName> {
    if let Some(named) = request.env.get("SWITCHMAN_SERVICE").and_then(|name| name.parse().ok()) {
        return Ok(named);
    }
    let mut services = world.store.load_records()?.into_iter().map(|record| record.forward.service);
    Ok(match (services.next(), services.next()) {
        (Some(only), None) => only,
        _ => ServiceName::of_host(),
    })
}

/// Reads the roll from a key such as `r20261121-071503-5f3a-web1-preflight`.
fn read_roll(key: &str) -> Option<RollId> {
    let end = key.match_indices('-').nth(2)?.0;
    key[..end].parse().ok()
}

fn describe_command(argv: &[String]) -> String {
    let line = join_words(argv);
    let line = clean_line(&line);
    match line.char_indices().nth(MAX_COMMAND_LENGTH) {
        None => line.into_owned(),
        Some((end, _)) => format!("{} [...]", &line[..end]),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::history::HistoryEntry;
    use crate::model::rules::Family;
    use crate::world::fake;
    use crate::world::fake::firewall::FakeFirewall;
    use crate::world::store::Store as _;

    fn make_request(argv: &[&str]) -> RunRequest {
        RunRequest {
            key: "r20261121-071503-5f3a-web1-preflight".to_owned(),
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            env: [("PASSWORD".to_owned(), "hunter2".to_owned())].into(),
            dir: None,
            timeout_ms: None,
        }
    }

    fn record(request: &RunRequest, ended: Option<Result<RunOutcome, CommandError>>) -> Vec<HistoryEntry> {
        let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&[Family::V4])));
        let begun = RunRecord::begin(&fake.world, Actor::new("api", 0), request).unwrap();
        match ended {
            Some(ended) => begun.end(&ended),
            None => drop(begun),
        }
        fake.store.load_history(None, 10).unwrap()
    }

    #[test]
    fn run_is_recorded_with_its_command_and_end() {
        let status = |status, timed_out| Some(Ok(RunOutcome { status, timed_out }));
        let missing = CommandError::Missing { program: "no\u{1b}sh".to_owned() };
        let cases = [
            (status(0, false), Phase::Done, "status 0"),
            (status(3, false), Phase::Failed, "status 3"),
            (status(143, true), Phase::Failed, "timed out, status 143"),
            (Some(Err(missing)), Phase::Failed, "`no\\u{1b}sh` is not installed"),
            (None, Phase::Failed, "the caller disconnected, and the program was ended"),
        ];
        for (ended, phase, detail) in cases {
            let rows = record(&make_request(&["sh", "-c", "exit 3\n\u{202e}"]), ended);
            let [began, end] = &rows[..] else { panic!("{rows:?}") };
            assert_eq!((began.phase, began.detail.as_str()), (Phase::Began, r"sh -c 'exit 3 \u{202e}'"));
            assert_eq!((end.phase, end.detail.as_str()), (phase, detail));
            assert!(began.operation == end.operation && began.is_run(), "{rows:?}");
            assert_eq!(began.actor.roll, Some("r20261121-071503-5f3a".parse().unwrap()));
            assert!(!format!("{rows:?}").contains("hunter2"), "{rows:?}");
        }
    }

    #[test]
    fn command_line_is_bounded_and_service_is_that_of_the_roll() {
        let long = record(&make_request(&["echo", &"\u{e9}".repeat(5000)]), None);
        assert!(long[0].detail.chars().count() < MAX_COMMAND_LENGTH + 10, "{}", long[0].detail);
        assert_eq!(long[0].service.as_str(), "host");
        let mut request = make_request(&["true"]);
        request.env.insert("SWITCHMAN_SERVICE".to_owned(), "shop".to_owned());
        request.env.insert("SWITCHMAN_ROLL_ID".to_owned(), "r20261121-071503-0000".to_owned());
        let rows = record(&request, None);
        assert_eq!(rows[0].service.as_str(), "shop");
        assert_eq!(rows[0].actor.roll, Some("r20261121-071503-0000".parse().unwrap()));
    }
}
