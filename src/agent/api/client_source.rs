//! How the client of a connection is found.

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;

use super::client::Client;
use super::token::{TokenGate, require_token};

/// How the client of a connection is found.
#[derive(Clone)]
pub enum ClientSource {
    /// The connection proved it: by a client certificate, or as a process of this host.
    Connection(Client),
    /// Each request bears a token.
    Token(TokenGate),
    /// No credential was checked: every request is refused.
    Unknown,
}

/// Puts the client into every request.
pub(super) fn identify_clients(routes: Router, source: ClientSource) -> Router {
    match source {
        ClientSource::Connection(client) => routes.layer(middleware::from_fn_with_state(client, add_client)),
        ClientSource::Unknown => routes,
        ClientSource::Token(gate) => routes.layer(middleware::from_fn_with_state(gate, require_token)),
    }
}

async fn add_client(State(client): State<Client>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(client);
    next.run(request).await
}
