use std::collections::BTreeSet;

use super::*;
use crate::agent::api;
use crate::model::api::endpoints::ROWS;

fn build_value() -> Value {
    Value::Object(build_document(&api::build_routes()))
}

/// Every `$ref` leads somewhere.
fn refs(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| refs(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| refs(value, found)),
        _ => {}
    }
}

#[test]
fn document_is_complete() {
    let document = build_value();
    let mut found = Vec::new();
    refs(&document, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let body = &document["paths"]["/v1/services/{service}/forward"]["put"]["requestBody"];
    assert_eq!(body["content"]["application/json"]["schema"]["$ref"], "#/components/schemas/ForwardRequest");
    assert!(document["components"]["schemas"]["ForwardRequest"]["properties"]["switch"].is_object());
}

/// Rows: D31, R30.
#[test]
fn every_row_of_the_table_is_served_once() {
    let rows = ROWS.iter().flat_map(|row| {
        let short = row.path.strip_prefix("/v1").filter(|_| row.has_short_path);
        std::iter::once(row.path).chain(short).map(|path| (path, row.method))
    });
    let mut rows: Vec<_> = rows.collect();
    let mut served: Vec<_> = api::build_routes().iter().map(|route| (route.path, route.method)).collect();
    rows.sort_unstable();
    served.sort_unstable();
    assert_eq!(served, rows);
}

/// The rows of the table are what the router serves; here, that none is lost on the way.
#[test]
fn document_describes_every_route_once() {
    let table = api::build_routes();
    let document = build_value();
    let paths = document["paths"].as_object().unwrap();
    let described: usize = paths.values().map(|methods| methods.as_object().unwrap().len()).sum();
    assert_eq!(described, table.len());
    let ids: Vec<&str> = paths
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values())
        .filter_map(|operation| operation["operationId"].as_str())
        .collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    for path in ["/deployments/{id}/logs", "/v1/deployments/{id}/logs", "/v1/services/{service}/watch"] {
        assert!(paths.contains_key(path), "{path}");
    }
}

#[test]
fn watch_request_requires_deployment_id() {
    let document = build_value();
    let asked = &document["paths"]["/v1/services/{service}/watch"]["post"]["requestBody"];
    assert_eq!(asked["required"], true);
    assert_eq!(asked["content"]["application/json"]["schema"]["$ref"], "#/components/schemas/WatchRequest");
    assert_eq!(document["components"]["schemas"]["WatchRequest"]["required"], json!(["id"]));
}

fn statuses(operation: &Value) -> Vec<&str> {
    operation["responses"].as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn document_uses_schemas_of_rust_types() {
    let document = build_value();
    let at = |path: &str, method: &str| document["paths"][path][method].clone();
    let killed = at("/v1/deployments/{id}", "delete");
    assert_eq!(
        statuses(&killed),
        ["200", "202", "400", "401", "403", "404", "409", "413", "422", "500", "507"],
        "{killed}"
    );
    assert_eq!(statuses(&at("/deployments", "post"))[..2], ["200", "201"]);
    assert_eq!(killed["requestBody"]["required"], false);
    let body = &killed["requestBody"]["content"]["application/json"]["schema"];
    assert!(
        body["properties"]["drain_timeout_ms"].is_object() && body["properties"]["id"].is_null(),
        "{body}"
    );
    let names: Vec<&str> =
        killed["parameters"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["id", "drain_timeout_ms", "dry_run", "force", "keep_files"]);
    assert_eq!(killed["parameters"][2]["schema"], json!({"type": "boolean"}));
    let id = &document["components"]["schemas"]["DeploymentId"];
    assert_eq!(id["pattern"], "^dp_[a-z0-9]{10,40}$");
    let update = at("/deployments/{id}", "put");
    let by_uri = &update["requestBody"]["content"]["application/json"]["schema"]["anyOf"][1];
    assert_eq!(by_uri["required"], json!(["uri"]));
    let main = at("/services/{service}/main", "put");
    let by_version = &main["requestBody"]["content"]["application/json"]["schema"]["anyOf"][1];
    assert_eq!(by_version["required"], json!(["version"]));
    assert!(by_version["properties"]["trial_ms"].is_object(), "{by_version}");
}
