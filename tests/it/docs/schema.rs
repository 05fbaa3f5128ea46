//! Renders JSON Schema as Markdown lists, for the configuration and for the host API.

use serde_json::Value;

use super::wrap;

/// Renders what a `$ref` refers to: its text in a line, and the schema whose fields are listed below that line.
pub trait References {
    fn line(&self, name: &str) -> String;
    fn inline<'a>(&'a self, name: &str) -> Option<&'a Value>;
    /// Distinguishes formats in which null is a value of its own.
    fn shows_null(&self) -> bool;
    /// The position of a field in the list of fields.
    fn order(&self, _field: &str) -> usize {
        0
    }
}

/// Describes the type of a value in a few words.
pub fn describe_type(schema: &Value, references: &dyn References) -> String {
    if let Some(name) = reference_name(schema) {
        return references.line(name);
    }
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    if let Some(values) = schema["enum"].as_array() {
        return quote_values(values);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let any = any.iter().filter(|one| references.shows_null() || one["type"] != "null");
        return any.map(|one| describe_type(one, references)).collect::<Vec<_>>().join(" or ");
    }
    if schema["oneOf"].is_array() {
        return "one of".to_owned();
    }
    if let Some(kinds) = schema["type"].as_array() {
        let kinds = kinds.iter().filter(|kind| references.shows_null() || *kind != "null");
        return kinds
            .map(|kind| describe_simple_type(kind, schema, references))
            .collect::<Vec<_>>()
            .join(" or ");
    }
    describe_simple_type(&schema["type"], schema, references)
}

fn describe_simple_type(kind: &Value, schema: &Value, references: &dyn References) -> String {
    match kind.as_str() {
        Some("array") => match schema["prefixItems"].as_array() {
            Some(items) => {
                let items: Vec<String> = items.iter().map(|item| describe_type(item, references)).collect();
                format!("[{}]", items.join(", "))
            }
            None => format!("list of {}", describe_type(&schema["items"], references)),
        },
        Some("object") => match map_values(schema) {
            Some(values) => format!("map of name to {}", describe_type(values, references)),
            None => "object".to_owned(),
        },
        Some("string") => match (schema["pattern"].as_str(), schema["format"].as_str()) {
            (Some(pattern), _) => format!("string that matches `{pattern}`"),
            (_, Some(format)) => format!("string ({format})"),
            _ => "string".to_owned(),
        },
        Some(kind) => kind.to_owned(),
        None => "any value".to_owned(),
    }
}

fn map_values(schema: &Value) -> Option<&Value> {
    let patterns = schema["patternProperties"].as_object().and_then(|patterns| patterns.values().next());
    patterns.or(Some(&schema["additionalProperties"])).filter(|values| values.is_object())
}

fn reference_name(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

fn quote_values(values: &[Value]) -> String {
    values.iter().map(|value| format!("`{}`", unquote(value))).collect::<Vec<_>>().join(", ")
}

/// Drops the quotes of a JSON string.
fn unquote(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Lists the fields of an object, or the choices of a `oneOf`, with what they hold below them.
pub fn list_fields(schema: &Value, indent: &str, references: &dyn References) -> String {
    let mut text = String::new();
    if let Some(choices) = schema["oneOf"].as_array() {
        for choice in choices {
            text.push_str(&render_choice(choice, indent, references));
        }
    }
    let required = schema["required"].as_array();
    let is_required = |name: &str| required.is_some_and(|all| all.iter().any(|one| one == name));
    let mut properties: Vec<_> = schema["properties"].as_object().into_iter().flatten().collect();
    properties.sort_by_key(|(name, _)| references.order(name));
    for (name, field) in properties {
        let kind = describe_type(field, references);
        let required = if is_required(name) { ", required" } else { "" };
        let described = reference_name(field).filter(|_| field["description"].is_null());
        let described = described.and_then(|name| references.inline(name)).unwrap_or(field);
        text.push_str(&render_item(&format!("`{name}` ({kind}{required})"), described, indent));
        text.push_str(&list_nested_fields(field, &format!("{indent}  "), references));
    }
    text
}

/// Lists the fields of the objects inside a value, unless another section lists them.
pub fn list_nested_fields(field: &Value, indent: &str, references: &dyn References) -> String {
    if let Some(name) = reference_name(field) {
        return references
            .inline(name)
            .map_or(String::new(), |schema| list_fields(schema, indent, references));
    }
    let any: Vec<&Value> = field["anyOf"].as_array().into_iter().flatten().collect();
    let any: Vec<&Value> = any.into_iter().filter(|one| one["type"] != "null").collect();
    if any.len() > 1 && any.iter().any(|one| reference_name(one).is_none()) {
        return any.into_iter().map(|one| render_choice(one, indent, references)).collect();
    }
    let inside = any.into_iter().chain(field["items"].is_object().then(|| &field["items"]));
    let inside: String = inside.map(|one| list_nested_fields(one, indent, references)).collect();
    let own = list_fields(field, indent, references);
    // A map that has keys of its own too: what its other keys have is below a placeholder of their names.
    let (head, deeper) =
        if own.is_empty() { ("", indent.to_owned()) } else { ("NAME", format!("{indent}  ")) };
    let values: String = map_values(field)
        .map(|one| {
            let head = if head.is_empty() { String::new() } else { format!("{indent}- {head} (object)\n") };
            format!("{head}{}", list_nested_fields(one, &deeper, references))
        })
        .unwrap_or_default();
    format!("{inside}{values}{own}")
}

/// Renders one choice of a `oneOf`: a constant, or an object with its fields.
fn render_choice(choice: &Value, indent: &str, references: &dyn References) -> String {
    if let Some(value) = choice.get("const") {
        return render_item(&format!("`{}`", unquote(value)), choice, indent);
    }
    if let Some(values) = choice["enum"].as_array() {
        return render_item(&quote_values(values), choice, indent);
    }
    let first = render_item(&describe_type(choice, references), choice, indent);
    format!("{first}{}", list_nested_fields(choice, &format!("{indent}  "), references))
}

fn render_item(head: &str, schema: &Value, indent: &str) -> String {
    let mut text = head.to_owned();
    if let Some(description) = schema["description"].as_str() {
        text = format!("{text}: {}", super::escape(description));
    }
    let default = schema.get("default").filter(|value| !is_empty(value));
    if let Some(default) = default {
        text = format!(
            "{}{} Default: `{}`.",
            text,
            if text.ends_with('.') { "" } else { "." },
            unquote(default)
        );
    }
    format!("{indent}- {}\n", wrap(&text, &format!("{indent}  ")))
}

/// Recognizes defaults that mean the same as an absent value.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
