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
use crate::model::client_list::NamedToken;
use crate::model::failure::ErrorCode;
use crate::plan::admission::AdmissionResult;

/// Time from a wrong token to its refusal. Each attempt costs its sender a connection for that long, of which an address has a few
/// dozen. A client with the right token is never delayed, whatever others send from its address.
const WRONG_TOKEN_DELAY: Duration = Duration::from_secs(1);

/// The tokens of the listener, at one connection.
#[derive(Clone)]
pub struct TokenGate {
    pub tokens: Arc<[NamedToken]>,
    pub permit: Arc<ConnectionPermit>,
    /// Wrong tokens have a log of their own: a flood of half-open connections does not hide them.
    pub log: Arc<RateLimitedLog>,
}

pub(super) async fn require_token(
    State(gate): State<TokenGate>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(client) = find_client(&request, &gate) else {
        let given = if request.headers().contains_key(header::AUTHORIZATION) { "a wrong" } else { "no" };
        gate.log.warn(format_args!("--listen: {}: {given} bearer token", gate.permit.peer));
        tokio::time::sleep(WRONG_TOKEN_DELAY).await;
        return refuse(
            StatusCode::UNAUTHORIZED,
            ErrorCode::Unauthorized,
            "the bearer token is missing or wrong",
        );
    };
    match gate.permit.admit() {
        AdmissionResult::Admitted => {
            request.extensions_mut().insert(client);
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

fn find_client(request: &Request, gate: &TokenGate) -> Option<Client> {
    let NamedToken { name, role, .. } = find_token(request.headers(), &gate.tokens)?;
    let identity = CallerIdentity::Token { name: name.clone() };
    Some(Client { caller: Caller::new(identity, Some(gate.permit.peer)), role: *role })
}

/// Compares with every token, and takes as long for a wrong one as for a right one.
fn find_token<'a>(headers: &HeaderMap, tokens: &'a [NamedToken]) -> Option<&'a NamedToken> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().as_bytes();
    let mut found = None;
    for named in tokens {
        if is_same(given, named.token.as_bytes()) {
            found = Some(named);
        }
    }
    found
}

fn is_same(given: &[u8], token: &[u8]) -> bool {
    let differ = given.iter().zip(token).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == token.len() && differ == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::client_list::parse_tokens;

    #[test]
    fn token_is_found_by_all_of_its_characters() {
        let tokens = parse_tokens("ann 9f86d081884c7d65\nci 9f86d081884c7d66 read").unwrap();
        let find = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            find_token(&headers, &tokens).map(|found| found.name.as_str())
        };
        assert_eq!(find("Bearer 9f86d081884c7d65"), Some("ann"));
        assert_eq!(find("Bearer 9f86d081884c7d66"), Some("ci"));
        for wrong in
            ["Bearer 9f86d081884c7d6", "Bearer 9f86d081884c7d651", "Bearer ", "9f86d081884c7d65", "Basic x"]
        {
            assert_eq!(find(wrong), None, "{wrong}");
        }
        assert_eq!(find_token(&HeaderMap::new(), &tokens), None);
    }
}
