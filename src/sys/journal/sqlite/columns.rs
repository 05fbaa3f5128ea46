//! Values of a row: ids and times as text, everything else as JSON.

use std::fmt::Display;
use std::str::FromStr;

use rusqlite::Row as SqlRow;
use rusqlite::types::Type;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub fn parse_column<T: FromStr<Err: Display>>(row: &SqlRow<'_>, index: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(index)?.as_str()?;
    text.parse().map_err(|error: T::Err| to_value_error(index, &error))
}

pub fn parse_json<T: DeserializeOwned>(row: &SqlRow<'_>, index: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(index)?.as_str()?).map_err(|error| to_value_error(index, &error))
}

pub fn to_value_error(index: usize, error: &dyn Display) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, error.to_string().into())
}

pub fn to_json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}
