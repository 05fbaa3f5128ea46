//! The link calls exactly the rows of the table that are not for other programs, each with its method and path.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::extract::Request;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::UnixListener;

use crate::model::api::deployments::DeploymentRef;
use crate::model::api::endpoint::Method;
use crate::model::api::endpoints::ROWS;
use crate::model::api::{API_VERSION, StatusRequest};
use crate::model::example;
use crate::model::host::{ConnectConfig, Transport};
use crate::sys::link::connect;
use crate::world::link::{HostLink, LinkError, SharedLineSink};

type Requests = Arc<Mutex<BTreeSet<(String, String)>>>;

/// Answers the greeting, refuses everything else, and records the method and path of every request.
fn start_recorder(listener: UnixListener, requests: Requests) {
    let record = move |request: Request| async move {
        let path = request.uri().path().to_owned();
        let is_greeting = path == "/v1";
        requests.lock().unwrap().insert((request.method().to_string(), path));
        // A refusal before the end of an upload could break the connection.
        axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let hello = json!({"api": API_VERSION, "oldest_api": API_VERSION, "version": "", "machine": ""});
        if is_greeting { Ok(axum::Json(hello)) } else { Err(axum::http::StatusCode::NOT_FOUND) }
    };
    let service = TowerToHyperService::new(axum::Router::new().fallback(record));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service.clone()));
        }
    });
}

/// Reads a request in its JSON form, where most fields have a default.
fn read<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

async fn call_everything(link: &dyn HostLink, archive: &std::path::Path) -> Vec<Result<(), LinkError>> {
    let main = example::deployment("shop", "1.0.0", 20000);
    let (service, id) = (&main.service, &main.id);
    let sink: SharedLineSink = Arc::new(|_: &str| {});
    let actor = json!({"user": "me", "pid": 1});
    let network = json!({"ports": example::make_ports(), "address": "127.0.0.1", "balancer_is_local": false,
        "port_range": [1, 2], "keep_releases": 5});
    let status = StatusRequest {
        service: service.clone(),
        ports: example::make_ports(),
        main: "127.0.0.1:8080".parse().unwrap(),
        health: main.health.clone(),
        send_packet: false,
        addresses: vec![],
    };
    let run = json!({"key": "k", "argv": ["true"], "env": {}, "dir": null, "timeout_ms": null});
    let forward = json!({
        "forward": {"service": "shop", "check": 8888, "target": 8080}, "switch": "on",
        "balancer_is_local": false, "actor": actor, "action": "test", "detail": "",
    });
    let deploy = json!({
        "id": id, "service": "shop", "version": "1.0.0", "how": main.instance.how, "health": main.health,
        "health_timeout_ms": 1, "site": network, "actor": actor,
    });
    let which = DeploymentRef::Id(id.clone());
    let assign = json!({"which": which, "scope": "main-and-backup", "actor": actor});
    let split = json!({"change": "remove-canary", "port_range": [1, 2], "actor": actor});
    vec![
        link.fetch_status(&status).await.map(drop),
        link.fetch_activity(service, example::port(8080)).await.map(drop),
        link.list_listeners(service, example::port(80)).await.map(drop),
        link.probe(&read(json!({"address": "127.0.0.1:80", "health": main.health}))).await.map(drop),
        link.set_forward(&read(forward)).await.map(drop),
        link.run(&read(run), sink.clone()).await.map(drop),
        link.load_history(Some(service), 5).await.map(drop),
        link.upload_release(service, "1.0.0", archive).await.map(drop),
        link.list_releases(service).await.map(drop),
        link.verify_release(service, "1.0.0").await.map(drop),
        link.list_deployments().await.map(drop),
        link.deploy(&read(deploy)).await.map(drop),
        link.update(&read(json!({"id": id}))).await.map(drop),
        link.assign(service, &read(assign)).await.map(drop),
        link.rollback(service, &read(json!({}))).await.map(drop),
        link.watch_trial(service, &read(json!({"id": id}))).await.map(drop),
        link.close_idle(service, &read(json!({"reported": 1}))).await.map(drop),
        link.kill(&read(json!({"id": id}))).await.map(drop),
        link.merge(&read(json!({"id": id, "into": id, "revision": 1}))).await.map(drop),
        link.set_access(service, &read(json!({"public": true}))).await.map(drop),
        link.stream_logs(&read(json!({"id": id})), sink).await,
        link.change_traffic_split(service, &read(split)).await.map(drop),
        link.read_proxy_stats().await.map(drop),
        link.read_evidence(service, id).await.map(drop),
        link.withdraw(service, &read(json!({}))).await.map(drop),
        link.call_journal(service, &read(json!({"call": {"operation": "read-lock"}}))).await.map(drop),
    ]
}

#[tokio::test]
async fn link_calls_every_row_that_is_not_for_other_programs() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, archive) = (dir.path().join("agent.sock"), dir.path().join("release.tar.gz"));
    std::fs::write(&archive, "an archive").unwrap();
    let requests = Requests::default();
    start_recorder(UnixListener::bind(&socket).unwrap(), requests.clone());
    let host = "web1".parse().unwrap();
    let link = connect(&host, &Transport::Socket(socket), &ConnectConfig::default());
    link.greet().await.unwrap();
    for refused in call_everything(&*link, &archive).await {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("404"), "{error}");
    }

    let id = example::deployment("shop", "1.0.0", 20000).id;
    let expand = |path: &str| {
        path.replace("{service}", "shop").replace("{release}", "1.0.0").replace("{id}", id.as_str())
    };
    let rows = ROWS.iter().filter(|row| !row.is_for_others);
    let rows = rows.map(|row| (Method::as_str(row.method).to_owned(), expand(row.path)));
    assert_eq!(*requests.lock().unwrap(), rows.collect::<BTreeSet<_>>());
}
