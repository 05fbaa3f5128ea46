//! `docs/api.md`, from the OpenAPI document that an agent serves.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::links::anchor;
use super::schema::{References, below, fields, type_of};
use super::{SWITCHMAN, assert_current, escaped, generated, wrap};

#[test]
fn api_page_is_current() {
    assert_current("api.md", &page(&document()));
}

/// Asks the API on standard input and output, as ssh does: nothing of the machine is read or changed for it.
#[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
fn document() -> Value {
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
    // Open until the answer is there: its end would end the connection.
    let mut stdin = agent.stdin.take().unwrap();
    stdin.write_all(request.as_bytes()).unwrap();
    let answer = agent.wait_with_output().unwrap().stdout;
    drop(stdin);
    let answer = String::from_utf8(answer).unwrap();
    let (_, body) =
        answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer of the agent: {answer}"));
    serde_json::from_str(body).unwrap()
}

/// Schemas have a heading each.
struct Headings;

impl References for Headings {
    fn line(&self, name: &str) -> String {
        format!("[{name}](#{})", anchor(&heading(name)))
    }

    fn inline<'a>(&'a self, _name: &str) -> Option<&'a Value> {
        None
    }

    fn shows_null(&self) -> bool {
        true
    }
}

fn heading(schema: &str) -> String {
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

/// The calls of a document; one that is served under `/v1` and under a second path is one call.
fn calls(document: &Value) -> Vec<Call<'_>> {
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

fn page(document: &Value) -> String {
    let mut page = generated("the agent's OpenAPI document");
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
    let calls = calls(document);
    page.push_str("## All calls\n\n| call | what it does |\n|---|---|\n");
    for call in &calls {
        let summary = escaped(call.operation["summary"].as_str().unwrap_or_default());
        let _ = writeln!(page, "| [`{}`](#{}) | {summary} |", call.name(), anchor(&call.name()));
    }
    errors(document, &mut page);
    page.push_str("\n## Calls\n");
    calls.iter().for_each(|call| section(call, &mut page));
    page.push_str("\n## Schemas\n");
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let _ = write!(page, "\n### {}\n\n{}", heading(name), one_schema(schema));
    }
    page
}

fn errors(document: &Value, page: &mut String) {
    let error = &document["components"]["responses"];
    let body = &error["400"]["content"]["application/json"]["schema"];
    let _ =
        write!(page, "\n## Error responses\n\nThe body of every error is {}.\n\n", type_of(body, &Headings));
    page.push_str("| status | meaning |\n|---|---|\n");
    for (status, response) in error.as_object().unwrap() {
        let _ = writeln!(page, "| {status} | {} |", response["description"].as_str().unwrap());
    }
}

fn section(call: &Call, page: &mut String) {
    let operation = call.operation;
    let _ = write!(page, "\n### {}\n\n", call.name());
    let summary = escaped(operation["summary"].as_str().unwrap_or_default());
    let also: String = call.also.iter().map(|path| format!(" Also served as `{path}`.")).collect();
    let _ = write!(page, "{}\n\n", wrap(&format!("{}.{also}", summary.trim_end_matches('.')), ""));
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let required = if parameter["required"] == true { ", required" } else { "" };
        let kind = type_of(&parameter["schema"], &Headings);
        let place = parameter["in"].as_str().unwrap();
        let name = parameter["name"].as_str().unwrap();
        let description = parameter["schema"]["description"].as_str();
        let description = description.map(|text| format!(": {}", escaped(text))).unwrap_or_default();
        let _ = writeln!(page, "- Parameter `{name}` in the {place} ({kind}{required}){description}");
    }
    let body = &operation["requestBody"];
    for (media, content) in body["content"].as_object().into_iter().flatten() {
        let optional = if body["required"] == true { "" } else { ", optional" };
        let schema = &content["schema"];
        let _ = writeln!(page, "- Request body: `{media}`, {}{optional}", type_of(schema, &Headings));
        page.push_str(&below(schema, "  ", &Headings));
    }
    let mut refused = Vec::new();
    for (status, response) in operation["responses"].as_object().unwrap() {
        let Some(content) = response["content"].as_object() else {
            refused.push(status.as_str());
            continue;
        };
        for (media, content) in content {
            let kind = type_of(&content["schema"], &Headings);
            let description = response["description"].as_str().unwrap();
            let lines = if media == "application/x-ndjson" { ", one a line" } else { "" };
            let _ = writeln!(page, "- Response {status} ({description}): `{media}`, {kind}{lines}");
        }
    }
    let _ = writeln!(page, "- [Errors](#error-responses): {}", refused.join(", "));
}

fn one_schema(schema: &Value) -> String {
    let mut text = String::new();
    if let Some(description) = schema["description"].as_str() {
        let _ = write!(text, "{}\n\n", wrap(&escaped(description), ""));
    }
    let fields = fields(schema, "", &Headings);
    if fields.is_empty() {
        let _ = writeln!(text, "Type: {}.", type_of(schema, &Headings));
    }
    text.push_str(&fields);
    text
}

/// Every schema is used, and every heading of the page is there once: links to them are not ambiguous.
#[test]
fn api_page_has_each_heading_once() {
    let page = page(&document());
    let mut times = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with('#')) {
        *times.entry(anchor(line.trim_start_matches('#'))).or_insert(0) += 1;
    }
    times.retain(|_, times| *times > 1);
    assert!(times.is_empty(), "{times:?}");
}
