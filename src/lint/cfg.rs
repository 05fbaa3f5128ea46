//! haproxy.cfg as sections of lines of words (configuration manual, 2.2 quoting and escaping, 4 proxies).

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    /// Counted from 1.
    pub number: usize,
    pub words: Vec<String>,
}

impl Statement {
    pub(super) fn word(&self, at: usize) -> Option<&str> {
        self.words.get(at).map(String::as_str)
    }

    pub(super) fn starts_with(&self, words: &[&str]) -> bool {
        words_begin_with(&self.words, words)
    }

    pub(super) fn has_word(&self, word: &str) -> bool {
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
    pub defaults_name: Option<String>,
    pub number: usize,
    pub lines: Vec<Statement>,
}

impl Section {
    pub(super) fn find_all<'a>(&'a self, words: &'a [&str]) -> impl Iterator<Item = &'a Statement> {
        self.lines.iter().filter(move |line| line.starts_with(words))
    }

    /// The line that decides, if this section has one: the last, and it may take back with `no`.
    fn find_last(&self, words: &[&str]) -> Option<&Statement> {
        let negates =
            |line: &Statement| line.word(0) == Some("no") && words_begin_with(&line.words[1..], words);
        self.lines.iter().rev().find(|line| line.starts_with(words) || negates(line))
    }
}

fn words_begin_with(words: &[String], with: &[&str]) -> bool {
    words.len() >= with.len() && words.iter().zip(with).all(|(own, word)| own == word)
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ParsedCfg {
    sections: Vec<Section>,
}

const SECTION_KINDS: [&str; 20] = [
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
    "fcgi-app",
    "log-forward",
    "log-profile",
    "crt-store",
    "traces",
    "acme",
    "healthcheck",
];

impl ParsedCfg {
    pub(super) fn parse(text: &str) -> Self {
        let mut cfg = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let words = split_words(line);
            let Some(first) = words.first() else { continue };
            if SECTION_KINDS.contains(&first.as_str()) {
                let name = words.get(1).filter(|name| *name != "from").cloned().unwrap_or_default();
                let defaults_name =
                    words.iter().position(|word| word == "from").and_then(|at| words.get(at + 1)).cloned();
                cfg.sections.push(Section {
                    kind: first.clone(),
                    name,
                    defaults_name,
                    number,
                    lines: vec![],
                });
            } else if let Some(section) = cfg.sections.last_mut() {
                section.lines.push(Statement { number, words });
            }
        }
        cfg
    }

    pub(super) fn find_first(&self, kind: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind == kind)
    }

    pub(super) fn find(&self, kind: &str, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind == kind && section.name == name)
    }

    pub(super) fn proxies(&self) -> impl Iterator<Item = &Section> {
        self.sections
            .iter()
            .filter(|section| ["frontend", "listen", "backend"].contains(&section.kind.as_str()))
    }

    /// The section, then what it inherits from, nearest first: the defaults it names with `from`, else the last ones
    /// before it. Defaults inherit only from those they name.
    pub(super) fn inheritance_chain<'a>(&'a self, section: &'a Section) -> Vec<&'a Section> {
        let mut chain = vec![section];
        let mut at = section;
        loop {
            // Only sections further up count, so this ends.
            let mut before =
                self.sections.iter().rev().filter(|s| s.kind == "defaults" && s.number < at.number);
            let next = match &at.defaults_name {
                Some(name) => before.find(|defaults| &defaults.name == name),
                None if at.kind == "defaults" => None,
                None => before.next(),
            };
            let Some(next) = next else { return chain };
            chain.push(next);
            at = next;
        }
    }

    /// The statement in force for a section, its own or inherited.
    pub(super) fn find_setting<'a>(&'a self, section: &'a Section, words: &[&str]) -> Option<&'a Statement> {
        let decides =
            self.inheritance_chain(section).into_iter().find_map(|section| section.find_last(words))?;
        decides.starts_with(words).then_some(decides)
    }
}

/// Blanks part words; `#` begins a comment; `\` escapes; `"` and `'` quote.
fn split_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next().map(unescape)),
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

/// `\xNN` is left unchanged: no word that matters here is written so.
fn unescape(c: char) -> char {
    match c {
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_like_haproxy() {
        assert_eq!(split_words(r#"  a "b c" d\ e 'f"g' # no"#), ["a", "b c", "d e", "f\"g"]);
        assert_eq!(split_words(r"GET / HTTP/1.1\r\nHost:\ x \#1"), ["GET", "/", "HTTP/1.1\r\nHost: x", "#1"]);
        assert_eq!(split_words(r"'a\r' b#c"), ["a\\r", "b"]);
        assert!(split_words("   # only a comment").is_empty());
    }

    #[test]
    fn section_inherits_from_preceding_or_named_defaults() {
        let cfg = ParsedCfg::parse(
            "defaults a\n x 1\nbackend one\ndefaults b from a\n y 2\nbackend two from a\nbackend three\ndefaults c\nbackend \
             four\ndefaults d from d\nbackend five from nowhere\nbackend six\n",
        );
        let of = |name: &str| {
            let chain = cfg.inheritance_chain(cfg.find("backend", name).unwrap());
            chain[1..].iter().map(|defaults| defaults.name.as_str()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            ["one", "two", "three", "four", "five", "six"].map(of),
            ["a", "a", "b a", "c", "", "d"].map(str::to_owned)
        );
    }

    #[test]
    fn nearest_last_statement_wins_and_no_negates_it() {
        let cfg =
            ParsedCfg::parse("defaults\n option x\n t 1\n t 2\nbackend b\n no option x\nbackend c\n t 3\n");
        let setting = |name: &str, words: &[&str]| {
            cfg.find_setting(cfg.find("backend", name).unwrap(), words).map(|line| line.number)
        };
        assert_eq!((setting("b", &["option", "x"]), setting("c", &["option", "x"])), (None, Some(2)));
        assert_eq!((setting("b", &["t"]), setting("c", &["t"])), (Some(4), Some(8)));
    }
}
