//! Command lines as a POSIX shell reads them: every command that is shown to people is quoted here.

/// Quotes one word for a POSIX shell.
pub fn quote_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Joins words to a line that a shell splits into the same words.
pub fn join_words<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> String {
    words.into_iter().map(|word| quote_word(word.as_ref())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_split_or_expand_them() {
        assert_eq!(quote_word("/usr/sbin/switchman"), "/usr/sbin/switchman");
        assert_eq!(quote_word("a b"), "'a b'");
        assert_eq!(quote_word("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quote_word(""), "''");
        assert_eq!(join_words(["sh", "-c", "exit 3", "~"]), "sh -c 'exit 3' '~'");
    }
}
