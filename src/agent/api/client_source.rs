//! How the client of a connection is found.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;

use super::client::{Client, REFUSALS};
use super::respond::respond_error;
use super::token::{TokenGate, require_token};
use crate::model::caller::Caller;
use crate::model::failure::ErrorCode;

/// How the client of a connection is found.
#[derive(Clone)]
pub enum ClientSource {
    /// The connection proved it: by a client certificate, or as a process of this host.
    Connection(Client),
    /// Each request bears a token.
    Token(TokenGate),
    /// The connection proved a client that is not admitted.
    Refused(Caller),
    /// No credential was checked: every request is refused.
    Unknown,
}

/// Puts the client into every request.
pub(super) fn identify_clients(routes: Router, source: ClientSource) -> Router {
    match source {
        ClientSource::Connection(client) => routes.layer(middleware::from_fn_with_state(client, add_client)),
        ClientSource::Token(gate) => routes.layer(middleware::from_fn_with_state(gate, require_token)),
        ClientSource::Refused(caller) => {
            routes.layer(middleware::from_fn_with_state(caller, refuse_unlisted))
        }
        ClientSource::Unknown => routes,
    }
}

async fn add_client(State(client): State<Client>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(client);
    next.run(request).await
}

async fn refuse_unlisted(State(caller): State<Caller>, _request: Request, _next: Next) -> Response {
    REFUSALS.warn(format_args!("refused: {caller} is not in the list of clients"));
    let text = format!("the {} is not in the list of clients of this agent", caller.identity);
    respond_error(StatusCode::FORBIDDEN, ErrorCode::RoleTooLow, &text)
}
