//! The answer of a host: within limits, and harmless for the terminal of the operator. The host may be in other hands.

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::model::terminal_text::clean_line;

/// The longest answer. A host with 1,000 deployments has less than a tenth of it.
pub(super) const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// The longest line of an answer of lines: a host cuts the output of programs at 8 KiB.
pub(super) const MAX_LINE_BYTES: usize = 256 * 1024;
/// The most values of an answer: a short value in JSON takes many times its bytes in memory.
const MAX_VALUES: usize = 500_000;

/// Whether an answer is for people, or data that switchman keeps or sends back: a command line has the characters it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Display,
    /// For people, except for what an update sends back: how an instance is run.
    Deployments,
    Data,
}

/// The field of an instance that an update sends back.
const RUN_SPEC_FIELD: &str = "how";

/// Reads a body up to its end or the limit.
pub(super) async fn read_body(body: Incoming) -> Result<Bytes, String> {
    match Limited::new(body, MAX_ANSWER_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(format!("its answer is longer than {} MiB", MAX_ANSWER_BYTES / 1024 / 1024))
        }
        Err(error) => Err(super::connection::describe_error(&*error)),
    }
}

/// Reads a value from JSON. Strings for people have no control character, no line break and no bidirectional mark.
pub(super) fn decode<R: DeserializeOwned>(bytes: &[u8], content: Content) -> Result<R, String> {
    let values = count_values(bytes);
    if values > MAX_VALUES {
        return Err(format!("it has {values} values, more than {MAX_VALUES}"));
    }
    if content == Content::Data || !may_have_unsafe_text(bytes) {
        return serde_json::from_slice(bytes).map_err(|error| clean_line(&error.to_string()).into_owned());
    }
    let mut value: Value =
        serde_json::from_slice(bytes).map_err(|error| clean_line(&error.to_string()).into_owned())?;
    clean_strings(&mut value, content);
    serde_json::from_value(value).map_err(|error| clean_line(&error.to_string()).into_owned())
}

/// Returns the message of a refusal with its further lines marked, as a host marks the log of an instance: none of them can be
/// taken for a line of switchman.
pub(super) fn clean_message(message: &str) -> String {
    let mut lines = message.lines().map(clean_line);
    let mut cleaned = lines.next().unwrap_or_default().into_owned();
    for line in lines {
        let line = line.trim_start();
        cleaned.push_str("\n    | ");
        cleaned.push_str(line.strip_prefix("| ").unwrap_or(line));
    }
    cleaned
}

/// An upper bound: separators inside strings count too.
fn count_values(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count()
}

/// Escapes, and characters beyond ASCII.
fn may_have_unsafe_text(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| matches!(byte, b'\\' | 0x7f..))
}

fn clean_strings(value: &mut Value, content: Content) {
    match value {
        Value::String(text) => {
            if let std::borrow::Cow::Owned(cleaned) = clean_line(text) {
                *text = cleaned;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| clean_strings(value, content)),
        Value::Object(map) => {
            if map.keys().any(|key| matches!(clean_line(key), std::borrow::Cow::Owned(_))) {
                let entries = std::mem::take(map);
                *map =
                    entries.into_iter().map(|(key, value)| (clean_line(&key).into_owned(), value)).collect();
            }
            for (key, value) in map {
                if content != Content::Deployments || key != RUN_SPEC_FIELD {
                    clean_strings(value, content);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_text_is_cleaned_and_data_is_not() {
        let json = r#"{"a\u001b": ["UP\u001b[2J\nx", 7]}"#.as_bytes();
        let value: Value = decode(json, Content::Display).unwrap();
        assert_eq!(value, serde_json::json!({"a\\u{1b}": ["UP\\u{1b}[2J x", 7]}));
        let value: Value = decode(json, Content::Data).unwrap();
        assert_eq!(value["a\u{1b}"][0], "UP\u{1b}[2J\nx");
    }

    #[test]
    fn deployments_are_cleaned_except_for_what_an_update_sends_back() {
        let json = r#"{"metadata": {"a\n": "\u001b[31mb"}, "instances": [{"how": {"env": {"KEY": "1\n2"}}, "last": "\n"}]}"#;
        let value: Value = decode(json.as_bytes(), Content::Deployments).unwrap();
        let instance = serde_json::json!({"how": {"env": {"KEY": "1\n2"}}, "last": " "});
        assert_eq!(value, serde_json::json!({"metadata": {"a ": "\\u{1b}[31mb"}, "instances": [instance]}));
    }

    #[test]
    fn further_lines_of_a_message_are_marked() {
        let log = "it does not answer\n    | Traceback\n    |   in main";
        assert_eq!(clean_message(log), "it does not answer\n    | Traceback\n    |   in main");
        assert_eq!(clean_message("no\n next: run \u{1b}[2J"), "no\n    | next: run \\u{1b}[2J");
        assert_eq!(clean_message(""), "");
    }

    #[test]
    fn answer_of_many_short_values_is_refused() {
        let many = format!("[{}1]", "1,".repeat(MAX_VALUES));
        let error = decode::<Value>(many.as_bytes(), Content::Data).unwrap_err();
        assert!(error.contains("more than 500000"), "{error}");
    }

    #[test]
    fn error_of_an_answer_quotes_no_escape() {
        let error = decode::<u32>(br#""\u001b[2J""#, Content::Data).unwrap_err();
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }
}
