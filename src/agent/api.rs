//! The routes of the host API: every row of the table of endpoints with its handler. `GET /v1/openapi.json` describes them.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;

use super::metrics::{self, Metrics};
use super::upload::upload_release;
use crate::model::api::endpoint::{NoBody, NoQuery};
use crate::model::api::endpoints::{
    ACTIVITY, DESCRIPTION, FORWARD, HEALTH, HELLO, HISTORY, JOURNAL, LISTENERS, METRICS, OPENAPI, PROBE,
    PROXY_STATS, PortQuery, RELEASES, RUN, STATUS, UPLOAD, VERIFY_RELEASE, VERSION, WITHDRAW,
};
use crate::model::api::{ForwardRequest, HealthStatus, ProgramVersion, ServiceActivity};
use crate::model::failure::ErrorCode;
use crate::model::forward::ChangeResult;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::ops::host::api::LocalHost;
use crate::world::link::LinkResult;
use crate::world::releases::ReleaseStore;

pub mod client;
pub mod client_source;
mod deployments;
mod description;
mod line_stream;
mod operation;
pub(super) mod respond;
mod route;
pub(super) mod state;
pub mod token;

use client_source::{ClientSource, identify_clients};
use description::build_document;
use line_stream::stream_run;
use respond::{refuse_request, respond_error};
use route::{ApiRoute, Call, mount_routes, serve, serve_upload};
use state::{ApiState, ServerState};

/// All routes over one host, for the clients of one connection.
pub fn build_router(
    host: Arc<LocalHost>,
    releases: Arc<dyn ReleaseStore>,
    metrics: Arc<Metrics>,
    clients: ClientSource,
) -> Router {
    let routes = mount_routes(build_routes())
        .fallback(async || {
            respond_error(StatusCode::NOT_FOUND, ErrorCode::NotFound, "there is no such route")
        })
        .method_not_allowed_fallback(async || {
            respond_error(
                StatusCode::METHOD_NOT_ALLOWED,
                ErrorCode::BadRequest,
                "this route has no such method",
            )
        })
        .with_state(ServerState { host, releases, metrics });
    identify_clients(routes, clients)
}

fn build_routes() -> Vec<ApiRoute> {
    let mut routes = build_agent_routes();
    routes.extend(build_host_routes());
    routes.extend(deployments::build_routes());
    let short: Vec<ApiRoute> = routes.iter().filter_map(ApiRoute::without_prefix).collect();
    routes.extend(short);
    routes
}

/// The routes that the agent serves by itself.
fn build_agent_routes() -> Vec<ApiRoute> {
    vec![
        serve(&DESCRIPTION, |_, _| async { Ok(build_document(&build_routes())) }),
        serve(&OPENAPI, |_, _| async { Ok(build_document(&build_routes())) }),
        serve(&METRICS, |state, _| async move { Ok(metrics::respond(&state.metrics).await) }),
        serve(&HEALTH, |_, _| async { Ok(HealthStatus { status: "ok".to_owned() }) }),
        serve(&VERSION, |_, _| async {
            Ok(ProgramVersion { version: env!("CARGO_PKG_VERSION").to_owned() })
        }),
    ]
}

fn build_host_routes() -> Vec<ApiRoute> {
    vec![
        serve(&HELLO, |state, _| async move { state.host.greet().await }),
        serve(&STATUS, |state, call| async move { state.host.fetch_status(&call.body).await }),
        serve(&PROBE, |state, call| async move { state.host.probe(&call.body).await }),
        // A caller that disconnects ends the program.
        serve(&RUN, |ApiState { host, .. }, call| async move {
            Ok(stream_run(move |caller| async move { host.run(&call.body, caller).await }))
        }),
        serve(&HISTORY, |state, call| async move {
            state.host.load_history(call.query.service.as_ref(), call.query.limit).await
        }),
        serve(&PROXY_STATS, |state, _| async move { state.host.read_proxy_stats().await }),
        serve(&ACTIVITY, get_activity),
        serve(&LISTENERS, list_listeners),
        serve(&FORWARD, set_forward),
        serve(&WITHDRAW, |state, call| async move { state.host.withdraw(&call.path, &call.body).await }),
        serve(&VERIFY_RELEASE, |state, call| async move {
            let (service, release) = &call.path;
            state.host.verify_release(service, release).await
        }),
        serve(&RELEASES, |state, call| async move { state.host.list_releases(&call.path).await }),
        serve(&JOURNAL, |state, call| async move { state.host.call_journal(&call.path, &call.body).await }),
        serve_upload(&UPLOAD, upload_release),
    ]
}

async fn get_activity(
    state: ApiState,
    call: Call<ServiceName, PortQuery, NoBody>,
) -> LinkResult<ServiceActivity> {
    state.host.fetch_activity(&call.path, read_port(&call.query)?).await
}

async fn list_listeners(
    state: ApiState,
    call: Call<ServiceName, PortQuery, NoBody>,
) -> LinkResult<Vec<SocketAddr>> {
    state.host.list_listeners(&call.path, read_port(&call.query)?).await
}

/// A query holds numbers only.
fn read_port(query: &PortQuery) -> LinkResult<Port> {
    Port::new(query.port).ok_or_else(|| refuse_request("`port=0` names no port".to_owned()))
}

async fn set_forward(
    state: ApiState,
    call: Call<ServiceName, NoQuery, ForwardRequest>,
) -> LinkResult<ChangeResult> {
    let Call { path: service, body: request, .. } = call;
    if request.forward.service != service {
        let named = &request.forward.service;
        return Err(refuse_request(format!("the path is about `{service}`, the body about `{named}`")));
    }
    state.host.set_forward(&request).await
}

#[cfg(test)]
mod tests;
