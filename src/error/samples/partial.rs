//! Failures of commands that did a part of their work.

use super::{discovery, list_switch_errors};
use crate::error::Failure;
use crate::model::failure::ErrorCode;
use crate::model::port_forward::Switch;
use crate::ops::fleet::deployments::FleetDeployError;
use crate::ops::fleet::forward::SwitchError;
use crate::world::link::LinkError;

pub(super) fn make_switched_partially() -> Failure {
    let mut failed: Vec<SwitchError> =
        list_switch_errors().into_iter().map(|(_, error)| error).take(7).collect();
    // One of the two contradictions is enough.
    failed.remove(2);
    Failure::SwitchedPartially { switch: Switch::Off, done: 1, of: 6, failed }
}

pub(super) fn make_withdrawn_partially() -> Failure {
    let failed = discovery::list_withdraw_errors().into_iter().map(|(_, error)| error).collect();
    Failure::WithdrawnPartially { done: 1, of: 4, failed }
}

pub(super) fn make_killed_partially() -> Failure {
    let message = "another switchman is changing the service".to_owned();
    let busy = LinkError::Refused { code: ErrorCode::Busy, message };
    let error = FleetDeployError::Hosts(vec![("web2".parse().expect("a name"), busy)]);
    let cause = Failure::Deployments { action: "kill every version".to_owned(), subject: None, error };
    Failure::KilledPartially { killed: 2, cause: Box::new(cause) }
}
