//! Checks the relative links and anchors of the documents by the rules of GitHub.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::{list_documents, repository_root};

#[test]
fn relative_links_resolve() {
    let mut broken = Vec::new();
    let mut anchors = HashMap::new();
    for document in list_documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for (line, target) in find_links(&text) {
            if let Err(why) = check_link(repository_root(), &document, &target, &mut anchors) {
                let name = document.strip_prefix(repository_root()).unwrap().display();
                broken.push(format!("{name}:{line}: `{target}`: {why}"));
            }
        }
    }
    assert!(broken.is_empty(), "{} broken links\n{}", broken.len(), broken.join("\n"));
}

type Anchors = HashMap<PathBuf, BTreeSet<String>>;

fn check_link(root: &Path, from: &Path, target: &str, anchors: &mut Anchors) -> Result<(), String> {
    // A target with a scheme (RFC 3986, 3.1) or a host is not in the repository.
    let scheme = target
        .split_once(':')
        .is_some_and(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)));
    if scheme || target.starts_with("//") {
        return Ok(());
    }
    let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
    let path = percent_decode(path.split('?').next().unwrap());
    let file = match path.strip_prefix('/') {
        _ if path.is_empty() => from.to_owned(),
        Some(path) => root.join(path),
        None => from.parent().unwrap().join(&path),
    };
    let file = file.canonicalize().map_err(|_| "there is no such file".to_owned())?;
    if !file.starts_with(root.canonicalize().unwrap()) {
        return Err("it is outside of the repository".to_owned());
    }
    if fragment.is_empty() || file.extension().is_none_or(|extension| extension != "md") {
        return Ok(());
    }
    let there = anchors.entry(file.clone()).or_insert_with(|| {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        collect_anchors(&text)
    });
    let fragment = percent_decode(fragment);
    if there.contains(&fragment) { Ok(()) } else { Err(format!("no heading has the anchor `{fragment}`")) }
}

/// Decodes `%20` and the like.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the anchor that GitHub gives a heading, before duplicates are numbered.
pub fn heading_anchor(heading: &str) -> String {
    let text = strip_markup(heading.trim());
    let keep = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    text.to_lowercase().chars().filter(keep).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Replaces links and images by their text. Emphasis is dropped later, with the other punctuation.
fn strip_markup(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('[') {
        let Some(middle) = rest[start..].find("](").map(|at| start + at) else { break };
        let Some(end) = rest[middle..].find(')').map(|at| middle + at) else { break };
        plain.push_str(rest[..start].trim_end_matches('!'));
        plain.push_str(&rest[start + 1..middle]);
        rest = &rest[end + 1..];
    }
    plain + rest
}

/// Collects the anchors of all headings, and those that HTML sets by `id` or `name`.
fn collect_anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut times: HashMap<String, usize> = HashMap::new();
    let lines: Vec<(usize, &str)> = lines_outside_code(text).collect();
    for (at, (number, line)) in lines.iter().enumerate() {
        anchors.extend(["id", "name"].iter().flat_map(|name| find_attributes(line, name)));
        let underlined = lines.get(at + 1).is_some_and(|(next, under)| {
            let under = under.trim_end();
            *next == number + 1
                && !line.trim().is_empty()
                && !line.starts_with(['-', '|', '#', '>'])
                && (!under.is_empty() && (under.chars().all(|c| c == '=') || under.chars().all(|c| c == '-')))
        });
        let hashes = line.len() - line.trim_start_matches('#').len();
        let heading = if (1..=6).contains(&hashes) && line[hashes..].starts_with(' ') {
            line[hashes..].trim().trim_end_matches('#')
        } else if underlined {
            line.trim()
        } else {
            continue;
        };
        let anchor = heading_anchor(heading);
        let number = times.entry(anchor.clone()).or_default();
        anchors.insert(if *number == 0 { anchor.clone() } else { format!("{anchor}-{number}") });
        *number += 1;
    }
    anchors
}

/// Iterates over numbered lines, without fenced code, indented code and HTML comments.
fn lines_outside_code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fence: Option<(char, usize)> = None;
    let mut comment = false;
    let mut paragraph = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let inner = line.trim_start().trim_start_matches("> ");
        let mark = inner.chars().next().filter(|c| matches!(c, '`' | '~'));
        let length = mark.map_or(0, |mark| inner.chars().take_while(|c| *c == mark).count());
        match fence {
            Some((open, least)) => {
                if mark == Some(open) && length >= least && inner.trim_end().len() == length {
                    fence = None;
                }
                return None;
            }
            None if length >= 3 && !inner[length..].contains('`') => {
                fence = mark.map(|mark| (mark, length));
                return None;
            }
            None => {}
        }
        let starts = line.trim_start().starts_with("<!--");
        if comment || starts {
            comment = !line.contains("-->");
            return None;
        }
        // Four spaces make code, but not within a paragraph or a list.
        let indented = line.starts_with("    ") && !paragraph;
        paragraph =
            !line.trim().is_empty() && !indented || paragraph && line.trim().is_empty() && in_list(line);
        (!indented).then_some((at + 1, line))
    })
}

fn in_list(line: &str) -> bool {
    line.starts_with(' ')
}

/// Finds the targets of inline links, images and reference definitions, and of `href`, `src` and `srcset`, with their lines.
fn find_links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in lines_outside_code(text) {
        let line = strip_code(line);
        for at in line.match_indices("](").map(|(at, _)| at + 2) {
            found.push((number, parse_target(&line[at..])));
        }
        if let Some((name, after)) =
            line.trim_start().strip_prefix('[').and_then(|line| line.split_once("]:"))
            && !name.contains(']')
        {
            found.push((number, parse_target(after.trim_start())));
        }
        for name in ["href", "src", "srcset"] {
            found.extend(find_attributes(&line, name).map(|value| (number, value)));
        }
    }
    found
}

/// Parses a link target up to the closing bracket or a title: `<a b>` or `a`, with balanced brackets.
fn parse_target(text: &str) -> String {
    if let Some((inside, _)) = text.strip_prefix('<').and_then(|text| text.split_once('>')) {
        return inside.to_owned();
    }
    let mut depth = 0;
    let ends = |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth < 0 || c.is_whitespace()
    };
    text.split(ends).next().unwrap().to_owned()
}

fn find_attributes(line: &str, name: &str) -> impl Iterator<Item = String> {
    let start = format!(" {name}=\"");
    let values: Vec<String> = line
        .split(&start)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(|value| value.split_whitespace().next().unwrap_or("").to_owned())
        .collect();
    values.into_iter().filter(|_| line.contains('<'))
}

/// Removes code in backticks from a line.
fn strip_code(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some(start) = rest.find('`') {
        let ticks = rest[start..].chars().take_while(|c| *c == '`').count();
        let after = &rest[start + ticks..];
        plain.push_str(&rest[..start]);
        if let Some(end) = after.find(&"`".repeat(ticks)) {
            rest = &after[end + ticks..];
        } else {
            plain.push_str(&rest[start..start + ticks]);
            rest = after;
        }
    }
    plain + rest
}

#[test]
fn anchors_are_those_of_github() {
    for (heading, expected) in [
        ("Quick start", "quick-start"),
        ("When it says *no*", "when-it-says-no"),
        ("`roll --resume`, and why", "roll---resume-and-why"),
        ("PUT /v1/services/{service}/main", "put-v1servicesservicemain"),
        ("The [map](map.md) of `src/`", "the-map-of-src"),
        ("on_failure: return", "on_failure-return"),
        ("Größe & Form", "größe--form"),
    ] {
        assert_eq!(heading_anchor(heading), expected);
    }
    let text = "# A\n## B\n## B\n```sh\n# not one\n```\nUnder\n---\n<a id=\"own\"></a>\n\n    # code\n";
    let expected = ["a", "b", "b-1", "own", "under"].map(str::to_owned);
    assert_eq!(collect_anchors(text), BTreeSet::from(expected));
}

#[test]
fn links_are_found_and_code_is_not() {
    let text = "[a](b.md) ![i](c.png \"title\") `[no](no.md)` [`x`](d.md#e)\n\n```\n[no](no.md)\n```\n\n    [no](no.md)\n\n\
                [r]: <f g.md>\n<img alt=\"\" src=\"h.svg\"> [p](q_(r).md)\n<!-- [no](no.md) -->\n";
    let targets: Vec<String> = find_links(text).into_iter().map(|(_, target)| target).collect();
    assert_eq!(targets, ["b.md", "c.png", "d.md#e", "f g.md", "q_(r).md", "h.svg"]);
}

#[test]
fn broken_links_are_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (page, other) = (dir.path().join("page.md"), dir.path().join("other.md"));
    std::fs::write(&page, "# Here\n").unwrap();
    std::fs::write(&other, "# There\n").unwrap();
    let mut anchors = Anchors::new();
    let mut check_link = |target: &str| check_link(dir.path(), &page, target, &mut anchors);
    for good in [
        "#here",
        "other.md",
        "other.md#there",
        ".",
        "https://example.org/x#y",
        "mailto:a@example.org",
        "/other.md",
    ] {
        assert_eq!(check_link(good), Ok(()), "{good}");
    }
    assert_eq!(check_link("#there"), Err("no heading has the anchor `there`".into()));
    assert_eq!(check_link("other.md#here"), Err("no heading has the anchor `here`".into()));
    assert_eq!(check_link("missing.md"), Err("there is no such file".into()));
    assert_eq!(check_link("/../"), Err("it is outside of the repository".into()));
}
