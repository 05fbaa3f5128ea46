//! The state that all routes of the host API share, and the part of it that one request sees.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;

use super::client::Client;
use super::respond::respond_error;
use crate::agent::metrics::Metrics;
use crate::model::failure::ErrorCode;
use crate::ops::host::api::LocalHost;
use crate::world::link::HostLink;
use crate::world::releases::ReleaseStore;

pub(in crate::agent) type Host = Arc<dyn HostLink>;

/// The state of a connection.
#[derive(Clone)]
pub(in crate::agent) struct ServerState {
    pub host: Arc<LocalHost>,
    /// Directory that holds an archive until it is complete.
    pub releases: Arc<dyn ReleaseStore>,
    pub metrics: Arc<Metrics>,
}

/// The state of one request: the host records its client with every change.
#[derive(Clone)]
pub(in crate::agent) struct ApiState {
    pub host: Host,
    pub releases: Arc<dyn ReleaseStore>,
    pub metrics: Arc<Metrics>,
    pub client: Client,
}

impl FromRequestParts<ServerState> for ApiState {
    type Rejection = Response;

    /// A request whose client was not observed is refused: none reaches the host without one.
    async fn from_request_parts(parts: &mut Parts, state: &ServerState) -> Result<Self, Response> {
        let Some(client) = parts.extensions.get::<Client>() else {
            let text = "the client of this request is not known";
            return Err(respond_error(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, text));
        };
        let ServerState { host, releases, metrics } = state.clone();
        let host = Arc::new(host.for_caller(client.caller.clone()));
        Ok(Self { host, releases, metrics, client: client.clone() })
    }
}
