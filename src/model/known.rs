//! A part of a look that may not have been readable, as JSON: `{"value": ...}` or `{"error": "why"}`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The shape of such a part.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Known<T> {
    Value(T),
    Error(String),
}

pub fn serialize<T: Serialize, S: Serializer>(part: &Result<T, String>, to: S) -> Result<S::Ok, S::Error> {
    match part {
        Ok(value) => Known::Value(value),
        Err(why) => Known::Error(why.clone()),
    }
    .serialize(to)
}

pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Result<T, String>, D::Error> {
    Ok(match Known::deserialize(from)? {
        Known::Value(value) => Ok(value),
        Known::Error(why) => Err(why),
    })
}
