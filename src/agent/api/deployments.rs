//! The routes about versions side by side. Also without `/v1` in front, as the systems that switchman follows have them
//! (parity.md R11, R30).

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

use super::table::{delete, get, patch, post, put};
use super::{Answer, Host, Route, answer, bad, body_of, failed, running, to_its_end, understood};
use crate::agent::openapi::{Operation, Shape, shape, with_fields};
use crate::model::api::deployments::{
    AccessRequest, AssignRequest, Assigned, DeployRequest, Deployed, DeploymentView, KillRequest, Killed,
    LogsRequest, RollbackRequest, TrialEnd, UpdateRequest, VersionsView, WatchRequest,
};
use crate::model::api::{RunEnd, RunHeard};
use crate::model::deployment::{Deployment, DeploymentId, Runs};
use crate::model::evidence::Evidence;
use crate::model::failure::ErrorCode;
use crate::model::forward::{Changed, Recorded};
use crate::model::name::ServiceName;
use crate::model::traffic_split::{Split, SplitRequest};
use crate::model::version::Version;
use crate::world::link::LinkError;

/// How long one question after a watch window is kept open.
const WATCH: Duration = Duration::from_secs(20);

pub(super) fn table() -> Vec<Route> {
    let health = Operation::new::<Alive>("health", "Whether anybody answers");
    let version = Operation::new::<Program>("version", "Of the program");
    let openapi = Operation::new::<Map<String, Value>>("openapi", "This description");
    let mut table = vec![
        get("/health", async || axum::Json(Alive { status: "ok" }), health),
        get("/version", async || axum::Json(Program { version: env!("CARGO_PKG_VERSION") }), version),
        get("/openapi", crate::agent::api::description, openapi),
    ];
    table.extend(below("/v1"));
    table.extend(below("").into_iter().map(Route::unnamed));
    table
}

#[derive(Serialize, JsonSchema)]
struct Alive {
    status: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct Program {
    version: &'static str,
}

fn below(prefix: &str) -> Vec<Route> {
    let mut table = of_deployments(&format!("{prefix}/deployments"));
    table.extend(of_services(&format!("{prefix}/services")));
    table
}

fn of_deployments(all: &str) -> Vec<Route> {
    let one = format!("{all}/{{id}}");
    let list_op = Operation::new::<VersionsView>("deployments", "What runs here, and where the ports lead");
    let deploy_op = Operation::new::<Deployed>("deploy", "Start a version; the first of a service is main")
        .body::<DeployRequest>()
        .statuses(&[200, 201]);
    let update_op = |id| {
        let summary = "New code under an id that stays, or another address of what runs already";
        Operation::new::<Deployment>(id, summary).body_of(update_body, true)
    };
    let kill_op = Operation::new::<Killed>("kill", "Stop and forget it; the query wins over the body")
        .query::<KillQuery>()
        .body_of(|types| with_fields::<KillRequest>(types, &["id"], &[]), false)
        .statuses(&[202]);
    let logs_op =
        Operation::new::<RunHeard>("logs", "What it wrote to its outputs").query::<LogsQuery>().lines();
    vec![
        get(all, deployments, list_op),
        post(all, deploy, deploy_op),
        get(&one, deployment, Operation::new::<DeploymentView>("deployment", "One of them")),
        put(&one, update, update_op("update")),
        patch(&one, update, update_op("patch")),
        delete(&one, kill, kill_op),
        get(&format!("{one}/logs"), logs, logs_op),
    ]
}

fn of_services(all: &str) -> Vec<Route> {
    let one = format!("{all}/{{service}}");
    let list_op = Operation::new::<Vec<Recorded>>("services", "What is recorded of every service");
    let access_op = Operation::new::<Changed>("access", "Let it be called from outside, or by nobody");
    let assign_op = Operation::new::<Assigned>("assign", "Make a version main, both ports at once");
    let rollback_op = Operation::new::<Assigned>("rollback", "Go back to the last good main");
    let watch_op = Operation::new::<Option<TrialEnd>>(
        "watch",
        "How the watch window of a new main ended; null: it is not over yet, ask again",
    );
    let evidence_op = Operation::new::<Option<Evidence>>(
        "evidence",
        "What a shadow's answers have shown beside main's; null: nothing yet",
    );
    let splits_op =
        Operation::new::<Split>("split", "Who gets copies or a share; the same again changes nothing");
    vec![
        put(&format!("{one}/splits"), split, splits_op.body::<SplitRequest>()),
        get(&format!("{one}/evidence/{{id}}"), evidence, evidence_op),
        get(all, services, list_op),
        get(&one, service, Operation::new::<Recorded>("service", "What is recorded of it")),
        patch(&one, access, access_op.body::<AccessRequest>()),
        put(&format!("{one}/main"), assign, assign_op.body_of(assign_body, true)),
        post(&format!("{one}/rollback"), rollback, rollback_op.body_of(shape::<RollbackRequest>, false)),
        post(&format!("{one}/watch"), watch, watch_op.body::<WatchRequest>()),
    ]
}

/// The id is in the path.
fn update_body(types: &mut SchemaGenerator) -> Value {
    let uri: &[(&str, Shape)] = &[("uri", shape::<String>)];
    json!({"anyOf": [
        with_fields::<UpdateRequest>(types, &["id"], &[]),
        with_fields::<UpdateRequest>(types, &["id", "how"], uri),
    ]})
}

fn assign_body(types: &mut SchemaGenerator) -> Value {
    let version: &[(&str, Shape)] = &[("version", shape::<Version>)];
    json!({"anyOf": [
        shape::<AssignRequest>(types),
        with_fields::<AssignRequest>(types, &["which", "part", "actor"], version),
    ]})
}

type Id = Result<Path<DeploymentId>, PathRejection>;
type Name = Result<Path<ServiceName>, PathRejection>;

async fn deployments(State(host): State<Host>) -> Response {
    answer(host.versions().await)
}

async fn deployment(State(host): State<Host>, id: Id) -> Answer {
    let Path(id) = understood(id)?;
    Ok(answer(host.versions().await.and_then(|view| one(view, &id))))
}

fn one(view: VersionsView, id: &DeploymentId) -> Result<DeploymentView, LinkError> {
    let found = view.deployments.into_iter().find(|view| view.deployment.id == *id);
    found.ok_or_else(|| missing(format!("No service matching {id}")))
}

fn missing(message: String) -> LinkError {
    LinkError::Refused { code: ErrorCode::NotFound, message }
}

async fn services(State(host): State<Host>) -> Response {
    answer(host.versions().await.map(|view| view.services))
}

async fn service(State(host): State<Host>, service: Name) -> Answer {
    let Path(service) = understood(service)?;
    let found = host.versions().await.and_then(|view| {
        let found = view.services.into_iter().find(|record| record.forward.service == service);
        found.ok_or_else(|| missing(format!("No main service matching {service}")))
    });
    Ok(answer(found))
}

/// R28: 201 for a new one, 200 for one that is known.
async fn deploy(State(host): State<Host>, body: Body) -> Answer {
    let request: DeployRequest = crate::agent::api::read(body).await?;
    let dry_run = request.dry_run;
    let deployed = to_its_end(async move { host.deploy(&request).await }).await;
    let new = deployed.as_ref().is_ok_and(|deployed| !deployed.known && !dry_run);
    let response = answer(deployed);
    Ok(if new { (StatusCode::CREATED, response).into_response() } else { response })
}

/// R11: `{"uri": ...}` is enough for something that runs already.
async fn update(State(host): State<Host>, id: Id, body: Body) -> Answer {
    let Path(id) = understood(id)?;
    let mut fields: Map<String, Value> = object(body).await?;
    if let Some(uri) = fields.remove("uri") {
        let uri: String = from(uri)?;
        let view = host.versions().await.and_then(|view| one(view, &id));
        let mut how = match view {
            Ok(view) => view.deployment.instance.how,
            Err(error) => return Ok(answer::<()>(Err(error))),
        };
        how.runs = Runs::External { uri };
        fields.insert("how".to_owned(), serde_json::to_value(how).unwrap_or_default());
    }
    fields.insert("id".to_owned(), Value::from(id.as_str()));
    let request: UpdateRequest = from(Value::Object(fields))?;
    Ok(answer(to_its_end(async move { host.update(&request).await }).await))
}

#[derive(Deserialize, JsonSchema)]
struct KillQuery {
    force: Option<bool>,
    keep_files: Option<bool>,
    drain_timeout_ms: Option<u64>,
}

/// R29: 202. Unlike there, the check is made here.
async fn kill(
    State(host): State<Host>,
    id: Id,
    query: Result<Query<KillQuery>, QueryRejection>,
    body: Body,
) -> Answer {
    let (Path(id), Query(query)) = (understood(id)?, understood(query)?);
    let mut fields: Map<String, Value> = object(body).await?;
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
    let request: KillRequest = from(Value::Object(fields))?;
    let killed = to_its_end(async move { host.kill(&request).await }).await;
    let done = killed.is_ok();
    let response = answer(killed);
    Ok(if done { (StatusCode::ACCEPTED, response).into_response() } else { response })
}

async fn assign(State(host): State<Host>, service: Name, body: Body) -> Answer {
    let Path(service) = understood(service)?;
    let mut fields = object(body).await?;
    // For people: the version alone says which.
    if let Some(version) = fields.remove("version") {
        let which = json!({"version": {"service": service.as_str(), "version": version}});
        fields.insert("which".to_owned(), which);
        fields.entry("part").or_insert_with(|| Value::from("whole"));
        fields.entry("actor").or_insert_with(|| json!({"user": "api", "pid": 0}));
    }
    let request: AssignRequest = from(Value::Object(fields))?;
    if let crate::model::api::deployments::Which::Version { service: named, .. } = &request.which
        && *named != service
    {
        return Err(bad(&format!("the path is about `{service}`, the body about `{named}`")));
    }
    Ok(answer(to_its_end(async move { host.assign(&service, &request).await }).await))
}

async fn rollback(State(host): State<Host>, service: Name, body: Body) -> Answer {
    let Path(service) = understood(service)?;
    let request: RollbackRequest = from(Value::Object(object(body).await?))?;
    Ok(answer(to_its_end(async move { host.rollback(&service, &request).await }).await))
}

async fn split(State(host): State<Host>, service: Name, body: Body) -> Answer {
    let Path(service) = understood(service)?;
    let request: SplitRequest = crate::agent::api::read(body).await?;
    Ok(answer(to_its_end(async move { host.split(&service, &request).await }).await))
}

async fn evidence(
    State(host): State<Host>,
    path: Result<Path<(ServiceName, DeploymentId)>, PathRejection>,
) -> Answer {
    let Path((service, id)) = understood(path)?;
    Ok(answer(host.evidence(&service, &id).await))
}

/// `null`: it is not over yet, ask again.
async fn watch(State(host): State<Host>, service: Name, body: Body) -> Answer {
    let Path(service) = understood(service)?;
    let request: WatchRequest = crate::agent::api::read(body).await?;
    match tokio::time::timeout(WATCH, host.watch(&service, &request)).await {
        Ok(ended) => Ok(answer(ended.map(Some))),
        Err(_) => Ok(axum::Json(Value::Null).into_response()),
    }
}

async fn access(State(host): State<Host>, service: Name, body: Body) -> Answer {
    let Path(service) = understood(service)?;
    let request: AccessRequest = crate::agent::api::read(body).await?;
    Ok(answer(to_its_end(async move { host.access(&service, &request).await }).await))
}

#[derive(Deserialize, JsonSchema)]
struct LogsQuery {
    tail: Option<u32>,
    follow: Option<bool>,
}

/// JSON lines, as of a running program.
async fn logs(State(host): State<Host>, id: Id, query: Result<Query<LogsQuery>, QueryRejection>) -> Answer {
    let (Path(id), Query(LogsQuery { tail, follow })) = (understood(id)?, understood(query)?);
    if let Err(error) = host.versions().await.and_then(|view| one(view, &id)) {
        return Ok(answer::<()>(Err(error)));
    }
    let request = LogsRequest { id, tail, follow: follow.unwrap_or(false) };
    Ok(running(move |caller| async move {
        host.logs(&request, caller).await.map(|()| RunEnd { status: 0, timed_out: false })
    }))
}

/// A body that is an object, or none at all.
async fn object(body: Body) -> Result<Map<String, Value>, Response> {
    let bytes = body_of(body).await?;
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&bytes).map_err(|error| bad(&format!("the body is not understood: {error}")))
}

fn from<T: DeserializeOwned>(value: Value) -> Result<T, Response> {
    serde_json::from_value(value).map_err(|error| {
        failed(
            StatusCode::BAD_REQUEST,
            ErrorCode::BadRequest,
            &format!("the body is not understood: {error}"),
        )
    })
}
