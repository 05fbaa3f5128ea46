//! Tests that every row of the seed systems has a verdict and its tests (docs/design/seed-systems.md).
//!
//! A test names its rows at the end of its doc comment: `/// Rows: D13, R3.` A test script does so in a comment: `# Rows: Z4.`
//! The last column of the page is made from that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{UPDATE, assert_current, repository_root};

const PAGE: &str = "design/seed-systems.md";
/// The rows of each system: D1 to D37, and so on.
const SYSTEMS: [(char, u32); 5] = [('D', 37), ('R', 36), ('E', 11), ('Z', 17), ('H', 7)];
/// The first word of a list of rows.
const MARK: &str = "Rows: ";
/// Directories with tests, and scripts that are tests.
const PLACES: [&str; 3] = ["src", "tests", "docker/test.sh"];

/// A row of the page.
struct Row {
    id: String,
    verdict: String,
    reason: String,
}

/// The tests of each row, as links from the page.
type TestsByRow = BTreeMap<String, BTreeSet<String>>;

fn list_ids() -> BTreeSet<String> {
    SYSTEMS
        .iter()
        .flat_map(|(system, last)| (1..=*last).map(move |number| format!("{system}{number}")))
        .collect()
}

/// Splits a line of a table into its cells; `None` for other lines.
fn split_cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

fn parse_row(line: &str) -> Option<Row> {
    let cells = split_cells(line)?;
    let [id, _, _, verdict, reason, _] = cells.as_slice() else { return None };
    let is_id = SYSTEMS
        .iter()
        .any(|(system, _)| id.strip_prefix(*system).is_some_and(|number| number.parse::<u32>().is_ok()));
    is_id.then(|| Row { id: (*id).to_owned(), verdict: (*verdict).to_owned(), reason: (*reason).to_owned() })
}

/// Reads the rows that a comment names.
fn parse_mark(comment: &str) -> Option<Vec<String>> {
    let (_, list) = comment.split_once(MARK)?;
    let list = list.trim_end().strip_suffix('.')?;
    let ids: Vec<String> = list.split(", ").map(str::to_owned).collect();
    ids.iter().all(|id| list_ids().contains(id)).then_some(ids)
}

fn collect_files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() {
        let is_test = path.extension().is_some_and(|extension| extension == "rs" || extension == "sh");
        found.extend(is_test.then(|| path.to_owned()));
        return;
    }
    for entry in std::fs::read_dir(path).unwrap() {
        collect_files(&entry.unwrap().path(), found);
    }
}

/// Collects the tests of each row from all sources. Fails where a comment names rows and is not that of a test.
fn collect_tests() -> TestsByRow {
    let mut files = Vec::new();
    for place in PLACES {
        collect_files(&repository_root().join(place), &mut files);
    }
    let mut tests = TestsByRow::new();
    for file in files {
        let path = file.strip_prefix(repository_root()).unwrap().display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        for (name, ids) in collect_marks(&text, &path) {
            for id in ids {
                tests.entry(id).or_default().insert(format!("[{name}](../../{path})"));
            }
        }
    }
    tests
}

/// Returns the tests of a file that name rows.
fn collect_marks(text: &str, path: &str) -> Vec<(String, Vec<String>)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut marks = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let comment = line.strip_prefix("/// ").or_else(|| line.strip_prefix("# "));
        let Some(comment) = comment.filter(|comment| comment.contains(MARK)) else { continue };
        let ids = parse_mark(comment)
            .unwrap_or_else(|| panic!("{path}:{}: `{comment}`: expected `{MARK}D13, R3.`", at + 1));
        let script = path.strip_suffix(".sh").and_then(|path| path.rsplit_once('/'));
        let name = match script {
            Some((_, script)) => Some(format!("{script}.sh")),
            None => find_test(&lines[at..]),
        };
        let name = name
            .unwrap_or_else(|| panic!("{path}:{}: this comment names rows, but is none of a test", at + 1));
        marks.push((name, ids));
    }
    marks
}

/// Returns the name of the test function that these lines begin with.
fn find_test(lines: &[&str]) -> Option<String> {
    let head: Vec<&&str> =
        lines.iter().take_while(|line| line.starts_with(['/', '#', ')']) || !line.ends_with('{')).collect();
    let is_test = head.iter().any(|line| {
        ["#[test]", "#[tokio::test", "#[rstest"].iter().any(|attribute| line.starts_with(attribute))
    });
    let signature = lines.get(head.len())?;
    let (_, name) = signature.split_once("fn ")?;
    is_test.then(|| name.split('(').next().unwrap_or_default().to_owned())
}

/// Renders the page with the tests of each row in the last column.
fn render_page(page: &str, tests: &TestsByRow) -> String {
    let mut text = String::new();
    for line in page.lines() {
        match parse_row(line) {
            Some(row) => {
                let kept = &line[..line.trim_end_matches('|').rfind('|').unwrap()];
                let cell: Vec<&str> =
                    tests.get(&row.id).iter().flat_map(|all| all.iter()).map(String::as_str).collect();
                let cell = cell.join(", ");
                let _ = writeln!(text, "{kept}| {cell}{}|", if cell.is_empty() { "" } else { " " });
            }
            None => text.extend([line, "\n"]),
        }
    }
    text
}

fn read_page() -> String {
    std::fs::read_to_string(repository_root().join("docs").join(PAGE)).unwrap()
}

#[test]
fn seed_page_names_the_tests_of_each_row() {
    assert_current(PAGE, &render_page(&read_page(), &collect_tests()));
}

#[test]
fn every_seed_row_has_a_verdict_with_tests_or_a_plan() {
    let (page, tests) = (read_page(), collect_tests());
    let rows: Vec<Row> = page.lines().filter_map(parse_row).collect();
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let expected = list_ids();
    let unique: BTreeSet<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    assert_eq!((ids.len(), &unique), (expected.len(), &expected), "each row exactly once");
    let complaint = |row: &Row| match row.verdict.as_str() {
        "as written" | "different" if !tests.contains_key(&row.id) => Some("no test names it"),
        "different" if row.reason.is_empty() => Some("the reason is missing"),
        "not yet" if !row.reason.contains("issue ") => Some("the issue that it is planned in is missing"),
        "as written" | "different" | "not yet" => None,
        _ => Some("its verdict is none of those of the page"),
    };
    let complaints: Vec<String> =
        rows.iter().filter_map(|row| complaint(row).map(|text| format!("{}: {text}", row.id))).collect();
    assert!(complaints.is_empty(), "{complaints:#?}\nnext: a test with `/// {MARK}...`, then {UPDATE}");
}

#[test]
fn only_a_test_can_name_rows() {
    let marks = |text: &str| std::panic::catch_unwind(|| collect_marks(text, "src/a.rs")).ok();
    let named =
        marks("/// Says so. Rows: D13, R3.\n#[tokio::test(start_paused = true)]\nasync fn says_so() {\n");
    assert_eq!(named, Some(vec![("says_so".to_owned(), vec!["D13".to_owned(), "R3".to_owned()])]));
    assert_eq!(marks("/// Rows: D13.\nfn helper() {\n"), None, "no test");
    assert_eq!(marks("/// Rows: D99.\n#[test]\nfn says_so() {\n"), None, "no such row");
    assert_eq!(marks("/// Rows: D13\n#[test]\nfn says_so() {\n"), None, "no full stop");
}
