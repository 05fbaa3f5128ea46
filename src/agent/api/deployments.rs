//! The routes about versions side by side. Also without `/v1` in front, as the systems that switchman follows have them
//! (docs/design/host-api.md#routes-of-the-seed, seed rows R11, R30).

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use axum::http::StatusCode;
use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::line_stream::{LineStream, stream_run};
use super::operation::adapt_schema;
use super::respond::{refuse_body, refuse_request};
use super::route::{ApiRoute, Call, Object, serve, serve_object};
use super::state::{ApiState, Host};
use crate::model::api::RunOutcome;
use crate::model::api::deployments::{
    AssignRequest, AssignResponse, DeployRequest, DeployResponse, DeploymentRef, DeploymentView,
    DeploymentsView, KillRequest, KillResponse, LogsRequest, MergeRequest, RollbackRequest, TrialOutcome,
    UpdateRequest, WatchRequest,
};
use crate::model::api::endpoint::{NoBody, NoQuery, SchemaFn, build_schema};
use crate::model::api::endpoints::{
    ACCESS, ASSIGN, CLOSE_IDLE, DEPLOY, DEPLOYMENT, DEPLOYMENTS, EVIDENCE, KILL, KillQuery, LOGS, LogsQuery,
    MERGE, PATCH_UPDATE, ROLLBACK, SERVICE, SERVICES, TRAFFIC_SPLIT, UPDATE, WATCH,
};
use crate::model::deployment::{Deployment, DeploymentId, Workload};
use crate::model::failure::ErrorCode;
use crate::model::forward::ServiceRecord;
use crate::model::name::ServiceName;
use crate::model::version::Version;
use crate::plan::versions::{build_uri_deploy, choose_service, complete_uri};
use crate::world::link::{LinkError, LinkResult};

/// How long one question after a watch window is kept open.
const WATCH_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) fn build_routes() -> Vec<ApiRoute> {
    vec![
        serve(&DEPLOYMENTS, |state, _| async move { state.host.list_deployments().await }),
        serve_object(&DEPLOY, (describe_deploy_body, true), deploy).with_statuses(&[200, 201]),
        serve(&DEPLOYMENT, |state, call| async move { find_deployment(&state.host, &call.path).await }),
        serve_object(&UPDATE, (describe_update_body, true), update),
        serve_object(&PATCH_UPDATE, (describe_update_body, true), update),
        serve_object(&KILL, (|types| adapt_schema::<KillRequest>(types, &["id"], &[]), false), kill)
            .with_statuses(&[200, 202]),
        serve_object(&MERGE, (|types| adapt_schema::<MergeRequest>(types, &["id"], &[]), true), merge),
        serve(&LOGS, stream_logs),
        serve(&SERVICES, |state, _| async move { Ok(state.host.list_deployments().await?.services) }),
        serve(&SERVICE, get_service),
        serve(&ACCESS, |state, call| async move { state.host.set_access(&call.path, &call.body).await }),
        serve_object(&ASSIGN, (describe_assign_body, true), assign),
        serve_object(&ROLLBACK, (build_schema::<RollbackRequest>, false), roll_back),
        serve(&WATCH, watch),
        serve(&CLOSE_IDLE, |state, call| async move { state.host.close_idle(&call.path, &call.body).await }),
        serve(&TRAFFIC_SPLIT, |state, call| async move {
            state.host.change_traffic_split(&call.path, &call.body).await
        }),
        serve(&EVIDENCE, |state, call| async move {
            let (service, id) = call.path;
            find_deployment(&state.host, &id).await?;
            state.host.read_evidence(&service, &id).await
        }),
    ]
}

fn describe_deploy_body(types: &mut SchemaGenerator) -> Value {
    let uri: &[(&str, SchemaFn)] = &[("uri", build_schema::<String>)];
    let mut by_uri = adapt_schema::<DeployRequest>(types, &["how"], uri);
    by_uri["required"] = json!(["uri"]);
    json!({"anyOf": [build_schema::<DeployRequest>(types), by_uri]})
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

async fn find_deployment(host: &Host, id: &DeploymentId) -> LinkResult<DeploymentView> {
    let found = host.list_deployments().await?.deployments.into_iter().find(|view| view.deployment.id == *id);
    found.ok_or_else(|| not_found(format!("No service matching {id}")))
}

fn not_found(message: String) -> LinkError {
    LinkError::Refused { code: ErrorCode::NotFound, message }
}

async fn get_service(state: ApiState, call: Call<ServiceName, NoQuery, NoBody>) -> LinkResult<ServiceRecord> {
    let services = state.host.list_deployments().await?.services;
    let found = services.into_iter().find(|record| record.forward.service == call.path);
    found.ok_or_else(|| not_found(format!("No main service matching {}", call.path)))
}

/// Seed row R28 (docs/design/seed-systems.md#restate): 201 for a new one, 200 for one that is known. `{"uri": ...}` is enough for
/// something that runs already.
async fn deploy(
    state: ApiState,
    call: Call<(), NoQuery, Object<DeployRequest>>,
) -> LinkResult<(StatusCode, DeployResponse)> {
    let mut body = call.body;
    if let Some(uri) = read_uri(&mut body)? {
        if body.fields.contains_key("how") {
            return Err(refuse_request("`uri` and `how` exclude each other".to_owned()));
        }
        let service = body.fields.get("service").cloned().map(serde_json::from_value).transpose();
        let service = service.map_err(|error| refuse_body(&error))?;
        let defaults = build_defaults(&state.host, service, uri).await?;
        if let Value::Object(defaults) = serde_json::to_value(defaults).unwrap_or_default() {
            for (name, value) in defaults {
                body.fields.entry(name).or_insert(value);
            }
        }
    }
    let request = body.parse()?;
    let dry_run = request.dry_run;
    let deployed = state.host.deploy(&request).await?;
    let is_new = !deployed.known && !dry_run;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, deployed))
}

/// Takes the field `uri` out of a body; an address without a scheme means http (seed row R35).
fn read_uri<B>(body: &mut Object<B>) -> LinkResult<Option<String>> {
    let uri = body.fields.remove("uri").map(serde_json::from_value::<String>).transpose();
    Ok(uri.map_err(|error| refuse_body(&error))?.map(complete_uri))
}

/// Builds the deploy of an address from what the host has.
async fn build_defaults(host: &Host, service: Option<ServiceName>, uri: String) -> LinkResult<DeployRequest> {
    let DeploymentsView { services, deployments, .. } = host.list_deployments().await?;
    let existing: Vec<Deployment> = deployments.into_iter().map(|view| view.deployment).collect();
    let service = match service {
        Some(service) => service,
        None => choose_service(&services, &existing).map_err(|error| refuse_request(error.to_string()))?,
    };
    // The standard library's own source of randomness for its maps.
    let salt = RandomState::new().build_hasher().finish();
    let new_id = DeploymentId::new(host.greet().await?.now.unwrap_or_default(), salt);
    Ok(build_uri_deploy(&services, &existing, service, uri, new_id))
}

/// Seed row R11 (docs/design/seed-systems.md#restate): `{"uri": ...}` is enough for something that runs already.
async fn update(
    state: ApiState,
    call: Call<DeploymentId, NoQuery, Object<UpdateRequest>>,
) -> LinkResult<Deployment> {
    let (id, mut body) = (call.path, call.body);
    if let Some(uri) = read_uri(&mut body)? {
        let mut how = find_deployment(&state.host, &id).await?.deployment.instance.how;
        how.workload = Workload::External { uri };
        body.fields.insert("how".to_owned(), serde_json::to_value(how).unwrap_or_default());
    }
    body.fields.insert("id".to_owned(), Value::from(id.as_str()));
    let request = body.parse()?;
    state.host.update(&request).await
}

/// Seed row R29 (docs/design/seed-systems.md#restate): 202. Unlike there, the check is made here.
async fn kill(
    state: ApiState,
    call: Call<DeploymentId, KillQuery, Object<KillRequest>>,
) -> LinkResult<(StatusCode, KillResponse)> {
    let (KillQuery { force, keep_files, drain_timeout_ms, dry_run }, mut body) = (call.query, call.body);
    body.fields.insert("id".to_owned(), Value::from(call.path.as_str()));
    let given = [
        ("force", force.map(Value::from)),
        ("keep_files", keep_files.map(Value::from)),
        ("drain_timeout_ms", drain_timeout_ms.map(Value::from)),
        ("dry_run", dry_run.map(Value::from)),
    ];
    let given = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    body.fields.extend(given);
    let request = body.parse()?;
    let status = if request.dry_run { StatusCode::OK } else { StatusCode::ACCEPTED };
    let killed = state.host.kill(&request).await?;
    Ok((status, killed))
}

async fn merge(
    state: ApiState,
    call: Call<DeploymentId, NoQuery, Object<MergeRequest>>,
) -> LinkResult<Deployment> {
    let mut body = call.body;
    body.fields.insert("id".to_owned(), Value::from(call.path.as_str()));
    let request = body.parse()?;
    state.host.merge(&request).await
}

async fn assign(
    state: ApiState,
    call: Call<ServiceName, NoQuery, Object<AssignRequest>>,
) -> LinkResult<AssignResponse> {
    let (service, mut body) = (call.path, call.body);
    // For people: the version alone names the deployment.
    if let Some(version) = body.fields.remove("version") {
        let which = json!({"version": {"service": service.as_str(), "version": version}});
        body.fields.insert("which".to_owned(), which);
        body.fields.entry("scope").or_insert_with(|| Value::from("whole"));
        body.fields.entry("actor").or_insert_with(|| json!({"user": "api", "pid": 0}));
    }
    let request = body.parse()?;
    if let DeploymentRef::Version { service: named, .. } = &request.which
        && *named != service
    {
        return Err(refuse_request(format!("the path is about `{service}`, the body about `{named}`")));
    }
    state.host.assign(&service, &request).await
}

async fn roll_back(
    state: ApiState,
    call: Call<ServiceName, NoQuery, Object<RollbackRequest>>,
) -> LinkResult<AssignResponse> {
    let (service, request) = (call.path, call.body.parse()?);
    state.host.rollback(&service, &request).await
}

/// Returns `None` while the watch window is open: the caller repeats the request.
async fn watch(
    state: ApiState,
    call: Call<ServiceName, NoQuery, WatchRequest>,
) -> LinkResult<Option<TrialOutcome>> {
    let ended = tokio::time::timeout(WATCH_TIMEOUT, state.host.watch_trial(&call.path, &call.body)).await;
    ended.ok().transpose()
}

/// JSON lines, as of a running program.
async fn stream_logs(state: ApiState, call: Call<DeploymentId, LogsQuery, NoBody>) -> LinkResult<LineStream> {
    let ApiState { host, .. } = state;
    find_deployment(&host, &call.path).await?;
    let LogsQuery { tail, follow } = call.query;
    let request = LogsRequest { id: call.path, tail, follow: follow.unwrap_or(false) };
    Ok(stream_run(move |caller| async move {
        host.stream_logs(&request, caller).await.map(|()| RunOutcome { status: 0, timed_out: false })
    }))
}
