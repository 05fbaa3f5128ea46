//! A route of the agent: a row of the table of endpoints with its handler. The types of the row are those of the handler,
//! and of the description.

use std::marker::PhantomData;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::client::check_role;
use super::line_stream::{self, LineStream};
use super::operation::{JSON, Operation};
use super::respond::{
    bad_request, describe_body_error, refuse_body, require_valid, respond_error, respond_link_error,
};
use super::state::{ApiState, ServerState};
use crate::model::api::RunEvent;
use crate::model::api::endpoint::{
    Archive, Endpoint, JsonLines, Method, PlainText, RequestBody, Row, SchemaFn, build_schema,
    read_known_fields,
};
use crate::model::api::plain_text::find_unsafe_text;
use crate::model::failure::ErrorCode;
use crate::world::link::LinkResult;

/// A body is a few KiB; more is a mistake.
const MAX_BODY_BYTES: usize = 1024 * 1024;

#[derive(Clone)]
pub(super) struct ApiRoute {
    pub path: &'static str,
    pub method: Method,
    pub operation: Operation,
    row: Row,
    handler: MethodRouter<ServerState>,
}

impl ApiRoute {
    fn new<T: 'static>(row: &Row, operation: Operation, handler: impl Handler<T, ServerState>) -> Self {
        let filter = match row.method {
            Method::Get => MethodFilter::GET,
            Method::Put => MethodFilter::PUT,
            Method::Post => MethodFilter::POST,
            Method::Patch => MethodFilter::PATCH,
            Method::Delete => MethodFilter::DELETE,
        };
        let handler = on(filter, handler).layer(middleware::from_fn_with_state(*row, check_role));
        Self { path: row.path, method: row.method, operation, row: *row, handler }
    }

    /// Sets the status codes of a success.
    pub fn with_statuses(self, statuses: &'static [u16]) -> Self {
        Self { operation: self.operation.with_statuses(statuses), ..self }
    }

    /// Returns the same route without `/v1` if the agent serves that, too. The name of its operation is taken.
    pub fn without_prefix(&self) -> Option<Self> {
        let path = self.path.strip_prefix("/v1").filter(|_| self.row.has_short_path)?;
        Some(Self { path, operation: self.operation.clone().without_id(), ..self.clone() })
    }
}

pub(super) fn mount_routes(routes: Vec<ApiRoute>) -> Router<ServerState> {
    routes.into_iter().fold(Router::new(), |router, route| router.route(route.path, route.handler))
}

/// A request that was read.
pub(super) struct Call<P, Q, B> {
    pub path: P,
    pub query: Q,
    pub body: B,
}

/// A JSON object that its handler completes before it is read as a `B`.
pub(super) struct Object<B> {
    pub fields: Map<String, Value>,
    body: PhantomData<fn() -> B>,
}

impl<B: DeserializeOwned> Object<B> {
    pub fn parse(self) -> LinkResult<B> {
        read_known_fields(Value::Object(self.fields)).map_err(|error| refuse_body(&error))
    }
}

/// The successful answer of a handler to an endpoint that returns `R`.
pub(super) trait Answer<R> {
    /// The type that the description shows.
    type Schema: JsonSchema;
    const MEDIA: &'static str = JSON;

    fn to_response(self) -> Response;
}

impl<R: Serialize + JsonSchema> Answer<R> for R {
    type Schema = R;

    fn to_response(self) -> Response {
        axum::Json(self).into_response()
    }
}

impl<R: Serialize + JsonSchema> Answer<R> for (StatusCode, R) {
    type Schema = R;

    fn to_response(self) -> Response {
        (self.0, axum::Json(self.1)).into_response()
    }
}

impl Answer<JsonLines<RunEvent>> for LineStream {
    type Schema = RunEvent;
    const MEDIA: &'static str = line_stream::MEDIA;

    fn to_response(self) -> Response {
        self.into_response()
    }
}

impl Answer<PlainText> for Response {
    const MEDIA: &'static str = "text/plain";

    type Schema = String;

    fn to_response(self) -> Response {
        self
    }
}

/// Serves an endpoint with a handler of exactly its types.
pub(super) fn serve<P, Q, B, R, A, F>(
    endpoint: &Endpoint<P, Q, B, R>,
    handler: impl Fn(ApiState, Call<P, Q, B>) -> F + Clone + Send + Sync + 'static,
) -> ApiRoute
where
    P: DeserializeOwned + Send + 'static,
    Q: DeserializeOwned + JsonSchema + Send + 'static,
    B: RequestBody + Send + 'static,
    A: Answer<R>,
    F: Future<Output = LinkResult<A>> + Send + 'static,
{
    let operation = Operation::new::<Q>(&endpoint.row, A::MEDIA, build_schema::<A::Schema>);
    let operation = match B::SCHEMA {
        Some(schema) => operation.with_body(schema, true),
        None => operation,
    };
    let read = |bytes: &[u8]| B::from_json(bytes).map_err(|error| bad_request(&describe_body_error(&error)));
    let (row, body_role) = (endpoint.row, endpoint.body_role());
    let handler = move |state: ApiState, call: Call<P, Q, B>| {
        let permitted = state.client.require(body_role(&call.body), &row);
        let answer = permitted.map(|()| handler(state, call));
        async move { answer?.await }
    };
    build_route(endpoint, operation, B::SCHEMA.is_some(), read, handler)
}

/// Serves an endpoint whose body may leave out what the handler adds: an object with this schema, or none at all.
pub(super) fn serve_object<P, Q, B, R, A, F>(
    endpoint: &Endpoint<P, Q, B, R>,
    (schema, is_required): (SchemaFn, bool),
    handler: impl Fn(ApiState, Call<P, Q, Object<B>>) -> F + Clone + Send + Sync + 'static,
) -> ApiRoute
where
    P: DeserializeOwned + Send + 'static,
    Q: DeserializeOwned + JsonSchema + Send + 'static,
    B: RequestBody + 'static,
    A: Answer<R>,
    F: Future<Output = LinkResult<A>> + Send + 'static,
{
    let operation = Operation::new::<Q>(&endpoint.row, A::MEDIA, build_schema::<A::Schema>);
    let read = |bytes: &[u8]| {
        let fields = if bytes.is_empty() { Ok(Map::new()) } else { serde_json::from_slice(bytes) };
        let fields = fields.map_err(|error| bad_request(&describe_body_error(&error)))?;
        Ok(Object { fields, body: PhantomData })
    };
    build_route(endpoint, operation.with_body(schema, is_required), true, read, handler)
}

/// Serves an upload with a handler that reads the archive from the connection.
pub(super) fn serve_upload<P, Q: JsonSchema, R: JsonSchema, T: 'static>(
    endpoint: &Endpoint<P, Q, Archive, R>,
    handler: impl Handler<T, ServerState>,
) -> ApiRoute {
    let operation = Operation::new::<Q>(&endpoint.row, JSON, build_schema::<R>).with_archive_body();
    ApiRoute::new(&endpoint.row, operation, handler)
}

fn build_route<P, Q, S, B, R, A, F>(
    endpoint: &Endpoint<P, Q, S, R>,
    operation: Operation,
    has_body: bool,
    read: impl Fn(&[u8]) -> Result<B, Response> + Copy + Send + Sync + 'static,
    handler: impl Fn(ApiState, Call<P, Q, B>) -> F + Clone + Send + Sync + 'static,
) -> ApiRoute
where
    P: DeserializeOwned + Send + 'static,
    Q: DeserializeOwned + Send + 'static,
    B: Send + 'static,
    A: Answer<R>,
    F: Future<Output = LinkResult<A>> + Send + 'static,
{
    let (endpoint_path, operation_id) = (endpoint.row.path, endpoint.row.id);
    let handle = move |state: ApiState,
                       path: Result<Path<P>, PathRejection>,
                       query: Result<Query<Q>, QueryRejection>,
                       body: Body| {
        let handler = handler.clone();
        async move {
            let Path(path) = path.map_err(|error| refuse_path(endpoint_path, &error))?;
            let Query(query) = require_valid(query)?;
            let bytes = if has_body { read_body(body).await? } else { Bytes::new() };
            refuse_unsafe_text(operation_id, &bytes)?;
            let answered = handler(state, Call { path, query, body: read(&bytes)? }).await;
            answered.map(Answer::to_response).map_err(|error| respond_link_error(&error))
        }
    };
    ApiRoute::new(&endpoint.row, operation, handle)
}

/// Refuses a path whose values cannot be read. No deployment has such an id (seed row R30, docs/design/seed-systems.md#restate).
fn refuse_path(path: &str, error: &PathRejection) -> Response {
    if path.contains("{id}") {
        return respond_error(StatusCode::NOT_FOUND, ErrorCode::NotFound, &error.body_text());
    }
    bad_request(&error.to_string())
}

/// Refuses a body with a text that would act on a terminal, or look like another line. A body that is no JSON is refused later.
fn refuse_unsafe_text(operation: &str, body: &[u8]) -> Result<(), Response> {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return Ok(()) };
    find_unsafe_text(operation, &body).map_or(Ok(()), |found| Err(bad_request(&found.to_string())))
}

async fn read_body(body: Body) -> Result<Bytes, Response> {
    let bytes = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let text = format!("the body has more than {MAX_BODY_BYTES} bytes");
            respond_error(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::BadRequest, &text)
        } else {
            bad_request(&error.to_string())
        }
    })?;
    Ok(bytes.to_bytes())
}
