//! Answers of the host API: what a host returned, or why it was not reached, with the HTTP status of each.

use std::fmt::Display;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::model::api::ApiError;
use crate::model::failure::ErrorCode;
use crate::world::link::{LinkError, LinkResult};

/// The result of a handler. A request that is refused before it reaches the host is answered with an [`ApiError`] too.
pub(in crate::agent) type ApiResult = Result<Response, Response>;

/// A path or a query.
pub(in crate::agent) fn require_valid<T>(read: Result<T, impl Display>) -> Result<T, Response> {
    read.map_err(|error| bad_request(&error.to_string()))
}

pub(in crate::agent) fn bad_request(message: &str) -> Response {
    respond_error(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message)
}

/// Builds the error of a handler that refuses a request which could be read.
pub(super) fn refuse_request(message: String) -> LinkError {
    LinkError::Refused { code: ErrorCode::BadRequest, message }
}

pub(in crate::agent) fn respond<T: Serialize>(result: LinkResult<T>) -> Response {
    result.map_or_else(|error| respond_link_error(&error), |value| axum::Json(value).into_response())
}

pub(super) fn refuse_body(error: &serde_json::Error) -> LinkError {
    refuse_request(describe_body_error(error))
}

/// Strict, with the place of a mistake.
pub(super) fn describe_body_error(error: &serde_json::Error) -> String {
    format!("the body is not understood: {error}")
}

pub(super) fn respond_link_error(error: &LinkError) -> Response {
    let body = to_api_error(error);
    (to_status_code(body.code), axum::Json(body)).into_response()
}

pub(super) fn to_api_error(error: &LinkError) -> ApiError {
    let code = match error {
        LinkError::Refused { code, .. } => *code,
        _ => ErrorCode::Other,
    };
    ApiError { message: error.to_string(), code }
}

pub(in crate::agent) const fn to_status_code(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::NoPrivilege | ErrorCode::NotAllowed | ErrorCode::RoleTooLow => StatusCode::FORBIDDEN,
        ErrorCode::NotFound | ErrorCode::NoMain | ErrorCode::NoInstance => StatusCode::NOT_FOUND,
        ErrorCode::Busy
        | ErrorCode::Owned
        | ErrorCode::RulesLocked
        | ErrorCode::RulesContested
        | ErrorCode::ForwardContradicted
        | ErrorCode::Exists
        | ErrorCode::EndpointTaken
        | ErrorCode::ReleaseExists
        | ErrorCode::ReleaseAltered
        | ErrorCode::NotDrained => StatusCode::CONFLICT,
        ErrorCode::NoAgent => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::BadArchive
        | ErrorCode::Unhealthy
        | ErrorCode::NoPort
        | ErrorCode::PortTaken
        | ErrorCode::NoRelease
        | ErrorCode::NoBackup
        | ErrorCode::NotMain
        | ErrorCode::NoUser
        | ErrorCode::NoProgram
        | ErrorCode::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

pub(in crate::agent) fn respond_error(status: StatusCode, code: ErrorCode, message: &str) -> Response {
    (status, axum::Json(ApiError { message: message.to_owned(), code })).into_response()
}
