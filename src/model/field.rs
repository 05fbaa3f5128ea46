//! The parts of an answer that can differ.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// As text: `status`, `header content-type`, `body`, `$.items[].price`. What is seen first of an answer is smaller.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String")]
pub enum Field {
    Status,
    /// The header's name in lower case.
    Header(String),
    /// As a whole: its bytes, or whether it is JSON, which is then compared by path.
    Body,
    Json(JsonPath),
}

/// `$.items[].price`: the indexes of arrays left out, so that counts add up. Shallow before deep.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JsonPath {
    /// Follows from the text, and comes first so that the derived order sorts by it.
    depth: usize,
    text: String,
}

impl JsonPath {
    /// `text` begins with `$`.
    pub fn new(text: String) -> Self {
        let depth = text.bytes().filter(|byte| matches!(byte, b'.' | b'[')).count();
        Self { depth, text }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A text that is no field of an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is not a field of an answer: expected `status`, `body`, `header NAME` or a path such as $.items[].price",
    .found.escape_debug()
)]
pub struct FieldError {
    pub found: String,
}

impl FromStr for Field {
    type Err = FieldError;
    fn from_str(text: &str) -> Result<Self, FieldError> {
        match text {
            "status" => Ok(Self::Status),
            "body" => Ok(Self::Body),
            path if path.starts_with('$') => Ok(Self::Json(JsonPath::new(path.to_owned()))),
            other => match other.strip_prefix("header ").map(str::trim) {
                Some(name) if !name.is_empty() => Ok(Self::Header(name.to_ascii_lowercase())),
                _ => Err(FieldError { found: text.to_owned() }),
            },
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status => f.pad("status"),
            Self::Body => f.pad("body"),
            Self::Header(name) => f.pad(&format!("header {name}")),
            Self::Json(path) => f.pad(path.as_str()),
        }
    }
}

impl Field {
    /// Whether this is the other, or what is below it: `$.items` covers `$.items[].price`.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Json(outer), Self::Json(inner)) => inner
                .text
                .strip_prefix(outer.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])),
            _ => self == other,
        }
    }
}

impl Serialize for Field {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_field(text: &str) -> Field {
        text.parse().unwrap()
    }

    #[test]
    fn fields_round_trip_and_sort() {
        let texts = ["status", "header etag", "header vary", "body", "$", "$.b", "$.a.x", "$.a[].x"];
        let fields: Vec<Field> = texts.iter().map(|text| parse_field(text)).collect();
        assert!(fields.is_sorted(), "{fields:?}");
        for (text, field) in texts.iter().zip(fields) {
            assert_eq!(field.to_string(), *text);
            assert_eq!(serde_json::to_value(&field).unwrap(), *text);
        }
        assert_eq!(parse_field("header ETag"), Field::Header("etag".into()));
        for bad in ["", "header ", "header", "price", "items.price"] {
            assert!(bad.parse::<Field>().is_err(), "{bad}");
        }
    }

    #[test]
    fn json_path_covers_descendants() {
        assert!(parse_field("$.items").covers(&parse_field("$.items")));
        assert!(parse_field("$.items").covers(&parse_field("$.items[].price")));
        assert!(parse_field("$").covers(&parse_field("$.items")));
        assert!(!parse_field("$.items").covers(&parse_field("$.itemset")));
        assert!(!parse_field("$.items").covers(&parse_field("status")));
        assert!(parse_field("body").covers(&parse_field("body")));
    }
}
