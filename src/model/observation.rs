//! A part of an observation that may not have been readable, as JSON: `{"value": ...}` or `{"error": "reason"}`.

use std::fmt;

use schemars::JsonSchema;
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

/// The shape of such a part.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ValueOrError<T> {
    Value(T),
    Error(String),
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
