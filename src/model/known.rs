//! A part of a look that may not have been readable, as JSON: `{"value": ...}` or `{"error": "why"}`.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

pub fn serialize<T: Serialize, S: Serializer>(part: &Result<T, String>, to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(1))?;
    match part {
        Ok(value) => map.serialize_entry("value", value)?,
        Err(why) => map.serialize_entry("error", why)?,
    }
    map.end()
}
