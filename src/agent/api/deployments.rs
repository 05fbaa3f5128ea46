//! The routes about versions side by side. Also without `/v1` in front, as the systems that switchman follows have them
//! (docs/design/host-api.md#routes-of-the-seed, seed rows R11, R30).

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::route_table::{delete, get, patch, post, put};
use super::{
    ApiResult, Host, Route, bad_request, read_body, require_valid, respond, respond_error, run_to_completion,
    stream_run,
};
use crate::agent::openapi::{Operation, SchemaFn, adapt_schema, build_schema};
use crate::model::api::deployments::{
    AccessRequest, AssignRequest, AssignResponse, DeployRequest, DeployResponse, DeploymentView,
    DeploymentsView, KillRequest, KillResponse, LogsRequest, RollbackRequest, TrialOutcome, UpdateRequest,
    WatchRequest,
};
use crate::model::api::{RunEvent, RunOutcome};
use crate::model::deployment::{Deployment, DeploymentId, Workload};
use crate::model::evidence::Evidence;
use crate::model::failure::ErrorCode;
use crate::model::forward::{ChangeResult, ServiceRecord};
use crate::model::name::ServiceName;
use crate::model::traffic_split::{TrafficSplitRequest, TrafficSplitResponse};
use crate::model::version::Version;
use crate::world::link::LinkError;

/// How long one question after a watch window is kept open.
const WATCH_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) fn build_routes() -> Vec<Route> {
    let health = Operation::new::<HealthStatus>("health", "Report that the agent answers");
    let version = Operation::new::<ProgramVersion>("version", "Of the program");
    let openapi = Operation::new::<Map<String, Value>>("openapi", "This description");
    let mut table = vec![
        get("/health", async || axum::Json(HealthStatus { status: "ok" }), health),
        get("/version", async || axum::Json(ProgramVersion { version: env!("CARGO_PKG_VERSION") }), version),
        get("/openapi", crate::agent::api::get_description, openapi),
    ];
    table.extend(build_prefixed_routes("/v1"));
    table.extend(build_prefixed_routes("").into_iter().map(Route::unnamed));
    table
}

#[derive(Serialize, JsonSchema)]
struct HealthStatus {
    status: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct ProgramVersion {
    version: &'static str,
}

fn build_prefixed_routes(prefix: &str) -> Vec<Route> {
    let mut table = build_deployment_routes(&format!("{prefix}/deployments"));
    table.extend(build_service_routes(&format!("{prefix}/services")));
    table
}

fn build_deployment_routes(all: &str) -> Vec<Route> {
    let one = format!("{all}/{{id}}");
    let list_op = Operation::new::<DeploymentsView>(
        "deployments",
        "List the deployments of this host and the routes of its ports",
    );
    let deploy_op = Operation::new::<DeployResponse>(
        "deploy",
        "Start a version; the first version of a service becomes main",
    )
    .body::<DeployRequest>()
    .with_statuses(&[200, 201]);
    let update_op = |id| {
        let summary = "Replace the code of a deployment, or the address of a registered one; the id stays";
        Operation::new::<Deployment>(id, summary).with_body_schema(describe_update_body, true)
    };
    let kill_op =
        Operation::new::<KillResponse>("kill", "Stop and remove a deployment; the query overrides the body")
            .with_query::<KillQuery>()
            .with_body_schema(|types| adapt_schema::<KillRequest>(types, &["id"], &[]), false)
            .with_statuses(&[202]);
    let logs_op = Operation::new::<RunEvent>("logs", "Stream the logs of its instance")
        .with_query::<LogsQuery>()
        .with_ndjson_response();
    vec![
        get(all, list_deployments, list_op),
        post(all, deploy, deploy_op),
        get(&one, get_deployment, Operation::new::<DeploymentView>("deployment", "Show one deployment")),
        put(&one, update, update_op("update")),
        patch(&one, update, update_op("patch")),
        delete(&one, kill, kill_op),
        get(&format!("{one}/logs"), stream_logs, logs_op),
    ]
}

fn build_service_routes(all: &str) -> Vec<Route> {
    let one = format!("{all}/{{service}}");
    let list_op = Operation::new::<Vec<ServiceRecord>>("services", "List the records of all services");
    let access_op = Operation::new::<ChangeResult>("access", "Make a service public or private");
    let assign_op = Operation::new::<AssignResponse>("assign", "Make a version main on both ports");
    let rollback_op = Operation::new::<AssignResponse>("rollback", "Go back to the last good main");
    let watch_op = Operation::new::<Option<TrialOutcome>>(
        "watch",
        "How the watch window of a new main ended; null while it is open: repeat the request",
    );
    let evidence_op = Operation::new::<Option<Evidence>>(
        "evidence",
        "Compare a shadow's answers with main's; null: no evidence yet",
    );
    let splits_op = Operation::new::<TrafficSplitResponse>(
        "split",
        "Set mirrors and canary of a service; repeating the request changes nothing",
    );
    vec![
        put(&format!("{one}/splits"), set_traffic_split, splits_op.body::<TrafficSplitRequest>()),
        get(&format!("{one}/evidence/{{id}}"), get_evidence, evidence_op),
        get(all, list_services, list_op),
        get(&one, get_service, Operation::new::<ServiceRecord>("service", "Show the record of one service")),
        patch(&one, set_access, access_op.body::<AccessRequest>()),
        put(&format!("{one}/main"), assign, assign_op.with_body_schema(describe_assign_body, true)),
        post(
            &format!("{one}/rollback"),
            roll_back,
            rollback_op.with_body_schema(build_schema::<RollbackRequest>, false),
        ),
        post(&format!("{one}/watch"), watch, watch_op.body::<WatchRequest>()),
    ]
}

/// The id is in the path.
fn describe_update_body(types: &mut SchemaGenerator) -> Value {
    let uri: &[(&str, SchemaFn)] = &[("uri", build_schema::<String>)];
    json!({"anyOf": [
        adapt_schema::<UpdateRequest>(types, &["id"], &[]),
        adapt_schema::<UpdateRequest>(types, &["id", "how"], uri),
    ]})
}

fn describe_assign_body(types: &mut SchemaGenerator) -> Value {
    let version: &[(&str, SchemaFn)] = &[("version", build_schema::<Version>)];
    json!({"anyOf": [
        build_schema::<AssignRequest>(types),
        adapt_schema::<AssignRequest>(types, &["which", "scope", "actor"], version),
    ]})
}

type DeploymentPath = Result<Path<DeploymentId>, PathRejection>;
type ServicePath = Result<Path<ServiceName>, PathRejection>;

async fn list_deployments(State(host): State<Host>) -> Response {
    respond(host.versions().await)
}

async fn get_deployment(State(host): State<Host>, id: DeploymentPath) -> ApiResult {
    let Path(id) = require_valid(id)?;
    Ok(respond(host.versions().await.and_then(|view| find_deployment(view, &id))))
}

fn find_deployment(view: DeploymentsView, id: &DeploymentId) -> Result<DeploymentView, LinkError> {
    let found = view.deployments.into_iter().find(|view| view.deployment.id == *id);
    found.ok_or_else(|| not_found(format!("No service matching {id}")))
}

fn not_found(message: String) -> LinkError {
    LinkError::Refused { code: ErrorCode::NotFound, message }
}

async fn list_services(State(host): State<Host>) -> Response {
    respond(host.versions().await.map(|view| view.services))
}

async fn get_service(State(host): State<Host>, service: ServicePath) -> ApiResult {
    let Path(service) = require_valid(service)?;
    let found = host.versions().await.and_then(|view| {
        let found = view.services.into_iter().find(|record| record.forward.service == service);
        found.ok_or_else(|| not_found(format!("No main service matching {service}")))
    });
    Ok(respond(found))
}

/// Seed row R28 (docs/design/seed-systems.md#restate): 201 for a new one, 200 for one that is known.
async fn deploy(State(host): State<Host>, body: Body) -> ApiResult {
    let request: DeployRequest = crate::agent::api::parse_body(body).await?;
    let dry_run = request.dry_run;
    let deployed = run_to_completion(async move { host.deploy(&request).await }).await;
    let new = deployed.as_ref().is_ok_and(|deployed| !deployed.known && !dry_run);
    let response = respond(deployed);
    Ok(if new { (StatusCode::CREATED, response).into_response() } else { response })
}

/// Seed row R11 (docs/design/seed-systems.md#restate): `{"uri": ...}` is enough for something that runs already.
async fn update(State(host): State<Host>, id: DeploymentPath, body: Body) -> ApiResult {
    let Path(id) = require_valid(id)?;
    let mut fields: Map<String, Value> = read_object(body).await?;
    if let Some(uri) = fields.remove("uri") {
        let uri: String = parse_value(uri)?;
        let view = host.versions().await.and_then(|view| find_deployment(view, &id));
        let mut how = match view {
            Ok(view) => view.deployment.instance.how,
            Err(error) => return Ok(respond::<()>(Err(error))),
        };
        how.workload = Workload::External { uri };
        fields.insert("how".to_owned(), serde_json::to_value(how).unwrap_or_default());
    }
    fields.insert("id".to_owned(), Value::from(id.as_str()));
    let request: UpdateRequest = parse_value(Value::Object(fields))?;
    Ok(respond(run_to_completion(async move { host.update(&request).await }).await))
}

#[derive(Deserialize, JsonSchema)]
struct KillQuery {
    force: Option<bool>,
    keep_files: Option<bool>,
    drain_timeout_ms: Option<u64>,
}

/// Seed row R29 (docs/design/seed-systems.md#restate): 202. Unlike there, the check is made here.
async fn kill(
    State(host): State<Host>,
    id: DeploymentPath,
    query: Result<Query<KillQuery>, QueryRejection>,
    body: Body,
) -> ApiResult {
    let (Path(id), Query(query)) = (require_valid(id)?, require_valid(query)?);
    let mut fields: Map<String, Value> = read_object(body).await?;
    fields.insert("id".to_owned(), Value::from(id.as_str()));
    let given = [
        ("force", query.force.map(Value::from)),
        ("keep_files", query.keep_files.map(Value::from)),
        ("drain_timeout_ms", query.drain_timeout_ms.map(Value::from)),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    }
    let request: KillRequest = parse_value(Value::Object(fields))?;
    let killed = run_to_completion(async move { host.kill(&request).await }).await;
    let done = killed.is_ok();
    let response = respond(killed);
    Ok(if done { (StatusCode::ACCEPTED, response).into_response() } else { response })
}

async fn assign(State(host): State<Host>, service: ServicePath, body: Body) -> ApiResult {
    let Path(service) = require_valid(service)?;
    let mut fields = read_object(body).await?;
    // For people: the version alone names the deployment.
    if let Some(version) = fields.remove("version") {
        let which = json!({"version": {"service": service.as_str(), "version": version}});
        fields.insert("which".to_owned(), which);
        fields.entry("scope").or_insert_with(|| Value::from("whole"));
        fields.entry("actor").or_insert_with(|| json!({"user": "api", "pid": 0}));
    }
    let request: AssignRequest = parse_value(Value::Object(fields))?;
    if let crate::model::api::deployments::DeploymentRef::Version { service: named, .. } = &request.which
        && *named != service
    {
        return Err(bad_request(&format!("the path is about `{service}`, the body about `{named}`")));
    }
    Ok(respond(run_to_completion(async move { host.assign(&service, &request).await }).await))
}

async fn roll_back(State(host): State<Host>, service: ServicePath, body: Body) -> ApiResult {
    let Path(service) = require_valid(service)?;
    let request: RollbackRequest = parse_value(Value::Object(read_object(body).await?))?;
    Ok(respond(run_to_completion(async move { host.rollback(&service, &request).await }).await))
}

async fn set_traffic_split(State(host): State<Host>, service: ServicePath, body: Body) -> ApiResult {
    let Path(service) = require_valid(service)?;
    let request: TrafficSplitRequest = crate::agent::api::parse_body(body).await?;
    Ok(respond(run_to_completion(async move { host.split(&service, &request).await }).await))
}

async fn get_evidence(
    State(host): State<Host>,
    path: Result<Path<(ServiceName, DeploymentId)>, PathRejection>,
) -> ApiResult {
    let Path((service, id)) = require_valid(path)?;
    Ok(respond(host.read_evidence(&service, &id).await))
}

/// Returns `null` while the watch window is open: the caller repeats the request.
async fn watch(State(host): State<Host>, service: ServicePath, body: Body) -> ApiResult {
    let Path(service) = require_valid(service)?;
    let request: WatchRequest = crate::agent::api::parse_body(body).await?;
    match tokio::time::timeout(WATCH_TIMEOUT, host.watch_trial(&service, &request)).await {
        Ok(ended) => Ok(respond(ended.map(Some))),
        Err(_) => Ok(axum::Json(Value::Null).into_response()),
    }
}

async fn set_access(State(host): State<Host>, service: ServicePath, body: Body) -> ApiResult {
    let Path(service) = require_valid(service)?;
    let request: AccessRequest = crate::agent::api::parse_body(body).await?;
    Ok(respond(run_to_completion(async move { host.set_access(&service, &request).await }).await))
}

#[derive(Deserialize, JsonSchema)]
struct LogsQuery {
    tail: Option<u32>,
    follow: Option<bool>,
}

/// JSON lines, as of a running program.
async fn stream_logs(
    State(host): State<Host>,
    id: DeploymentPath,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> ApiResult {
    let (Path(id), Query(LogsQuery { tail, follow })) = (require_valid(id)?, require_valid(query)?);
    if let Err(error) = host.versions().await.and_then(|view| find_deployment(view, &id)) {
        return Ok(respond::<()>(Err(error)));
    }
    let request = LogsRequest { id, tail, follow: follow.unwrap_or(false) };
    Ok(stream_run(move |caller| async move {
        host.stream_logs(&request, caller).await.map(|()| RunOutcome { status: 0, timed_out: false })
    }))
}

/// A body that is an object, or none at all.
async fn read_object(body: Body) -> Result<Map<String, Value>, Response> {
    let bytes = read_body(body).await?;
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| bad_request(&format!("the body is not understood: {error}")))
}

fn parse_value<T: DeserializeOwned>(value: Value) -> Result<T, Response> {
    serde_json::from_value(value).map_err(|error| {
        respond_error(
            StatusCode::BAD_REQUEST,
            ErrorCode::BadRequest,
            &format!("the body is not understood: {error}"),
        )
    })
}
