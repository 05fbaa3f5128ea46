//! Adds hosts to the text of `switchman.yaml`, and leaves every other byte as it is.

/// Why a text cannot get another host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostEditError {
    #[error("the file has no `hosts`, so that the machine itself is its only host")]
    NoHosts,
    #[error("its `hosts` are written in a form that this command cannot change")]
    UnknownForm,
    #[error("{0}")]
    Duplicate(String),
}

/// Adds entries such as `web3: {address: "10.0.0.13"}` after the last host. The caller reads the result back: the text is not
/// parsed here.
pub fn add_hosts(text: &str, entries: &[String]) -> Result<String, HostEditError> {
    let lines = split_lines(text);
    let read_key = |line: &&str| KEYS.iter().find(|key| line.starts_with(**key)).map(|key| key.len());
    let Some((at, key)) = lines.iter().enumerate().find_map(|(at, line)| Some((at, read_key(line)?))) else {
        let is_other_form = |line: &&str| line.starts_with(['?', '{']);
        let is_known = !lines.iter().any(is_other_form);
        return Err(if is_known { HostEditError::NoHosts } else { HostEditError::UnknownForm });
    };
    let start: usize = lines[..at].iter().map(|line| line.len()).sum();
    let value = lines[at][key..].trim_start();
    if value.starts_with('{') {
        let open = text[start..].find('{').map_or(start, |offset| start + offset);
        return add_to_flow(text, open, entries);
    }
    if !value.is_empty() && !value.starts_with('#') {
        return Err(HostEditError::UnknownForm);
    }
    add_to_block(&lines, at, entries)
}

/// The key as it can begin a line.
const KEYS: [&str; 3] = ["hosts:", "\"hosts\":", "'hosts':"];

/// Lines with their ends.
fn split_lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

fn measure_indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn is_content(line: &str) -> bool {
    let text = line.trim();
    !text.is_empty() && !text.starts_with('#')
}

/// `hosts:` with one entry below the other.
fn add_to_block(lines: &[&str], at: usize, entries: &[String]) -> Result<String, HostEditError> {
    let below = |number: &usize| is_content(lines[*number]);
    let first = (at + 1..lines.len()).find(below);
    let (indent, last) = match first.map(|first| (first, measure_indent(lines[first]))) {
        // Nothing is below the key.
        None | Some((_, 0)) => (2, at),
        Some((first, indent)) => {
            let is_after = |number: &usize| below(number) && measure_indent(lines[*number]) < indent;
            let end = (first..lines.len()).find(is_after).unwrap_or(lines.len());
            (indent, (first..end).rfind(below).unwrap_or(first))
        }
    };
    let line_end = if lines[at].ends_with("\r\n") { "\r\n" } else { "\n" };
    let mut text = lines[..=last].concat();
    if !text.ends_with('\n') {
        text.push_str(line_end);
    }
    for entry in entries {
        text.extend([" ".repeat(indent).as_str(), entry, line_end]);
    }
    text.push_str(&lines[last + 1..].concat());
    Ok(text)
}

/// `hosts: {web1: {...}, web2: {...}}`, on one line or several.
fn add_to_flow(text: &str, open: usize, entries: &[String]) -> Result<String, HostEditError> {
    let close = find_closing_brace(text, open).ok_or(HostEditError::UnknownForm)?;
    let before = &text[..close];
    let last = before.trim_end();
    let has_comment = last.rsplit('\n').next().is_some_and(|line| line.contains('#'));
    if has_comment {
        return Err(HostEditError::UnknownForm);
    }
    let separator = match last.chars().last() {
        Some('{') => "",
        Some(',') => " ",
        _ => ", ",
    };
    Ok(format!("{last}{separator}{}{}{}", entries.join(", "), &before[last.len()..], &text[close..]))
}

fn find_closing_brace(text: &str, open: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut quote = None;
    let mut previous = ' ';
    let mut is_comment = false;
    for (at, c) in text[open..].char_indices() {
        match (quote, c) {
            _ if is_comment => is_comment = c != '\n',
            (Some('"'), '"') if previous == '\\' => {}
            (Some(end), c) if c == end => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '#') if previous.is_whitespace() => is_comment = true,
            (None, '{') => depth += 1,
            (None, '}') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(open + at);
                }
            }
            _ => {}
        }
        previous = c;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn add(text: &str) -> Result<String, HostEditError> {
        add_hosts(text, &["w3: {address: \"10.0.0.3\"}".to_owned()])
    }

    const ENTRY: &str = "w3: {address: \"10.0.0.3\"}";

    #[test]
    fn block_gets_a_line_after_its_last_host() {
        let text = "service: a # mine\nhosts: # ours\n  # first\n  w1: {address: 10.0.0.1}\n\n  w2:\n    address: 10.0.0.2 # two\n\n# later\nports: {check: 1}\n";
        let expected = text.replace("# two\n", &format!("# two\n  {ENTRY}\n"));
        assert_eq!(add(text), Ok(expected));
    }

    #[test]
    fn ends_of_lines_and_of_the_file_are_kept() {
        let expected = format!("hosts:\r\n    w1: {{address: 10.0.0.1}}\r\n    {ENTRY}\r\nservice: a\r\n");
        assert_eq!(add("hosts:\r\n    w1: {address: 10.0.0.1}\r\nservice: a\r\n"), Ok(expected));
        assert_eq!(add("hosts:\n w1: {a: b}"), Ok(format!("hosts:\n w1: {{a: b}}\n {ENTRY}\n")));
    }

    #[test]
    fn flow_gets_an_entry_before_its_brace() {
        assert_eq!(
            add("hosts: {w1: {a: \"}\"}} # x\n"),
            Ok(format!("hosts: {{w1: {{a: \"}}\"}}, {ENTRY}}} # x\n"))
        );
        assert_eq!(add("hosts: {}\n"), Ok(format!("hosts: {{{ENTRY}}}\n")));
        let text = "hosts: {\n  w1: {a: b}, # one }\n  w2: {a: c},\n}\nx: 1\n";
        let expected = text.replace("w2: {a: c},\n", &format!("w2: {{a: c}}, {ENTRY}\n"));
        assert_eq!(add(text), Ok(expected));
    }

    #[test]
    fn quoted_and_empty_keys_are_found() {
        assert_eq!(add("hosts:\nservice: a\n"), Ok(format!("hosts:\n  {ENTRY}\nservice: a\n")));
        assert_eq!(add("hosts: # none\n"), Ok(format!("hosts: # none\n  {ENTRY}\n")));
        for key in ["\"hosts\"", "'hosts'"] {
            assert_eq!(
                add(&format!("{key}:\n w1: {{a: b}}\n")),
                Ok(format!("{key}:\n w1: {{a: b}}\n {ENTRY}\n"))
            );
            assert_eq!(add(&format!("{key}: {{}}\n")), Ok(format!("{key}: {{{ENTRY}}}\n")));
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for (text, error) in [
            ("service: a\n", HostEditError::NoHosts),
            ("? hosts\n: a: {}\n", HostEditError::UnknownForm),
            ("{service: a, hosts: {}}\n", HostEditError::UnknownForm),
            ("hosts: &all\n  a: {}\n", HostEditError::UnknownForm),
            ("hosts: {a: {b: c}\n", HostEditError::UnknownForm),
            ("hosts: {a: {b: c} # last\n}\n", HostEditError::UnknownForm),
        ] {
            assert_eq!(add(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_a_text_or_an_error(text in "(hosts:( \\{|\n ))?(.*\n){0,5}") {
            let _ = add(&text);
        }
    }
}
