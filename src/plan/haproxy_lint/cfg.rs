//! haproxy.cfg as sections of lines of words (configuration manual, 2.2 quoting and escaping, 4 proxies).

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1.
    pub number: usize,
    pub words: Vec<String>,
}

impl Line {
    pub(super) fn word(&self, at: usize) -> Option<&str> {
        self.words.get(at).map(String::as_str)
    }

    pub(super) fn starts(&self, words: &[&str]) -> bool {
        self.words.len() >= words.len() && self.words.iter().zip(words).all(|(own, word)| own == word)
    }

    pub(super) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|own| own == word)
    }

    /// The word after `key`.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        let at = self.words.iter().position(|word| word == key)?;
        self.word(at + 1)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub kind: String,
    pub name: String,
    /// `from NAME`: the named defaults it inherits from.
    pub from: Option<String>,
    pub number: usize,
    pub lines: Vec<Line>,
}

impl Section {
    pub(super) fn all<'a>(&'a self, words: &'a [&str]) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| line.starts(words))
    }

    /// The last statement wins.
    pub(super) fn last(&self, words: &[&str]) -> Option<&Line> {
        self.lines.iter().rev().find(|line| line.starts(words))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cfg {
    sections: Vec<Section>,
}

const KINDS: [&str; 13] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "resolvers",
    "userlist",
    "mailers",
    "cache",
    "program",
    "ring",
    "http-errors",
];

impl Cfg {
    pub(super) fn parse(text: &str) -> Self {
        let mut cfg = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let words = words(line);
            let Some(first) = words.first() else { continue };
            if KINDS.contains(&first.as_str()) {
                let name = words.get(1).filter(|name| *name != "from").cloned().unwrap_or_default();
                let from =
                    words.iter().position(|word| word == "from").and_then(|at| words.get(at + 1)).cloned();
                cfg.sections.push(Section { kind: first.clone(), name, from, number, lines: vec![] });
            } else if let Some(section) = cfg.sections.last_mut() {
                section.lines.push(Line { number, words });
            }
        }
        cfg
    }

    pub(super) fn first(&self, kind: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind == kind)
    }

    pub(super) fn find(&self, kind: &str, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind == kind && section.name == name)
    }

    /// The named defaults, else the last ones before the section.
    pub(super) fn defaults_of(&self, section: &Section) -> Option<&Section> {
        let defaults = || self.sections.iter().filter(|other| other.kind == "defaults");
        match &section.from {
            Some(name) => defaults().find(|other| &other.name == name),
            None => defaults().rfind(|other| other.number < section.number),
        }
    }
}

/// Blanks part words; `#` begins a comment; `\` escapes; `"` and `'` quote.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#', None) => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_as_haproxy_cuts_them() {
        assert_eq!(words(r#"  a "b c" d\ e 'f"g' # no"#), ["a", "b c", "d e", "f\"g"]);
        assert!(words("   # only a comment").is_empty());
    }

    #[test]
    fn a_section_inherits_from_the_defaults_before_it_or_from_the_named_ones() {
        let cfg = Cfg::parse(
            "defaults a\n x 1\nbackend one\ndefaults b\n x 2\nbackend two from a\nbackend three\n",
        );
        let of = |name: &str| cfg.defaults_of(cfg.find("backend", name).unwrap()).unwrap().name.clone();
        assert_eq!((of("one").as_str(), of("two").as_str(), of("three").as_str()), ("a", "a", "b"));
    }
}
