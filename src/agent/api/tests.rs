//! Promises of every route of the table: an unknown field is refused, and a dry run changes nothing.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};

use super::client::Client;
use super::*;
use crate::model::api::endpoint::{Method, Row};
use crate::model::api::endpoints::ROWS;
use crate::model::caller::{Caller, CallerIdentity};
use crate::model::client_role::ClientRole;
use crate::model::example;
use crate::model::rules::Family;
use crate::ops::host::api::LocalHost;
use crate::world::fake::firewall::FakeFirewall;
use crate::world::fake::{self, FakeWorld};
use crate::world::link::HostDeployments as _;
use crate::world::store::Store as _;

/// A host with main 1.0.0 and the shadow 2.0.0, and the agent's routes over it.
struct Agent {
    fake: FakeWorld,
    router: Router,
}

impl Agent {
    async fn new() -> Self {
        let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&[Family::V4])));
        let host = Arc::new(LocalHost::new(fake.world.clone()));
        for version in ["1.0.0", "2.0.0"] {
            let digest =
                Some(fake.versions.place(&"shop".parse().unwrap(), version, version.as_ref()).unwrap());
            let request = example::make_deploy_request(version, example::make_network(10));
            host.deploy(&crate::model::api::deployments::DeployRequest { digest, ..request }).await.unwrap();
        }
        let metrics = Arc::new(Metrics::new(fake.world.clone()));
        let clients = ClientSource::Connection(Client { caller: make_caller(), role: ClientRole::All });
        let router = build_router(host, fake.versions.clone(), metrics, clients);
        Self { fake, router }
    }

    /// The same host for a client of a role.
    fn with_role(self, role: ClientRole) -> Self {
        let host = Arc::new(LocalHost::new(self.fake.world.clone()));
        let metrics = Arc::new(Metrics::new(self.fake.world.clone()));
        let clients = ClientSource::Connection(Client { caller: make_caller(), role });
        let router = build_router(host, self.fake.versions.clone(), metrics, clients);
        Self { router, ..self }
    }

    async fn send(&self, row: &Row, query: &str, body: &Value) -> (StatusCode, String) {
        let id = example::deployment("shop", "2.0.0", 1).id;
        let path =
            row.path.replace("{service}", "shop").replace("{release}", "3.0.0").replace("{id}", id.as_str());
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = Request::builder().method(row.method.as_str()).uri(format!("{path}{query}")).body(body);
        let response = TowerToHyperService::new(self.router.clone()).call(request.unwrap()).await.unwrap();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Everything that a change changes.
    fn dump(&self) -> String {
        format!(
            "{:#?}{:#?}{:#?}{:#?}{:#?}",
            self.fake.versions.deployments.lock().unwrap(),
            self.fake.versions.running.lock().unwrap(),
            self.fake.versions.releases.lock().unwrap(),
            self.fake.store.records.lock().unwrap(),
            self.fake.firewall.table(Family::V4),
        )
    }
}

/// The client that the agent observed.
fn make_caller() -> Caller {
    Caller::new(CallerIdentity::Token { name: "ci".to_owned() }, Some(([10, 0, 0, 9], 1).into()))
}

/// A good request to a route, by the name of its operation; null where it has no JSON body.
fn make_body(row: &Row) -> Value {
    let two = example::deployment("shop", "2.0.0", 1);
    let actor = json!({"user": "me", "pid": 1});
    let mut deploy = json!(example::make_deploy_request("3.0.0", example::make_network(10)));
    deploy["id"] = "dp_0000000000333".into();
    match row.id {
        "status" => {
            json!({"service": "shop", "ports": example::make_ports(), "main": "127.0.0.1:8080", "health": two.health})
        }
        "probe" => json!({"address": "127.0.0.1:80", "health": two.health}),
        "run" => json!({"key": "k", "argv": ["true"], "env": {}, "dir": null, "timeout_ms": null}),
        "switchForward" => json!({
            "forward": {"service": "shop", "check": 8888, "target": 20000}, "switch": "off",
            "balancer_is_local": false, "actor": actor, "action": "disable-forward", "detail": "",
        }),
        "deploy" => deploy,
        "update" | "patch" => json!({"uri": "http://127.0.0.1:9000"}),
        "kill" => json!({"force": true}),
        "merge" => json!({"into": "dp_0000000000444", "revision": 7}),
        "access" => json!({"public": false}),
        "assign" => json!({"version": "2.0.0"}),
        "rollback" => json!({}),
        "withdraw" => json!({"actor": actor}),
        "watch" => json!({"id": two.id}),
        "closeIdle" => json!({"reported": 0}),
        "journal" => json!({"call": {"operation": "read-lock"}}),
        "split" => {
            json!({"change": {"set-mirror": example::make_mirror(&two.id)}, "port_range": [20000, 20010], "actor": actor})
        }
        _ => Value::Null,
    }
}

fn has_json_body(row: &Row) -> bool {
    row.method != Method::Get && row.id != "placeRelease"
}

fn has_actor(row: &Row) -> bool {
    has_json_body(row) && !["run", "status", "probe", "closeIdle", "journal"].contains(&row.id)
}

#[tokio::test(start_paused = true)]
async fn every_route_refuses_unknown_fields() {
    let agent = Agent::new().await;
    let before = agent.dump();
    for row in ROWS {
        let good = make_body(row);
        assert_eq!(has_json_body(row), !good.is_null(), "{} needs a good body here", row.id);
        let (status, text) = agent.send(row, "?swm_unknown=1", &good).await;
        assert_eq!(
            (status, text.contains("swm_unknown")),
            (StatusCode::BAD_REQUEST, true),
            "{}: {text}",
            row.id
        );
        if !good.is_null() {
            let mut body = good.clone();
            body["swm_unknown"] = true.into();
            let (status, text) = agent.send(row, "", &body).await;
            assert_eq!(
                (status, text.contains("swm_unknown")),
                (StatusCode::BAD_REQUEST, true),
                "{}: {text}",
                row.id
            );
        }
    }
    let deploy = ROWS.iter().find(|row| row.id == "deploy").unwrap();
    let mut body = make_body(deploy);
    body["how"]["resources"]["memory"] = 7.into();
    let (status, text) = agent.send(deploy, "", &body).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.contains("unknown field `how.resources.memory`"), "{text}");
    assert_eq!(agent.dump(), before, "nothing was carried out");
}

/// No deployment has an id of another form either. Rows: R30, R31.
#[tokio::test(start_paused = true)]
async fn r30_unknown_id_of_any_form_is_404() {
    let agent = Agent::new().await;
    let ids = ["dp_0000000000999", "nonsense", "dp_NO", "dp_%20", "%2e%2e"];
    for row in ROWS.iter().filter(|row| row.path.contains("{id}")) {
        let mut body = make_body(row);
        for id in ids {
            let path = row.path.replace("{id}", id).replace("{service}", "shop");
            if row.method == Method::Get {
                body = Value::Null;
            }
            let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
            let request = Request::builder().method(row.method.as_str()).uri(&path).body(body);
            let response =
                TowerToHyperService::new(agent.router.clone()).call(request.unwrap()).await.unwrap();
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{} {path}", row.method.as_str());
        }
    }
}

/// Rows: R28, R35, R31.
#[tokio::test(start_paused = true)]
async fn deploy_of_a_uri_needs_nothing_else() {
    let agent = Agent::new().await;
    let deploy = ROWS.iter().find(|row| row.id == "deploy").unwrap();
    let update = ROWS.iter().find(|row| row.id == "update").unwrap();
    let uri = json!({"uri": "127.0.0.1:9000"});
    let (status, text) = agent.send(deploy, "", &uri).await;
    assert_eq!(status, StatusCode::CREATED, "{text}");
    let new: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&new["role"], &new["deployment"]["version"]), (&json!("shadow"), &json!("3.0.0")), "{text}");
    assert_eq!((&new["deployment"]["service"], &new["deployment"]["revision"]), (&json!("shop"), &json!(3)));
    let workload = &new["deployment"]["instance"]["how"]["workload"];
    assert_eq!(workload["external"]["uri"], "http://127.0.0.1:9000", "{text}");
    // The same address again is the deployment that it has.
    let (status, text) = agent.send(deploy, "", &uri).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let known: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&known["known"], &known["deployment"]["id"]), (&json!(true), &new["deployment"]["id"]));
    // Given values win; bad ones are refused, and nothing is registered.
    let before = agent.dump();
    for (row, body) in [
        (deploy, json!({"uri": "/relative"})),
        (deploy, json!({"uri": "https://127.0.0.1:9001"})),
        (deploy, json!({"uri": "http://127.0.0.1:9001/path"})),
        (deploy, json!({"uri": "http://127.0.0.1:9001", "version": "one"})),
        (deploy, json!({"uri": "http://127.0.0.1:9001", "how": {}})),
        (deploy, json!({})),
        (update, json!({"uri": "/relative"})),
    ] {
        let (status, text) = agent.send(row, "", &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}: {text}");
    }
    assert_eq!(agent.dump(), before);
    let named = json!({"uri": "http://127.0.0.1:9001", "version": "7.1.0"});
    let (status, text) = agent.send(deploy, "?", &named).await;
    assert!(status == StatusCode::CREATED && text.contains("7.1.0"), "{text}");
}

/// Rows: R29, D24.
#[tokio::test(start_paused = true)]
async fn delete_is_checked_by_the_host() {
    let agent = Agent::new().await;
    let delete = async |version: &str, query: &str| {
        let id = example::deployment("shop", version, 1).id;
        let uri = format!("/deployments/{id}{query}");
        let request = Request::builder().method("DELETE").uri(uri).body(Body::empty()).unwrap();
        TowerToHyperService::new(agent.router.clone()).call(request).await.unwrap().status()
    };
    // Main has a shadow, with or without force.
    assert_eq!(delete("1.0.0", "").await, StatusCode::FORBIDDEN);
    assert_eq!(delete("1.0.0", "?force=true").await, StatusCode::FORBIDDEN);
    assert_eq!(delete("2.0.0", "").await, StatusCode::ACCEPTED);
    assert_eq!(delete("2.0.0", "").await, StatusCode::NOT_FOUND);
}

/// A run and an upload have nothing to check: `dry_run` is unknown to them. The others only read.
const WITHOUT_DRY_RUN: [&str; 6] = ["run", "placeRelease", "status", "probe", "watch", "journal"];

#[tokio::test(start_paused = true)]
async fn dry_run_changes_nothing_on_every_changing_route() {
    let agent = Agent::new().await;
    let one = example::deployment("shop", "1.0.0", 1).id;
    let version = json!({"version": "2.0.0"});
    let assign = ROWS.iter().find(|row| row.id == "assign").unwrap();
    // Now a rollback has a target, and the version of the path is main.
    let (status, text) = agent.send(assign, "", &version).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    for row in ROWS.iter().filter(|row| row.method != Method::Get && !WITHOUT_DRY_RUN.contains(&row.id)) {
        let before = agent.dump();
        let mut body = make_body(row);
        body["dry_run"] = true.into();
        match row.id {
            "assign" => body["version"] = "1.0.0".into(),
            "split" => body["change"]["set-mirror"]["deployment"] = json!(one),
            _ => {}
        }
        let (status, text) = agent.send(row, "", &body).await;
        // Main cannot be killed, and an agent that does not register cannot withdraw: the check is made.
        let expected = match row.id {
            "kill" => StatusCode::FORBIDDEN,
            "withdraw" => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::OK,
        };
        assert_eq!(status, expected, "{}: {text}", row.id);
        assert_eq!(agent.dump(), before, "{} carried it out", row.id);
    }
    let kill = ROWS.iter().find(|row| row.id == "kill").unwrap();
    let rollback = ROWS.iter().find(|row| row.id == "rollback").unwrap();
    agent.send(rollback, "", &json!({})).await;
    let before = agent.dump();
    let (status, text) = agent.send(kill, "?dry_run=true", &Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert_eq!(agent.dump(), before);
    for (id, query) in [("run", ""), ("placeRelease", "?dry_run=true")] {
        let row = ROWS.iter().find(|row| row.id == id).unwrap();
        let mut body = make_body(row);
        if !body.is_null() {
            body["dry_run"] = true.into();
        }
        assert_eq!(agent.send(row, query, &body).await.0, StatusCode::BAD_REQUEST, "{id}");
    }
}

/// These change nothing that the history of the host has: an upload is placed and not used, a journal has its own history, and idle
/// connections belong to the switch before.
const WITHOUT_HISTORY: [&str; 7] =
    ["placeRelease", "status", "probe", "watch", "journal", "closeIdle", "withdraw"];

/// A client may claim to be any actor. The history has the client that the agent observed as well.
#[tokio::test(start_paused = true)]
async fn every_change_records_the_client_that_the_agent_observed() {
    let forged = json!({"user": "root", "machine": "ops1", "pid": 1});
    for row in ROWS.iter().filter(|row| row.method != Method::Get) {
        let agent = Agent::new().await;
        let before = agent.fake.store.load_history(None, 1000).unwrap().len();
        let mut body = make_body(row);
        if has_actor(row) {
            body["actor"] = forged.clone();
        }
        match row.id {
            "switchForward" => body["forward"]["target"] = 20001.into(),
            "deploy" => body = json!({"uri": "127.0.0.1:9001", "actor": forged}),
            "rollback" => {
                let assign = ROWS.iter().find(|row| row.id == "assign").unwrap();
                agent.send(assign, "", &json!({"version": "2.0.0"})).await;
            }
            _ => {}
        }
        let (status, text) = agent.send(row, "", &body).await;
        let rows = agent.fake.store.load_history(None, 1000).unwrap();
        let new = &rows[before..];
        assert_eq!(new.is_empty(), WITHOUT_HISTORY.contains(&row.id), "{}: {status} {text}", row.id);
        for entry in new {
            assert_eq!(entry.caller, Some(make_caller()), "{}: {entry:?}", row.id);
        }
    }
}

/// Every endpoint, with every role: a role that is too low is refused before anything of the request is read.
#[tokio::test(start_paused = true)]
async fn every_route_needs_its_role() {
    for role in ClientRole::ALL {
        let agent = Agent::new().await.with_role(role);
        let before = agent.dump();
        for row in ROWS.iter().filter(|row| row.role > role) {
            for body in [make_body(row), Value::Null] {
                let (status, text) = agent.send(row, "?swm_unknown=1", &body).await;
                assert_eq!(status, StatusCode::FORBIDDEN, "{} as {role}: {text}", row.id);
                let error: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(error["code"], "role-too-low");
                let needs = format!(
                    "the token ci has the role `{role}`, and {} {} needs `{}`",
                    row.method.as_str(),
                    row.path,
                    row.role
                );
                assert_eq!(error["message"], needs.as_str());
            }
        }
        assert_eq!(agent.dump(), before, "a refused request was carried out");
        for row in ROWS.iter().filter(|row| row.role <= role) {
            let (status, text) = agent.send(row, "?swm_unknown=1", &make_body(row)).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{} as {role}: {text}", row.id);
        }
        let short = Row { path: "/deployments", ..*ROWS.iter().find(|row| row.id == "deploy").unwrap() };
        let (status, _) = agent.send(&short, "", &make_body(&short)).await;
        assert_eq!(status == StatusCode::FORBIDDEN, role < ClientRole::All, "the short path, as {role}");
    }
}

#[tokio::test(start_paused = true)]
async fn journal_needs_the_role_of_its_operation() {
    let journal = ROWS.iter().find(|row| row.id == "journal").unwrap();
    let read = json!({"call": {"operation": "read-lock"}});
    let note = json!({"at": "2026-11-28T10:00:00Z", "user": "ann", "text": "x"});
    let write = json!({"call": {"operation": "add-note", "token": "t", "note": note}});
    let elsewhere = json!({"directory": "/etc", "call": {"operation": "read-lock"}});
    for role in ClientRole::ALL {
        let agent = Agent::new().await.with_role(role);
        let refused = async |body: &Value| agent.send(journal, "", body).await.0 == StatusCode::FORBIDDEN;
        assert!(!refused(&read).await, "{role}");
        assert_eq!(refused(&write).await, role < ClientRole::Switch, "{role}");
        assert_eq!(refused(&elsewhere).await, role < ClientRole::All, "{role}");
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_is_not_listed_or_not_known_gets_no_answer() {
    let agent = Agent::new().await;
    let host = || Arc::new(LocalHost::new(agent.fake.world.clone()));
    let metrics = Arc::new(Metrics::new(agent.fake.world.clone()));
    for (source, expected) in [
        (ClientSource::Refused(make_caller()), StatusCode::FORBIDDEN),
        (ClientSource::Unknown, StatusCode::UNAUTHORIZED),
    ] {
        let router = build_router(host(), agent.fake.versions.clone(), metrics.clone(), source);
        for row in ROWS {
            let request = Request::builder().method(row.method.as_str());
            let path =
                row.path.replace("{service}", "shop").replace("{release}", "3.0.0").replace("{id}", "dp_1");
            let request = request.uri(path).body(Body::from(make_body(row).to_string())).unwrap();
            let response = TowerToHyperService::new(router.clone()).call(request).await.unwrap();
            assert_eq!(response.status(), expected, "{}", row.id);
        }
    }
}

/// Every text of a body in turn gets a character that acts on a terminal.
#[tokio::test(start_paused = true)]
async fn every_text_of_a_request_is_one_line_without_control_characters() {
    let agent = Agent::new().await;
    let before = agent.dump();
    let free = ["argv.0", "argv.1", "how.workload.command.argv.0", "how.workload.command.argv.1"];
    let mut tried = Vec::new();
    for row in ROWS.iter().filter(|row| has_json_body(row)) {
        let mut good = make_body(row);
        if has_actor(row) {
            good["actor"] = json!({"user": "me", "machine": "ops1", "purpose": "disk", "pid": 1});
        }
        match row.id {
            "assign" => good["detail"] = "roll".into(),
            "rollback" => good["reason"] = "slow".into(),
            "deploy" => good["metadata"] = json!({"commit": "3f2a"}),
            "journal" => {
                let note = json!({"at": "2026-11-28T10:00:00Z", "user": "ann", "text": "x"});
                good["call"] = json!({"operation": "add-note", "token": "t", "note": note});
            }
            _ => {}
        }
        for path in list_texts(&good).into_iter().filter(|path| !free.contains(&path.as_str())) {
            for bad in ["\u{1b}[2J", "two\nlines", "\u{9b}2J", "\u{202e}"] {
                let mut body = good.clone();
                let pointer = format!("/{}", path.replace('.', "/"));
                let text = body.pointer_mut(&pointer).unwrap();
                *text = format!("{}{bad}", text.as_str().unwrap()).into();
                let (status, text) = agent.send(row, "", &body).await;
                let names = text.contains(&format!("`{path}`"));
                assert_eq!((status, names), (StatusCode::BAD_REQUEST, true), "{} {path}: {text}", row.id);
            }
            tried.push(path);
        }
    }
    for path in [
        "actor.user",
        "actor.machine",
        "actor.purpose",
        "detail",
        "reason",
        "key",
        "action",
        "call.note.text",
        "metadata.commit",
    ] {
        assert!(tried.iter().any(|tried| tried == path), "{path}: {tried:?}");
    }
    assert_eq!(agent.dump(), before);
}

/// The paths of the texts of a body.
fn list_texts(value: &Value) -> Vec<String> {
    let below = |name: &str, value: &Value| {
        let path = |rest: String| if rest.is_empty() { name.to_owned() } else { format!("{name}.{rest}") };
        list_texts(value).into_iter().map(path).collect::<Vec<_>>()
    };
    match value {
        Value::String(_) => vec![String::new()],
        Value::Array(values) => {
            values.iter().enumerate().flat_map(|(index, value)| below(&index.to_string(), value)).collect()
        }
        Value::Object(fields) => fields.iter().flat_map(|(name, value)| below(name, value)).collect(),
        _ => vec![],
    }
}
