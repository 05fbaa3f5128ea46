//! The types of the table of endpoints: what a caller sends to one path of the host API, and what the answer holds.

use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, SchemaGenerator};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::model::client_role::ClientRole;
use crate::model::deployment::DeploymentId;
use crate::model::name::ServiceName;

/// Timeout of one answer. A switch waits up to 15 s for another one, and for the xtables lock.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    Get,
    Put,
    Post,
    Patch,
    Delete,
}

impl Method {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// A row of the table without its types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub method: Method,
    /// The values of a request are in braces: `/v1/services/{service}`.
    pub path: &'static str,
    /// Name of the operation in the description.
    pub id: &'static str,
    pub summary: &'static str,
    /// The role that a client needs.
    pub role: ClientRole,
    /// Whether the agent serves the path without `/v1` as well.
    pub has_short_path: bool,
    /// Whether only other programs call it, and `sys::link` does not.
    pub is_for_others: bool,
}

/// An endpoint with the values of its path, its query, the body of its request and its answer.
#[derive(Debug)]
pub struct Endpoint<P, Q, B, R> {
    pub row: Row,
    timeout: fn(&B) -> Duration,
    /// The role that a client needs for this body; the row has the lowest one.
    body_role: fn(&B) -> ClientRole,
    types: PhantomData<fn(P, Q) -> R>,
}

/// A query without parameters.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoQuery {}

/// The body of a request that has none.
#[derive(Debug, Clone, Copy)]
pub struct NoBody;

/// The body of a request that is a `.tar.gz`.
#[derive(Debug, Clone, Copy)]
pub struct Archive;

/// An answer of one JSON value a line, while something runs.
#[derive(Debug, Clone, Copy)]
pub struct JsonLines<T>(PhantomData<T>);

/// An answer that is a text.
#[derive(Debug, Clone, Copy)]
pub struct PlainText;

impl<P: PathValues, Q, B, R> Endpoint<P, Q, B, R> {
    /// Evaluated by the compiler, which refuses a path that does not name its values.
    pub(super) const fn new(
        method: Method,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        role: ClientRole,
    ) -> Self {
        assert!(path_names(path, P::NAMES), "the path does not name the values of its type");
        let row = Row { method, path, id, summary, role, has_short_path: false, is_for_others: false };
        Self { row, timeout: |_| ANSWER_TIMEOUT, body_role: |_| ClientRole::Read, types: PhantomData }
    }

    /// Sets the timeout of an answer that waits for something on the host.
    pub(super) const fn with_timeout(mut self, timeout: fn(&B) -> Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the role that depends on the body, where it is higher than that of the row.
    pub(super) const fn with_body_role(mut self, role: fn(&B) -> ClientRole) -> Self {
        self.body_role = role;
        self
    }

    pub(super) const fn with_short_path(mut self) -> Self {
        self.row.has_short_path = true;
        self
    }

    pub(super) const fn for_other_programs(mut self) -> Self {
        self.row.is_for_others = true;
        self
    }

    pub fn timeout(&self, body: &B) -> Duration {
        (self.timeout)(body)
    }
}

impl<P, Q, B, R> Endpoint<P, Q, B, R> {
    /// The role that a client needs for a body, beside that of the row.
    pub fn body_role(&self) -> fn(&B) -> ClientRole {
        self.body_role
    }
}

impl<P: PathValues, Q: Serialize, B, R> Endpoint<P, Q, B, R> {
    /// Returns the path and the query of a request. No value of the API has a character that a URL escapes.
    pub fn build_target(&self, path: &P, query: &Q) -> String {
        let to_text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let values = match serde_json::to_value(path) {
            Ok(Value::Array(values)) => values,
            value => value.into_iter().collect(),
        };
        let named = P::NAMES.iter().zip(&values);
        let mut target = named.fold(self.row.path.to_owned(), |target, (name, value)| {
            target.replace(&format!("{{{name}}}"), &to_text(value))
        });
        let Ok(Value::Object(parameters)) = serde_json::to_value(query) else { return target };
        let parameters = parameters.iter().filter(|(_, value)| !value.is_null());
        let parameters: Vec<String> =
            parameters.map(|(name, value)| format!("{name}={}", to_text(value))).collect();
        if !parameters.is_empty() {
            target.push('?');
            target.push_str(&parameters.join("&"));
        }
        target
    }
}

/// The values in the path of an endpoint: one, or a tuple of them.
pub trait PathValues: Serialize {
    /// Their names in the path, in this order.
    const NAMES: &'static [&'static str];
}

impl PathValues for () {
    const NAMES: &'static [&'static str] = &[];
}

impl PathValues for ServiceName {
    const NAMES: &'static [&'static str] = &["service"];
}

impl PathValues for DeploymentId {
    const NAMES: &'static [&'static str] = &["id"];
}

impl PathValues for (ServiceName, DeploymentId) {
    const NAMES: &'static [&'static str] = &["service", "id"];
}

/// A service and the name of a release.
impl PathValues for (ServiceName, String) {
    const NAMES: &'static [&'static str] = &["service", "release"];
}

/// A maker of a schema, which leaves what it refers to with the generator.
pub type SchemaFn = fn(&mut SchemaGenerator) -> Value;

pub fn build_schema<T: JsonSchema>(types: &mut SchemaGenerator) -> Value {
    types.subschema_for::<T>().to_value()
}

/// Reads a value, and refuses fields that it does not have, on every level: a caller that sends one expects an effect.
pub fn read_known_fields<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<T, D::Error> {
    let mut unknown = None;
    let value = serde_ignored::deserialize(from, |path| {
        unknown.get_or_insert(path.to_string());
    })?;
    match unknown {
        None => Ok(value),
        Some(path) => Err(D::Error::custom(format_args!("unknown field `{path}`"))),
    }
}

/// The body of a request: JSON, or [`NoBody`].
pub trait RequestBody: Sized {
    /// Makes the schema of the body; `None` for a request without one.
    const SCHEMA: Option<SchemaFn>;

    fn to_json(&self) -> serde_json::Result<Option<Vec<u8>>>;

    fn from_json(bytes: &[u8]) -> serde_json::Result<Self>;
}

impl RequestBody for NoBody {
    const SCHEMA: Option<SchemaFn> = None;

    fn to_json(&self) -> serde_json::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn from_json(_: &[u8]) -> serde_json::Result<Self> {
        Ok(Self)
    }
}

impl<T: Serialize + DeserializeOwned + JsonSchema> RequestBody for T {
    const SCHEMA: Option<SchemaFn> = Some(build_schema::<T>);

    fn to_json(&self) -> serde_json::Result<Option<Vec<u8>>> {
        serde_json::to_vec(self).map(Some)
    }

    fn from_json(bytes: &[u8]) -> serde_json::Result<Self> {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let value = read_known_fields(&mut json)?;
        json.end().map(|()| value)
    }
}

/// Returns whether the names in braces are these, in this order.
const fn path_names(path: &str, names: &[&str]) -> bool {
    let path = path.as_bytes();
    let (mut at, mut found) = (0, 0);
    while at < path.len() {
        if path[at] == b'{' {
            if found == names.len() {
                return false;
            }
            let (name, mut letter) = (names[found].as_bytes(), 0);
            while letter < name.len() {
                at += 1;
                if at == path.len() || path[at] != name[letter] {
                    return false;
                }
                letter += 1;
            }
            at += 1;
            if at == path.len() || path[at] != b'}' {
                return false;
            }
            found += 1;
        }
        at += 1;
    }
    found == names.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_has_to_name_its_values_in_order() {
        assert!(path_names("/v1", &[]));
        assert!(path_names("/a/{service}/b/{id}", &["service", "id"]));
        for (path, names) in [
            ("/a/{service}", &[][..]),
            ("/a", &["service"]),
            ("/a/{id}/{service}", &["service", "id"]),
            ("/a/{serv}", &["service"]),
            ("/a/{service", &["service"]),
            ("/a/{services}", &["service"]),
        ] {
            assert!(!path_names(path, names), "{path}");
        }
    }

    #[test]
    fn target_has_path_values_and_only_given_parameters() {
        #[derive(Serialize)]
        struct Query {
            follow: bool,
            tail: Option<u32>,
        }
        const LOGS: Endpoint<DeploymentId, Query, NoBody, ()> =
            Endpoint::new(Method::Get, "/v1/{id}/logs", "logs", "", ClientRole::Read);
        let id: DeploymentId = "dp_0123456789".parse().unwrap();
        let target = |tail| LOGS.build_target(&id, &Query { follow: false, tail });
        assert_eq!(target(None), "/v1/dp_0123456789/logs?follow=false");
        assert_eq!(target(Some(5)), "/v1/dp_0123456789/logs?follow=false&tail=5");
    }
}
