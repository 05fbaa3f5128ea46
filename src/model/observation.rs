//! A part of an observation that may not have been readable, as JSON: `{"value": ...}` or `{"error": "reason"}`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The reason why a part of an observation could not be read, in the words of the program or the library that failed. No
/// decision depends on them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ObservationError(String);

impl ObservationError {
    pub fn new(cause: impl fmt::Display) -> Self {
        Self(cause.to_string())
    }
}

impl From<ObservationError> for String {
    fn from(error: ObservationError) -> Self {
        error.0
    }
}

/// A part of an answer, or the reason why it could not be read.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueOrError<T> {
    Value(T),
    Error(String),
}

/// By hand for the name in the description of the API: the derived one is numbered for each type of the value.
impl<T: JsonSchema> JsonSchema for ValueOrError<T> {
    fn schema_name() -> Cow<'static, str> {
        let value = T::schema_name();
        if let Some(item) = value.strip_prefix("Array_of_") {
            return format!("{item}ListOrError").into();
        }
        match value.strip_prefix("Nullable_").unwrap_or(&value) {
            "null" => "NullOrError".into(),
            name => format!("{name}OrError").into(),
        }
    }

    fn schema_id() -> Cow<'static, str> {
        format!("{}::ValueOrError<{}>", module_path!(), T::schema_id()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let part = |name: &str, schema: Schema| {
            json_schema!({
                "type": "object",
                "properties": {name: schema},
                "required": [name],
                "additionalProperties": false,
            })
        };
        json_schema!({
            "description": "A part of an answer, or the reason why it could not be read.",
            "oneOf": [
                part("value", generator.subschema_for::<T>()),
                part("error", generator.subschema_for::<String>()),
            ],
        })
    }
}

pub fn serialize<T: Serialize, E: fmt::Display, S: Serializer>(
    part: &Result<T, E>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match part {
        Ok(value) => ValueOrError::Value(value),
        Err(error) => ValueOrError::Error(error.to_string()),
    }
    .serialize(to)
}

pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Result<T, ObservationError>, D::Error> {
    Ok(match ValueOrError::deserialize(from)? {
        ValueOrError::Value(value) => Ok(value),
        ValueOrError::Error(reason) => Err(ObservationError(reason)),
    })
}
