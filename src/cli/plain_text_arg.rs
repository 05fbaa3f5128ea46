//! A text that hosts and journals record.

use crate::model::terminal_text::is_unsafe;

/// Reads a text of one line. A host refuses any other.
pub(super) fn parse_plain_text(text: &str) -> Result<String, String> {
    match text.chars().find(|c| is_unsafe(*c)) {
        None => Ok(text.to_owned()),
        Some(found) => Err(format!(
            "it has the character U+{:04X}: line breaks, control characters and marks of the direction of text are not allowed",
            u32::from(found)
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind::ValueValidation;

    use crate::cli::Cli;

    #[test]
    fn recorded_texts_are_one_line_without_control_characters() {
        for words in [
            &["switchman", "lock", "acquire", "--message"][..],
            &["switchman", "lock", "release", "--force", "--reason"],
            &["switchman", "disable-forward", "--force", "--reason"],
            &["switchman", "enable-forward", "--reason"],
        ] {
            let read = |text: &str| {
                let words = words.iter().copied().chain([text]);
                Cli::try_parse_from(words).map(|_| ()).map_err(|error| error.kind())
            };
            assert_eq!(read("new disk, Jürgen"), Ok(()), "{words:?}");
            for bad in ["two\nlines", "a\tb", "\u{1b}[2J", "\u{9b}2J", "\u{202e}"] {
                assert_eq!(read(bad), Err(ValueValidation), "{words:?} {bad:?}");
            }
        }
    }
}
