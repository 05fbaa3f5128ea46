//! The client of a request.

use crate::model::caller::Caller;

/// The client of a request, as the agent observed it.
#[derive(Debug, Clone)]
pub struct Client {
    pub caller: Caller,
}
