//! Failures with an error of a library or of the system as their cause.

use std::fmt::Display;

use crate::error::Failure;

/// Returns the conversion of an error into `cannot ACTION: ERROR`.
pub(super) fn fail_to<E: Display>(action: impl Into<String>) -> impl Fn(E) -> Failure {
    let action = action.into();
    move |error| Failure::Other { what: action.clone(), why: error.to_string() }
}
