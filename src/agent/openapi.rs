//! The OpenAPI description of the host API, made from the very types that are read and written.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::model::api::{
    API, ApiError, Hello, HostView, PlacedRelease, ProbeRequest, Probed, Pulse, Question, RunHeard,
    RunRequest,
};
use crate::model::deployment::Digest;
use crate::model::forward::{Changed, Intent};
use crate::model::history::Entry;

/// OpenAPI 3.1.
pub fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut types = settings.into_generator();
    let service = json!({"name": "service", "in": "path", "required": true, "schema": {"type": "string"}});
    let port = json!({"name": "port", "in": "query", "required": true,
        "schema": {"type": "integer", "minimum": 1, "maximum": 65535}});
    let limit = json!({"name": "limit", "in": "query", "required": true, "schema": {"type": "integer", "minimum": 0}});
    let of_service = json!({"name": "service", "in": "query", "schema": {"type": "string"}});
    let release = json!({"name": "release", "in": "path", "required": true,
        "schema": {"type": "string", "pattern": "^[0-9A-Za-z+~-][0-9A-Za-z.+~-]{0,99}$"}});
    let types = &mut types;
    let paths = json!({
        "/v1": {"get": route::<(), Hello>(types, "hello", "Who answers, and which versions of the API", &[])},
        "/v1/status": {"post": route::<Question, HostView>(types, "status", "One look at this host", &[])},
        "/v1/services/{service}/pulse": {"get": route::<(), Pulse>(types, "pulse",
            "What changes while a command waits: the record's generation, connections at work", &[service.clone(), port])},
        "/v1/services/{service}/forward": {"put": route::<Intent, Changed>(types, "switchForward",
            "Kernel and record together; the same again changes nothing", std::slice::from_ref(&service))},
        "/v1/services/{service}/releases": {"get": route::<(), Vec<PlacedRelease>>(types, "releases",
            "The releases that are whole", std::slice::from_ref(&service))},
        "/v1/services/{service}/releases/{release}": {"put": archive(route::<(), Digest>(types, "placeRelease",
            "Unpack a .tar.gz of at most 1 GiB, whole or not at all; the same again is done already", &[service, release]))},
        "/v1/probe": {"post": route::<ProbeRequest, Probed>(types, "probe", "One health check of a real port", &[])},
        "/v1/run": {"post": stream(route::<RunRequest, RunHeard>(types, "run",
            "Run a program: its lines, then its end. Ended when the caller goes away", &[]))},
        "/v1/history": {"get": route::<(), Vec<Entry>>(types, "history", "What was done on this host, oldest first", &[limit, of_service])},
    });
    let schemas: Map<String, Value> = types.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {"title": "switchman host API", "version": API.to_string()},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    })
}

/// One operation. `()` has no body.
fn route<B: JsonSchema, A: JsonSchema>(
    types: &mut SchemaGenerator,
    id: &str,
    summary: &str,
    parameters: &[Value],
) -> Value {
    let json_of = |schema: Value| json!({"application/json": {"schema": schema}});
    let answer = json_of(types.subschema_for::<A>().to_value());
    let error = json_of(types.subschema_for::<ApiError>().to_value());
    let mut operation = json!({
        "operationId": id,
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "done, or already so", "content": answer},
            "default": {"description": "refused or failed", "content": error},
        },
    });
    if std::any::type_name::<B>() != "()" {
        let body = json_of(types.subschema_for::<B>().to_value());
        operation["requestBody"] = json!({"required": true, "content": body});
    }
    operation
}

/// The body is a file.
fn archive(mut operation: Value) -> Value {
    let content = json!({"application/gzip": {"schema": {"type": "string", "format": "binary"}}});
    operation["requestBody"] = json!({"required": true, "content": content});
    operation
}

/// The answer is one JSON value a line.
fn stream(mut operation: Value) -> Value {
    let content = &mut operation["responses"]["200"]["content"];
    let schema = content["application/json"].take();
    *content = json!({"application/x-ndjson": schema});
    operation
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_description_is_whole() {
        let document = document();
        let mut found = Vec::new();
        refs(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let body = &document["paths"]["/v1/services/{service}/forward"]["put"]["requestBody"];
        assert_eq!(body["content"]["application/json"]["schema"]["$ref"], "#/components/schemas/Intent");
        assert!(document["components"]["schemas"]["Intent"]["properties"]["switch"].is_object());
    }
}
