//! The bearer token of `--token-file`: who bears it is admitted; wrong ones are logged and slowed down.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::client::Client;
use super::respond::respond_error;
use crate::admission::{ConnectionPermit, RateLimitedLog};
use crate::model::caller::{Caller, CallerIdentity};
use crate::model::failure::ErrorCode;
use crate::plan::admission::AdmissionResult;

/// Time from a wrong token to its refusal. Each attempt costs its sender a connection for that long, of which an address has a few
/// dozen. A client with the right token is never delayed, whatever others send from its address.
const WRONG_TOKEN_DELAY: Duration = Duration::from_secs(1);

/// The token of the listener, at one connection.
#[derive(Clone)]
pub struct TokenGate {
    pub token: Arc<str>,
    pub permit: Arc<ConnectionPermit>,
    /// Wrong tokens have a log of their own: a flood of half-open connections does not hide them.
    pub log: Arc<RateLimitedLog>,
}

pub(super) async fn require_token(
    State(gate): State<TokenGate>,
    mut request: Request,
    next: Next,
) -> Response {
    if !has_token(request.headers(), &gate.token) {
        let given = if request.headers().contains_key(header::AUTHORIZATION) { "a wrong" } else { "no" };
        gate.log.warn(format_args!("--listen: {}: {given} bearer token", gate.permit.peer));
        tokio::time::sleep(WRONG_TOKEN_DELAY).await;
        return refuse(
            StatusCode::UNAUTHORIZED,
            ErrorCode::Unauthorized,
            "the bearer token is missing or wrong",
        );
    }
    match gate.permit.admit() {
        AdmissionResult::Admitted => {
            let identity = CallerIdentity::Token { name: "token".to_owned() };
            let caller = Caller::new(identity, Some(gate.permit.peer));
            request.extensions_mut().insert(Client { caller });
            next.run(request).await
        }
        AdmissionResult::Displaced | AdmissionResult::Full => {
            let message = "the maximum number of clients is connected to `--listen`; retry later";
            refuse(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Busy, message)
        }
    }
}

/// Builds a refusal after which the connection is closed.
fn refuse(status: StatusCode, code: ErrorCode, message: &str) -> Response {
    let mut response = respond_error(status, code, message);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Takes as long for a wrong token as for the right one.
fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().as_bytes();
    let differ = given.iter().zip(token.as_bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == token.len() && differ == 0
}
