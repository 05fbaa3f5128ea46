//! The texts of requests: the history, the journal and other operators' terminals show them, so each is one line without control
//! characters. A field that has to hold any text is listed here.

use serde_json::Value;

use crate::model::terminal_text::{clean_line, is_unsafe};

/// Fields that may hold any text, by the name of the operation; `*` is any of them, and any name or number in a path.
///
/// Arguments and variables of programs are theirs. What a store keeps is not read by the host. The records that an actor replaces are
/// compared with those of the host.
const FREE_FIELDS: [(&str, &str); 11] = [
    ("run", "argv.*"),
    ("run", "env.*"),
    ("deploy", "how.env.*"),
    ("deploy", "how.workload.command.argv.*"),
    ("update", "how.env.*"),
    ("update", "how.workload.command.argv.*"),
    ("patch", "how.env.*"),
    ("patch", "how.workload.command.argv.*"),
    ("journal", "call.entry.what"),
    ("journal", "call.instead_of"),
    ("*", "actor.replaces"),
];

/// A text of a request that has a character which no text may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the field `{field}` has the character U+{:04X}: line breaks, control characters and marks of the direction of text are not allowed there",
    u32::from(*.found)
)]
pub struct UnsafeText {
    /// The path of the field in the body.
    pub field: String,
    pub found: char,
}

/// Finds the first text of a body, or name of a field, with a control character (C0, DEL, C1), a separator of lines or paragraphs, or a
/// mark of direction.
pub fn find_unsafe_text(operation: &str, body: &Value) -> Option<UnsafeText> {
    find_in(operation, &mut Vec::new(), body)
}

fn find_in(operation: &str, path: &mut Vec<String>, value: &Value) -> Option<UnsafeText> {
    if is_free(operation, path) {
        return None;
    }
    match value {
        Value::String(text) => {
            let found = text.chars().find(|c| is_unsafe(*c))?;
            Some(UnsafeText { field: path.join("."), found })
        }
        Value::Array(values) => values.iter().enumerate().find_map(|(index, value)| {
            path.push(index.to_string());
            let found = find_in(operation, path, value);
            path.pop();
            found
        }),
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            path.push(clean_line(name).into_owned());
            let found = name.chars().find(|c| is_unsafe(*c));
            let found = found.map(|found| UnsafeText { field: path.join("."), found });
            let found = found.or_else(|| find_in(operation, path, value));
            path.pop();
            found
        }),
        _ => None,
    }
}

fn is_free(operation: &str, path: &[String]) -> bool {
    FREE_FIELDS.iter().any(|(of, field)| {
        let matches = |(part, name): (&str, &String)| part == "*" || part == name;
        (*of == "*" || *of == operation)
            && field.split('.').count() == path.len()
            && field.split('.').zip(path).all(matches)
    })
}

/// Makes the texts of a body acceptable to a host, where a program of the operator, or an error of a host, brought such a character.
pub fn clean_texts(operation: &str, body: &mut Value) {
    clean_in(operation, &mut Vec::new(), body);
}

fn clean_in(operation: &str, path: &mut Vec<String>, value: &mut Value) {
    if is_free(operation, path) {
        return;
    }
    match value {
        Value::String(text) => *text = clean_text(text),
        Value::Array(values) => {
            for (index, value) in values.iter_mut().enumerate() {
                path.push(index.to_string());
                clean_in(operation, path, value);
                path.pop();
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                path.push(name.clone());
                clean_in(operation, path, value);
                path.pop();
            }
        }
        _ => {}
    }
}

/// Returns a text in one line without control characters.
pub fn clean_text(text: &str) -> String {
    clean_line(text).replace('\t', " ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unsafe_text_is_found_by_its_field_unless_any_text_is_allowed() {
        let found =
            |operation: &str, body: Value| find_unsafe_text(operation, &body).map(|found| found.field);
        let some = |field: &str| Some(field.to_owned());
        for bad in [
            "a\nb",
            "a\tb",
            "\u{1b}[2J",
            "\u{7f}",
            "\u{9b}",
            "\u{202e}",
            "\u{2028}",
            "\u{2029}",
            "\u{2066}",
            "\0",
        ] {
            assert_eq!(found("kill", json!({"actor": {"user": bad}})), some("actor.user"), "{bad:?}");
            assert_eq!(found("kill", json!({"a": ["x", {"b": bad}]})), some("a.1.b"), "{bad:?}");
        }
        assert_eq!(found("kill", json!({"actor": {"user": "Jürgen 東京 -", "pid": 1}})), None);
        assert_eq!(found("kill", json!({"a\nb": 1})), some("a b"));
        assert_eq!(found("run", json!({"argv": ["sh", "-c", "a\nb"], "env": {"KEY": "a\nb"}})), None);
        assert_eq!(found("run", json!({"env": {"K\nEY": ""}})), some("env.K EY"));
        assert_eq!(found("run", json!({"key": "a\nb"})), some("key"));
        assert_eq!(found("kill", json!({"argv": ["a\nb"]})), some("argv.0"));
        assert_eq!(found("kill", json!({"actor": {"replaces": [{"purpose": "a\nb"}]}})), None);
    }

    #[test]
    fn cleaned_body_has_no_unsafe_text() {
        let mut body = json!({"actor": {"purpose": "sh -c 'a\n\tb'\u{1b}"}, "argv": ["x"], "n": [1, null]});
        clean_texts("kill", &mut body);
        assert_eq!(body["actor"]["purpose"], r"sh -c 'a  b'\u{1b}");
        assert_eq!(find_unsafe_text("kill", &body), None);
        let mut run = json!({"argv": ["a\nb"]});
        clean_texts("run", &mut run);
        assert_eq!(run["argv"][0], "a\nb");
    }
}
