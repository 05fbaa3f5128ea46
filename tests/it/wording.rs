//! The wording rules of docs/design/language.md, held by counts: banned words and doc comments that open without a subject.
//! `sh tests/wording.sh` prints both figures; `WORDING_LIST=1` with it prints every place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use text::{Comment, comments, is_named_by_a_row, literals};

mod text;

/// In comments of `src`: idiom words per 1,000 words, times ten.
const IDIOMS_PER_10_000: usize = 15;
/// Doc comments that open with a forbidden word, per 100.
const WITHOUT_SUBJECT_PER_100: usize = 3;

/// Words that programs, ports and people of this project never do or are. Whole words, any case.
const BANNED: &[&str] = &[
    "whoever",
    "nobody",
    "somebody",
    "anybody",
    "whatever",
    "anew",
    "meanwhile",
    "mend",
    "mends",
    "mended",
    "mending",
    "led",
    "told",
    "tell",
    "tells",
    "telling",
    "said",
    "say",
    "says",
    "saying",
    "hear",
    "hears",
    "heard",
    "stands",
    "gone",
    "ask",
    "asks",
    "asked",
    "asking",
    "he",
    "his",
    "him",
    "whose turn",
    "as it is so",
    "so many",
    "lead to",
    "leads to",
    "lead straight",
    "leads straight",
];

/// First words of a doc comment that leave it without a subject.
const OPENINGS: &[&str] = &[
    "What", "One", "It", "Its", "They", "Of", "Whoever", "Those", "Nobody", "None", "The same", "Where",
    "For", "From", "By", "Between",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The banned words of a text, lower case.
fn banned(text: &str) -> Vec<&'static str> {
    let words: Vec<String> = text
        .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'))
        .map(str::to_lowercase)
        .filter(|word| !word.is_empty())
        .collect();
    let padded = format!(" {} ", words.join(" "));
    BANNED
        .iter()
        .flat_map(|word| std::iter::repeat_n(*word, padded.matches(&format!(" {word} ")).count()))
        .collect()
}

fn is_without_subject(doc: &str) -> bool {
    OPENINGS.iter().any(|opening| {
        doc.strip_prefix(opening)
            .is_some_and(|rest| rest.starts_with(|c: char| !c.is_alphanumeric() && c != '_'))
    })
}

struct Figures {
    words: usize,
    idioms: Vec<String>,
    docs: usize,
    without_subject: Vec<String>,
}

fn figures() -> Figures {
    let mut figures = Figures { words: 0, idioms: vec![], docs: 0, without_subject: vec![] };
    for path in super::layering::graph::sources(&root().join("src")) {
        let source = std::fs::read_to_string(&path).unwrap();
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        for Comment { line, text, is_doc } in comments(&source) {
            figures.words += text.split_whitespace().count();
            if !is_named_by_a_row(&text) {
                figures.idioms.extend(banned(&text).iter().map(|word| format!("{shown}:{line}: `{word}`")));
            }
            if is_doc {
                figures.docs += 1;
                if is_without_subject(&text) {
                    let opening: String = text.chars().take(60).collect();
                    figures.without_subject.push(format!("{shown}:{line}: {opening}"));
                }
            }
        }
    }
    figures
}

#[allow(
    clippy::print_stdout,
    clippy::disallowed_macros,
    reason = "the figures are what `sh tests/wording.sh` is for"
)]
#[allow(clippy::disallowed_methods, reason = "a switch of this test alone")]
#[test]
fn comments_have_few_idioms_and_docs_have_subjects() {
    let Figures { words, idioms, docs, without_subject } = figures();
    let per_10_000 = idioms.len() * 10_000 / words;
    let per_100 = without_subject.len() * 100 / docs;
    println!(
        "idiom words: {} of {words} comment words of src, {}.{} per 1,000\ndoc comments without a subject: {} of {docs}, {per_100} %",
        idioms.len(),
        per_10_000 / 10,
        per_10_000 % 10,
        without_subject.len(),
    );
    if std::env::var_os("WORDING_LIST").is_some() {
        println!("{}\n{}", idioms.join("\n"), without_subject.join("\n"));
    }
    assert!(per_10_000 <= IDIOMS_PER_10_000, "idiom words: {per_10_000} per 10,000\n{}", idioms.join("\n"));
    assert!(
        per_100 <= WITHOUT_SUBJECT_PER_100,
        "without a subject: {per_100} %\n{}",
        without_subject.join("\n")
    );
}

/// Help texts are doc comments of `src/cli`; errors, hints, findings and events are string literals.
#[test]
fn help_and_messages_have_no_banned_word() {
    let mut found = Vec::new();
    for path in super::layering::graph::sources(&root().join("src")) {
        let source = std::fs::read_to_string(&path).unwrap();
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        // Texts of tests are read by contributors.
        if shown.ends_with("tests.rs") || shown.contains("/tests/") {
            continue;
        }
        for (line, literal) in literals(&source) {
            if !is_named_by_a_row(&text::around(&source, line)) {
                found.extend(
                    banned(&literal).iter().map(|word| format!("{shown}:{line}: `{word}` in {literal:?}")),
                );
            }
        }
        if shown.starts_with("src/cli/") {
            for Comment { line, text, .. } in comments(&source).into_iter().filter(|comment| comment.is_doc) {
                found
                    .extend(banned(&text).iter().map(|word| format!("{shown}:{line}: `{word}` in the help")));
            }
        }
    }
    assert!(found.is_empty(), "{} banned words\n{}", found.len(), found.join("\n"));
}

fn documents(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", ".git", "src", "tests", "benches", "node_modules", "proptest-regressions"]
                .contains(&name.as_str())
            {
                documents(&path, found);
            }
        } else if !["Cargo.lock", "LICENSE", "copyright", "clippy.toml"].contains(&name.as_str()) {
            found.push(path);
        }
    }
}

/// README, docs, examples, templates and packaging, but the page that lists the banned words, and quotations with their row id.
#[test]
fn documents_have_no_banned_word() {
    let mut paths = Vec::new();
    documents(&root(), &mut paths);
    let mut found = BTreeMap::new();
    for path in paths {
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        if shown == "docs/design/language.md" {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !is_named_by_a_row(line)) {
            for word in banned(line) {
                found.insert(format!("{shown}:{}", at + 1), word);
            }
        }
    }
    let shown: Vec<String> = found.iter().map(|(place, word)| format!("{place}: `{word}`")).collect();
    assert!(shown.is_empty(), "{} banned words\n{}", shown.len(), shown.join("\n"));
}

/// Every help text, error, next action and finding, as the program prints it.
#[test]
fn snapshots_have_no_banned_word() {
    let mut paths = Vec::new();
    documents(&root().join("tests/snapshots"), &mut paths);
    assert!(paths.len() > 30, "{} snapshots are read", paths.len());
    let mut found = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        for (at, line) in text.lines().enumerate() {
            found.extend(banned(line).iter().map(|word| format!("{shown}:{}: `{word}`", at + 1)));
        }
    }
    assert!(found.is_empty(), "{} banned words\n{}", found.len(), found.join("\n"));
}

#[test]
fn banned_words_are_found_as_whole_words() {
    assert_eq!(banned("Nobody said so; the hello is told."), ["nobody", "told", "said"]);
    assert_eq!(banned("essays, the gateway, ask_pass"), Vec::<&str>::new());
    assert!(is_without_subject("What it does.") && !is_without_subject("Whatever."));
    assert!(is_named_by_a_row("D8: `Change NAME VERSION to main?`") && !is_named_by_a_row("DIN A4"));
}
