//! The OpenAPI description of the host API, made of the table of endpoints and of the very types that are read and written.

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
    let schemas: Map<String, Value> = types.take_definitions(true);
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

#[cfg(test)]
mod tests;
