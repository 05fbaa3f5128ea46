//! The text of a file with environment variables: systemd.exec(5), `EnvironmentFile=`.

use std::collections::BTreeMap;

/// A line that is no variable. The error never has the value, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct EnvironmentFileError {
    pub line: usize,
    pub reason: &'static str,
}

/// Renders variables so that systemd reads each value unchanged, with its line breaks.
pub fn render_environment_file<'a>(variables: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let mut text = String::new();
    for (name, value) in variables {
        text.push_str(name);
        text.push_str("=\"");
        for c in value.chars() {
            if matches!(c, '"' | '\\' | '`' | '$') {
                text.push('\\');
            }
            text.push(c);
        }
        text.push_str("\"\n");
    }
    text
}

/// Reads `NAME=VALUE` lines. A value in double or single quotes may have several lines. Empty lines and lines that begin with `#`
/// are left out.
///
/// In double quotes a backslash escapes `"`, `\`, a backtick and `$`, and other backslashes stay, as in systemd.
pub fn parse_environment_file(text: &str) -> Result<BTreeMap<String, String>, EnvironmentFileError> {
    let mut variables = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let line = text[..text.len() - rest.len()].matches('\n').count() + 1;
        let failed = |reason| EnvironmentFileError { line, reason };
        let end = rest.find('\n').unwrap_or(rest.len());
        let head = rest[..end].trim();
        if head.is_empty() || head.starts_with('#') {
            rest = &rest[(end + 1).min(rest.len())..];
            continue;
        }
        let equals = rest[..end].find('=').ok_or_else(|| failed("no `=` found"))?;
        let name = rest[..equals].trim();
        if name.is_empty() {
            return Err(failed("the name is empty"));
        }
        let after = rest[equals + 1..].trim_start_matches([' ', '\t']);
        let (value, left) = match after.chars().next() {
            Some('"') => read_double_quoted(&after[1..]).ok_or_else(|| failed("the quote is not closed"))?,
            Some('\'') => after[1..]
                .split_once('\'')
                .map(|(value, left)| (value.to_owned(), left))
                .ok_or_else(|| failed("the quote is not closed"))?,
            _ => {
                let end = after.find('\n').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        let end = left.find('\n').unwrap_or(left.len());
        if !left[..end].trim().is_empty() {
            return Err(failed("text follows the closing quote"));
        }
        variables.insert(name.to_owned(), value);
        rest = &left[(end + 1).min(left.len())..];
    }
    Ok(variables)
}

/// Returns the value and the text after its closing quote.
fn read_double_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                escaped @ ('"' | '\\' | '`' | '$') => value.push(escaped),
                // A line that is continued.
                '\n' => {}
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_in_each_form_are_read() {
        let text =
            "# a comment\n\nA=1=2 \nB = \"two\nlines \\\"quoted\\\" \\$x \\n\"\nC='a\\b\n#c'\nD=\nE=\"\"";
        let read = parse_environment_file(text).unwrap();
        let expected =
            [("A", "1=2"), ("B", "two\nlines \"quoted\" $x \\n"), ("C", "a\\b\n#c"), ("D", ""), ("E", "")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn error_names_the_line_and_never_the_value() {
        let fail = |text| parse_environment_file(text).unwrap_err().to_string();
        assert_eq!(fail("A=1\nhunter2\n"), "line 2: no `=` found");
        assert_eq!(fail("A='x\ny'\nB=\"hunter2\n"), "line 3: the quote is not closed");
        assert_eq!(fail("A=\"x\" hunter2"), "line 1: text follows the closing quote");
        assert_eq!(fail("=hunter2"), "line 1: the name is empty");
    }

    proptest! {
        #[test]
        fn rendered_values_are_read_back(values in proptest::collection::btree_map("[A-Z]{1,3}", "(?s).{0,20}", 0..4)) {
            prop_assert_eq!(parse_environment_file(&render_environment_file(&values)), Ok(values));
        }
    }
}
