//! The routes about versions side by side. Also without `/v1` in front, as the systems that switchman follows have them
//! (parity.md R11, R30).

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Answer, Doors, Host, answer, bad, body_of, failed, running, understood};
use crate::model::api::RunEnd;
use crate::model::deployment::{DeploymentId, Runs};
use crate::model::failure::ErrorCode;
use crate::model::name::ServiceName;
use crate::model::versions::{
    AccessRequest, AssignRequest, DeployRequest, DeploymentView, KillRequest, LogsRequest, RollbackRequest,
    UpdateRequest, VersionsView, WatchRequest,
};
use crate::world::link::LinkError;

/// How long one question after a watch window is kept open.
const WATCH: Duration = Duration::from_secs(20);

pub(super) fn routes() -> Router<Doors> {
    let routes = || {
        Router::new()
            .route("/deployments", get(deployments).post(deploy))
            .route("/deployments/{id}", get(deployment).put(update).patch(update).delete(kill))
            .route("/deployments/{id}/logs", get(logs))
            .route("/services", get(services))
            .route("/services/{service}", get(service).patch(access))
            .route("/services/{service}/main", put(assign))
            .route("/services/{service}/rollback", post(rollback))
            .route("/services/{service}/watch", post(watch))
    };
    Router::new()
        .merge(routes())
        .nest("/v1", routes())
        .route("/health", get(async || axum::Json(json!({"status": "ok"}))))
        .route("/version", get(async || axum::Json(json!({"version": env!("CARGO_PKG_VERSION")}))))
        .route("/openapi", get(async || axum::Json(crate::agent::openapi::document())))
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
    let request: DeployRequest = super::read(body).await?;
    let deployed = host.deploy(&request).await;
    let new = deployed.as_ref().is_ok_and(|deployed| !deployed.known && !request.dry_run);
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
    Ok(answer(host.update(&request).await))
}

#[derive(Deserialize)]
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
    let killed = host.kill(&request).await;
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
    if let crate::model::versions::Which::Version { service: named, .. } = &request.which
        && *named != service
    {
        return Err(bad(&format!("the path is about `{service}`, the body about `{named}`")));
    }
    Ok(answer(host.assign(&service, &request).await))
}

async fn rollback(State(host): State<Host>, service: Name, body: Body) -> Answer {
    let Path(service) = understood(service)?;
    let request: RollbackRequest = from(Value::Object(object(body).await?))?;
    Ok(answer(host.rollback(&service, &request).await))
}

/// `null`: it is not over yet, ask again.
async fn watch(State(host): State<Host>, service: Name, body: Body) -> Answer {
    let Path(service) = understood(service)?;
    let request: WatchRequest = from(Value::Object(object(body).await?))?;
    match tokio::time::timeout(WATCH, host.watch(&service, &request)).await {
        Ok(ended) => Ok(answer(ended.map(Some))),
        Err(_) => Ok(axum::Json(Value::Null).into_response()),
    }
}

async fn access(State(host): State<Host>, service: Name, body: Body) -> Answer {
    let Path(service) = understood(service)?;
    let request: AccessRequest = super::read(body).await?;
    Ok(answer(host.access(&service, &request).await))
}

#[derive(Deserialize)]
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
