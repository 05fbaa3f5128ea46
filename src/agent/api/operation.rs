//! The description of one route in OpenAPI: its parameters, its body and its answers.

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::model::api::endpoint::{Row, SchemaFn, build_schema};
use crate::model::client_role::ClientRole;
use crate::model::deployment::DeploymentId;
use crate::model::name::ServiceName;
use crate::model::release;

/// The request and the answers of one route.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    id: &'static str,
    summary: &'static str,
    /// A type whose fields are the parameters.
    query: SchemaFn,
    body: Option<Body>,
    response: SchemaFn,
    /// Status codes of a success.
    statuses: &'static [u16],
    media: &'static str,
    role: ClientRole,
}

#[derive(Debug, Clone, Copy)]
struct Body {
    schema: SchemaFn,
    media: &'static str,
    required: bool,
}

/// The extension of OpenAPI with the role that a client needs.
const ROLE: &str = "x-switchman-role";

pub(super) const JSON: &str = "application/json";

impl Operation {
    pub fn new<Q: JsonSchema>(row: &Row, media: &'static str, response: SchemaFn) -> Self {
        let Row { id, summary, role, .. } = *row;
        let query: SchemaFn = |types| Q::json_schema(types).to_value();
        Self { id, summary, query, body: None, response, statuses: &[200], media, role }
    }

    pub fn with_body(self, shape: SchemaFn, required: bool) -> Self {
        Self { body: Some(Body { schema: shape, media: JSON, required }), ..self }
    }

    /// The body is a file.
    pub fn with_archive_body(self) -> Self {
        let shape = |_: &mut SchemaGenerator| json!({"type": "string", "format": "binary"});
        Self { body: Some(Body { schema: shape, media: "application/gzip", required: true }), ..self }
    }

    pub fn with_statuses(self, statuses: &'static [u16]) -> Self {
        Self { statuses, ..self }
    }

    /// Under a second path: its name is taken.
    pub fn without_id(self) -> Self {
        Self { id: "", ..self }
    }

    pub fn describe(&self, path: &str, types: &mut SchemaGenerator) -> Value {
        let mut parameters: Vec<Value> =
            list_path_parameters(path).map(|name| describe_path_parameter(name, types)).collect();
        parameters.extend(describe_query_parameters(&(self.query)(types)));
        let content = json!({self.media: {"schema": (self.response)(types)}});
        let done = |status: &u16| {
            let description =
                SUCCESS_TEXTS.iter().find(|(one, _)| one == status).map_or("done", |(_, text)| text);
            (status.to_string(), json!({"description": description, "content": content}))
        };
        let mut responses: Map<String, Value> = self.statuses.iter().map(done).collect();
        let refused = |status: u16| json!({"$ref": format!("#/components/responses/{status}")});
        let is_for = |status: u16| match status {
            408 => self.body.is_some_and(|body| body.media != JSON),
            413 => self.body.is_some(),
            _ => true,
        };
        let refusals = ERROR_TEXTS.iter().filter(|(status, _)| is_for(*status));
        responses.extend(refusals.map(|(status, _)| (status.to_string(), refused(*status))));
        let mut operation =
            json!({"summary": self.summary, "parameters": parameters, "responses": responses});
        operation[ROLE] = self.role.as_str().into();
        if !self.id.is_empty() {
            operation["operationId"] = self.id.into();
        }
        if let Some(Body { schema: shape, media, required }) = self.body {
            operation["requestBody"] =
                json!({"required": required, "content": {media: {"schema": shape(types)}}});
        }
        operation
    }
}

const SUCCESS_TEXTS: [(u16, &str); 3] =
    [(200, "done, or already so"), (201, "it is new"), (202, "it is removed")];

pub(super) const ERROR_TEXTS: [(u16, &str); 10] = [
    (400, "the request is not understood"),
    (401, "the bearer token is missing or wrong"),
    (
        403,
        "not allowed: others depend on it, switchman lacks a privilege here, or the role of the client is too low",
    ),
    (404, "there is no such thing here"),
    (408, "nothing more of the archive came"),
    (409, "there is another one, it is in use, or another operation is in progress"),
    (413, "the body is too large"),
    (422, "understood, and cannot be done with these values"),
    (500, "it failed; what was begun is taken back"),
    (507, "the disk is full"),
];

/// Returns a type's own object without some of its fields, which the path or the query carries, and with others that are
/// required.
pub(super) fn adapt_schema<T: JsonSchema>(
    types: &mut SchemaGenerator,
    told: &[&str],
    more: &[(&str, SchemaFn)],
) -> Value {
    let mut object = T::json_schema(types).to_value();
    if let Some(required) = object["required"].as_array_mut() {
        required.retain(|name| !told.iter().any(|told| name == told));
        required.extend(more.iter().map(|(name, _)| Value::from(*name)));
    } else {
        object["required"] = more.iter().map(|(name, _)| *name).collect();
    }
    if let Some(properties) = object["properties"].as_object_mut() {
        properties.retain(|name, _| !told.contains(&name.as_str()));
        properties.extend(more.iter().map(|(name, shape)| ((*name).to_owned(), shape(types))));
    }
    object
}

/// The names in braces.
fn list_path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn describe_path_parameter(name: &str, types: &mut SchemaGenerator) -> Value {
    let schema = match name {
        "id" => build_schema::<DeploymentId>(types),
        "service" => build_schema::<ServiceName>(types),
        _ => json!({"type": "string", "pattern": release::PATTERN}),
    };
    json!({"name": name, "in": "path", "required": true, "schema": schema})
}

fn describe_query_parameters(object: &Value) -> Vec<Value> {
    let required = object["required"].clone();
    let is_required = |name: &str| required.as_array().is_some_and(|all| all.iter().any(|one| one == name));
    let Value::Object(properties) = object["properties"].clone() else { return Vec::new() };
    let parameter = |(name, mut schema): (String, Value)| {
        let required = is_required(&name);
        remove_null(&mut schema);
        json!({"name": name, "in": "query", "required": required, "schema": schema})
    };
    properties.into_iter().map(parameter).collect()
}

/// A query has no null: what is not there is not named.
fn remove_null(schema: &mut Value) {
    if let Some(kinds) = schema["type"].as_array() {
        schema["type"] = kinds.iter().find(|kind| *kind != "null").cloned().unwrap_or_default();
    }
    let other = schema["anyOf"].as_array().and_then(|any| any.iter().find(|one| one["type"] != "null"));
    if let Some(other) = other.cloned() {
        *schema = other;
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.retain(|_, value| !value.is_null());
    }
}
