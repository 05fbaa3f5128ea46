//! Generates `docs/configuration.md` from the JSON schema of `switchman.yaml` and an annotated example.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::schema::{References, describe_type, list_nested_fields};
use super::{assert_current, escape, parse_configuration, render_notice, switchman, wrap};

const EXAMPLE: &str = include_str!("switchman.yaml");

/// Values of the example that are not the default.
const EXAMPLES: [&str; 21] = [
    "service",
    "hosts.",
    "load_balancers.0.name",
    "load_balancers.0.haproxy",
    "load_balancers.0.backend",
    "load_balancers.0.check.fastinter",
    "load_balancers.0.check.timeout",
    "health.host",
    "hooks.before_roll",
    "hooks.before_host",
    "hooks.after_host",
    "hooks.after_roll",
    "hooks.on_failure",
    "webhooks.0.url",
    "ssh.options",
    "agents.",
    "journal.",
    "services.blog.ports.",
    "services.blog.health.",
    "services.blog.backend.",
    "load_balancers.0.on_host.",
];
/// A default that the checked configuration does not contain: switchman fills it in later.
const FILLED_IN_LATER: &str = "ssh.switchman";
/// Keys that the example names in a comment only: another key excludes them.
const EXCLUDED: [&str; 8] = [
    "agents.token_file",
    "hosts.consul.agent",
    "hosts.dns.a",
    "hosts.dns.ssh",
    "journal.path",
    "journal.host",
    "journal.postgres",
    "journal.consul",
];

#[test]
fn configuration_page_is_current() {
    assert_current("configuration.md", &render_page(&read_schema()));
}

fn read_schema() -> Value {
    serde_json::from_slice(&switchman(&["schema"]).stdout).unwrap()
}

/// Lists definitions inside the key that uses them. The health check has a section of its own.
struct Definitions {
    all: Value,
    /// The example from the section's key on: fields are listed in its order.
    example: &'static str,
}

impl References for Definitions {
    fn line(&self, name: &str) -> String {
        match name {
            "Duration" => "duration".to_owned(),
            "Health" => "see [`health`](#health)".to_owned(),
            _ => describe_type(&self.all[name], self),
        }
    }

    fn inline<'a>(&'a self, name: &str) -> Option<&'a Value> {
        self.all.get(name).filter(|_| name != "Health")
    }

    fn shows_null(&self) -> bool {
        false
    }

    fn order(&self, field: &str) -> usize {
        self.example.find(&format!(" {field}:")).unwrap_or(usize::MAX)
    }
}

fn render_page(schema: &Value) -> String {
    let mut page = render_notice("the JSON schema of switchman.yaml");
    let intro = "switchman reads one YAML file: the file that `--config` or `SWITCHMAN_CONFIG` names, else \
                 `./switchman.yaml`, else `/etc/switchman/switchman.yaml`. The operator machine and the hosts use the \
                 same file. An unknown key is an error, with its line and the nearest key that exists.";
    let _ = write!(page, "\n# Configuration: switchman.yaml\n\n{}\n\n", wrap(intro, ""));
    page.push_str("- `switchman init DIR` writes a first file, `switchman init --from FILE` one from an existing haproxy.cfg.\n");
    page.push_str("- `switchman init --add-host NAME=ADDRESS` adds a host, and keeps comments and order.\n");
    page.push_str("- `switchman check` reads the file and looks for mistakes.\n");
    page.push_str("- `switchman schema` prints the JSON schema of the file, for editors.\n\n");
    let example = "This example has every key. A value is the default unless the comment beside it, or the text below, \
                   calls it an example.";
    let _ = write!(page, "## Example\n\n{}\n\n```yaml\n{EXAMPLE}```\n\n## Keys\n\n", wrap(example, ""));
    page.push_str("A duration is a number with a unit, such as `500ms`, `2s` or `1m30s`; units are ms, s, m, h and d.\n");
    let mut definitions = Definitions { all: schema["$defs"].clone(), example: EXAMPLE };
    for key in ordered_keys(schema) {
        definitions.example = EXAMPLE.split_once(&format!("\n{key}:")).map_or("", |(_, after)| after);
        render_section(&key, &schema["properties"][&key], &definitions, &mut page);
    }
    page
}

/// Returns the keys of the file in the order of the example.
fn ordered_keys(schema: &Value) -> Vec<String> {
    let mut keys: Vec<String> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    keys.sort_by_key(|key| EXAMPLE.find(&format!("\n{key}:")).unwrap_or(usize::MAX));
    keys
}

fn render_section(key: &str, value: &Value, definitions: &Definitions, page: &mut String) {
    let definition = value["$ref"].as_str().and_then(|name| definitions.all.get(name.rsplit('/').next()?));
    let shown = definition.unwrap_or(value);
    let _ = write!(page, "\n### {key}\n\n");
    let description = value["description"].as_str().or(shown["description"].as_str());
    let item = value["items"]["$ref"].as_str().and_then(|name| definitions.all.get(name.rsplit('/').next()?));
    let description = description.or(item.and_then(|item| item["description"].as_str()));
    if let Some(description) = description {
        let _ = write!(page, "{}\n\n", wrap(&escape(description), ""));
    }
    let _ = writeln!(page, "Type: {}.", describe_type(shown, definitions));
    let fields = list_nested_fields(shown, "", definitions);
    if !fields.is_empty() {
        let _ = write!(page, "\n{fields}");
    }
}

#[test]
fn configuration_example_is_accepted() {
    parse_configuration(Path::new("switchman.yaml"), EXAMPLE).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn configuration_example_has_every_key() {
    let schema = read_schema();
    let (mut all, mut there) = (BTreeSet::new(), BTreeSet::new());
    collect_paths(&schema, &schema, "", &mut all);
    let example: Value = serde_yaml::from_str(EXAMPLE).unwrap();
    visit_leaves(&example, &mut vec![], &mut |path, _| {
        // Names of hosts and services, and positions in lists, stand for any.
        let names = |(at, part): (usize, &String)| {
            let is_source = path[0] == "hosts" && matches!(part.as_str(), "consul" | "dns");
            let named = at == 1 && !is_source && matches!(path[0].as_str(), "hosts" | "services")
                || part.parse::<u8>().is_ok();
            if named { "*".to_owned() } else { part.clone() }
        };
        there.insert(path.iter().enumerate().map(names).collect::<Vec<_>>().join("."));
    });
    let is_there = |key: &String| {
        EXCLUDED.contains(&key.as_str())
            || there.iter().any(|path| path == key || path.starts_with(&format!("{key}.")))
    };
    let missing: Vec<_> = all.iter().filter(|key| !is_there(key)).collect();
    // The health check of a further service is that of the first.
    let missing: Vec<_> = missing.into_iter().filter(|key| !key.starts_with("services.*.health.")).collect();
    assert!(missing.is_empty(), "the example in tests/it/docs/switchman.yaml lacks {missing:?}");
}

/// Collects every key of a schema, with `*` for the names of a map and the positions of a list.
fn collect_paths(schema: &Value, root: &Value, path: &str, all: &mut BTreeSet<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        return collect_paths(&root["$defs"][name.rsplit('/').next().unwrap()], root, path, all);
    }
    for one in schema["anyOf"].as_array().into_iter().flatten() {
        collect_paths(one, root, path, all);
    }
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for inside in
        [&schema["items"], &schema["additionalProperties"]].into_iter().filter(|one| one.is_object())
    {
        if inside["$ref"].is_string() {
            collect_paths(inside, root, &join("*"), all);
        }
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        all.insert(join(name));
        collect_paths(field, root, &join(name), all);
    }
}

/// Removing a default from the example does not change the configuration.
#[test]
fn configuration_example_shows_defaults() {
    let example: Value = serde_yaml::from_str(EXAMPLE).unwrap();
    let read = |value: &Value| parse_configuration(Path::new("switchman.yaml"), &value.to_string());
    let expected = format!("{:?}", read(&example).unwrap());
    let mut differ = Vec::new();
    visit_leaves(&example, &mut vec![], &mut |path, _| {
        let name = path.join(".");
        if EXAMPLES
            .iter()
            .any(|one| format!("{name}.").starts_with(&format!("{}.", one.trim_end_matches('.'))))
        {
            return;
        }
        let mut without = example.clone();
        let parent = format!("/{}", path[..path.len() - 1].join("/"));
        let parent = without.pointer_mut(parent.trim_end_matches('/')).unwrap();
        parent.as_object_mut().unwrap().remove(path.last().unwrap());
        if parent == &json!({}) {
            return;
        }
        match read(&without) {
            Ok(fleet) if format!("{fleet:?}") == expected => {}
            Ok(_) if name == FILLED_IN_LATER => {}
            Ok(_) => differ.push(name),
            Err(error) => differ.push(format!("{name}: {error}")),
        }
    });
    assert!(differ.is_empty(), "not the default, so to be called an example: {differ:#?}");
}

/// Calls back for every value that is not a map or a list of maps, with its path.
fn visit_leaves(value: &Value, path: &mut Vec<String>, found: &mut dyn FnMut(&[String], &Value)) {
    let inside: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(all) if all.iter().any(Value::is_object) => {
            all.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect()
        }
        _ => return found(path, value),
    };
    for (name, value) in inside {
        path.push(name);
        visit_leaves(value, path, found);
        path.pop();
    }
}
