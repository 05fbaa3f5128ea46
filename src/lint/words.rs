//! The words of a line, as HAProxy splits and expands them (configuration manual, 2.2 and 2.3; tried with 2.6.12).

use std::collections::{BTreeMap, BTreeSet};

/// The variables that the file sets itself, and those whose value comes from outside.
#[derive(Debug, Default)]
pub(super) struct Environment {
    values: BTreeMap<String, String>,
    /// Variables with a default in the file, taken as not set: HAProxy's own environment is not known here.
    pub assumed: BTreeSet<String>,
    /// Variables without a value in the file.
    pub unknown: BTreeSet<String>,
}

impl Environment {
    /// Follows `setenv`, `presetenv` and `unsetenv` of a `global` section. A `presetenv` counts as not set before.
    pub(super) fn apply(&mut self, words: &[String]) {
        match words {
            [first, name, value, ..] if first == "setenv" || first == "presetenv" => {
                self.values.insert(name.clone(), value.clone());
            }
            [first, names @ ..] if first == "unsetenv" => {
                for name in names {
                    self.values.insert(name.clone(), String::new());
                }
            }
            _ => {}
        }
    }
}

/// The words of a line. `is_open`: a list from the environment adds words that are not known here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SplitLine {
    pub words: Vec<String>,
    pub is_open: bool,
    /// The first reason for which HAProxy refuses the line.
    pub fault: Option<&'static str>,
}

impl SplitLine {
    fn refuse(&mut self, fault: &'static str) {
        self.fault.get_or_insert(fault);
    }
}

/// HAProxy refuses a line with more words.
const MAX_WORDS: usize = 64;

/// Blanks part words; `#` begins a comment; `\` escapes; `"` and `'` quote; `$` expands between `"`.
pub(super) fn split_words(line: &str, environment: &mut Environment) -> SplitLine {
    let mut found = SplitLine::default();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = after;
        match (c, quote) {
            ('\\', None | Some('"')) => {
                let (text, length) = unescape(after, quote);
                if after.starts_with('x') && length != 3 {
                    found.refuse("`\\x` is not followed by two hexadecimal digits");
                }
                word.get_or_insert_default().push_str(&text);
                rest = &after[length..];
            }
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('$', Some('"')) => {
                let length = expand(after, environment, &mut found, &mut word);
                rest = &after[length..];
            }
            ('#', None) => break,
            (c, None) if c.is_ascii_whitespace() || c == '\u{b}' => found.words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    found.words.extend(word);
    if quote.is_some() {
        found.refuse("a quote is not closed");
    }
    if line.contains('\0') {
        found.refuse("a NUL character");
    }
    if found.words.len() > MAX_WORDS {
        found.refuse("it has more than 64 words");
    }
    found
}

/// The character that an escape yields, and the length of the escape after its `\`. Another `\` stays as it is.
fn unescape(after: &str, quote: Option<char>) -> (String, usize) {
    let Some(c) = after.chars().next() else { return ("\\".to_owned(), 0) };
    let hex = after.get(1..3).filter(|_| c == 'x').and_then(|digits| u8::from_str_radix(digits, 16).ok());
    match (c, hex) {
        (_, Some(byte)) => (char::from(byte).to_string(), 3),
        ('n', _) => ("\n".to_owned(), 1),
        ('r', _) => ("\r".to_owned(), 1),
        ('t', _) => ("\t".to_owned(), 1),
        (' ' | '#' | '\\' | '"' | '\'', _) => (c.to_string(), 1),
        ('$', _) if quote.is_some() => ("$".to_owned(), 1),
        _ => ("\\".to_owned(), 0),
    }
}

/// The length of a variable's name: a dot only begins one.
fn measure_name(text: &str) -> usize {
    let rest = text.strip_prefix('.').unwrap_or(text);
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    text.len() - rest.len() + end
}

/// Expands the variable after a `$`, and returns the length of its name with braces. An unknown one stays as it is
/// written, so that no value is compared with it.
fn expand(
    after: &str,
    environment: &mut Environment,
    found: &mut SplitLine,
    word: &mut Option<String>,
) -> usize {
    let braced = after.strip_prefix('{').and_then(|rest| rest.split_once('}'));
    let (inner, length) = braced.map_or_else(
        || (&after[..measure_name(after)], measure_name(after)),
        |(inner, _)| (inner, inner.len() + 2),
    );
    let end = measure_name(inner);
    let (name, suffix) = inner.split_at(end);
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '.') {
        found.refuse("the name of a variable does not begin with a letter");
    }
    let is_unmatched = after.starts_with('{') && braced.is_none();
    if is_unmatched || !(suffix.is_empty() || suffix.starts_with('-') || suffix.starts_with("[*]")) {
        found.refuse("the brace of a variable is not closed after its name or default");
    }
    let is_list = suffix.ends_with("[*]");
    let default = suffix.strip_prefix('-').map(|text| text.trim_end_matches("[*]"));
    let value = match (environment.values.get(name), default) {
        (Some(value), _) => Some(value.clone()),
        (None, Some(default)) => {
            environment.assumed.insert(name.to_owned());
            Some(default.to_owned())
        }
        (None, None) => {
            environment.unknown.insert(name.to_owned());
            None
        }
    };
    match value {
        Some(value) if is_list => {
            for (at, part) in value.split_whitespace().enumerate() {
                if at > 0 {
                    found.words.extend(word.take());
                }
                word.get_or_insert_default().push_str(part);
            }
        }
        Some(value) => word.get_or_insert_default().push_str(&value),
        None if is_list => {
            found.is_open = true;
            // The word was opened by the quote; the list gives it no known text.
            *word = word.take().filter(|text| !text.is_empty());
        }
        None => {
            let text = word.get_or_insert_default();
            text.push('$');
            text.push_str(&after[..length]);
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<String> {
        split_words(line, &mut Environment::default()).words
    }

    #[test]
    fn words_are_split_like_haproxy() {
        assert_eq!(split(r#"  a "b c" d\ e 'f"g' # no"#), ["a", "b c", "d e", "f\"g"]);
        assert_eq!(split(r"GET / HTTP/1.1\r\nHost:\ x \#1"), ["GET", "/", "HTTP/1.1\r\nHost: x", "#1"]);
        assert_eq!(split(r"'a\r' b#c"), ["a\\r", "b"]);
        assert_eq!(split("server s 10.0.0.1:80 check\r"), ["server", "s", "10.0.0.1:80", "check"]);
        assert!(split("   # only a comment").is_empty());
    }

    /// The `cookie` column of `show stat` of HAProxy 2.6.12 for these words.
    #[test]
    fn escapes_and_variables_are_read_like_haproxy() {
        let mut environment = Environment::default();
        environment.apply(&split("presetenv FOO 'a b'"));
        for (text, word) in [
            (r"web\1", r"web\1"),
            (r#""a\1b""#, r"a\1b"),
            (r"w\x65b", "web"),
            (r#""w\x65b\"q""#, "web\"q"),
            (r"'w\x65b'", r"w\x65b"),
            (r#"a"b c"d"#, "ab cd"),
            ("$FOO", "$FOO"),
            (r#""${FOO}""#, "a b"),
            ("a#b", "a"),
            (r#""$FOO-$FOO""#, "a b-a b"),
            (r#""${NO-de}f""#, "def"),
            (r"a\ b", "a b"),
            (r#""\${FOO}""#, "${FOO}"),
            (r#""z${D-}""#, "z"),
            ("w\\x6", "w\\x6"),
            ("caf\u{e9}", "caf\u{e9}"),
        ] {
            assert_eq!(split_words(text, &mut environment).words, [word], "{text}");
        }
        assert_eq!(environment.assumed.iter().collect::<Vec<_>>(), ["D", "NO"]);
        assert!(environment.unknown.is_empty());
    }

    /// HAProxy 2.6.12, 3.0.11, 3.2.26 and 3.4.7 refuse each of the first group, and none of the second.
    #[test]
    fn lines_that_haproxy_refuses_have_a_fault() {
        let words = |count| vec!["a"; count].join(" ");
        let fault = |line: &str| split_words(line, &mut Environment::default()).fault;
        for line in [
            r#"acl a path "/x"#,
            "acl a path '/x",
            r"acl a path \x6",
            r"acl a path \xzz",
            r#"acl a path "\x6""#,
            r#"acl a path "${A""#,
            r#"acl a path "${}""#,
            r#"acl a path "$""#,
            r#"acl a path "${1A}""#,
            r#"acl a path "${A B}""#,
            r#"acl a path "${A:-B}""#,
            r#"acl a path "${A.B}""#,
            "# comment \0",
            words(65).as_str(),
        ] {
            assert!(fault(line).is_some(), "{line}");
        }
        for line in [
            r"acl a path /x\",
            r#"acl a path "\q""#,
            r"acl a path \q",
            r"acl a path '\x6'",
            r#"acl a path "${A-b}""#,
            r#"acl a path "${A-b c}""#,
            r#"acl a path "${.FILE}${A[*]-b}""#,
            r#"acl a path "$A/$_b.c""#,
            "acl a path $",
            "acl a path ${",
            "acl a # '\"",
            words(64).as_str(),
        ] {
            assert_eq!(fault(line), None, "{line}");
        }
    }

    #[test]
    fn list_adds_words_or_leaves_the_line_open() {
        let mut environment = Environment::default();
        environment.apply(&split("setenv SET 'check  port 8888'"));
        let set = split_words(r#"a "${SET[*]}" b"#, &mut environment);
        assert_eq!((set.words, set.is_open), (split("a check port 8888 b"), false));
        let open = split_words(r#"a "${LIST[*]}" b"#, &mut environment);
        assert_eq!((open.words, open.is_open), (split("a b"), true));
        assert_eq!(split_words(r#""${X}:80" "$Y""#, &mut environment).words, ["${X}:80", "$Y"]);
    }
}
