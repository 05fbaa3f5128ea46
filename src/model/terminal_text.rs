//! Text of other programs and machines, made harmless for an operator's terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns whether a terminal may act on the character, or show the text in another order than it is: control characters (C0, DEL
/// and C1, ECMA-48), the bidirectional controls and marks of Unicode (UAX 9), and its separators of lines and paragraphs.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Returns the text in one line, with its tabs: a line break is a blank, and an unsafe character is written as `\u{1b}`.
pub fn clean_line(text: &str) -> Cow<'_, str> {
    if !text.contains(|c: char| is_unsafe(c) && c != '\t') {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\t' => cleaned.push(c),
            '\n' | '\r' => cleaned.push(' '),
            c => push_visible(&mut cleaned, c),
        }
    }
    Cow::Owned(cleaned)
}

/// Returns the text with its lines, tabs and colours; every other unsafe character is written as `\u{1b}`.
///
/// A colour is a "select graphic rendition" sequence (ECMA-48, 8.3.117) of at most 16 characters. Concealed text, parameter 8, is
/// no colour.
pub fn clean_styled(text: &str) -> Cow<'_, str> {
    if !text.contains(|c: char| is_unsafe(c) && c != '\n' && c != '\t') {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = measure_color(rest).unwrap_or(0);
        if length > 0 {
            cleaned.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        match c {
            '\n' | '\t' => cleaned.push(c),
            c => push_visible(&mut cleaned, c),
        }
        rest = &rest[c.len_utf8()..];
    }
    Cow::Owned(cleaned)
}

/// Returns JSON with unsafe characters as escapes of JSON: the values stay the same.
pub fn clean_json(text: &str) -> Cow<'_, str> {
    let is_raw = |c: char| is_unsafe(c) && c != '\n' && c != '\t';
    if !text.contains(is_raw) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_raw(c) {
            let _ = write!(cleaned, "\\u{:04x}", u32::from(c));
        } else {
            cleaned.push(c);
        }
    }
    Cow::Owned(cleaned)
}

fn push_visible(text: &mut String, c: char) {
    if is_unsafe(c) {
        let _ = write!(text, "\\u{{{:x}}}", u32::from(c));
    } else {
        text.push(c);
    }
}

/// Returns the length in bytes of the colour sequence that the text begins with.
fn measure_color(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    let is_color = parameters[end..].starts_with('m') && end <= 16;
    // In `38;5;8` and `48;5;8` the last number is a colour of the table.
    let parameters = parameters[..end].strip_prefix("38;5;").or(parameters[..end].strip_prefix("48;5;"));
    let others =
        parameters.map_or(&text[2..2 + end], |rest| rest.split_once(';').map_or("", |(_, rest)| rest));
    let conceals = others.split(';').any(|parameter| parameter.trim_start_matches('0') == "8");
    (is_color && !conceals).then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    #[test]
    fn line_has_no_control_and_no_break() {
        assert_eq!(clean_line("UP\u{1b}]0;owned\u{7}\nnext"), "UP\\u{1b}]0;owned\\u{7} next");
        assert_eq!(clean_line("web1\u{202e}1bew"), "web1\\u{202e}1bew");
        assert_eq!(clean_line("\u{9b}2J"), "\\u{9b}2J", "CSI as one character of C1");
        assert!(matches!(clean_line("Grüße, 東京"), Cow::Borrowed(_)));
    }

    #[test]
    fn styled_text_keeps_lines_and_colors_alone() {
        let styled = "\u{1b}[31merror:\u{1b}[0m \u{1b}[38;5;8mgrey\u{1b}[39m\n\tnext";
        assert_eq!(clean_styled(styled), styled);
        assert_eq!(clean_styled("\u{1b}[2Jx\u{1b}[8mhidden"), "\\u{1b}[2Jx\\u{1b}[8mhidden");
        assert_eq!(clean_styled("\u{1b}[38;5;1;8mx"), "\\u{1b}[38;5;1;8mx");
        assert_eq!(clean_styled("\u{1b}[1;08mx"), "\\u{1b}[1;08mx");
        assert_eq!(clean_styled("a\rb\u{1b}"), "a\\u{d}b\\u{1b}");
    }

    #[test]
    fn json_keeps_its_values() {
        let text = serde_json::to_string_pretty(&["a\u{9b}b", "\u{202e}", "\n\u{1b}"]).unwrap();
        let cleaned = clean_json(&text);
        assert!(!cleaned.contains('\u{9b}') && !cleaned.contains('\u{202e}'), "{cleaned}");
        let values: Vec<String> = serde_json::from_str(&cleaned).unwrap();
        assert_eq!(values, ["a\u{9b}b", "\u{202e}", "\n\u{1b}"]);
    }

    proptest! {
        #[test]
        fn any_text_is_harmless(text in any::<String>()) {
            prop_assert!(!clean_line(&text).contains(|c: char| is_unsafe(c) && c != '\t'));
            let styled = clean_styled(&text);
            let left = styled.split('\u{1b}').skip(1);
            for after in left {
                let sequence = format!("\u{1b}{after}");
                prop_assert!(measure_color(&sequence).is_some());
            }
        }
    }
}
