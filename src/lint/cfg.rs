//! haproxy.cfg as sections of lines of words (configuration manual, 4 proxies).

use std::collections::BTreeSet;

use super::words::{Environment, SplitLine, split_words};

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    /// Counted from 1 over all files.
    pub number: usize,
    pub words: Vec<String>,
    /// A list from the environment adds words that are not known here.
    pub is_open: bool,
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

#[derive(Debug, Default)]
pub(super) struct ParsedCfg {
    sections: Vec<Section>,
    /// Lines for which HAProxy refuses to start, each with the reason.
    pub refusals: Vec<(usize, String)>,
    pub environment: Environment,
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
    /// Parses the lines of one file.
    #[cfg(test)]
    pub(super) fn parse(text: &str) -> Self {
        Self::parse_lines((1..).zip(text.lines()), &[])
    }

    /// Parses numbered lines; a file begins at each of the numbers in `starts`, and a section ends where its file ends.
    pub(super) fn parse_lines<'a>(lines: impl Iterator<Item = (usize, &'a str)>, starts: &[usize]) -> Self {
        let mut cfg = Self::default();
        let (mut is_in_section, mut file) = (false, 0);
        for (number, line) in lines {
            let current = starts.iter().filter(|start| **start <= number).count();
            is_in_section &= current == file;
            file = current;
            let SplitLine { words, is_open, .. } = split_words(line, &mut cfg.environment);
            let Some(first) = words.first() else { continue };
            if SECTION_KINDS.contains(&first.as_str()) {
                cfg.open_section(number, &words);
                is_in_section = true;
            } else if let Some(section) = cfg.sections.last_mut().filter(|_| is_in_section) {
                if section.kind == "global" {
                    cfg.environment.apply(&words);
                }
                section.lines.push(Statement { number, words, is_open });
            } else {
                cfg.refusals.push((number, format!("`{first}` is outside of any section")));
            }
        }
        cfg.merge_globals();
        cfg.refuse_duplicates();
        cfg
    }

    fn open_section(&mut self, number: usize, words: &[String]) {
        let name = words.get(1).filter(|name| *name != "from").cloned().unwrap_or_default();
        let defaults_name =
            words.iter().position(|word| word == "from").and_then(|at| words.get(at + 1)).cloned();
        let kind = words.first().cloned().unwrap_or_default();
        self.sections.push(Section { kind, name, defaults_name, number, lines: vec![] });
    }

    /// HAProxy adds up all `global` sections, as if they were one.
    fn merge_globals(&mut self) {
        let mut lines = Vec::new();
        for section in self.sections.iter_mut().filter(|section| section.kind == "global") {
            lines.append(&mut section.lines);
        }
        if let Some(first) = self.sections.iter_mut().find(|section| section.kind == "global") {
            first.lines = lines;
        }
    }

    /// A proxy or a server that is defined twice: HAProxy does not merge them.
    fn refuse_duplicates(&mut self) {
        let mut refusals = Vec::new();
        for (at, section) in self.sections.iter().enumerate() {
            let is_like = |other: &&Section| {
                let kinds = [section.kind.as_str(), other.kind.as_str()];
                let is_proxy = kinds.iter().all(|kind| ["frontend", "listen", "backend"].contains(kind));
                // A frontend and a backend may share a name.
                let is_pair = kinds.contains(&"frontend") && kinds.contains(&"backend");
                is_proxy && !is_pair && other.name == section.name
            };
            if let Some(first) = self.sections[..at].iter().find(is_like) {
                let reason =
                    format!("the {} `{}` exists already as {}", section.kind, section.name, first.kind);
                refusals.push((section.number, reason));
            }
            let mut names = BTreeSet::new();
            for line in section.find_all(&["server"]) {
                if line.word(1).is_some_and(|name| !names.insert(name)) {
                    refusals.push((line.number, "another server of the section has this name".to_owned()));
                }
            }
        }
        self.refusals.extend(refusals);
    }

    pub(super) fn list_sections(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter()
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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn globals_are_merged_and_duplicates_refused() {
        let cfg = ParsedCfg::parse(
            "global\n a 1\nbackend x\n server s 1.1.1.1:1\nglobal\n b 2\nlisten x\n server s 1.1.1.1:1\n server s 1.1.1.1:2\n\
             frontend y\nbackend y\n",
        );
        let global = cfg.find_first("global").unwrap();
        assert_eq!(global.lines.iter().map(|line| line.number).collect::<Vec<_>>(), [2, 6]);
        assert_eq!(cfg.refusals.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [7, 9]);
    }

    /// A section ends with its file, and the last `defaults` does not (HAProxy 2.6.12).
    #[test]
    fn defaults_outlive_their_file_and_sections_do_not() {
        let lines = ["defaults", " t 1", " t 2", "backend b", " u 1"];
        let cfg = ParsedCfg::parse_lines((1..).zip(lines), &[1, 3, 4]);
        assert_eq!(cfg.refusals, [(3, "`t` is outside of any section".to_owned())]);
        let backend = cfg.find("backend", "b").unwrap();
        assert_eq!(cfg.find_setting(backend, &["t"]).map(|line| line.number), Some(2));
    }
}
