//! Tests that the generated pages of `docs/` are current and that relative links of the documents resolve.
//!
//! `UPDATE_DOCS=1 cargo nextest run --test it -E 'test(/^docs::/)'` rewrites the generated pages.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

// The only imports from the crate: the rest comes from the built program.
use switchman::cli::Cli;
use switchman::config::parse_config as parse_configuration;

mod api;
mod cli;
mod configuration;
mod keywords;
mod links;
mod rows;
mod schema;

const SWITCHMAN: &str = env!("CARGO_BIN_EXE_switchman");
const UPDATE: &str = "UPDATE_DOCS=1 cargo nextest run --test it -E 'test(/^docs::/)'";
const WIDTH: usize = 110;

/// The directory of the repository.
pub fn repository_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reads from the environment whether to rewrite pages instead of comparing them.
#[allow(clippy::disallowed_methods, reason = "a setting of the test run, not of the program")]
pub fn update_requested() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1")
}

/// Renders the comment at the top of a generated page.
fn render_notice(from: &str) -> String {
    format!("<!-- Generated from {from} by tests/it/docs.rs. Do not edit; run: {UPDATE} -->\n")
}

/// Fails when a page of `docs/` differs from the text that it is generated from; rewrites it with `UPDATE_DOCS=1`.
fn assert_current(page: &str, text: &str) {
    let path = repository_root().join("docs").join(page);
    let text = format!("{}\n", text.trim_end());
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    if there == text {
        return;
    }
    if update_requested() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let differs = there.lines().zip(text.lines()).take_while(|(old, new)| old == new).count();
    let line = |text: &str| text.lines().nth(differs).unwrap_or("(the end of the page)").to_owned();
    panic!(
        "docs/{page} is not current: line {} differs\n  the page: {}\n  the code: {}\nnext: {UPDATE}",
        differs + 1,
        line(&there),
        line(&text),
    );
}

#[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
fn switchman(args: &[&str]) -> Output {
    Command::new(SWITCHMAN).args(args).stdin(Stdio::null()).output().unwrap()
}

/// Wraps paragraphs at [`WIDTH`]; continuation lines get the indent.
fn wrap(text: &str, indent: &str) -> String {
    let mut wrapped = String::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        if width > 0 && width + 1 + word.chars().count() > WIDTH {
            wrapped.push('\n');
            wrapped.push_str(indent);
            width = indent.len();
        } else if width > 0 {
            wrapped.push(' ');
            width += 1;
        }
        wrapped.push_str(word);
        width += word.chars().count();
    }
    wrapped
}

/// Escapes a text so that Markdown shows `<` and `*` as they are, except inside backticks.
fn escape(text: &str) -> String {
    let mut code = false;
    let escape = |c| {
        code ^= c == '`';
        if !code && matches!(c, '<' | '*' | '|') { format!("\\{c}") } else { c.to_string() }
    };
    text.chars().map(escape).collect()
}

/// Lists the documents that a reader of the repository opens.
fn list_documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
        .iter()
        .map(|name| repository_root().join(name))
        .filter(|path| path.exists())
        .collect();
    for dir in ["docs", "examples", "docker", "packaging", "vhosts"] {
        collect_markdown(&repository_root().join(dir), &mut found);
    }
    found
}

fn collect_markdown(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect_markdown(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}
