//! The words that HAProxy knows, by kind. `tests/haproxy/vocabulary.py` reads them from the programs.

use std::collections::HashMap;
use std::sync::OnceLock;

type Words = HashMap<(&'static str, &'static str), &'static str>;

fn read_words() -> &'static Words {
    static WORDS: OnceLock<Words> = OnceLock::new();
    WORDS.get_or_init(|| {
        let lines = include_str!("vocabulary.txt").lines().filter(|line| !line.starts_with('#'));
        let split = |line: &'static str| {
            let mut columns = line.split('\t');
            Some(((columns.next()?, columns.next()?), columns.next()?))
        };
        lines.filter_map(split).collect()
    })
}

/// The versions that know a word, as letters; `None`: no version knows it.
pub(super) fn find_word(kind: &str, word: &str) -> Option<&'static str> {
    read_words().get(&(kind, word)).copied()
}

pub(super) fn is_word(kind: &str, word: &str) -> bool {
    find_word(kind, word).is_some()
}

/// The words of one kind.
pub(super) fn list_words(kind: &str) -> impl Iterator<Item = &'static str> {
    read_words().keys().filter(move |(own, _)| *own == kind).map(|(_, word)| *word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word of a manual that is missing here would be a false problem.
    #[test]
    fn every_keyword_of_the_manuals_is_known() {
        for version in ["2.6.12", "3.2.26", "3.4.7"] {
            let file =
                format!("{}/tests/fixtures/haproxy/keywords-{version}.txt", env!("CARGO_MANIFEST_DIR"));
            for line in std::fs::read_to_string(file).unwrap().lines().filter(|line| !line.starts_with('#')) {
                let mut columns = line.split('\t');
                let (kind, keyword) = (columns.next().unwrap(), columns.next().unwrap());
                let mut words = keyword.split(' ');
                let (first, second) = (words.next().unwrap(), words.next().unwrap_or_default());
                let is_known = match (kind, first) {
                    ("proxy", "option" | "timeout") => is_word(first, second),
                    ("proxy", _) => is_word("listen", first),
                    ("action", _) => read_words().keys().any(|(kind, word)| {
                        let is_rule = ["http-", "tcp-", "quic-"].iter().any(|start| kind.starts_with(start));
                        is_rule && (*word == first || (word.ends_with("-sc") && first.starts_with(word)))
                    }),
                    _ => ["flag", "value"].iter().any(|what| is_word(&format!("{kind} {what}"), first)),
                };
                assert!(is_known, "{line} of {version}");
            }
        }
    }
}
