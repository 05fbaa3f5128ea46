//! The OpenAPI description of the host API, made of the table of endpoints and of the very types that are read and written.

use std::collections::BTreeSet;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::operation::{ERROR_TEXTS, JSON};
use super::route::ApiRoute;
use crate::model::api::endpoint::build_schema;
use crate::model::api::{API_VERSION, ApiError};

/// OpenAPI 3.1.
pub(super) fn build_document(routes: &[ApiRoute]) -> Map<String, Value> {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut types = settings.into_generator();
    let mut paths = json!({});
    for route in routes {
        paths[route.path][route.method.as_str().to_ascii_lowercase()] =
            route.operation.describe(route.path, &mut types);
    }
    let error = json!({JSON: {"schema": build_schema::<ApiError>(&mut types)}});
    let refused = ERROR_TEXTS.iter();
    let refused: Map<String, Value> = refused
        .map(|(status, text)| (status.to_string(), json!({"description": text, "content": error})))
        .collect();
    let mut schemas: Map<String, Value> = types.take_definitions(true);
    forbid_unknown_fields(&mut paths, &mut schemas);
    let parts = json!({
        "schemas": schemas,
        "responses": refused,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    });
    let members = [
        ("openapi", json!("3.1.0")),
        ("info", json!({"title": "switchman host API", "version": API_VERSION.to_string()})),
        ("paths", paths),
        ("components", parts),
        ("security", json!([{}, {"token": []}])),
    ];
    members.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}

/// Marks the objects of request bodies as closed: the agent refuses a field that is not described.
fn forbid_unknown_fields(paths: &mut Value, schemas: &mut Map<String, Value>) {
    let mut references = Vec::new();
    let operations = paths.as_object_mut().into_iter().flat_map(Map::values_mut);
    let operations = operations.filter_map(Value::as_object_mut).flat_map(Map::values_mut);
    for body in operations.filter_map(|operation| operation.get_mut("requestBody")) {
        close_objects(body, &mut references);
    }
    let mut closed = BTreeSet::new();
    while let Some(name) = references.pop() {
        if closed.insert(name.clone())
            && let Some(schema) = schemas.get_mut(&name)
        {
            close_objects(schema, &mut references);
        }
    }
}

/// Closes every object of a schema, and collects the names of the schemas that it refers to.
fn close_objects(schema: &mut Value, references: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            let name = fields.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
            references.extend(name.map(str::to_owned));
            if fields.get("properties").is_some_and(Value::is_object) {
                fields.entry("additionalProperties").or_insert(Value::Bool(false));
            }
            fields.values_mut().for_each(|value| close_objects(value, references));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| close_objects(value, references)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
