//! The client of a request, and the role that a route needs from it.

use std::sync::LazyLock;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::respond::respond_link_error;
use crate::admission::RateLimitedLog;
use crate::model::api::endpoint::Row;
use crate::model::caller::Caller;
use crate::model::client_role::ClientRole;
use crate::model::failure::ErrorCode;
use crate::world::link::{LinkError, LinkResult};

/// A client that repeats refused requests does not fill the log.
pub(super) static REFUSALS: LazyLock<RateLimitedLog> = LazyLock::new(RateLimitedLog::default);

/// The client of a request, as the agent observed it.
#[derive(Debug, Clone)]
pub struct Client {
    pub caller: Caller,
    pub role: ClientRole,
}

impl Client {
    /// Checks that the role permits a request to this route.
    pub(super) fn require(&self, needed: ClientRole, row: &Row) -> LinkResult<()> {
        if self.role >= needed {
            return Ok(());
        }
        let (caller, role, method, path) = (&self.caller, self.role, row.method.as_str(), row.path);
        REFUSALS
            .warn(format_args!("refused: {caller} has the role `{role}`, {method} {path} needs `{needed}`"));
        let client = &caller.identity;
        let message = format!("the {client} has the role `{role}`, and {method} {path} needs `{needed}`");
        Err(LinkError::Refused { code: ErrorCode::RoleTooLow, message })
    }
}

/// Checks the role for a route before its request is read. Without a client the route refuses by itself.
pub(super) async fn check_role(State(row): State<Row>, request: Request, next: Next) -> Response {
    let client = request.extensions().get::<Client>();
    match client.map_or(Ok(()), |client| client.require(row.role, &row)) {
        Ok(()) => next.run(request).await,
        Err(refused) => respond_link_error(&refused),
    }
}
