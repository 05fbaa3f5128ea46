//! Generates `docs/api.md` from the OpenAPI document that an agent serves.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::links::heading_anchor;
use super::schema::{References, describe_type, list_fields, list_nested_fields};
use super::{SWITCHMAN, assert_current, escape, render_notice, wrap};

#[test]
fn api_page_is_current() {
    assert_current("api.md", &render_page(&fetch_document()));
}

/// Descriptions come from doc comments, where a link in brackets names a Rust item.
#[test]
fn api_page_names_no_rust_item() {
    let page = render_page(&fetch_document());
    let is_leak = |line: &&str| line.contains("[`") && !line.starts_with("| [`") || line.contains("::");
    let leaks: Vec<&str> = page.lines().filter(|line| !line.starts_with("<!--")).filter(is_leak).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
    let is_numbered =
        |line: &&str| line.starts_with("### Schema ") && line.ends_with(|last: char| last.is_ascii_digit());
    let numbered: Vec<&str> =
        page.lines().filter(is_numbered).filter(|line| !line.ends_with("Layer7")).collect();
    assert!(numbered.is_empty(), "{numbered:#?}");
}

/// Requests the document over standard input and output, as ssh does: no privilege and no running agent are needed.
#[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
fn fetch_document() -> Value {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Command::new(SWITCHMAN)
        .arg("--state-dir")
        .arg(dir.path())
        .args(["agent", "--stdio", "--socket"])
        .arg(dir.path().join("agent.sock"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let request = "GET /v1/openapi.json HTTP/1.1\r\nHost: switchman\r\nConnection: close\r\n\r\n";
    // Kept open until the response is read: the agent closes the connection at the end of its input.
    let mut stdin = agent.stdin.take().unwrap();
    stdin.write_all(request.as_bytes()).unwrap();
    let response = agent.wait_with_output().unwrap().stdout;
    drop(stdin);
    let response = String::from_utf8(response).unwrap();
    let (_, body) =
        response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response from the agent: {response}"));
    serde_json::from_str(body).unwrap()
}

/// Links to schemas: each has a heading of its own.
struct Headings;

impl References for Headings {
    fn line(&self, name: &str) -> String {
        format!("[{name}](#{})", heading_anchor(&schema_heading(name)))
    }

    fn inline<'a>(&'a self, _name: &str) -> Option<&'a Value> {
        None
    }

    fn shows_null(&self) -> bool {
        true
    }
}

fn schema_heading(schema: &str) -> String {
    format!("Schema {schema}")
}

struct Call<'a> {
    method: String,
    path: &'a str,
    /// Other paths of the same call.
    also: Vec<&'a str>,
    operation: &'a Value,
}

impl Call<'_> {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// Lists the calls of a document. The same call under `/v1` and under a second path is one call.
fn list_calls(document: &Value) -> Vec<Call<'_>> {
    let paths = document["paths"].as_object().unwrap();
    let twin = |path: &str, method: &str| {
        paths.get(&format!("/v1{path}")).is_some_and(|all| all[method].is_object())
    };
    let mut calls = Vec::new();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            if twin(path, method) {
                continue;
            }
            let short = path.strip_prefix("/v1").filter(|short| paths.contains_key(*short));
            let also = short.filter(|short| paths[*short][method].is_object()).into_iter().collect();
            calls.push(Call { method: method.to_uppercase(), path, also, operation });
        }
    }
    calls.sort_by_key(|call| (!call.path.starts_with("/v1"), call.path));
    calls
}

fn render_page(document: &Value) -> String {
    let mut page = render_notice("the agent's OpenAPI document");
    let version = document["info"]["version"].as_str().unwrap();
    let intro = format!(
        "The agent of a host serves this API, version {version}: on a unix socket, over TLS, and on standard input and \
         output over ssh. Requests and responses are JSON unless the call names another type. The agent serves the same \
         description for programs, as OpenAPI 3.1:"
    );
    let _ = write!(page, "\n# Host API\n\n{}\n\n", wrap(&intro, ""));
    page.push_str(
        "```text\ncurl --unix-socket /run/switchman/agent.sock http://switchman/v1/openapi.json\n```\n\n",
    );
    page.push_str(
        "[Reaching hosts](reaching-hosts.md) describes the ways to the agent and who may use them.\n\n",
    );
    let calls = list_calls(document);
    page.push_str("## All calls\n\nThe [role](security.md#roles) is the lowest one that a client needs.\n\n| call | role | what it does |\n|---|---|---|\n");
    for call in &calls {
        let summary = escape(call.operation["summary"].as_str().unwrap_or_default());
        let role = call.operation["x-switchman-role"].as_str().unwrap();
        let _ =
            writeln!(page, "| [`{}`](#{}) | {role} | {summary} |", call.name(), heading_anchor(&call.name()));
    }
    render_errors(document, &mut page);
    page.push_str("\n## Calls\n");
    for call in &calls {
        render_section(call, &mut page);
    }
    page.push_str("\n## Schemas\n");
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let _ = write!(page, "\n### {}\n\n{}", schema_heading(name), render_schema(schema));
    }
    page
}

fn render_errors(document: &Value, page: &mut String) {
    let error = &document["components"]["responses"];
    let body = &error["400"]["content"]["application/json"]["schema"];
    let _ = write!(
        page,
        "\n## Error responses\n\nThe body of every error is {}.\n\n",
        describe_type(body, &Headings)
    );
    page.push_str("| status | meaning |\n|---|---|\n");
    for (status, response) in error.as_object().unwrap() {
        let _ = writeln!(page, "| {status} | {} |", response["description"].as_str().unwrap());
    }
}

fn render_section(call: &Call, page: &mut String) {
    let operation = call.operation;
    let _ = write!(page, "\n### {}\n\n", call.name());
    let summary = escape(operation["summary"].as_str().unwrap_or_default());
    let also: String = call.also.iter().map(|path| format!(" Also served as `{path}`.")).collect();
    let _ = write!(page, "{}\n\n", wrap(&format!("{}.{also}", summary.trim_end_matches('.')), ""));
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let required = if parameter["required"] == true { ", required" } else { "" };
        let kind = describe_type(&parameter["schema"], &Headings);
        let location = parameter["in"].as_str().unwrap();
        let name = parameter["name"].as_str().unwrap();
        let description = parameter["schema"]["description"].as_str();
        let description = description.map(|text| format!(": {}", escape(text))).unwrap_or_default();
        let _ = writeln!(page, "- Parameter `{name}` in the {location} ({kind}{required}){description}");
    }
    let body = &operation["requestBody"];
    for (media, content) in body["content"].as_object().into_iter().flatten() {
        let optional = if body["required"] == true { "" } else { ", optional" };
        let schema = &content["schema"];
        let _ = writeln!(page, "- Request body: `{media}`, {}{optional}", describe_type(schema, &Headings));
        page.push_str(&list_nested_fields(schema, "  ", &Headings));
    }
    let mut refused = Vec::new();
    for (status, response) in operation["responses"].as_object().unwrap() {
        let Some(content) = response["content"].as_object() else {
            refused.push(status.as_str());
            continue;
        };
        for (media, content) in content {
            let kind = describe_type(&content["schema"], &Headings);
            let description = response["description"].as_str().unwrap();
            let lines = if media == "application/x-ndjson" { ", one a line" } else { "" };
            let _ = writeln!(page, "- Response {status} ({description}): `{media}`, {kind}{lines}");
        }
    }
    let _ = writeln!(page, "- [Errors](#error-responses): {}", refused.join(", "));
}

fn render_schema(schema: &Value) -> String {
    let mut text = String::new();
    if let Some(description) = schema["description"].as_str() {
        let _ = write!(text, "{}\n\n", wrap(&escape(description), ""));
    }
    let fields = list_fields(schema, "", &Headings);
    if fields.is_empty() {
        let _ = writeln!(text, "Type: {}.", describe_type(schema, &Headings));
    }
    text.push_str(&fields);
    text
}

/// Duplicate headings would make links to them ambiguous.
#[test]
fn api_page_has_each_heading_once() {
    let page = render_page(&fetch_document());
    let mut times = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with('#')) {
        *times.entry(heading_anchor(line.trim_start_matches('#'))).or_insert(0) += 1;
    }
    times.retain(|_, times| *times > 1);
    assert!(times.is_empty(), "{times:?}");
}
