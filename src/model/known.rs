//! A part of an observation that may not have been readable, as JSON: `{"value": ...}` or `{"error": "why"}`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The shape of such a part.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ValueOrError<T> {
    Value(T),
    Error(String),
}

pub fn serialize<T: Serialize, E: ToString, S: Serializer>(
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
) -> Result<Result<T, String>, D::Error> {
    Ok(match ValueOrError::deserialize(from)? {
        ValueOrError::Value(value) => Ok(value),
        ValueOrError::Error(why) => Err(why),
    })
}
