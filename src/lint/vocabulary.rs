//! The words that HAProxy knows, by kind. `tests/haproxy/vocabulary.py` asked the programs.

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
