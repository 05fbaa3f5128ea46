//! The likely cause of a fault in YAML, for people who do not know its syntax.

/// Returns the likely cause of a fault that the parser found at this line, counted from 1. A parser often notices a fault one line
/// late.
pub fn guess_cause(text: &str, line: u64) -> Option<String> {
    let at = usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1);
    let lines: Vec<&str> = text.lines().collect();
    let faulty = lines.get(at).copied();
    let before = lines.iter().take(at).rfind(|line| !line.trim().is_empty()).copied();
    let near = || faulty.iter().chain(before.iter()).copied();
    near()
        .find_map(guess_in_line)
        .or_else(|| find_open_bracket(text))
        .or_else(|| faulty.zip(before).and_then(|(line, before)| guess_by_indent(line, before)))
}

fn guess_in_line(line: &str) -> Option<String> {
    let indent = &line[..line.len() - line.trim_start().len()];
    if indent.contains('\t') {
        return Some("the line is indented with a tab: use blanks".to_owned());
    }
    let content = line.trim_start().trim_start_matches("- ");
    if content.starts_with('#') {
        return None;
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let key = content.find(|c: char| !is_word(c)).map_or(content, |end| &content[..end]);
    let rest = &content[key.len()..];
    let value = rest.strip_prefix(':')?;
    if !key.is_empty() && !value.is_empty() && !value.starts_with([' ', '\t', '/']) {
        return Some(format!("a blank is missing after `{key}:`"));
    }
    let value = value.trim_start();
    if value.starts_with(['@', '%', '`']) {
        return Some(format!("quote the value of `{key}`: it begins with `{}`", &value[..1]));
    }
    if value.starts_with(is_word) && value.contains(": ") {
        return Some(format!(
            "quote the value of `{key}`, because it has `: `; or put what it has on lines of its own"
        ));
    }
    for quote in ['"', '\''] {
        if value.starts_with(quote) && value.matches(quote).count() == 1 {
            return Some(format!("the value of `{key}` has no closing {quote}"));
        }
    }
    None
}

/// Finds a bracket without its end.
pub fn find_open_bracket(text: &str) -> Option<String> {
    let mut open: Vec<(char, usize)> = vec![];
    for (number, line) in (1..).zip(text.lines()) {
        let mut quote = None;
        let mut previous = ' ';
        for c in line.chars() {
            match (quote, c) {
                (Some(end), _) if c == end => quote = None,
                (None, '"' | '\'') => quote = Some(c),
                (None, '#') if previous.is_whitespace() => break,
                (None, '{' | '[') => open.push((c, number)),
                (None, '}' | ']') => drop(open.pop()),
                _ => {}
            }
            previous = c;
        }
    }
    open.first().map(|(bracket, line)| format!("`{bracket}` of line {line} is not closed"))
}

fn guess_by_indent(line: &str, before: &str) -> Option<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let opens = before.trim_end().ends_with(':');
    match (indent(line), indent(before)) {
        (now, then) if now > then && !opens => {
            Some("the line is indented more than the one before it, which has a value already".to_owned())
        }
        (now, then) if now != then && !opens => Some(
            "the indentation fits none of the lines above: keys of one map begin in one column".to_owned(),
        ),
        _ => None,
    }
}
